"""The explorer: records of a folder in the browser, on this machine."""

from probe.dashboard.explorer.serve import open_explorer

__all__ = ["open_explorer"]
