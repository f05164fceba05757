"""Where a number comes from: versions, model, device; added to results that an explainer computed here."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

    from probe.models.load import LoadedModel

PACKAGES = (
    "attention-probe",
    "torch",
    "transformers",
    "captum",
    "triton",
    "transformer-lens",
    "numpy",
    "scipy",
    "xarray",
    "zarr",
    "safetensors",
    "gguf",
    "plotly",
    "dash",
    "umap-learn",
    "openai",
    "scikit-image",
    "typer",
    "rich",
)


def versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Versions of installed distributions, read from their metadata: nothing is imported.

    Args:
        names: Distributions.

    Returns:
        Version by name, None for what is not installed.
    """
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def stamp(result: xr.Dataset, loaded: LoadedModel) -> None:
    """Write model, revision, device, time and versions into a result's attributes.

    Args:
        result: Changed in place; attributes that an explainer set stay.
        loaded: The model that was explained.
    """
    first = next(loaded.model.parameters())
    known = {name: version for name, version in versions().items() if version and name in _NUMBERS_REST_ON}
    facts = {
        "model_source": loaded.source,
        "model_revision": loaded.revision,
        "model_license": loaded.license,
        "task": loaded.task,
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": known,
    }
    result.attrs = {**facts, **result.attrs}


_NUMBERS_REST_ON = ("attention-probe", "torch", "transformers", "captum", "triton", "numpy", "xarray")
