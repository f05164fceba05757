"""RefAM over the text-to-image block of a vision-language model: hearing the block, and the result."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from probe._pictures import fitted, read_picture, source_of
from probe.explainers._carve.asking import depth, module_of, prepared
from probe.explainers._carve.build import SHOWN, layers_of
from probe.explainers._carve.grids import surface
from probe.explainers._refam import maps as sums
from probe.explainers._refam.tokens import ROLES, locate
from probe.record import strings

FIRST_BLOCK = 20 / 48  # of Mochi's 48 blocks, those from 20 on localise


def blocks_of(asked: str, count: int) -> tuple[int, ...]:
    """Numbers of layers; "auto" is the later part of the depth in which the paper's maps localise."""
    if asked == "auto":
        return tuple(range(min(count - 1, round(FIRST_BLOCK * count)), count))
    return tuple(range(count)) if asked == "all" else layers_of(asked, count)


def block(
    module: Any, given: dict[str, Any], layers: tuple[int, ...], places: NDArray[np.intp], new: int
) -> Any:
    """Attention of the last `new` positions to the image tokens, mean of heads, [layers, new, N]: a rectangle of each map."""
    from probe.generation.steps import latest
    from probe.kernels.row_pass import row_stats
    from probe.kernels.tile import tile
    from probe.taps.hf import HFTap
    from probe.taps.streams import main_stream

    keys, heard = torch.from_numpy(places), dict[int, NDArray[np.float64]]()

    def take(call: Any) -> None:
        last = latest(call, new, torch.zeros(1, dtype=torch.bool))
        lse = row_stats(last.q, last.k, last.spec, ("lse",))["lse"]
        part = tile(last.q, last.k, last.spec, lse, range(new), keys)
        heard[call.layer] = part[0].double().mean(0).cpu().numpy()

    with HFTap(module, take, layers=list(layers), towers=[main_stream(module).name]), torch.no_grad():
        module(**given, use_cache=False)
    return np.stack([heard[layer] for layer in layers])


def build(
    model: Any, picture: Any, expression: str, magnets: str, layers: str, axis: str, **how: bool
) -> xr.Dataset:
    """See `refam`."""
    module, processor = module_of(model)
    chosen = blocks_of(layers, depth(module))
    whole = read_picture(picture)
    extra = [word for word in magnets.split(" ") if word] if magnets != "none" else []
    text = " ".join([expression.strip(), *extra])
    given, table, places = prepared(module, processor, [whole], text)
    ids = given["input_ids"][0].tolist()
    behind = ids[int(places[-1]) + 1 :]
    special = set(processor.tokenizer.all_special_ids)
    pieces = ["" if i in special else processor.tokenizer.decode([i]) for i in behind]
    tokens = locate(pieces, expression, extra)
    found = block(module, given, chosen, places, len(behind)).mean(0)
    specials = [n for n, i in enumerate(behind) if i in special]
    rows = [*(n for n, _, _ in tokens), *specials]
    told = (
        [*(role for _, role, _ in tokens), *["special"] * len(specials)],
        [*(w for *_, w in tokens), *[""] * len(specials)],
    )
    stack = sums.shares(found[rows], axis)
    return _result(
        model,
        picture,
        whole,
        table,
        places,
        stack,
        found[rows],
        told,
        expression,
        extra,
        chosen,
        axis,
        how,
    )


def _result(
    model: Any, picture: Any, whole: Any, table: xr.Dataset, places: Any, stack: Any, raw: Any,
    told: tuple[list[str], list[str]], expression: str, magnets: list[str], layers: tuple[int, ...], axis: str,
    how: dict[str, bool],
) -> xr.Dataset:  # fmt: skip
    from PIL import Image

    roles, words = told
    kept, note = sums.kept_tokens(roles, np.zeros(len(roles), np.bool_), filtered=how["filtered"])
    size, shown = (whole.height, whole.width), fitted(whole, SHOWN)
    heat = surface(stack[kept].sum(0), table, places, size, shown)
    prior = sums.spatial_prior(expression, shown) if how["spatial"] else None
    if how["spatial"] and prior is None:
        note = "; ".join(filter(None, (note, "the expression names no side: nothing was weighed")))
    if prior is not None:
        heat = heat * prior
    each = [surface(stack[n], table, places, size, shown) for n in kept]
    point = np.unravel_index(int(np.nanargmax(heat)), shown)
    names = ["Heatmap of the expression", *(f"“{words[n]}”" for n in kept)]
    mass = {
        role: float(raw[[n for n, r in enumerate(roles) if r == role]].sum() / raw.sum()) for role in ROLES
    }
    data = xr.Dataset(
        {
            "heat": (("map", "row", "column"), np.stack([heat, *each]).astype(np.float32)),
            "picture": (
                ("row", "column", "colour"),
                np.asarray(whole.resize(shown[::-1], Image.Resampling.LANCZOS)),
            ),
            "role_mass": ("role", np.array([mass[r] for r in ROLES])),
            "token": ("token", strings(words)),
            "token_role": ("token", strings(roles)),
        },
        coords={
            "name": ("map", strings(names)),
            "signed": ("map", np.zeros(len(names), np.bool_)),
            "role": ("role", strings(list(ROLES))),
        },
    )
    data.attrs = {
        "model": str(getattr(model, "name", type(model).__name__)),
        "unit": "share of the text tokens" if axis == "text" else "share of the picture",
        "value": "heat",
        "target": expression,
        "target_probability": float("nan"),
        "magnets": magnets,
        "point": [float((point[0] + 0.5) / shown[0]), float((point[1] + 0.5) / shown[1])],
        "prior": prior is not None,
        "note": note,
        "method": f"text-to-image attention, layers {layers[0]} to {layers[-1]}, {len(magnets)} magnets",
        "input": source_of(picture),
        "task": "referring expression",
    }
    return data
