"""Capture: run a model once, record exact statistics of its attention, and change nothing about it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xarray as xr

from probe import placement
from probe._facts import facts, fingerprint
from probe._geometry import placed
from probe._inputs import device_of, parts, prepare, run
from probe._recorder import ALL_HEADS, Recorder
from probe.errors import InputError
from probe.families.text import Prepared
from probe.kernels.launch import choose
from probe.record import strings
from probe.record.target import writer
from probe.record.writer import Writer
from probe.stats import SAMPLED, resolve
from probe.taps import tap_of
from probe.taps.hf import unrouted
from probe.validity import Report

if TYPE_CHECKING:
    from probe.models.load import LoadedModel


def capture(
    model: "LoadedModel | torch.nn.Module",
    inputs: str | Sequence[str] | Mapping[str, Any] | torch.Tensor,
    *,
    stats: str | Sequence[str] = ("entropy", "received"),
    store: str | Path | None = None,
    layers: Sequence[int | str] | None = None,
    towers: Sequence[str] | None = None,
    images: Sequence[Any] | None = None,
    processor: object | None = None,
    grid: tuple[int, int] = (512, 512),
    keep: str | None = None,
    heads: Mapping[int, Sequence[int]] | None = None,
    sampled: float | None = None,
    seed: int = 0,
    keep_bits: int | None = None,
    limit: int | None = None,
    implementation: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.DataTree:
    """Run the model once and record statistics of its attention.

    The model computes with its own backend; its outputs are bit-identical to a run without capture, and it is
    as before afterwards, whatever happens.

    Args:
        model: what `probe.load` gave; a transformers model; a TransformerLens bridge; a module with
            `nn.MultiheadAttention` or with calls of `scaled_dot_product_attention`; in eval mode.
        inputs: one text or several (needs a loaded model, for its tokenizer; several are padded), or keyword
            arguments of the model's forward (`input_ids` [B, N] and, where positions are padding,
            `attention_mask` of 0 and 1; `pixel_values` and whatever else the model takes), or its first one.
        stats: names of statistics, see `probe.stats.STATS`.
        store: folder of the record to be written; None keeps it in memory.
        layers: numbers of layers or patterns of module names; None for all.
        towers: "text", "vision", "audio", "encoder", "decoder", "cross"; None for all that the input reaches.
        images: sizes of the original pictures in order of appearance, (height, width) (videos and sound: see
            `probe.families.vision`): places patches and image tokens on them, as coordinates of the positions.
        processor: what made the inputs of the pictures; None for the loaded model's own.
        grid: rows and columns of "pooled", the map averaged on a grid.
        keep: "qkv" stores queries, keys and values too, for `probe.zoom`.
        heads: with `keep`, which heads of which layers; None for all heads of all layers.
        sampled: share of the query blocks that "received_sampled" and its "received_error" rest on.
        seed: of that draw; the same seed gives the same blocks on every device.
        keep_bits: round the stored statistics to this many bits of their mantissa (of 23), so that records are
            small; None stores them as they are.
        limit: most MiB of maps in a pass, for models whose attention can only be had written out; None for 1024.
        implementation: of the kernels: "auto" (by device), "reference" or "triton".
        overwrite: replace a record that is already at `store`, once this one is complete.
        resume: go on with the same capture that was killed while it wrote to `store`.
        progress: called with (layers done, layers expected, module name).

    Returns:
        The record (`probe.record` describes it); from a folder it is read lazily.

    Raises:
        InputError: an input or an option that cannot be used.
        ModelError: a model whose attention cannot be heard or expressed exactly.
        RecordError: the record cannot be written.
    """
    wanted = [stat.name for stat in resolve(stats)]
    _check_sampled(wanted, sampled)
    module, tokenizer = parts(model)
    placement.ready(module)
    device = device_of(module)
    _check_implementation(implementation, device)
    _check_keep(keep, heads)
    prepared = prepare(inputs, module, tokenizer, device)
    kept = heads if heads is not None or keep is None else ALL_HEADS
    draw = None if sampled is None else (sampled, seed)
    recorder = Recorder(
        wanted, implementation, prepared.positions, progress, grid=grid, keep=kept, sampled=draw
    )
    tap = tap_of(
        module,
        recorder.receive,
        valid=_validity(prepared) if prepared.positions else None,
        layers=layers,
        towers=towers,
        stream=_tower_of_picture(module, prepared.inputs),
        limit=limit,
    )
    known = facts(model, module, device)
    asked = [wanted, layers, towers, grid, keep, heads, sampled, seed, keep_bits, implementation]
    request = fingerprint(known, module, prepared.inputs, asked) if store is not None else ""
    with writer(
        tap.expected, store, overwrite=overwrite, resume=resume, request=request, keep_bits=keep_bits
    ) as target:
        recorder.target, recorder.expected = target, tap.expected
        with recorder, tap, torch.no_grad():
            run(module, prepared.inputs)
        drawn = {} if sampled is None else {"sampled": sampled, "seed": seed}
        attrs = known | drawn | _found(target, tap.unused, module, wanted, implementation)
        if images is not None:
            recorder.positions = placed(
                recorder.positions, module, prepared, images, tokenizer if processor is None else processor
            )
        return conclude(target, prepared, recorder, attrs)


def conclude(target: Writer, prepared: Prepared, recorder: Recorder, attrs: Mapping[str, Any]) -> xr.DataTree:
    """Close a record: positions, input, validity; a record that fails its checks says so in a warning."""
    report = Report(list(target.checks))
    report.tokens(prepared)
    groups = {name: positions.dataset for name, positions in recorder.positions.items()}
    tree = target.finish(groups | {"input": _input(prepared), "validity": report.dataset()}, attrs)
    complaint = report.complaint()
    if complaint is not None:
        warnings.warn(complaint, stacklevel=3)
    return tree


def _validity(prepared: Prepared) -> Callable[[str], torch.Tensor | None]:
    padded = {
        name: positions.valid
        for name, positions in prepared.positions.items()
        if not bool(positions.valid.all())
    }
    return padded.get


def _check_implementation(implementation: str, device: torch.device) -> None:
    try:
        choose(implementation, torch.empty(0, device=device))
    except ValueError as error:
        raise InputError(str(error)) from error


def _check_sampled(stats: Sequence[str], sampled: float | None) -> None:
    estimates = [name for name in stats if name in SAMPLED]
    if sampled is None and estimates:
        raise InputError(
            f"stats: {estimates[0]} is an estimate; say from which share of the queries (sampled=0.1)"
        )
    if sampled is not None and not estimates:
        raise InputError(
            f"sampled: got {sampled}, but no estimate was asked for; expected {SAMPLED[0]} among the stats"
        )
    if sampled is not None and not 0 < sampled <= 1:
        raise InputError(f"sampled: got {sampled}, expected more than 0 and at most 1")


def _check_keep(keep: str | None, heads: Mapping[int, Sequence[int]] | None) -> None:
    if keep not in (None, "qkv"):
        raise InputError(f"keep: got {keep!r}, expected 'qkv' or None")
    if heads is not None and keep is None:
        raise InputError("heads: they choose what is kept; give keep='qkv' too")


def _tower_of_picture(module: torch.nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """A model that is not of transformers, and gets [B, C, H, W], looks at pictures."""
    if hasattr(module, "main_input_name"):
        return None
    pictures = [x for x in inputs.values() if isinstance(x, torch.Tensor) and x.ndim == 4]
    return "vision" if pictures else None


def _input(prepared: Prepared) -> xr.Dataset:
    samples = next((p.valid.shape[0] for p in prepared.positions.values()), 1)
    texts = prepared.texts if prepared.texts is not None else [""] * samples
    return xr.Dataset({"text": ("sample", strings(texts))})


def _found(
    target: Writer, unused: list[str], module: torch.nn.Module, stats: list[str], implementation: str
) -> dict[str, Any]:
    return {
        "backend": ", ".join(dict.fromkeys(target.facts("backend"))),
        "stats": stats,
        "implementation": implementation,
        "rules": target.facts("rule"),
        "unrouted": unrouted(module),
        "towers_without_input": unused,
    }
