"""What a page of the explorer is, and how all of them are found: a module of `pages/` with a `PAGE`."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from dash import Dash
    from dash.development.base_component import Component

    from probe.dashboard.explorer.state import State
    from probe.dashboard.explorer.store import Store


@dataclass(frozen=True)
class Page:
    """A page: what it shows of a state and a store, and its callbacks.

    Attributes:
        name: its path without the slash: "overview".
        title: in the navigation.
        summary: one line below the title, what question it answers.
        order: its place in the navigation.
        layout: the page's panels for a state; reads as little as it can, panels fill themselves.
        register: adds its callbacks to the app, once.
        needs: why a record cannot be shown here, None where it can; None instead of a function: needs no record.
    """

    name: str
    title: str
    summary: str
    order: int
    layout: Callable[[State, Store], Component]
    register: Callable[[Dash, Store], None]
    needs: Callable[[xr.DataTree], str | None] | None = None


def pages() -> dict[str, Page]:
    """All pages by name, in the order of the navigation."""
    from probe.dashboard.explorer import pages as folder

    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))
    modules = [import_module(f"{folder.__name__}.{name}") for name in names]
    found = [module.PAGE for module in modules if hasattr(module, "PAGE")]
    return {page.name: page for page in sorted(found, key=lambda page: page.order)}
