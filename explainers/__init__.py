"""Explanation methods: `ex.sinks(trace)`, `ex.entropy(trace)`, `ex.saliency(model, text)`, and their words.

Importing this package loads no method: the folder is walked when a name is first asked for. A new method is
one private module here (see `spec.py`); nothing else has to be edited.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.explainers.spec import Explainer

__all__ = ["registry"]


def registry() -> "dict[str, Explainer]":
    """All explainers by name: this folder's and those of the entry-point group `probe.explainers`."""
    from probe.explainers.discovery import installed

    return dict(installed())


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'probe.explainers' has no attribute {name!r}")
    from probe.explainers.discovery import installed, public_names

    if name in public_names():
        return public_names()[name]
    if name in installed():
        return installed()[name].function
    known = ", ".join(sorted({*public_names(), *installed()}))
    raise AttributeError(f"module 'probe.explainers' has no attribute {name!r}; there is: {known}")


def __dir__() -> list[str]:
    from probe.explainers.discovery import installed, public_names

    return sorted({"registry", *public_names(), *installed()})
