"""Widgets for notebooks: the deep zoom of the explorer and a strip of tokens, from the same module, without a server.

`anywidget` is the optional extra `notebook`; it is imported when a widget is made. The browser asks the kernel over the
widget's own channel, so that no network is needed.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from probe.errors import InputError, ProbeError
from probe.viz._tiles import Tiles

if TYPE_CHECKING:
    import xarray as xr

_GLUE = """
function kernelSource(model) {
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", (message, buffers) => {
    const asked = waiting.get(message.id);
    if (!asked) return;
    waiting.delete(message.id);
    if (message.error) asked.fail(new Error(message.error));
    else asked.done(buffers && buffers.length ? buffers[0] : message.value);
  });
  const ask = (what, args) => new Promise((done, fail) => {
    last += 1;
    waiting.set(last, { done, fail });
    model.send({ id: last, what, args });
  });
  const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return {
    about: () => ask("about", []),
    tile: async (...args) => new Blob([bytes(await ask("tile", args))], { type: "image/png" }),
    cell: (q, k) => ask("cell", [q, k]),
    curve: async (...args) => new Float32Array(bytes(await ask("curve", args)).slice().buffer),
    texts: (...args) => ask("texts", args),
  };
}
function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  const zoom = new DeepZoom(root, kernelSource(model), {
    query: model.get("query"), key: model.get("key"),
    onselect: (chosen) => { model.set("query", chosen.query); model.set("key", chosen.key); model.save_changes(); },
    onregion: (region) => { model.set("region", region); model.save_changes(); },
  });
  return () => zoom.destroy();
}
export default { render };
"""
_STRIP = """
function render({ model, el }) {
  const frame = el.appendChild(document.createElement("div"));
  frame.style.cssText = "font:15px/1.9 system-ui,sans-serif;overflow-wrap:anywhere;color:#1d2433;background:#fff;padding:8px";
  const said = el.appendChild(document.createElement("div"));
  said.style.cssText = "font:13px system-ui,sans-serif;min-height:1.5em";
  for (const [at, [text, score, colour]] of model.get("tokens").entries()) {
    const token = frame.appendChild(document.createElement("span"));
    token.textContent = text; token.style.whiteSpace = "pre-wrap"; token.style.borderRadius = "3px"; token.tabIndex = 0;
    if (colour) token.style.background = colour;
    const value = score === null ? "no score" : `${score.toPrecision(4)} ${model.get("unit")}`;
    const tell = () => { said.textContent = `token ${at} “${text}”: ${value}`; };
    token.onmouseenter = tell; token.onfocus = tell;
    token.onclick = () => { model.set("chosen", at); model.save_changes(); };
  }
}
export default { render };
"""


def deep_zoom(record: xr.DataTree, *, layer: int, head: int, stream: str = "text", sample: int = 0) -> Any:
    """A map of any length in a notebook, to be panned and zoomed down to single weights.

    Args:
        record: an opened record that kept q, k and v.
        layer: number of the layer.
        head: number of the head.
        stream: the tower.
        sample: index of the sample.

    Returns:
        An anywidget; its traits `query`, `key` and `region` follow what is chosen and seen.

    Raises:
        InputError: anywidget is not installed, or no such head.
        RecordError: the record kept nothing of that layer.
    """
    anywidget, traitlets = _library()
    tiles = Tiles(record, layer=layer, head=head, stream=stream, sample=sample)
    page = files("probe.viz").joinpath("page")
    module = page.joinpath("deepzoom.js").read_text(encoding="utf-8")
    made = type(
        "DeepZoom",
        (anywidget.AnyWidget,),
        {
            "_esm": module + _GLUE,
            "_css": page.joinpath("deepzoom.css").read_text(encoding="utf-8"),
            "query": traitlets.Int(None, allow_none=True).tag(sync=True),
            "key": traitlets.Int(None, allow_none=True).tag(sync=True),
            "region": traitlets.Unicode("").tag(sync=True),
        },
    )()
    made.on_msg(lambda widget, message, buffers: _answer(tiles, widget, message))  # noqa: ARG005 - its signature
    return made


def token_strip(result: xr.Dataset) -> Any:
    """A text in a notebook, its tokens coloured by their scores; pointing tells a score, clicking chooses.

    Args:
        result: of kind `token_strip`.

    Returns:
        An anywidget; its trait `chosen` is the token that was clicked.

    Raises:
        InputError: anywidget is not installed, or a result of another kind.
    """
    import numpy as np

    from probe.viz import theme

    if result.attrs.get("kind") != "token_strip":
        raise InputError(f"expected a result of kind token_strip, got {result.attrs.get('kind')!r}")
    anywidget, traitlets = _library()
    scores = result[result.attrs["value"]].values.astype(np.float64)
    limit = float(np.nanmax(np.abs(scores), initial=0.0))
    tokens = [
        [
            str(text),
            float(score) if np.isfinite(score) else None,
            theme.token_colour(float(score), limit, signed=bool(result.attrs["signed"])),
        ]
        for text, score in zip(result["text"].values, scores, strict=True)
    ]
    return type(
        "TokenStrip",
        (anywidget.AnyWidget,),
        {
            "_esm": _STRIP,
            "tokens": traitlets.List(tokens).tag(sync=True),
            "unit": traitlets.Unicode(str(result.attrs.get("unit", ""))).tag(sync=True),
            "chosen": traitlets.Int(None, allow_none=True).tag(sync=True),
        },
    )()


def _answer(tiles: Tiles, widget: Any, message: Any) -> None:
    """Answer one question of the browser; what cannot be answered goes back as one line."""
    asked = message if isinstance(message, dict) else {}
    what, args, reply = asked.get("what"), asked.get("args", []), {"id": asked.get("id")}
    known: dict[Any, Any] = {
        "about": tiles.about,
        "tile": tiles.tile,
        "cell": tiles.cell,
        "curve": tiles.curve,
        "texts": tiles.texts,
    }
    try:
        if what not in known or not isinstance(args, list):
            raise InputError(f"a question: got {what!r}, expected one of {', '.join(known)}")
        found: Any = known[what](*args)
    except (ProbeError, TypeError, ValueError, IndexError) as error:
        widget.send(reply | {"error": str(error)})
        return
    if what in ("tile", "curve"):
        widget.send(reply, [found if isinstance(found, bytes) else found.tobytes()])
    else:
        widget.send(reply | {"value": found})


def _library() -> tuple[Any, Any]:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InputError("widgets need anywidget: pip install 'attention-probe[notebook]'") from error
    return anywidget, traitlets
