"""Maps and flows in a terminal: sentences, then one line per row, or per token that can send something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probe.dashboard.terminal import clean
from probe.viz.strip import visible

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console
    from rich.table import Table

ROWS = 12


def show_map2d(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    """Print a map: the sentences, and for each row its mean, its highest column and what stands beside the map.

    Args:
        console: Where to.
        result: A `map2d`.
        sentences: Its verbalization.
    """
    _head(console, result, sentences)
    name, margin = str(result.attrs["value"]), str(result.attrs["margin"])
    table = _table(
        str(result.attrs["row_title"]),
        "mean",
        "highest",
        "at",
        *([margin.replace("_", " ")] if margin else []),
    )
    for at, row in enumerate(np.asarray(result[name].values, dtype=np.float64)):
        if not np.isfinite(row).any():
            continue
        top = int(np.nanargmax(row))
        beside = [f"{float(result[margin].values[at]):.3g}"] if margin else []
        where = clean(visible(str(result["text"].values[top])).strip()) or "␣"
        table.add_row(
            str(result["row"].values[at]), f"{np.nanmean(row):.3g}", f"{row[top]:.3g}", where, *beside
        )
    console.print(table)


def show_flow(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    """Print a flow: the sentences, and the tokens that can send most.

    Args:
        console: Where to.
        result: A `flow`.
        sentences: Its verbalization.
    """
    _head(console, result, sentences)
    if "flow" not in result:
        return
    table = _table("token", "flow", "position")
    flow = np.asarray(result["flow"].values, dtype=np.float64)
    for i in np.argsort(-flow, kind="stable")[:ROWS]:
        table.add_row(
            clean(visible(str(result["token_text"].values[i])).strip()) or "␣", f"{flow[i]:.3f}", str(i + 1)
        )
    console.print(table)


def _head(console: Console, result: xr.Dataset, sentences: list[str]) -> None:
    console.print(clean(str(result.attrs.get("title", ""))), style="bold")
    for sentence in sentences:
        console.print(clean(sentence))
    console.print()


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title in ("at", "token") else "right")
    return table
