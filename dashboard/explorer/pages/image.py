"""Image: where in a picture a model looks, by answer word, layer and head, and the overlays that explainers made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from dash import Dash, html

from probe.dashboard.explorer import tiles
from probe.dashboard.explorer.attributes import more
from probe.dashboard.explorer.page import Page
from probe.dashboard.explorer.panels import Panel, mount, wire
from probe.deepzoom.single import entries
from probe.deepzoom.zoom import kept_layers
from probe.errors import InputError
from probe.families.vision import paint
from probe.record import positions, towers
from probe.viz._picture_maps import draw_patches

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from dash.development.base_component import Component

    from probe.dashboard.explorer.state import State
    from probe.dashboard.explorer.store import Store

_JOBS = ("picture",)
KINDS = ("image_overlay", "path")
"""Kinds of result that lie over a picture: SR areas, CARVE before and after, scanpaths, whatever comes."""
_PIXELS = 512
"""Along the longer side of what is drawn: every n-th pixel of a larger picture."""
_BOX = ("x0", "y0", "x1", "y1")


def layout(state: State, store: Store) -> Component:
    """A panel for the tokens that lie in a picture, and one for each stored result of a kind that does."""
    tree = store.open(state.record)
    parts: list[Component] = [mount(LOOKS, wide=True)] if _placed(tree, state.tower) else []
    names = overlays(tree)
    links = [
        html.A(name, href=state.but(part=name).url("/image"), className="quiet", **more({"data-raw": "1"}))
        for name in names
    ]
    if names or store.jobs.has(state.job or "", "result", _JOBS):
        parts.append(mount(RESULT, *links, wide=True))
    return html.Div(parts, className="panels")


def register(app: Dash, store: Store) -> None:
    """The panels."""
    wire(app, store, LOOKS)
    wire(app, store, RESULT)


def overlays(tree: xr.DataTree) -> list[str]:
    """Names of the results in a record that lie over a picture."""
    node = tree.children.get("results")
    return (
        []
        if node is None
        else [name for name, one in node.children.items() if one.attrs.get("kind") in KINDS]
    )


def _placed(tree: xr.DataTree, tower: str) -> str:
    """The tower whose keys lie in a picture: the one that is asked for, else the first by name; empty if there is none."""
    for name in [tower] if tower else sorted(towers(tree)):
        if name in towers(tree) and set(_BOX) <= set(positions(tree, name, "keys").data_vars):
            return name
    return ""


def _looks(state: State, store: Store) -> xr.Dataset:
    """What the image tokens get: of the chosen query where q and k were kept, else of all queries together."""
    tree = store.open(state.record)
    tower = _placed(tree, state.tower)
    if not tower:
        raise InputError(
            "No position of this record lies in a picture: capture with images=…, the sizes of the pictures."
        )
    table, image = positions(tree, tower, "keys").isel(sample=[state.sample]), state.step or 0
    mine = np.isfinite(table["x0"].values[0]) & (table["image"].values[0] == image)
    if not mine.any():
        raise InputError(f"picture {image}: none of the positions of sample {state.sample} lies in it")
    values, attrs = _weights(state, store, tree, tower)
    size = tuple(int(np.ceil(table[name].values[0][mine].max())) for name in ("y1", "x1"))
    grid = _painted(table, np.where(mine, values, 0.0)[None], (size[0], size[1]), image)
    every = max(1, -(-max(size) // _PIXELS))
    total = float(np.nansum(values))
    attrs["share"] = float(np.nansum(values[mine])) / total if total else 0.0
    coords = {
        name: (dim, np.arange(0, n, every) + 0.5)
        for name, dim, n in zip("yx", ("row", "column"), size, strict=True)
    }
    return xr.Dataset(
        {"value": (("row", "column"), grid[::every, ::every].astype(np.float32))}, coords, attrs
    )


def _painted(
    table: xr.Dataset, values: np.ndarray[Any, Any], size: tuple[int, int], image: int
) -> np.ndarray[Any, Any]:
    """Values on their rectangles; of a model that sees a picture whole and in tiles, the tiles, which are finer."""
    try:
        return paint(table, values, size, image=image)
    except InputError:
        return paint(table, values, size, image=image, tiles="parts")


def _weights(
    state: State, store: Store, tree: xr.DataTree, tower: str
) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    data = tree[tower].to_dataset()
    layer = int(data["layer"].values[-1]) if state.layer is None else state.layer
    head = int(data["head"].values[0]) if state.head is None else state.head
    if state.query is not None and layer in kept_layers(tree, tower):
        one = tiles.map_of(store, state.record, tower, layer, head, state.sample)
        row = entries(one.one, range(state.query, state.query + 1), range(one.shape[1]))[0]
        word = one.texts("queries", state.query, state.query + 1)[0]
        return row, {
            "story": f"where “{word.strip()}” (query {state.query}) looks, layer {layer}, head {head}",
            "unit": "probability",
        }
    if "received" not in data:
        raise InputError(
            "The record has no received attention: capture it, or keep q and k and choose a query."
        )
    got = data["received"].sel(layer=layer, head=head).isel(sample=state.sample).values
    return got, {
        "story": f"what each place receives from all queries, layer {layer}, head {head}",
        "unit": "attention",
    }


def _looks_words(found: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of all captions
    return (
        f"{found.attrs['unit']}, linear scale from 0; each image token on its own rectangle of the original picture. "
        f"{found.attrs['share']:.1%} of the attention falls on this picture; the rest (text, other pictures) is left out."
    )


def _result(state: State, store: Store) -> xr.Dataset:
    if state.job and store.jobs.has(state.job, "result", _JOBS):
        found = store.jobs.result(state.job, "result", _JOBS)
        if found.attrs.get("kind") not in KINDS:
            raise InputError(f"the job's result is a {found.attrs.get('kind')}; see it on the page Explain")
        return found
    tree = store.open(state.record)
    names = overlays(tree)
    if not names or (state.part and state.part not in names):
        raise InputError(f"no overlay {state.part!r} in this record; it has: {', '.join(names) or 'none'}")
    return tree["results"].children[state.part or names[0]].to_dataset().load()


def _draw(result: xr.Dataset, state: State) -> go.Figure:  # noqa: ARG001 - the face of all drawings
    from probe import viz

    return viz.draw(result)


def _result_words(result: xr.Dataset, state: State) -> str:  # noqa: ARG001 - the face of all captions
    attrs = result.attrs
    title = attrs.get("title", attrs.get("explainer"))
    scale = f"unit {attrs.get('unit', '1')}; every map on its own scale, nothing left out."
    return f"{title}: {attrs.get('method', '')}; {scale}"


def _needs(tree: xr.DataTree) -> str | None:
    if _placed(tree, "") or overlays(tree):
        return None
    return (
        "Nothing in this record lies in a picture. Capture a vision-language model or a vision transformer with images=… "
        "(the sizes of the pictures), or drop a picture on the page Explain."
    )


LOOKS = Panel(
    "image-looks",
    "Where the chosen word looks",
    ("layer", "head", "query", "step"),
    _looks,
    lambda found, _: draw_patches(found),
    _looks_words,
    460,
)
RESULT = Panel("image-result", "Over the picture", ("part", "job"), _result, _draw, _result_words, 520)
PAGE = Page(
    "image",
    "Image",
    "Where in the picture a model looks, word by word, layer by layer, head by head.",
    50,
    layout,
    register,
    _needs,
)
