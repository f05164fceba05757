"""Results as explainers return them, built by hand so that every number is known."""

import json

import numpy as np
import pytest
import xarray as xr

PIECES = [
    "[CLS]",
    "The",
    " plot",
    " is",
    " thin",
    ",",
    " but",
    " the",
    " acting",
    " is",
    " a",
    " del",
    "ight",
    ".",
    "[SEP]",
]
SCORES = [0.02, 0.01, -0.06, 0.0, -0.41, 0.0, 0.12, 0.02, 0.19, 0.03, 0.02, 0.55, 0.38, 0.04, -0.03]


def strip_of(pieces, scores, roles=None, **attrs):
    roles = roles or ["text"] * len(pieces)
    starts, ends, at = [], [], 0
    for piece, role in zip(pieces, roles, strict=True):
        if role != "text":
            starts.append(-1)
            ends.append(-1)
            continue
        starts.append(at + len(piece) - len(piece.lstrip(" ")))
        at += len(piece)
        ends.append(at)
    dataset = xr.Dataset(
        {"score": ("token", np.asarray(scores, dtype=np.float32))},
        coords={
            "text": ("token", np.array(pieces, dtype=object)),
            "role": ("token", np.array(roles, dtype=object)),
            "start": ("token", np.array(starts, dtype=np.int32)),
            "end": ("token", np.array(ends, dtype=np.int32)),
        },
    )
    dataset.attrs = {
        "kind": "token_strip",
        "explainer": "saliency",
        "title": "Token saliency",
        "parameters": json.dumps({"method": "integrated_gradients", "steps": 32}),
        "references": ["Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017"],
        "unit": "log-odds",
        "value": "score",
        "target": "positive",
        "target_probability": 0.9734,
        "method": "integrated_gradients",
        "signed": True,
        "model": "sentiment",
        "task": "text-classification",
        "input": "".join(p for p, r in zip(pieces, roles, strict=True) if r == "text"),
    } | attrs
    return dataset


def with_curves(dataset, steps=11):
    x = np.linspace(0, 1, steps)
    curves = {
        "deletion": 0.97 * np.exp(-5 * x) + 0.03,
        "insertion": 0.97 - 0.6 * np.exp(-6 * x),
        "deletion_random": 0.97 - 0.5 * x,
        "insertion_random": 0.4 + 0.55 * x,
    }
    out = dataset.assign({"fraction": ("step", x)} | {k: ("step", v) for k, v in curves.items()})
    out = out.assign(
        {f"{k}_sd": ("step", 0.1 * np.sin(np.pi * x)) for k in ("deletion_random", "insertion_random")}
    )
    out.attrs |= {
        "deletion_auc": float(np.trapezoid(curves["deletion"], x)),
        "insertion_auc": float(np.trapezoid(curves["insertion"], x)),
        "deletion_auc_random": float(np.trapezoid(curves["deletion_random"], x)),
        "insertion_auc_random": float(np.trapezoid(curves["insertion_random"], x)),
        "faithfulness_verdict": "Removing the highest-scored tokens first lowers the probability faster.",
    }
    return out


@pytest.fixture
def make_strip():
    return strip_of


@pytest.fixture
def strip():
    roles = ["special", *["text"] * 13, "special"]
    return strip_of(PIECES, SCORES, roles)


@pytest.fixture
def strip_with_curves(strip):
    return with_curves(strip)


@pytest.fixture
def head_table():
    rng = np.random.default_rng(0)
    value = rng.uniform(0.05, 0.6, (6, 4)).astype(np.float32)
    value[3, 2] = 0.93
    value[5, 1] = np.nan
    dataset = xr.Dataset(
        {
            "sink_rate": (("layer", "head"), value),
            "top_token": (("layer", "head"), np.full((6, 4), "<s>", dtype=object)),
            "entropy": (("layer", "head"), np.full((6, 4), 1.25, dtype=np.float32)),
        },
        coords={"layer": np.arange(6), "head": np.arange(4)},
    )
    dataset.attrs = {
        "kind": "head_table",
        "explainer": "sinks",
        "title": "Attention on the first token",
        "value": "sink_rate",
        "unit": "1",
        "parameters": json.dumps({"threshold": 0.3}),
        "references": ["Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024"],
        "model": "smollm2",
    }
    return dataset


@pytest.fixture
def words():
    dataset = xr.Dataset(
        {
            "text": (
                "statement",
                np.array(
                    ["The words “delight” and “acting” speak for it.", "“thin” speaks against."], dtype=object
                ),
            ),
            "claim": ("statement", np.array(["top_support", "top_against"], dtype=object)),
            "value": ("statement", np.array([0.6, 0.22])),
            "tokens": ("statement", np.array(["11,12,8", "4"], dtype=object)),
        }
    )
    dataset.attrs = {
        "kind": "text",
        "explainer": "verbalization",
        "title": "In words",
        "value": "value",
        "unit": "1",
    }
    return dataset
