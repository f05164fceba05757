"""Attention calls and generations for the tests of ACT."""

import torch

from probe.call import AttentionCall
from probe.edits import Place, Sequence
from probe.explainers._act.change import Calibration
from probe.explainers._act.rule import Options
from probe.kernels.score import ScoreSpec

PUBLISHED = {
    "beta": 0.4,
    "alpha": 5.0,
    "threshold": "relative",
    "min_queries": 1,
    "protect_first": True,
    "targets": "all",
    "decoding": "running",
}


def calibrated(q, k, spec, heads=(0,), implementation="reference", **options):
    """The plain map and the map under ACT of one call, [B, H, Nq, Nk] (the values are unit vectors), and its columns.

    Values are at most 256 wide: of a longer map the first 256 columns.
    """
    n_keys = k.shape[2]
    unit = torch.eye(n_keys, min(n_keys, 256), dtype=q.dtype).expand(*k.shape[:2], -1, -1)
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = (q @ keys.transpose(2, 3)) * spec.scale
    if spec.causal:
        scores = scores.masked_fill(torch.ones(q.shape[2], n_keys).triu(1).bool(), -torch.inf)
    plain = scores.softmax(-1)
    call = AttentionCall(
        "planted",
        torch.nn.Module(),
        0,
        q,
        k,
        unit,
        (plain @ unit[:, :1]).transpose(1, 2),
        spec,
        None,
        {},
        "eager",
        None,
    )
    calibration = Calibration({0: tuple(heads)}, Options(**{**PUBLISHED, **options}), implementation)
    changed = calibration.change(call, Place(Sequence(), 0, 0))
    out = call.output if changed is None else changed
    return plain, out.transpose(1, 2), calibration.columns(0)


def uniform(n, dtype=torch.float64):
    """Queries and keys of a uniform causal map."""
    return (
        torch.zeros(1, 1, n, 4, dtype=dtype),
        torch.zeros(1, 1, n, 4, dtype=dtype),
        ScoreSpec(scale=1.0, causal=True),
    )


def planted(n=30, w=0.7, token=3, dtype=torch.float32):
    """Queries and keys of a causal map whose rows from `token` on put w on it; the rest is uniform."""
    q, k = torch.zeros(1, 1, n, 4, dtype=dtype), torch.zeros(1, 1, n, 4, dtype=dtype)
    others = torch.arange(n, dtype=torch.float64).clamp(min=1)
    q[0, 0, :, 0] = torch.log(w / (1 - w) * others).to(dtype)
    k[0, 0, token, 0] = 1
    return q, k, ScoreSpec(scale=1.0, causal=True)


def generated(model, inputs, steps=8, **options):
    """Sequences and logits [B, steps, vocabulary] of a greedy generation that does not end early."""
    given = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    output = model.generate(**inputs, **given, return_dict_in_generate=True, output_logits=True)
    return output.sequences, torch.stack(output.logits, 1)


def all_valid(inputs, steps=0):
    """What is no padding, of the prompt and of `steps` generated tokens."""
    return torch.nn.functional.pad(inputs["attention_mask"].bool(), (0, steps), value=True)
