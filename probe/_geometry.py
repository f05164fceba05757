"""Pictures in a record: where the vision tower's patches and the text's image tokens lie in the original pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import xarray as xr

from probe.errors import InputError, ModelError
from probe.families.text import Prepared
from probe.families.vision import TEXTS, image_tokens, patches
from probe.positions import Positions


def placed(
    positions: Mapping[str, Positions],
    module: torch.nn.Module,
    prepared: Prepared,
    images: Sequence[Any],
    processor: object | None,
) -> dict[str, Positions]:
    """The positions with their places in the pictures.

    Args:
        positions: of the record.
        module: the model.
        prepared: its inputs.
        images: sizes of the original pictures, as `probe.families.vision.patches` takes them.
        processor: what made the inputs.

    Raises:
        InputError: no processor, or sizes that contradict the inputs.
        ModelError: a family whose geometry is not known, or whose tower has other positions than the pictures explain.
    """
    if processor is None:
        raise InputError("images: places in a picture need the processor that made the inputs (processor=…)")
    config, found = getattr(module, "config", None), dict(positions)
    for group in ("patches", "frames"):
        if group in found:
            table = patches(config, prepared.inputs, images, processor)
            found[group] = _joined(found[group], table, type(module).__name__)
    ids = prepared.inputs.get("input_ids")
    if "tokens" in found and ids is not None and getattr(config, "model_type", None) in TEXTS:
        table = image_tokens(config, ids, prepared.inputs, images, processor)
        found["tokens"] = _joined(found["tokens"], table, type(module).__name__)
    return found


def _joined(positions: Positions, table: xr.Dataset, name: str) -> Positions:
    own = positions.dataset
    if dict(own.sizes) != dict(table.sizes):
        raise ModelError(
            f"{name}: its {positions.group} are {dict(own.sizes)}, but the pictures explain {dict(table.sizes)}; "
            "are the sizes those of the pictures that the processor was given?"
        )
    told = table["role"].values.astype(object) if "role" in table else None
    more = {str(n): (("sample", "token"), table[n].values) for n in table.data_vars if n != "role"}
    joined = own.assign(more)
    if told is not None:
        role = [
            [mine if not yours or mine == "pad" else yours for mine, yours in zip(*rows, strict=True)]
            for rows in zip(own["role"].values.tolist(), told.tolist(), strict=True)
        ]
        from probe.record import strings

        joined = joined.assign(role=(("sample", "token"), strings(role)))
    return replace(positions, dataset=joined)
