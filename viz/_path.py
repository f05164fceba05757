"""The `path` figure: numbered fixations over the picture, all paths beside it, step by step, and agreement by step."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

MODEL, PERSON, WANTED = "#ffb000", "#19d3f3", "#ff2f92"
ON_PAPER = {"model": "#d55e00", "person": "#0072b2"}
WIDTH, FRAME_MS = 560, 500
AGREEMENTS = (("agreement", "model", "model"), ("people", "person", "people"))


def draw_path(result: xr.Dataset) -> go.Figure:
    """Draw paths over the objects of a picture.

    Args:
        result: A Dataset of kind `path`: stop, row, column(path, step), name, made_by(path), box(object, side),
            agreement(step), and where there is one picture(pixel_row, pixel_column, colour).

    Returns:
        Left the first path with numbered fixations, larger where the eye stays on one object, which a slider shows step by
        step; right all paths, model's and people's in two colours; below, agreement by step. Target boxed.

    Raises:
        InputError: A variable is missing, or no path has a fixation.
    """
    for name in ("stop", "row", "column", "name", "made_by", "box", "agreement"):
        if name not in result.variables:
            raise InputError(f"a path needs the variable {name!r}: {sorted(map(str, result.variables))}")
    stops = result["stop"].values
    if not (stops >= 0).any():
        raise InputError("nothing to draw: no path has a fixation")
    titles = (
        f"{result['name'].values[0]}: the order of looks",
        _all_title(result),
        _agreement_title(result),
    )
    figure = make_subplots(
        rows=2, cols=2, specs=[[{}, {}], [{"colspan": 2}, None]], row_heights=[0.76, 0.24], subplot_titles=titles,
        vertical_spacing=0.12, horizontal_spacing=0.03,
    )  # fmt: skip
    aspect = float(result.attrs.get("aspect", 1.0))
    for column in (1, 2):
        _ground(figure, result, column, aspect)
    _others(figure, result)
    numbered = _numbered(result)
    at = len(figure.data)
    for trace in numbered(len(_places(result, 0)[0])):
        figure.add_trace(trace, 1, 1)
    _agreement(figure, result)
    _animate(figure, numbered, at, len(_places(result, 0)[0]))
    figure.update_xaxes(visible=False, range=[0, 1], constrain="domain", row=1)
    figure.update_yaxes(visible=False, range=[aspect, 0], constrain="domain", row=1)
    figure.update_layout(yaxis={"scaleanchor": "x"}, yaxis2={"scaleanchor": "x2"})
    figure.update_annotations(font={"size": 14, "color": theme.INK}, selector={"showarrow": False})
    height = WIDTH * float(np.clip(aspect, 0.4, 1.6)) / 0.72 + 190
    figure.update_layout(**_layout(result, height))
    return figure


def _all_title(result: xr.Dataset) -> str:
    makers = result["made_by"].values
    parts = [(int((makers == maker).sum()), maker) for maker in ("model", "person")]
    words = {"model": "predicted", "person": "of people"}
    return "All paths: " + ", ".join(
        f"<span style='color:{ON_PAPER[m]}'>{n} {words[m]}</span>" for n, m in parts if n
    )


def _agreement_title(result: xr.Dataset) -> str:
    shown = [
        f"<span style='color:{ON_PAPER[maker]}'>{name}</span>"
        for variable, maker, name in AGREEMENTS
        if variable in result.variables and np.isfinite(result[variable].values).any()
    ]
    return "How often two paths stand on the same object" + (": " + ", ".join(shown) if shown else "")


def _places(result: xr.Dataset, path: int) -> tuple[NDArray[Any], NDArray[Any], list[int]]:
    """x, y (in widths of the picture) and objects of one path."""
    stops = [int(s) for s in result["stop"].values[path] if s >= 0]
    aspect = float(result.attrs.get("aspect", 1.0))
    x = result["column"].values[path][: len(stops)]
    return x, result["row"].values[path][: len(stops)] * aspect, stops


def _ground(figure: go.Figure, result: xr.Dataset, column: int, aspect: float) -> None:
    """The picture (or a sheet of grey), the objects' outlines, and the target's box."""
    if "picture" in result.variables:
        from PIL import Image

        file = io.BytesIO()
        pixels = np.asarray(result["picture"].values, dtype=np.float32) * 0.72
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=88)
        source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        axis = "" if column == 1 else "2"
        figure.add_layout_image(
            source=source,
            x=0,
            y=0,
            sizex=1,
            sizey=aspect,
            xref=f"x{axis}",
            yref=f"y{axis}",
            sizing="stretch",
            layer="below",
        )
    target = int(result.attrs.get("target_object", -1))
    boxes = np.asarray(result["box"].values) * (aspect, 1, aspect, 1)
    x, y = [], []
    for number, (top, left, bottom, right) in enumerate(boxes):
        if number != target:
            x += [left, right, right, left, left, None]
            y += [top, top, bottom, bottom, top, None]
    faint = "rgba(255,255,255,0.25)" if "picture" in result.variables else "rgba(90,100,117,0.35)"
    figure.add_trace(_line(x, y, faint, 1), 1, column)
    if target >= 0:
        top, left, bottom, right = boxes[target]
        figure.add_trace(
            _line([left, right, right, left, left], [top, top, bottom, bottom, top], WANTED, 4), 1, column
        )


def _line(x: Any, y: Any, colour: str, width: float) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip", showlegend=False
    )


def _colour(result: xr.Dataset, path: int) -> str:
    maker = str(result["made_by"].values[path])
    if "picture" not in result.variables:
        return ON_PAPER[maker]
    return MODEL if maker == "model" else PERSON


def _others(figure: go.Figure, result: xr.Dataset) -> None:
    """All paths, thin; each a little aside so that equal ones show, its start a ring."""
    count = result.sizes["path"]
    for path in range(count):
        x, y, stops = _places(result, path)
        turn = 2 * np.pi * path / count
        aside_x, aside_y = x + 0.006 * np.cos(turn), y + 0.006 * np.sin(turn)
        colour = _colour(result, path)
        name = html.escape(str(result["name"].values[path]))
        text = [f"{name}<br>fixation {n} on object {s}" for n, s in enumerate(stops, 1)]
        figure.add_trace(
            go.Scatter(
                x=aside_x, y=aside_y, mode="lines+markers", opacity=0.75, line={"color": colour, "width": 2},
                marker={"size": [10] + [5] * (len(stops) - 1), "color": colour}, text=text, hoverinfo="text", showlegend=False,
            ),
            1,
            2,
        )  # fmt: skip


def _numbered(result: xr.Dataset) -> Any:
    """A function from a number of steps to the traces of the first path so far."""
    x, y, stops = _places(result, 0)
    colour = _colour(result, 0)
    names = (
        [html.escape(str(n)) for n in result["object_name"].values]
        if "object_name" in result.variables
        else []
    )

    def traces(steps: int) -> list[go.Scatter]:
        shown, when = list(dict.fromkeys(stops[:steps])), dict[int, list[str]]()
        for number, stop in enumerate(stops[:steps], 1):
            when.setdefault(stop, []).append(str(number))
        first = [stops.index(stop) for stop in shown]
        size = [26 + 7 * min(3, len(when[stop]) - 1) for stop in shown]
        labels = [",".join(when[s][:2]) + ("…" if len(when[s]) > 2 else "") for s in shown]
        text = [
            f"fixation {', '.join(when[s])}<br>object {s}{': ' + names[s] if names else ''}" for s in shown
        ]
        dots = go.Scatter(
            x=x[first], y=y[first], mode="markers+text", text=[f"<b>{label}</b>" for label in labels], hovertext=text,
            hoverinfo="text", textfont={"size": 12, "color": "#000000" if colour in (MODEL, PERSON) else "#ffffff"},
            marker={"size": size, "color": colour, "opacity": 1, "line": {"color": "#ffffff", "width": 1.5}}, showlegend=False,
        )  # fmt: skip
        return [_line(x[:steps], y[:steps], "#000000", 5), _line(x[:steps], y[:steps], colour, 2.5), dots]

    return traces


def _animate(figure: go.Figure, traces: Any, at: int, steps: int) -> None:
    """Frames that grow the first path, a button that plays them, and a slider to each."""
    figure.frames = [
        go.Frame(name=str(n), data=traces(n), traces=[at, at + 1, at + 2]) for n in range(1, steps + 1)
    ]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    play = {
        "frame": {"duration": FRAME_MS, "redraw": True},
        "fromcurrent": False,
        "transition": {"duration": 0},
    }
    figure.update_layout(
        updatemenus=[
            {
                "type": "buttons", "x": 0, "y": -0.1, "xanchor": "left", "yanchor": "top", "pad": {"t": 6}, "showactive": False,
                "buttons": [{"label": "▶ step by step", "method": "animate", "args": [None, play]}],
            }
        ],
        sliders=[
            {
                "active": steps - 1, "x": 0.16, "len": 0.84, "y": -0.1, "yanchor": "top", "pad": {"t": 0},
                "currentvalue": {"prefix": "fixation "},
                "steps": [{"label": str(n), "method": "animate", "args": [[str(n)], at_once]} for n in range(1, steps + 1)],
            }
        ],
    )  # fmt: skip


def _agreement(figure: go.Figure, result: xr.Dataset) -> None:
    shown = 0.0
    for variable, maker, name in AGREEMENTS:
        values = result[variable].values if variable in result.variables else np.array([np.nan])
        if not np.isfinite(values).any():
            continue
        shown = max(shown, float(np.nanmax(values)))
        colour = ON_PAPER[maker]
        figure.add_trace(
            go.Scatter(
                x=np.arange(1, len(values) + 1), y=values, mode="lines+markers", name=name, showlegend=False,
                line={"color": colour, "width": 2.5}, hovertemplate=f"{name}, fixation %{{x}}: %{{y:.0%}}<extra></extra>",
            ),
            2,
            1,
        )  # fmt: skip
    figure.update_yaxes(
        range=[0, max(0.1, 1.1 * shown)], tickformat=".0%", gridcolor=theme.RULE, row=2, col=1
    )
    figure.update_xaxes(
        title={"text": "fixation", "standoff": 2}, dtick=1 if result.sizes["step"] < 26 else 5, row=2, col=1
    )


def _layout(result: xr.Dataset, height: float) -> dict[str, object]:
    attrs = result.attrs
    target = str(attrs.get("target", ""))
    story = (
        "free viewing" if int(attrs.get("target_object", -1)) < 0 else f"in search of {target}, boxed in pink"
    )
    story += f"; {attrs.get('model', '')}, first path {attrs.get('method', '')}"
    return theme.layout(
        title=theme.heading(html.escape(str(attrs.get("title", "Scanpath"))), html.escape(story)),
        height=height,
        margin={"l": 46, "r": 70, "t": 110, "b": 110},
        showlegend=False,
    )
