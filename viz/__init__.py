"""Figures and reports: one result in, one picture out; what is drawn depends on `result.attrs["kind"]` alone.

`viz.draw(result)` and `viz.draw_faithfulness(result)` return Plotly figures, `viz.report(results, path)`
writes one HTML file that needs no network, `viz.markdown(result, sentences)` gives Markdown. The modules behind
them are private: a function and a submodule of one name would shadow each other.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.viz._draw import draw, draw_faithfulness
    from probe.viz._linked import linked
    from probe.viz._markdown import markdown
    from probe.viz._report import report
    from probe.viz._slide_files import slide_geojson, slide_png, write_geojson
    from probe.viz._widgets import deep_zoom, token_strip

_HOME = {
    "deep_zoom": "probe.viz._widgets",
    "draw": "probe.viz._draw",
    "draw_faithfulness": "probe.viz._draw",
    "linked": "probe.viz._linked",
    "markdown": "probe.viz._markdown",
    "report": "probe.viz._report",
    "slide_geojson": "probe.viz._slide_files",
    "slide_png": "probe.viz._slide_files",
    "token_strip": "probe.viz._widgets",
    "write_geojson": "probe.viz._slide_files",
}

__all__ = [
    "deep_zoom",
    "draw",
    "draw_faithfulness",
    "linked",
    "markdown",
    "report",
    "slide_geojson",
    "slide_png",
    "token_strip",
    "write_geojson",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(
            f"module 'probe.viz' has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    return getattr(_import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
