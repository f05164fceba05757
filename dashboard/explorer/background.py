"""Background work of pages: a button starts a job, a bar shows how far it is, another button ends it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from dash import ClientsideFunction, Dash, DiskcacheManager, Input, Output, dcc, html
from dash import State as Given

from probe.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dash.development.base_component import Component

    from probe.dashboard.explorer.jobs import Jobs


def manager(folder: Path) -> DiskcacheManager:
    """What runs background callbacks; its cache lies in the server's own private folder.

    Args:
        folder: readable by its owner alone.
    """
    import diskcache

    return DiskcacheManager(diskcache.Cache(str(folder / "callbacks"), size_limit=64 << 20), expire=3600)


def mount_job(name: str, label: str) -> Component:
    """The buttons, the bar and the line of a job.

    Args:
        name: of the page.
        label: what the button does.
    """
    return html.Div(
        [
            html.Button(label, id=f"{name}-run", className="primary", type="button"),
            html.Button("Cancel", id=f"{name}-cancel", type="button", disabled=True),
            html.Progress(id=f"{name}-bar", value="0", max="1", className="bar"),
            html.Span(id=f"{name}-step", className="muted", role="status"),
            dcc.Store(id=f"{name}-ticket", data=uuid.uuid4().hex),
            dcc.Store(id=f"{name}-finished"),
            dcc.Store(id=f"{name}-moved"),
        ],
        className="job",
    )


def wire_job(
    app: Dash,
    jobs: Jobs,
    name: str,
    asked: tuple[Given, ...],
    request: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    """Register a job: its request is made of the page's controls; when it is done, the selection names it.

    Args:
        app: the app.
        jobs: where jobs run.
        name: of the page.
        asked: the controls and the selection that it depends on.
        request: of their values, the job's request and the fields of the state that name them.
    """

    @app.callback(
        Output(f"{name}-finished", "data"),
        Output(f"{name}-step", "children"),
        Input(f"{name}-run", "n_clicks"),
        *asked,
        Given(f"{name}-ticket", "data"),  # so that two tabs that ask the same do not take each other's answer
        background=True,
        running=[
            (Output(f"{name}-run", "disabled"), True, False),
            (Output(f"{name}-cancel", "disabled"), False, True),
            (Output(f"{name}-bar", "className"), "bar on", "bar"),
        ],
        progress=[
            Output(f"{name}-bar", "value"),
            Output(f"{name}-bar", "max"),
            Output(f"{name}-step", "children"),
        ],
        progress_default=["0", "1", ""],
        cancel=[Input(f"{name}-cancel", "n_clicks")],
        prevent_initial_call=True,
    )
    def work(set_progress: Any, clicks: int | None, *values: Any) -> tuple[Any, str]:
        from dash import no_update

        if not clicks:
            return no_update, ""
        try:
            wanted, fields = request(*values[:-1])
            job = jobs.run(
                wanted, lambda done, steps, what: set_progress((str(done), str(steps), f"{what} …"))
            )
        except ProbeError as error:
            return no_update, f"✗ {error}"
        return fields | {"job": job}, "✓ done"

    app.clientside_callback(
        ClientsideFunction("probe", "finished"),
        Output(f"{name}-moved", "data"),
        Input(f"{name}-finished", "data"),
        prevent_initial_call=True,
    )
