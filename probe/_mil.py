"""`probe.capture_mil`: what an attention-MIL model looks at in a bag."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe._facts import facts
from probe._inputs import parts
from probe.bags.notes import BagNotes, are_bags
from probe.errors import InputError
from probe.placement import input_device, ready
from probe.record import strings
from probe.record.store import checks, keep
from probe.taps.mil import MilTap, tolerance

if TYPE_CHECKING:
    from probe.bags import Bag, Bags
    from probe.models.load import LoadedModel

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class _Seen:
    """One forward pass: weights and scores [B, K, N], features [B, N, F], the model's output."""

    weights: Tensor
    scores: Tensor | None
    features: Tensor | None
    modules: list[str]
    words: list[str]
    output: Tensor | None


def capture_mil(
    model: "LoadedModel | torch.nn.Module",
    bag: "Tensor | Sequence[Tensor] | Bag | Sequence[Bag] | Bags",
    *,
    attention: str | Sequence[str],
    features: str | Tensor | Sequence[Tensor] | None = None,
    store: str | Path | None = None,
    overwrite: bool = False,
) -> xr.DataTree:
    """Run an attention-MIL model over bags and record the weight of every instance in every branch.

    The weights are the model's own: those that a module gives, or those of the softmax that the model applies to a module's
    scores (gated attention, Ilse et al. 2018, arXiv 1802.04712; CLAM; several branches as in ACMIL, arXiv 2311.07125). The
    model's outputs are bit-identical and its hooks are gone afterwards, whatever happens.

    Args:
        model: any module in eval mode whose forward takes a bag.
        bag: features of the instances, [N, D]; several bags of one size, [B, N, D]; or a sequence of bags of any sizes, run
            one by one, each in the form that the model takes ([N, D] or [1, N, D]). Or a `Bag`, or several (`probe.read_bags`):
            they are read one by one, and the record keeps their names, labels, places and annotations.
        attention: name of the module whose output (of a tuple, the first tensor) is the attention, with the instances along any
            dimension: scores before the softmax, or weights after it. Several names where each branch has a module of its own.
        features: what to keep of the instances: the name of a module that gives [N, F], or the features themselves in the
            form of `bag`; None keeps nothing.
        store: folder of the record to be written; None keeps it in memory.
        overwrite: replace a record that is already at `store`, once this one is complete.

    Returns:
        A record with `/mil`: attention (bag, branch, instance), scores (likewise, where there is a softmax), features (bag,
        instance, feature) if kept, instances (bag); NaN beyond a bag's own instances; attribute `source` says how each
        branch was got. `/bags` describes `Bag`s: name, label, coords, patch_size, annotation. `/validity` says how far the
        weights are from summing to one. `/output` holds the model's logits, if they are a tensor.

    Raises:
        InputError: an option or a bag that cannot be used, or a module that gives no attention.
        ModelError: a model that cannot be heard, NaN, or a softmax over nothing.
        RecordError: the record cannot be written.
    """
    module, _ = parts(model)
    ready(module)
    place = input_device(module)
    names = [attention] if isinstance(attention, str) else list(attention)
    if not names:
        raise InputError("attention: got no name of a module")
    notes = BagNotes(bag) if are_bags(bag) else None
    passes: Iterable[Tensor] = _passes(bag, place) if notes is None else notes.passes(place)
    given = None
    if features is not None and not isinstance(features, str):
        passes = list(passes)
        given = _given_features(features, passes)
    named = features if isinstance(features, str) else None
    seen = [_run(module, names, x, named) for x in passes]
    tower = _tower(seen, [s.features for s in seen] if given is None else given)
    attrs = facts(model, module, place) | {"kind": "mil", "attention": names}
    groups = {"mil": tower, "validity": _validity(seen)}
    if notes is not None:
        groups["bags"] = notes.dataset()
    logits = _logits(seen)
    if logits is not None:
        groups["output"] = logits
    return keep(groups, attrs, store, tower.sizes["bag"], overwrite=overwrite)


def _passes(bag: Any, place: torch.device) -> list[Tensor]:
    """What each forward pass is given."""
    bags = [bag] if isinstance(bag, Tensor) else bag
    if not isinstance(bags, Sequence) or not bags or not all(isinstance(x, Tensor) for x in bags):
        raise InputError(
            f"bag: got {type(bag).__name__}, expected a tensor [N, D] or [B, N, D], or a sequence of them"
        )
    for number, x in enumerate(bags):
        one = f"bag {number}" if len(bags) > 1 else "bag"
        if x.ndim not in (2, 3) or not x.is_floating_point() or x.shape[-2] == 0:
            raise InputError(
                f"{one}: got {x.dtype} {list(x.shape)}, expected features [N, D] or [B, N, D], N at least 1"
            )
        if not bool(torch.isfinite(x).all()):
            at = int((~torch.isfinite(x)).flatten(0, -2).any(-1).nonzero()[0, 0])
            raise InputError(f"{one}: NaN or infinity in the features of instance {at}")
    return [x.to(place) for x in bags]


def _given_features(features: Any, passes: list[Tensor]) -> list[Tensor]:
    given = [features] if isinstance(features, Tensor) else list(features)
    if len(given) != len(passes) or any(
        f.shape[:-1] != x.shape[:-1] for f, x in zip(given, passes, strict=True)
    ):
        raise InputError("features: their shapes do not fit the bags; expected [N, F] for a bag [N, D]")
    return [f.reshape(-1, *f.shape[-2:]) for f in given]


def _run(module: torch.nn.Module, names: list[str], bag: Tensor, features: str | None) -> _Seen:
    bags, instances = (1 if bag.ndim == 2 else bag.shape[0]), bag.shape[-2]
    taps = [
        MilTap(module, name, bags=bags, instances=instances, features=features if i == 0 else None)
        for i, name in enumerate(names)
    ]
    with ExitStack() as stack:
        for tap in taps:
            stack.enter_context(tap)
        with torch.no_grad():
            output = module(bag.clone())
    got = [tap.weights() for tap in taps]
    scores = [s for _, s, _ in got if s is not None]
    output = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
    return _Seen(
        weights=torch.cat([w for w, _, _ in got], 1),
        scores=torch.cat(scores, 1) if len(scores) == len(got) else None,
        features=taps[0].features(),
        modules=[name for name, (w, _, _) in zip(names, got, strict=True) for _ in range(w.shape[1])],
        words=list(dict.fromkeys(words for _, _, words in got)),
        output=output if isinstance(output, Tensor) else None,
    )


def _tower(seen: list[_Seen], features: Sequence[Tensor | None]) -> xr.Dataset:
    longest = max(s.weights.shape[2] for s in seen)
    if len({s.weights.shape[1] for s in seen}) > 1:
        raise InputError(
            f"attention: the bags have different numbers of branches, {[s.weights.shape[1] for s in seen]}"
        )
    over = ("bag", "branch", "instance")
    variables: dict[str, Any] = {
        "attention": (
            over,
            _padded([s.weights for s in seen], longest, 2),
            {"meaning": "weight of the instance, sum one over a bag"},
        )
    }
    if all(s.scores is not None for s in seen):
        scores = _padded([s.scores for s in seen if s.scores is not None], longest, 2)
        variables["scores"] = (over, scores, {"meaning": "what the model's softmax was given"})
    if all(f is not None for f in features):
        kept = _padded([f for f in features if f is not None], longest, 1)
        variables["features"] = (("bag", "instance", "feature"), kept)
    counts = [s.weights.shape[2] for s in seen for _ in range(s.weights.shape[0])]
    variables["instances"] = (
        "bag",
        np.array(counts, dtype=np.int64),
        {"meaning": "how many instances the bag has"},
    )
    coordinates = {"module": ("branch", strings(seen[0].modules)), "instance": np.arange(longest)}
    normalised = "softmax of the scores" if "scores" in variables else "given as weights"
    attrs = {"source": list(dict.fromkeys(w for s in seen for w in s.words)), "attention": normalised}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def _padded(parts: list[Tensor], longest: int, dim: int) -> Array:
    """All bags below one another, float32, NaN beyond their own instances."""
    arrays = []
    for part in parts:
        array = part.detach().to("cpu", torch.float32).numpy()
        widths = [(0, longest - array.shape[dim] if d == dim else 0) for d in range(3)]
        arrays.append(np.pad(array, widths, constant_values=np.nan))
    whole: Array = np.concatenate(arrays)
    return whole


def _validity(seen: list[_Seen]) -> xr.Dataset:
    rows = []
    for s in seen:
        off = float((s.weights.double().sum(2) - 1).abs().max())
        rows.append((off, tolerance(s.weights.dtype, s.weights.shape[2])))
    worst, allowed = max(rows, key=lambda row: row[0] / row[1])
    return checks(
        [("sum of weights", worst, allowed, "|Σ weights of a bag's instances - 1|, worst bag and branch")]
    )


def _logits(seen: list[_Seen]) -> xr.Dataset | None:
    """The model's output, one row a bag, where it is that."""
    rows = []
    for s in seen:
        bags = s.weights.shape[0]
        if s.output is None or not s.output.is_floating_point() or s.output.numel() % bags:
            return None
        rows.append(s.output.detach().reshape(bags, -1).to("cpu", torch.float32).numpy())
    if len({row.shape[1] for row in rows}) > 1:
        return None
    return xr.Dataset({"logits": (("bag", "class"), np.concatenate(rows))})
