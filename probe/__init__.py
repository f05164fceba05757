"""See what attention does inside real models: exact statistics at any length, on your own model and backend.

Importing this package loads nothing heavy and changes nothing: each public name is imported when it is first used.
The sibling folders `kernels`, `explainers`, `viz` and `dashboard` of a source checkout are subpackages of this one.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (
    _root / "kernels"
).is_dir():  # a source checkout: the siblings live beside us
    __path__.append(str(_root))

if TYPE_CHECKING:
    from probe._capture import capture
    from probe._maps import maps
    from probe._mil import capture_mil
    from probe._survey import survey
    from probe.corpus import capture_corpus, open_corpus
    from probe.deepzoom.zoom import zoom
    from probe.errors import InputError, ModelError, ProbeError, RecordError
    from probe.generation.capture import capture_generation
    from probe.models.load import LoadedModel, load
    from probe.record import open_record

__version__ = "0.1.0"

_HOME = {
    "capture": "probe._capture",
    "capture_corpus": "probe.corpus",
    "capture_generation": "probe.generation.capture",
    "capture_mil": "probe._mil",
    "maps": "probe._maps",
    "open_corpus": "probe.corpus",
    "survey": "probe._survey",
    "zoom": "probe.deepzoom.zoom",
    "load": "probe.models.load",
    "LoadedModel": "probe.models.load",
    "open_record": "probe.record",
    "ProbeError": "probe.errors",
    "InputError": "probe.errors",
    "ModelError": "probe.errors",
    "RecordError": "probe.errors",
}

__all__ = [
    "InputError",
    "LoadedModel",
    "ModelError",
    "ProbeError",
    "RecordError",
    "capture",
    "capture_corpus",
    "capture_generation",
    "capture_mil",
    "load",
    "maps",
    "open_corpus",
    "open_record",
    "survey",
    "zoom",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'probe' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(_import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
