"""The context of `ex.act` (the signature stands; its body follows)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


class Steering:
    """An open or closed calibration: `with act(…) as steering`, then `steering.report()`."""

    def __init__(self, model: Any, heads: Any, options: dict[str, Any], tower: str | None, implementation: str) -> None:
        raise NotImplementedError

    def __enter__(self) -> "Steering":
        raise NotImplementedError

    def __exit__(self, *exception: object) -> None:
        raise NotImplementedError

    def report(self) -> "xr.Dataset":
        """What happened in the last sequence, per head, sample and row; a head_table."""
        raise NotImplementedError
