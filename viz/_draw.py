"""One entrance to all figures: the result's kind decides which family draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.errors import InputError
from probe.viz._concentration import draw_concentration
from probe.viz._embedding import draw_embedding
from probe.viz._faithfulness import draw_faithfulness
from probe.viz._flow import draw_flow
from probe.viz._head_table import draw_head_table
from probe.viz._image_overlay import draw_image_overlay
from probe.viz._map2d import draw_map2d
from probe.viz._measure_table import draw_measure_table
from probe.viz._path import draw_path
from probe.viz._slide import draw_slide
from probe.viz._token_strip import draw_token_strip

if TYPE_CHECKING:
    from collections.abc import Callable

    import plotly.graph_objects as go
    import xarray as xr

DRAWERS: dict[str, Callable[[xr.Dataset], go.Figure]] = {
    "concentration": draw_concentration,
    "embedding": draw_embedding,
    "head_table": draw_head_table,
    "slide_overlay": draw_slide,
    "measure_table": draw_measure_table,
    "image_overlay": draw_image_overlay,
    "flow": draw_flow,
    "map2d": draw_map2d,
    "path": draw_path,
    "token_strip": draw_token_strip,
}

__all__ = ["DRAWERS", "draw", "draw_faithfulness"]


def draw(result: xr.Dataset) -> go.Figure:
    """Draw a result.

    Args:
        result: What an explainer returned; `attrs["kind"]` says which figure fits.

    Returns:
        A Plotly figure.

    Raises:
        InputError: The kind is missing or has no figure, or the result breaks the kind's contract.
    """
    kind = result.attrs.get("kind")
    if kind not in DRAWERS:
        raise InputError(
            f"no figure for results of kind {kind!r}; kinds with a figure: {', '.join(sorted(DRAWERS))}"
        )
    return DRAWERS[kind](result)
