"""What must hold for the strongest keys of every query, and inputs on which ties decide."""

import torch
from attention_oracle import links, tolerance, worst

from probe.kernels.score import ScoreSpec


def assert_links(got, q, k, spec, count):
    """Weights as in float64; the keys named carry these weights; no key twice; absent ones where the map has none."""
    keys, probs, a = links(q, k, spec, count)
    plain = links(q, k, spec, count, torch.float32)[1]
    assert got.keys.shape == got.probs.shape == (*q.shape[:3], count)
    assert got.keys.dtype == torch.int64
    assert torch.equal(got.keys.cpu() < 0, keys < 0)
    allowed = tolerance(plain, probs)
    assert worst(got.probs, probs) <= allowed
    there = got.keys.cpu()
    carried = torch.where(there >= 0, a.gather(-1, there.clamp(min=0)), 0)
    padded = got.probs.cpu().isnan()
    assert float((carried - got.probs.cpu().double()).masked_fill(padded, 0).abs().max()) <= allowed
    ordered = there.sort(-1).values
    assert not ((ordered.diff(dim=-1) == 0) & (ordered[..., 1:] >= 0)).any(), "a key twice"
    clear = (probs[..., :-1] - probs[..., 1:]) > 4 * allowed
    apart = torch.nn.functional.pad(clear, (1, 0), value=True) & torch.nn.functional.pad(
        clear, (0, 1), value=False
    )
    assert torch.equal(there[apart], keys[apart])


def whole_numbers(n, seed, causal=True):
    """Scores are small whole numbers, exact in any precision, so that most rows hold ties."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randint(-1, 2, (1, heads, n, 8), generator=generator).float() for heads in (2, 1))
    return q, k, ScoreSpec(scale=1.0, causal=causal)
