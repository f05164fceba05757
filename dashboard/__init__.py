"""What a person touches: the command `probe`, and the modules behind its output."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.dashboard.explorer.serve import open_explorer as open

__all__ = ["open"]


def __getattr__(name: str) -> object:
    if name != "open":
        raise AttributeError(f"module 'probe.dashboard' has no attribute {name!r}; its public name is open")
    from probe.dashboard.explorer.serve import open_explorer

    return open_explorer
