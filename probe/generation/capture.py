"""Capture of a generation: the record of all positions that were fed, prompt and generated, as of one run over them.

`generate` runs as the user's own call would: same tokens, same scores. A query counts once, in the pass that fed it first;
the columns of all passes are added up. With beams a sample of the record is a returned sequence, and holds what its own beam
computed.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe._facts import facts
from probe._inputs import device_of, parts, prepare, tokenizer_of
from probe.errors import InputError, ModelError
from probe.families.text import Prepared, describe
from probe.generation.passes import Passes
from probe.generation.running import Descent, Running
from probe.generation.watch import refuse
from probe.kernels.launch import choose
from probe.record import Check, strings
from probe.record.target import writer
from probe.record.writer import Writer
from probe.stats import SAMPLED, resolve
from probe.taps.hf import unrouted
from probe.validity import Report

if TYPE_CHECKING:
    from probe.models.load import LoadedModel

_EPS = float(torch.finfo(torch.float32).eps)


def capture_generation(
    model: "LoadedModel | torch.nn.Module",
    inputs: str | Sequence[str] | Mapping[str, Any],
    *,
    generate: Mapping[str, Any],
    rows: Mapping[int, Sequence[int]] | None = None,
    stats: str | Sequence[str] = ("entropy", "received"),
    store: str | Path | None = None,
    layers: Sequence[int | str] | None = None,
    implementation: str = "auto",
    keep_bits: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[xr.DataTree, Any]:
    """Generate, and record statistics of the attention of all passes.

    Greedy search, sampling and beam search, with dynamic, static, offloaded and sliding caches, or none.

    Args:
        model: what `probe.load` gave, or a transformers model in eval mode.
        inputs: one text or several (padded on the left), or `input_ids` [B, N] and, where positions are padding,
            `attention_mask` of 0 and 1.
        generate: keyword arguments of the model's `generate` (`max_new_tokens`, `do_sample`, `num_beams`, …).
        rows: heads by layer whose attention rows are kept, one for each step after the prompt.
        stats: names of statistics, see `probe.stats.STATS`; "pooled" has no meaning over passes.
        store: folder of the record to be written; None keeps it in memory.
        layers: numbers of layers or patterns of module names; None for all.
        implementation: of the kernels: "auto" (by device), "reference" or "triton".
        keep_bits: round the stored statistics to this many bits of their mantissa; None stores them as they are.
        overwrite: replace a record that is already at `store`, once this one is complete.
        progress: called with (passes done, most passes that can come, name of the pass).

    Returns:
        The record, and what `generate` returned. Positions are those that were fed: all but the last token; those after the
        end of a sample are padding. `/tokens` has a variable `step`, the number of the pass that fed a position (-1: padding);
        `/rows/<layer>` holds the rows that were asked for over (sample, step, head, key), NaN where there is no token (yet).

    Raises:
        InputError: an input or an option that cannot be used, or a way of generating that cannot be followed exactly.
        ModelError: a model whose attention or cache cannot be heard or expressed exactly.
        RecordError: the record cannot be written.
    """
    wanted = [stat.name for stat in resolve(stats)]
    odd = [name for name in wanted if name == "pooled" or name in SAMPLED]
    if odd:
        raise InputError(
            f"stats: got {odd[0]}, expected exact statistics of rows and columns (a generation has no one map)"
        )
    module, tokenizer = parts(model)
    if module.training:
        raise ModelError(f"{type(module).__name__}: the model is in training mode; call model.eval() first")
    device = device_of(module)
    try:
        choose(implementation, torch.empty(0, device=device))
    except ValueError as error:
        raise InputError(str(error)) from error
    prompt = _prompt(inputs, generate, module, tokenizer, device)
    config = refuse(module, generate, prompt["input_ids"].shape[0])
    own = {**prompt, **generate}.get("past_key_values")
    static = bool(getattr(own, "is_compileable", False))
    passes = Passes(module, wanted, rows or {}, implementation, layers, config, progress, static=static)
    known = facts(model, module, device)
    run: Any = module.generate
    with writer(passes.tap.expected, store, overwrite=overwrite, keep_bits=keep_bits) as target:
        with passes.watch, passes.tap, torch.no_grad():
            output = run(**prompt, **generate)
        ids = output if isinstance(output, Tensor) else output.sequences
        descent = passes.descent(ids)
        for running in passes.layers.values():
            values = running.values(descent)
            checks = [*running.checks, *_sums(running, values)]
            kept = {name: values[name] for name in (*wanted, "keys_seen", "seen_by")}
            target.add(passes.stream, running.layer, running.name, kept, checks=checks, facts=running.facts)
        prepared = describe(
            {"input_ids": ids[:, :-1], "attention_mask": descent.valid.long()}, tokenizer_of(tokenizer)
        )
        report = Report(list(target.checks))
        report.tokens(prepared)
        groups = {"tokens": _tokens(prepared, passes), "input": _input(prepared), **_rows(passes, descent)}
        found = {"stats": wanted, "implementation": implementation, **_told(target, module, passes)}
        tree = target.finish(groups | {"validity": report.dataset()}, known | found)
    complaint = report.complaint()
    if complaint is not None:
        warnings.warn(complaint, stacklevel=2)
    return tree, output


def _told(target: Writer, module: torch.nn.Module, passes: Passes) -> dict[str, Any]:
    """What the layers told of themselves, and what the generation was."""
    return {
        "backend": ", ".join(dict.fromkeys(target.facts("backend"))),
        "rules": target.facts("rule"),
        "unrouted": unrouted(module),
        "generation": passes.story(),
    }


def _prompt(
    inputs: Any, generate: Mapping[str, Any], module: torch.nn.Module, tokenizer: Any, device: torch.device
) -> dict[str, Any]:
    """The inputs as `generate` takes them; texts are padded on the left, whatever the tokenizer would do."""
    prepared = prepare(inputs, module, tokenizer, device)
    prompt = dict(prepared.inputs)
    if not isinstance(prompt.get("input_ids"), Tensor):
        raise InputError(
            f"inputs: got {', '.join(prompt)}, expected input_ids (a generation from embeddings has no tokens to tell)"
        )
    if not isinstance(inputs, Mapping):
        prompt.pop("position_ids", None)
        for name in ("input_ids", "attention_mask"):
            moved = [
                torch.cat([x[~there], x[there]])
                for x, there in zip(prompt[name], prepared.valid, strict=True)
            ]
            prompt[name] = torch.stack(moved)
    twice = sorted(prompt.keys() & generate.keys())
    if twice:
        raise InputError(f"generate: got {', '.join(twice)}, which the inputs hold already; give each once")
    return prompt


def _tokens(prepared: Prepared, passes: Passes) -> xr.Dataset:
    """The record's /tokens: what they are, and the pass that fed them."""
    tokens = prepared.tokens
    steps = np.array(passes.watch.steps[: tokens.sizes["token"]], dtype=np.int32)
    fed = np.where(tokens["valid"].values, steps, np.int32(-1))
    told = {"meaning": "number of the forward pass that fed the token, 0 for the prompt; -1 at padding"}
    return tokens.assign(step=(("sample", "token"), fed, told))


def _input(prepared: Prepared) -> xr.Dataset:
    texts = prepared.texts if prepared.texts is not None else [""] * prepared.valid.shape[0]
    return xr.Dataset({"text": ("sample", strings(texts))})


def _rows(passes: Passes, descent: Descent) -> dict[str, xr.Dataset]:
    """The groups /rows/<layer>, of the layers that were asked for."""
    found = {}
    for layer, running in passes.layers.items():
        if running.heads:
            weights, at = running.kept_rows(descent)
            told = {
                "unit": "probability",
                "meaning": "A_ij of the query of each step over all keys; NaN where there is no token",
            }
            found[f"rows/{layer}"] = xr.Dataset(
                {"attention": (("sample", "step", "head", "key"), weights, told)},
                coords={
                    "step": np.array([passes.watch.steps[i] for i in at], dtype=np.int64),
                    "query": ("step", np.array(at, dtype=np.int64)),
                    "head": np.array(running.heads, dtype=np.int64),
                    "key": np.arange(weights.shape[3]),
                },
                attrs={"module": running.name},
            )
    return found


def _sums(running: Running, values: Mapping[str, np.ndarray[Any, Any]]) -> list[Check]:
    """What all keys received in all passes is what all queries gave; padding holds nothing."""
    if "received" not in values:
        return []
    total = np.nansum(values["received"], axis=2, dtype=np.float64)
    given = np.nansum(values["key_mass"], axis=2, dtype=np.float64)
    n = values["received"].shape[2]
    tolerance = np.maximum(given, 1) * (2 * running.score_error() + (math.sqrt(n) + 8) * _EPS)
    error = np.abs(total - given)
    at = np.unravel_index(int(np.argmax(np.nan_to_num(error / tolerance, nan=np.inf))), error.shape)
    meaning = "|Σ_k received - Σ_q mass given to keys| over all passes, per head"
    return [Check("column sums", running.layer, float(error[at]), float(tolerance[at]), meaning)]
