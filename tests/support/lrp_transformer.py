"""A pre-norm transformer with RMSNorm and a gated MLP, and AttnLRP of it written down as a modified gradient.

AttnLRP equals gradient × input of a function with the same value whose gradient is changed: a product of two tensors
passes half of the gradient to each, an activation f passes f(x) / x, a normalisation's statistic is a constant
(Achtibat et al. 2024, and the efficient form in the appendix). Nothing here uses the engine.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.before, self.between, self.heads = RMSNorm(width), RMSNorm(width), heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.gate, self.up, self.down = (
            nn.Linear(width, 2 * width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        )  # fmt: skip

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x):
        h = self.before(x)
        q, k, v = (self.split(part(h)) for part in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = self.between(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    def __init__(self, width=16, heads=2, classes=5):
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(2)])
        self.norm, self.head = RMSNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, -1])


def halved(x):
    """The same value; half of the gradient."""
    return x / 2 + (x / 2).detach()


def scaled_only(x, y):
    """The value y, as x times the constant y / x."""
    return x * (y / x).detach()


def modified(model, x):
    """The model's logits with the gradients of AttnLRP."""

    def norm(layer, x):
        return scaled_only(x, layer(x))

    for block in model.blocks:
        h = norm(block.before, x)
        q, k, v = (block.split(part(h)) for part in (block.q, block.k, block.v))
        scores = halved(q) @ halved(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        p = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        x = x + block.out((halved(p) @ halved(v)).transpose(1, 2).flatten(2))
        h = norm(block.between, x)
        gate = block.gate(h)
        x = x + block.down(halved(scaled_only(gate, F.silu(gate))) * halved(block.up(h)))
    return model.head(norm(model.norm, x)[:, -1])
