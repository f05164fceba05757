"""Layers with q, k and v by hand, as a record that kept them, and their maps written out with code of their own."""

import numpy as np
import torch
import xarray as xr
from attention_oracle import attention

from probe.deepzoom.kept import Kept
from probe.explainers.layers import Layer
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.record import strings


def layer(n=48, heads=4, key_heads=2, size=8, seed=0, dtype=torch.float64, batch=1, spread=1.5, **rules):
    """A layer of random q, k and v."""
    generator = torch.Generator().manual_seed(seed)

    def draw(h):
        return (spread * torch.randn(batch, h, n, size, generator=generator)).to(dtype)

    spec = ScoreSpec(scale=size**-0.5, **({"causal": True} | rules))
    numbers = tuple(range(heads))
    return Layer(
        seed, f"layers.{seed}", numbers, draw(heads), draw(key_heads), draw(key_heads), spec, None, None
    )


def maps(one):
    """The whole maps, [B, H, N, N] float64, padded rows and columns 0."""
    found = attention(one.q, one.k, one.spec)[0]
    if one.spec.query_valid is not None:
        found = found * one.spec.query_valid[:, None, :, None]
    return found.numpy()


def record(layers, texts=None, ids=None, roles=None):
    """A record that kept all layers, with texts and ids of the tokens."""
    batch, _, n, _ = layers[0].q.shape
    over = ("sample", "token")
    texts = texts or [[f"w{i}" for i in range(n)]] * batch
    valid = layers[0].spec.key_valid
    there = np.ones((batch, n), bool) if valid is None else valid.numpy()
    tokens = {
        "text": strings(texts),
        "id": np.asarray(ids if ids is not None else [range(n)] * batch, dtype=np.int64),
        "role": strings(roles or [["text"] * n] * batch),
        "start": np.full((batch, n), -1, np.int32),
        "end": np.full((batch, n), -1, np.int32),
        "valid": there,
    }
    heads = layers[0].q.shape[1]
    numbers = [one.number for one in layers]
    tower = xr.Dataset(
        {
            "entropy": (
                ("sample", "layer", "head", "query"),
                np.zeros((batch, len(layers), heads, n), np.float32),
            )
        },
        coords={
            "layer": numbers,
            "module": ("layer", strings([one.module for one in layers])),
            "head": np.arange(heads),
        },
        attrs={"queries": "tokens", "keys": "tokens"},
    )
    groups = {
        "/": xr.Dataset(attrs={"model": "by hand"}),
        "/text": tower,
        "/tokens": xr.Dataset({name: (over, values) for name, values in tokens.items()}),
    }
    for one in layers:
        lse = row_stats(one.q, one.k, one.spec, ("lse",))["lse"]
        groups[f"/qkv/text/{one.number}"] = Kept.of(one.q, one.k, one.v, lse, one.spec).dataset()
    return xr.DataTree.from_dict(groups)
