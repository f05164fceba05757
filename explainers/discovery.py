"""Finding explainers: the private modules of this folder, and what installed distributions offer.

A module or folder whose name starts with one underscore belongs to the package; the names in its `__all__`
become public at the package, and those among them that carry a declaration are explainers.
"""

import functools
import importlib
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from probe.explainers.kinds import DeclarationError
from probe.explainers.spec import Explainer

GROUP = "probe.explainers"


@functools.cache
def public_names() -> dict[str, Any]:
    """Every public function of this folder by name."""
    package = __name__.rpartition(".")[0]
    return collect(f"{package}.{stem}" for stem in module_stems(Path(__file__).parent))


@functools.cache
def installed() -> dict[str, Explainer]:
    """All explainers by name: this folder's, then those of the entry-point group `probe.explainers`."""
    own = {n: f.__explainer__ for n, f in public_names().items() if hasattr(f, "__explainer__")}
    return with_entry_points(own, entry_points(group=GROUP))


def module_stems(folder: Path) -> list[str]:
    """Names of the private modules and folders, sorted."""
    found = {p.stem for p in folder.glob("_*") if p.suffix == ".py" or (p / "__init__.py").is_file()}
    return sorted(stem for stem in found if not stem.startswith("__"))


def collect(modules: Iterable[str]) -> dict[str, Any]:
    """Public names of some modules.

    Raises:
        DeclarationError: two modules offer one name, or a declared explainer is called otherwise than its
            name says.
    """
    names: dict[str, Any] = {}
    for path in modules:
        module = importlib.import_module(path)
        for name in getattr(module, "__all__", ()):
            if name in names:
                other = names[name].__module__
                raise DeclarationError(
                    f"the name {name!r} is offered twice: by {other} and by {path}; rename one"
                )
            names[name] = getattr(module, name)
    return names


def with_entry_points(own: dict[str, Explainer], points: Iterable[EntryPoint]) -> dict[str, Explainer]:
    """Add the explainers of other distributions.

    A distribution that cannot be loaded is named in a warning and left out: it must not take ours with it.

    Raises:
        DeclarationError: two explainers of one name; the message names both homes.
    """
    found = dict(own)
    for point in points:
        home = point.dist.name if point.dist is not None else point.value
        try:
            entry = point.load().__explainer__
        except Exception as error:  # noqa: BLE001 - third-party code may raise anything; the warning names it
            text = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"the explainer {point.name!r} of {home} is left out: {text}", RuntimeWarning, stacklevel=2
            )
            continue
        if entry.name in found:
            other = found[entry.name].function.__module__
            raise DeclarationError(
                f"two explainers are named {entry.name!r}: {other} and {home}; remove or rename one"
            )
        found[entry.name] = entry
    return found
