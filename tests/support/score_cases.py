"""One table of attention calls: every rule alone and in the combinations that models use."""

import torch

from probe.kernels.score import ScoreSpec


def _padding(batch, n, side):
    valid = torch.ones(batch, n, dtype=torch.bool)
    for b in range(1, batch):
        width = min(n - 1, (b * n) // 3 + 1)
        if side == "left":
            valid[b, :width] = False
        else:
            valid[b, n - width :] = False
    return valid


def _self_padding(batch, n, side):
    valid = _padding(batch, n, side)
    return {"key_valid": valid, "query_valid": valid}


def _table(heads, reach=5):
    return torch.randn(heads, 2 * reach + 1, generator=torch.Generator().manual_seed(5))


def _documents(batch, n):
    """Documents of 17, 1, 30, … positions, cut differently in every sample; numbers with gaps."""
    lengths = [17, 1, 30, 2, 64, 5, 128, 333]
    numbers = torch.tensor(
        [2 * d for d, length in enumerate(lengths * (n // 500 + 2)) for _ in range(length)]
    )
    return torch.stack([numbers[5 * b : 5 * b + n] for b in range(batch)])


#: name → (batch, heads, n, head size) → keyword arguments of a ScoreSpec
RULES = {
    "full": lambda b, h, n, d: {},
    "causal": lambda b, h, n, d: {"causal": True},
    "window": lambda b, h, n, d: {"causal": True, "window": 7},
    "window-both-ways": lambda b, h, n, d: {"window": 5},
    "window-longer-than-text": lambda b, h, n, d: {"causal": True, "window": 10 * n},
    "chunk": lambda b, h, n, d: {"causal": True, "chunk": 9},
    "chunk-from-an-origin": lambda b, h, n, d: {"causal": True, "chunk": 9, "origin": torch.arange(b) + 13},
    "chunk-left-padded": lambda b, h, n, d: {
        "causal": True,
        "chunk": 9,
        "origin": (~_padding(b, n, "left")).sum(1),
        **_self_padding(b, n, "left"),
    },
    "left-padded": lambda b, h, n, d: {"causal": True, **_self_padding(b, n, "left")},
    "right-padded": lambda b, h, n, d: {"causal": True, **_self_padding(b, n, "right")},
    "encoder-padded": lambda b, h, n, d: _self_padding(b, n, "right"),
    "holes": lambda b, h, n, d: {"causal": True, "key_valid": torch.arange(n)[None].expand(b, n) % 3 != 1},
    "prefix": lambda b, h, n, d: {
        "causal": True,
        "groups": torch.where(torch.arange(n)[None].expand(b, n) < n // 3, 0, -1),
    },
    "image-blocks": lambda b, h, n, d: {
        "causal": True,
        "window": 6,
        "groups": torch.where(torch.arange(n)[None].expand(b, n) % 20 < 8, torch.arange(n)[None] // 20, -1),
    },
    "documents": lambda b, h, n, d: {"causal": True, "documents": _documents(b, n)},
    "documents-both-ways": lambda b, h, n, d: {"documents": _documents(b, n), **_self_padding(b, n, "right")},
    "documents-window-groups": lambda b, h, n, d: {
        "causal": True,
        "window": 6,
        "documents": _documents(b, n),
        "groups": torch.where(torch.arange(n)[None].expand(b, n) % 20 < 8, torch.arange(n)[None] // 20, -1),
    },
    "softcap": lambda b, h, n, d: {"causal": True, "softcap": 3.0},
    "alibi": lambda b, h, n, d: {"causal": True, "slopes": 2.0 ** -torch.arange(1, h + 1)},
    "distance-bias": lambda b, h, n, d: {"distance_bias": _table(h)},
    "distance-bias-minus-inf": lambda b, h, n, d: {
        "distance_bias": _table(h).masked_fill(torch.arange(11) == 3, float("-inf"))
    },
    "sink": lambda b, h, n, d: {"causal": True, "sink": torch.linspace(-3, 3, h)},
    "sink-window-padded": lambda b, h, n, d: {
        "causal": True,
        "window": 4,
        "sink": torch.linspace(-3, 3, h),
        **_self_padding(b, n, "left"),
    },
    "gemma": lambda b, h, n, d: {"causal": True, "window": 8, "softcap": 5.0, **_self_padding(b, n, "right")},
}

#: lengths that are no multiple of a block, head sizes that are no power of two, MHA, GQA and MQA
SHAPES = {
    "one-token": (2, 2, 2, 1, 16),
    "63": (2, 4, 2, 63, 24),
    "100": (2, 3, 1, 100, 64),
    "130": (1, 2, 2, 130, 80),
}


def make(rule, batch, heads, key_heads, n, size, dtype=torch.float32, device="cpu", seed=0, n_queries=None):
    """Fresh q [B, H, Nq, D], k [B, Hkv, N, D] and the spec of one case."""
    generator = torch.Generator().manual_seed(seed + 31 * n + size)
    q = (1.5 * torch.randn(batch, heads, n, size, generator=generator)).to(dtype)
    k = (1.5 * torch.randn(batch, key_heads, n, size, generator=generator)).to(dtype)
    spec = ScoreSpec(scale=size**-0.5, **RULES[rule](batch, heads, n, size))
    return q.to(device), k.to(device), spec.to(device)
