"""Capture: run a model once, record exact statistics of its attention, and change nothing about it."""

import datetime
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe._writer import Writer, writer
from probe.call import AttentionCall
from probe.errors import InputError, ModelError
from probe.families.text import Prepared, describe, encode
from probe.kernels.launch import choose
from probe.kernels.statistics import map_statistics
from probe.kernels.visible import visible_counts
from probe.record import strings
from probe.stats import resolve
from probe.taps import rules
from probe.taps.hf import HFTap, unrouted
from probe.validity import Report

if TYPE_CHECKING:
    from probe._load import LoadedModel

_VERSIONED = ("attention-probe", "torch", "transformers", "triton", "numpy", "xarray", "zarr")


def capture(
    model: "LoadedModel | torch.nn.Module",
    inputs: str | Sequence[str] | Mapping[str, Any],
    *,
    stats: str | Sequence[str] = ("entropy", "received"),
    store: str | Path | None = None,
    layers: Sequence[int | str] | None = None,
    implementation: str = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.DataTree:
    """Run the model once and record statistics of its attention.

    The model computes with its own backend; its outputs are bit-identical to a run without capture, and it is
    as before afterwards, whatever happens.

    Args:
        model: what `probe.load` gave, or any transformers model in eval mode.
        inputs: one text or several (needs a loaded model, for its tokenizer; several are padded), or keyword
            arguments of the model's forward (`input_ids` [B, N] and, where positions are padding,
            `attention_mask` of 0 and 1).
        stats: names of statistics, see `probe.stats.STATS`.
        store: folder of the record to be written; None keeps it in memory.
        layers: numbers of layers or patterns of module names; None for all.
        implementation: of the kernels: "auto" (by device), "reference" or "triton".
        overwrite: replace a record that is already at `store`, once this one is complete.
        progress: called with (layers done, layers expected, module name).

    Returns:
        The record (`probe.record` describes it); from a folder it is read lazily.

    Raises:
        InputError: an input or an option that cannot be used.
        ModelError: a model whose attention cannot be heard or expressed exactly.
        RecordError: the record cannot be written.
    """
    wanted = [stat.name for stat in resolve(stats)]
    module, tokenizer = _parts(model)
    if module.training:
        raise ModelError(f"{type(module).__name__}: the model is in training mode; call model.eval() first")
    device = _device(module)
    _check_implementation(implementation, device)
    prepared = _prepare(inputs, module, tokenizer, device)
    recorder = _Recorder(wanted, implementation, prepared, progress)
    tap = HFTap(module, recorder.receive, valid=prepared.valid, layers=layers)
    with writer(wanted, tap.expected, store, overwrite=overwrite) as target:
        recorder.target, recorder.expected = target, tap.expected
        with tap, torch.no_grad():
            module(**_extras(module, prepared.inputs), **prepared.inputs)
        recorder.report.tokens(prepared)
        attrs = _attributes(model, module, recorder, wanted, device)
        groups = {"tokens": prepared.tokens, "input": _input(prepared), "validity": recorder.report.dataset()}
        tree = target.finish(groups, attrs)
    complaint = recorder.report.complaint()
    if complaint is not None:
        warnings.warn(complaint, stacklevel=2)
    return tree


class _Recorder:
    """Turns calls into statistics, checks and layers of the record."""

    def __init__(
        self,
        stats: list[str],
        implementation: str,
        prepared: Prepared,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.stats = stats
        self.implementation = implementation
        self.valid = prepared.valid
        self.report = Report()
        self.rules: list[str] = []
        self.backends: list[str] = []
        self.expected = 0
        self.target: Writer
        self._progress = progress
        self._counts: dict[tuple[object, ...], dict[str, Any]] = {}
        self._heads: int | None = None

    def receive(self, call: AttentionCall) -> None:
        self._check_shape(call)
        names = [*self.stats]
        if call.spec.sink is not None and "received" in names and "key_mass" not in names:
            names.append("key_mass")  # the column sums are checked against it
        try:
            found = map_statistics(call.q, call.k, call.spec, names, self.implementation)
        except ValueError as error:
            raise ModelError(f"{call.name}: {error}") from error
        values = {name: _numpy(x) for name, x in found.items()}
        counts = self._visible(call)
        self.report.layer(call, values, counts["keys_seen"], self.implementation)
        kept = {name: values[name] for name in self.stats}
        self.target.add(call.layer, call.name, kept | counts)
        self.rules.append(rules.describe(call.spec))
        self.backends.append(call.backend)
        if self._progress is not None:
            done = len(self.rules)
            self._progress(done, max(self.expected, done), call.name)

    def _check_shape(self, call: AttentionCall) -> None:
        batch, heads, n_queries, _ = call.q.shape
        n_keys = call.k.shape[2]
        tokens = tuple(self.valid.shape)
        if (batch, n_queries) != tokens or n_keys != n_queries:
            raise ModelError(
                f"{call.name}: attention of {n_queries} queries and {n_keys} keys (batch {batch}) for "
                f"{tokens[1]} tokens (batch {tokens[0]}); only self-attention over the input's tokens can be "
                "recorded yet, choose such layers (layers=…)"
            )
        if self._heads not in (None, heads):
            raise ModelError(
                f"{call.name}: {heads} heads, but {self._heads} before; choose layers of one kind (layers=…)"
            )
        self._heads = heads

    def _visible(self, call: AttentionCall) -> dict[str, Any]:
        spec = call.spec
        key = (spec.causal, spec.offset, spec.window, spec.chunk, call.q.device)
        if key not in self._counts:
            batch, n_queries, n_keys = call.q.shape[0], call.q.shape[2], call.k.shape[2]
            counts = visible_counts(spec, batch, n_queries, n_keys, call.q.device)
            self._counts[key] = dict(zip(("keys_seen", "seen_by"), (_numpy(x) for x in counts), strict=True))
        return self._counts[key]


def _numpy(x: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = x.to("cpu", torch.float32 if x.is_floating_point() else torch.int32).numpy()
    return array


def _parts(model: Any) -> tuple[torch.nn.Module, Any | None]:
    if isinstance(model, torch.nn.Module):
        return model, None
    inner = getattr(model, "model", None)
    if not isinstance(inner, torch.nn.Module):
        raise InputError(
            f"model: got {type(model).__name__}, expected what probe.load gives, or a torch.nn.Module"
        )
    return inner, getattr(model, "processor", None)


def _device(module: torch.nn.Module) -> torch.device:
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _check_implementation(implementation: str, device: torch.device) -> None:
    try:
        choose(implementation, torch.empty(0, device=device))
    except ValueError as error:
        raise InputError(str(error)) from error


def _prepare(inputs: Any, module: torch.nn.Module, tokenizer: Any | None, device: torch.device) -> Prepared:
    if isinstance(inputs, Mapping):
        moved = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in inputs.items()}
        prepared = describe(moved, tokenizer)
        _check_ids(prepared, module)
        return prepared
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, Sequence) or not texts:
        raise InputError(
            f"inputs: got {type(inputs).__name__} (empty or unknown), expected texts or prepared inputs"
        )
    if tokenizer is None:
        raise InputError(
            "inputs: texts need a tokenizer; give what probe.load returns, or prepared inputs (input_ids)"
        )
    prepared = encode(texts, tokenizer, _limit(module, tokenizer), device)
    _check_ids(prepared, module)
    padded_left = not bool(prepared.valid[:, 0].all())
    if padded_left and _accepts(module, "position_ids") and _generates(module):
        # As `generate` does: learned positions count from the first token, not from the padding.
        positions = prepared.inputs["attention_mask"].cumsum(-1) - 1
        prepared.inputs["position_ids"] = positions.clamp(min=0)
    return prepared


def _check_ids(prepared: Prepared, module: Any) -> None:
    ids = prepared.inputs.get("input_ids")
    embed = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    known = getattr(embed, "num_embeddings", None)
    if isinstance(ids, Tensor) and known is not None and (int(ids.min()) < 0 or int(ids.max()) >= known):
        raise InputError(
            f"input_ids: got ids from {int(ids.min())} to {int(ids.max())}, expected 0 to {known - 1}; "
            "is this the model's own tokenizer?"
        )


def _limit(module: Any, tokenizer: Any) -> int | None:
    config: Any = getattr(module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    limits = [int(n) for n in found if isinstance(n, int) and 0 < n < 1 << 40]
    return min(limits, default=None)


def _accepts(module: torch.nn.Module, argument: str) -> bool:
    return argument in inspect.signature(module.forward).parameters


def _generates(module: Any) -> bool:
    return bool(module.can_generate()) if hasattr(module, "can_generate") else False


def _extras(module: torch.nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """No cache, and the logits of one position only, where the model can; neither touches attention."""
    asked = {"use_cache": False, "logits_to_keep": 1}
    return {name: value for name, value in asked.items() if name not in inputs and _accepts(module, name)}


def _input(prepared: Prepared) -> xr.Dataset:
    texts = prepared.texts if prepared.texts is not None else [""] * prepared.valid.shape[0]
    return xr.Dataset({"text": ("sample", strings(texts))})


def _attributes(
    model: Any, module: torch.nn.Module, recorder: _Recorder, stats: list[str], device: torch.device
) -> dict[str, Any]:
    config = getattr(module, "config", None)
    name = getattr(model, "name", None) or getattr(config, "_name_or_path", None) or type(module).__name__
    first = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return {
        "model": str(name),
        "model_class": type(module).__name__,
        "model_source": str(getattr(model, "source", "object")),
        "model_revision": str(getattr(model, "revision", "")),
        "dtype": str(first).removeprefix("torch."),
        "backend": ", ".join(dict.fromkeys(recorder.backends)),
        "device": _device_name(device),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "stats": stats,
        "implementation": recorder.implementation,
        "rules": recorder.rules,
        "unrouted": unrouted(module),
    }


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
