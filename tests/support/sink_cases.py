"""Cases of attention with shrunken sinks, and their comparison with ACT's map written out."""

import math

import torch
from attention_oracle import calibrated, calibrated_output, tolerance, worst

from probe.kernels.score import ScoreSpec


def sinks_of(batch, heads, n, share=0.1, seed=0):
    """Sinks that differ per sample and head; head 1 has none, head 0 of sample 0 has key 0."""
    out = torch.rand(batch, heads, n, generator=torch.Generator().manual_seed(seed + n)) < share
    out[:, 1:2] = False
    out[0, 0, 0] = True
    return out


def values_of(k, size, seed=7):
    return torch.randn(*k.shape[:3], size, generator=torch.Generator().manual_seed(seed)).to(k)


def planted(mass, n, size=64, sink=3, device="cpu"):
    """bf16 q, k, v, spec and sinks: late rows have close to `mass` on one sink, the others are nearly uniform."""
    generator = torch.Generator().manual_seed(1)
    q, k = (
        torch.randn(1, 2, n, size, generator=generator),
        0.1 * torch.randn(1, 1, n, size, generator=generator),
    )
    q[..., 0] = 1.0
    k[..., 0] = 0.0
    k[:, :, sink, 0] = math.log(n * mass / (1 - mass)) * size**0.5
    v = torch.randn(1, 1, n, size, generator=generator)
    sinks = torch.zeros(1, 2, n, dtype=torch.bool, device=device)
    sinks[..., sink] = True
    q, k, v = (x.to(device, torch.bfloat16) for x in (q, k, v))
    return q, k, v, ScoreSpec(scale=size**-0.5, causal=True), sinks


def assert_shifted(got, q, k, v, spec, sinks, beta, heads=None, **more):
    """Output and statistics against the definition; `sinks` and `beta` are those of all heads, `got` of the chosen ones."""
    cut, host = slice(None) if heads is None else heads, spec.to("cpu")
    truth, plain = (
        calibrated(q, k, host, sinks, beta, dtype=dtype, **more) for dtype in (torch.float64, torch.float32)
    )
    pairs = {"out": (calibrated_output(truth[0], v, torch.float64), calibrated_output(plain[0], v, q.dtype))}
    for at, name in enumerate(("sink_mass", "rest_mass", "lse"), 1):
        pairs[name] = tuple(
            x if host.query_valid is None else x.masked_fill(~host.query_valid[:, None, :], math.nan)
            for x in (truth[at], plain[at])
        )
    assert got.out.dtype == q.dtype
    for name, (exact, same_precision) in pairs.items():
        error, allowed = (
            worst(getattr(got, name), exact[:, cut]),
            tolerance(same_precision[:, cut], exact[:, cut]),
        )
        if name == "out":
            # the weights and the result are rounded to the dtype of q, half an eps each; a small plain map may be lucky
            allowed = max(allowed, torch.finfo(q.dtype).eps * float(exact[:, cut].abs().max()))
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
