"""Models that compute attention themselves, with PyTorch's function: a small picture transformer and a small GPT."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as renamed

HIDDEN = 32
HEADS = 4


def _helper(q, k, v, **rules):
    return F.scaled_dot_product_attention(q, k, v, **rules)


class Attention(nn.Module):
    """Self-attention with grouped heads."""

    def __init__(self, kv_heads=HEADS):
        super().__init__()
        self.kv_heads = kv_heads
        self.size = HIDDEN // HEADS
        self.q = nn.Linear(HIDDEN, HIDDEN)
        self.kv = nn.Linear(HIDDEN, 2 * kv_heads * self.size)
        self.proj = nn.Linear(HIDDEN, HIDDEN)
        self.written_out = False

    def forward(self, x, **rules):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, HEADS, self.size).transpose(1, 2)
        k, v = self.kv(x).view(batch, length, 2, self.kv_heads, self.size).permute(2, 0, 3, 1, 4)
        if self.kv_heads != HEADS:
            rules = {**rules, "enable_gqa": True}
        out = self._plain(q, k, v, **rules) if self.written_out else self.attend(q, k, v, **rules)
        return self.proj(out.transpose(1, 2).reshape(batch, length, HIDDEN))

    def attend(self, q, k, v, **rules):
        return F.scaled_dot_product_attention(q, k, v, **rules)

    def _plain(self, q, k, v, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
        k, v = (x.repeat_interleave(HEADS // self.kv_heads, 1) for x in (k, v))
        scores = q @ k.mT * (self.size**-0.5 if scale is None else scale)
        if is_causal:
            scores = scores.masked_fill(torch.ones(q.shape[2], k.shape[2]).triu(1).bool(), -torch.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        self.map = scores.softmax(-1).nan_to_num()  # a padded row may see nothing
        return self.map @ v


class Renamed(Attention):
    """Imported by name, under another name."""

    def attend(self, q, k, v, **rules):
        return renamed(q, k, v, **rules)


class Helped(Attention):
    """Called by a function outside of the class."""

    def attend(self, q, k, v, **rules):
        return _helper(q, k, v, **rules)


#: How the function is reached.
STYLES = {"module": Attention, "renamed": Renamed, "helper": Helped}


class Block(nn.Module):
    def __init__(self, style="module", **settings):
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.attn = STYLES[style](**settings)
        self.mlp = nn.Sequential(
            nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 48), nn.GELU(), nn.Linear(48, HIDDEN)
        )

    def forward(self, x, **rules):
        x = x + self.attn(self.norm(x), **rules)
        return x + self.mlp(x)


class PictureTransformer(nn.Module):
    """Patches of 4 pixels and a class token, as timm's vision transformers."""

    def __init__(self, layers=2, **settings):
        super().__init__()
        self.patch = nn.Conv2d(3, HIDDEN, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, HIDDEN))
        self.blocks = nn.ModuleList(Block(**settings) for _ in range(layers))
        self.head = nn.Linear(HIDDEN, 5)

    def forward(self, image, **rules):
        x = self.patch(image).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, **rules)
        return self.head(x[:, 0])


class SmallGPT(nn.Module):
    """A decoder; what stands in `rules` goes to the function (a mask, `is_causal`)."""

    def __init__(self, layers=2, **settings):
        super().__init__()
        self.embed = nn.Embedding(60, HIDDEN)
        self.blocks = nn.ModuleList(Block(**settings) for _ in range(layers))
        self.head = nn.Linear(HIDDEN, 60)

    def forward(self, ids, **rules):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, **(rules or {"is_causal": True}))
        return self.head(x)


def own(kind, seed=0, **settings):
    """A model in eval mode with weights large enough for attention that is not flat."""
    torch.manual_seed(seed)
    model = kind(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    return model.eval()


def written_out(model, *given, dtype=torch.float64, **rules):
    """Attention maps of each layer from a copy in `dtype` that writes them out, [B, H, N, N]."""
    twin = copy.deepcopy(model).to(dtype)
    attentions = [m for m in twin.modules() if isinstance(m, Attention)]
    for attention in attentions:
        attention.written_out = True
    cast = [x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for x in given]
    rules = {n: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x for n, x in rules.items()}
    with torch.no_grad():
        twin(*cast, **rules)
    return [attention.map.double() for attention in attentions]
