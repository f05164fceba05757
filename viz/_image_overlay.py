"""The `image_overlay` figure: the picture with its outlined areas, and beside it each map over the same picture."""

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

ACROSS = 4
SIDE = 205
OUTLINE = "#ffd400"
_LIMIT = 0.995
"""Of a signed map's sizes; the few pixels beyond take the full colour, so that one pixel does not grey the rest."""


def draw_image_overlay(result: xr.Dataset) -> go.Figure:
    """Draw maps over a picture.

    Args:
        result: A Dataset whose variable named by `attrs["value"]` has dimensions (map, row, column), with `picture(row,
            column, colour)`, `name(map)`, `signed(map)`, where areas are outlined `area_of(row, column)`, and where a part was
            looked at again `refined(row, column, colour)`.

    Returns:
        Panels: the picture, its areas outlined and numbered; then each map. Signed maps stand on a diverging scale around 0
        without the picture, the others as a heat over the picture in grey.

    Raises:
        InputError: A variable is missing, has other dimensions, or no finite value.
    """
    if result.attrs.get("slider"):
        from probe.viz._image_slider import draw_slider

        return draw_slider(result)
    maps = _maps(result)
    picture = np.asarray(result["picture"].values, dtype=np.uint8)
    again = "refined" in result.variables
    first = "The picture" if again else "The picture as the network sees it"
    titles = [first, *(html.escape(str(name)) for name in result["name"].values)]
    if again:
        titles.append("Asked about again")
    across = min(ACROSS + again, len(titles))
    down = -(-len(titles) // across)
    figure = make_subplots(
        rows=down, cols=across, subplot_titles=titles, horizontal_spacing=0.015, vertical_spacing=0.16 / down
    )
    _add_picture(figure, picture, 1, 1)
    grey = np.repeat(picture.mean(-1, keepdims=True) * 0.55 + 105, 3, axis=-1).clip(0, 255).astype(np.uint8)
    for number, map_ in enumerate(maps, start=1):
        at = (number // across + 1, number % across + 1)
        signed = bool(result["signed"].values[number - 1])
        if not signed:
            _add_picture(figure, grey, *at)
        figure.add_trace(_heat(map_, str(result["name"].values[number - 1]), signed), *at)
    if again:
        at = (len(titles) - 1) // across + 1, (len(titles) - 1) % across + 1
        _add_picture(figure, np.asarray(result["refined"].values, dtype=np.uint8), *at)
    if "area_of" in result.variables and result.sizes.get("area", 0):
        _outline(figure, result, across, len(maps))
    rows, columns = picture.shape[:2]
    figure.update_xaxes(visible=False, range=[-0.5, columns - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[rows - 0.5, -0.5], constrain="domain")
    for number in range(len(titles)):
        axis = "" if number == 0 else str(number + 1)
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}"}})
    figure.update_annotations(font={"size": 14, "color": theme.INK}, selector={"showarrow": False})
    height = down * (SIDE * max(0.4, min(2.0, rows / columns)) + 40)
    figure.update_layout(**_layout(result, height + 140))
    return figure


def _maps(result: xr.Dataset) -> list[NDArray[np.float32]]:
    name = str(result.attrs.get("value", ""))
    for variable in (name, "picture", "name", "signed"):
        if variable not in result.variables:
            raise InputError(
                f"an image_overlay needs the variable {variable!r}: {sorted(map(str, result.variables))}"
            )
    if set(result[name].dims) != {"map", "row", "column"}:
        raise InputError(f"{name!r} of an image_overlay needs (map, row, column), got {result[name].dims}")
    values = np.asarray(result[name].transpose("map", "row", "column").values, dtype=np.float32)
    if not np.isfinite(values).any():
        raise InputError(f"nothing to draw: no finite value in {name!r}")
    return list(values)


def _add_picture(figure: go.Figure, picture: NDArray[np.uint8], row: int, column: int) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    data = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    figure.add_trace(go.Image(source=data, hoverinfo="skip"), row, column)


def _heat(map_: NDArray[np.float32], name: str, signed: bool) -> go.Heatmap:
    finite = map_[np.isfinite(map_)]
    if signed:
        bound = float(np.quantile(np.abs(finite), _LIMIT)) if finite.size else 0.0
        bound = bound or float(np.abs(finite).max(initial=0.0)) or 1.0
        scale, low = _diverging(), -bound
    else:
        bound, low = float(finite.max(initial=0.0)) or 1.0, 0.0
        scale = _heat_scale()
    return go.Heatmap(
        z=map_,
        zmin=low,
        zmax=bound,
        colorscale=scale,
        showscale=False,
        zsmooth=False,
        hovertemplate=f"{html.escape(name)} %{{z:.3g}}<br>row %{{y}}, column %{{x}}<extra></extra>",
    )


def _diverging() -> list[list[Any]]:
    """Orange against, blue for; darker ends than for text, as nothing has to be read on them."""
    return [
        [0.0, theme.AGAINST],
        [0.25, "#f0a868"],
        [0.5, "#f7f7f5"],
        [0.75, "#6fa8dc"],
        [1.0, theme.SUPPORT],
    ]


def _heat_scale() -> list[list[Any]]:
    """Transparent at 0, so that the picture shows where the map is silent."""
    return [
        [0.0, "rgba(255,255,255,0)"],
        [0.2, "rgba(140,195,216,0.35)"],
        [0.5, "rgba(31,111,181,0.65)"],
        [0.8, "rgba(93,32,141,0.80)"],
        [1.0, "rgba(190,10,80,0.88)"],
    ]


def _outline(figure: go.Figure, result: xr.Dataset, across: int, count: int) -> None:
    """Contours of each area, numbered on the picture; thin on the maps that are not signed."""
    from skimage.measure import find_contours

    numbers = result["area_of"].values
    for area in range(1, result.sizes["area"] + 1):
        padded = np.pad((numbers == area).astype(np.float32), 1)
        lines = [line - 1 for line in find_contours(padded, 0.5)]
        y = np.concatenate([np.append(line[:, 0], np.nan) for line in lines])
        x = np.concatenate([np.append(line[:, 1], np.nan) for line in lines])
        share, size = (float(result[f"area_{name}"].values[area - 1]) for name in ("share", "size"))
        text = f"area {area}: {share:.0%} of the evidence on {size:.0%} of the picture"
        panels = [0, *(n for n in range(1, count + 1) if not bool(result["signed"].values[n - 1]))]
        for panel in panels:
            at = (panel // across + 1, panel % across + 1)
            for colour, width in (("#000000", 4 if panel == 0 else 2.5), (OUTLINE, 2 if panel == 0 else 1.2)):
                line = {"color": colour, "width": width}
                figure.add_trace(
                    go.Scatter(
                        x=x, y=y, mode="lines", line=line, hoverinfo="text", text=text, showlegend=False
                    ),
                    *at,
                )
        if area <= 9:
            rows, columns = np.nonzero(numbers == area)
            middle = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
            figure.add_annotation(
                x=int(columns[middle]), y=int(rows[middle]), text=f"<b>{area}</b>", showarrow=False, row=1, col=1,
                font={"size": 15, "color": "#000000"}, bgcolor=OUTLINE, borderpad=2, hovertext=text,
            )  # fmt: skip


def _layout(result: xr.Dataset, height: float) -> dict[str, object]:
    attrs = result.attrs
    title = str(attrs.get("title", attrs.get("explainer", "")))
    story = f"for “{html.escape(str(attrs.get('target', '')))}”, method {html.escape(str(attrs.get('method', '')))}"
    if bool(result["signed"].values.any()):
        for_it, against = (
            f"<span style='color:{theme.SUPPORT}'>blue</span>",
            f"<span style='color:{theme.AGAINST}'>orange</span>",
        )
        story += f"; {for_it} speaks for it, {against} against"
        if attrs.get("explainer") == "relevance_contrast":
            story = f"{for_it}: more for the first, {against}: more for the second"
    if "question" in attrs:
        asked, answer, how = (html.escape(str(attrs[name])) for name in ("question", "target", "method"))
        story = f"“{asked}” – “{answer}”, {how}"
    if result.sizes.get("area", 0):
        story += f"; outlined: {html.escape(str(attrs.get('outlined', 'the areas that stand out')))}"
    if attrs.get("sound") is False:
        story += f"<br><b style='color:{theme.BAD}'>Ranks places only: the relevance does not add up to the score</b>"
    return theme.layout(
        title=theme.heading(html.escape(title), story),
        height=height,
        margin={"l": 16, "r": 16, "t": 124, "b": 16},
        showlegend=False,
    )
