"""The `slide_overlay` figure: raw attention and percentiles side by side over the slide, regions outlined."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe import slide
from probe.errors import InputError
from probe.viz import theme

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    Array = NDArray[Any]

CELLS = 400
"""Cells along the longer side of a map, at most."""
PALE = 5.0
"""The raw scale reaches at least so many even shares, so that a slide on which nothing stands out stays pale."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Scores of patches as a picture in pixels of full resolution.

    Attributes:
        left, top: Where it begins.
        cell: Side of a cell.
        shape: Rows and columns.
    """

    left: float
    top: float
    cell: float
    shape: tuple[int, int]


def grid_of(result: xr.Dataset, cells: int = CELLS) -> Grid:
    """The grid on which a result's patches are painted: a cell is a patch, or as many as keep the grid small."""
    x, y, size = result["x"].values, result["y"].values, float(result.attrs["patch_size"])
    coords = np.stack([x, y], 1)
    step = min(size, slide.spacing(coords)) if len(coords) > 1 else size
    extent = max(np.ptp(x), np.ptp(y)) + size
    cell = max(step, extent / cells)
    shape = tuple(max(1, int(np.ceil((np.ptp(v) + size) / cell - 1e-9))) for v in (y, x))
    return Grid(float(x.min()), float(y.min()), float(cell), (shape[0], shape[1]))


def painted(result: xr.Dataset, name: str, grid: Grid) -> Array:
    """A variable of the patches as a picture [row, column], NaN where no patch lies."""
    x, y = result["x"].values - grid.left, result["y"].values - grid.top
    return slide.paint(x, y, float(result.attrs["patch_size"]), result[name].values, grid.cell, grid.shape)


def rings_of(result: xr.Dataset, grid: Grid) -> dict[int, list[list[tuple[float, float]]]]:
    """The outlines of each region in pixels of full resolution."""
    region = result["region"].values
    x, y, size = (
        result["x"].values - grid.left,
        result["y"].values - grid.top,
        float(result.attrs["patch_size"]),
    )
    found = {}
    for number in range(result.sizes.get("area", 0)):
        rows = region == number
        mask = np.isfinite(slide.paint(x[rows], y[rows], size, np.ones(rows.sum()), grid.cell, grid.shape))
        found[number] = [
            [(grid.left + c * grid.cell, grid.top + r * grid.cell) for c, r in ring]
            for ring in slide.outlines(mask)
        ]
    return found


def draw_slide(result: xr.Dataset) -> go.Figure:
    """Draw attention over the slide, as it is and as percentiles.

    Args:
        result: Of kind `slide_overlay`.

    Returns:
        Two panels that zoom together; the picture beneath if the result has it, regions above the threshold outlined.

    Raises:
        InputError: No patch.
    """
    if not result.sizes.get("patch", 0):
        raise InputError("nothing to draw: no patch")
    a, grid = result["attention"].values, grid_of(result)
    top = max(PALE, float(np.quantile(a, 0.995)))
    titles = ("attention (1 = an even share)", "percentile within this slide")
    figure = make_subplots(cols=2, subplot_titles=titles, horizontal_spacing=0.06)
    lines = _lines(rings_of(result, grid))
    for column, (name, high, where) in enumerate((("attention", top, 0.46), ("percentile", 100.0, 1.0)), 1):
        add_picture(figure, result, column)
        figure.add_trace(heat(result, name, grid, high, where), row=1, col=column)
        line = {"color": theme.OUTLINE, "width": 1.6}
        figure.add_trace(
            go.Scatter(x=lines[0], y=lines[1], mode="lines", line=line, hoverinfo="skip"), row=1, col=column
        )
    axes(figure, result, columns=2)
    width, height = float(result.attrs["width"]), float(result.attrs["height"])
    figure.update_layout(
        **theme.layout(
            title=theme.heading(
                html.escape(f"{result.attrs.get('title', '')}: {result.attrs['of']}"),
                html.escape(story(result)),
            ),
            height=int(np.clip(470 * height / width, 260, 700)) + 150,
            margin={"l": 16, "r": 40, "t": 110, "b": 16},
            showlegend=False,
        )
    )
    return figure


def story(result: xr.Dataset) -> str:
    """A line on what the map shows."""
    a, mass = result["attention"].values, result["region_mass"].values
    text = f"{len(a):,} patches; the strongest gets {a.max():.1f} even shares"
    if len(mass):
        outlined = f"{len(mass)} outlined regions hold" if len(mass) > 1 else "the outlined region holds"
        text += f"; {outlined} {mass.sum():.0%} of the attention"
    return text


def heat(result: xr.Dataset, name: str, grid: Grid, high: float, bar: float) -> go.Heatmap:
    """One map as a trace; low values let the picture through."""
    values = painted(result, name, grid)
    middle = grid.cell / 2
    return go.Heatmap(
        z=values.astype(np.float32),
        x0=grid.left + middle,
        dx=grid.cell,
        y0=grid.top + middle,
        dy=grid.cell,
        zmin=0,
        zmax=high,
        colorscale=[list(stop) for stop in theme.OVERLAY],
        hoverongaps=False,
        colorbar={"thickness": 10, "outlinewidth": 0, "x": bar, "xanchor": "left", "len": 0.9},
        hovertemplate=f"{name} %{{z:.3g}}<br>x %{{x:,.0f}}, y %{{y:,.0f}}<extra></extra>",
    )


def add_picture(figure: go.Figure, result: xr.Dataset, column: int) -> None:
    """Put the overview beneath a panel, if the result has one."""
    if "picture" not in result:
        return
    n = "" if column == 1 else str(column)
    figure.add_layout_image(
        source=data_url(result["picture"].values),
        xref=f"x{n}",
        yref=f"y{n}",
        x=0,
        y=0,
        sizex=float(result.attrs["width"]),
        sizey=float(result.attrs["height"]),
        sizing="stretch",
        layer="below",
    )


def data_url(pixels: Array) -> str:
    """A picture as a JPEG within the page."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def axes(figure: go.Figure, result: xr.Dataset, columns: int, first: int = 1) -> None:
    """Panels in pixels of full resolution, downwards, square, zooming together."""
    width, height = float(result.attrs["width"]), float(result.attrs["height"])
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    for column in range(first, first + columns):
        n = "" if column == 1 else str(column)
        matched = {} if column == first else {"matches": "x" if first == 1 else f"x{first}"}
        figure.update_xaxes(range=[0, width], **plain, **matched, row=1, col=column)
        matched = {} if column == first else {"matches": "y" if first == 1 else f"y{first}"}
        figure.update_yaxes(range=[height, 0], scaleanchor=f"x{n}", **plain, **matched, row=1, col=column)


def _lines(
    rings: dict[int, list[list[tuple[float, float]]]],
) -> tuple[list[float | None], list[float | None]]:
    """All rings as one broken line."""
    x: list[float | None] = []
    y: list[float | None] = []
    for ring in (ring for own in rings.values() for ring in own):
        x += [*(p[0] for p in ring), None]
        y += [*(p[1] for p in ring), None]
    return x, y
