"""Results as plain JSON values: what `--json` prints."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.viz._faithfulness import has_faithfulness
from probe.viz.strip import read_strip

if TYPE_CHECKING:
    import xarray as xr


def emit(document: dict[str, Any]) -> None:
    """Print a document to standard output, one line break at its end and nothing else.

    Args:
        document: Nested dicts, lists, numbers (numpy's too), strings; those not finite become null.
    """
    sys.stdout.write(json.dumps(plain(document), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def dataset(result: xr.Dataset) -> dict[str, Any]:
    """A result of any kind: attributes, dimensions, and every variable with its dimensions and values.

    Args:
        result: What an explainer returned.
    """
    variables = {
        str(name): {"dims": [str(dim) for dim in variable.dims], "values": variable.values}
        for name, variable in result.variables.items()
    }
    return {"attributes": attributes(result), "sizes": dict(result.sizes), "variables": variables}


def attributes(result: xr.Dataset) -> dict[str, Any]:
    """A result's attributes, its parameters decoded."""
    attrs = {str(key): value for key, value in result.attrs.items()}
    if isinstance(attrs.get("parameters"), str):
        attrs["parameters"] = json.loads(attrs["parameters"])
    return attrs


def statements(words: xr.Dataset) -> list[dict[str, Any]]:
    """The sentences, each with the number it rests on and the tokens it names."""
    columns = ("claim", "text", "value", "tokens")
    rows = zip(*(words[name].values for name in columns), strict=True)
    return [
        {
            "claim": str(claim),
            "text": str(text),
            "value": float(value),
            "tokens": [int(part) for part in str(tokens).split(",") if part],
        }
        for claim, text, value, tokens in rows
    ]


_SAID = ("input", "value", "signed", "kind", "faithfulness_verdict")


def explanation(result: xr.Dataset, words: xr.Dataset) -> dict[str, Any]:
    """A token strip for programs: prediction, tokens with scores, sentences, faithfulness, provenance.

    Args:
        result: A `token_strip`.
        words: Its verbalization.
    """
    strip = read_strip(result)
    names = ("index", "text", "role", "score", "share", "start", "end")
    attrs = attributes(result)
    faithfulness = None
    if has_faithfulness(result):
        curves = {str(n): v.values for n, v in result.variables.items() if v.dims == ("step",)}
        areas = {name: value for name, value in attrs.items() if "_auc" in name}
        faithfulness = {**curves, **areas, "verdict": attrs.get("faithfulness_verdict")}
    return {
        "input": attrs.get("input"),
        "prediction": {"text": strip.prediction, "probability": strip.prediction_probability},
        "target": {"text": strip.target, "probability": strip.probability},
        "method": strip.method,
        "unit": strip.unit,
        "signed": strip.signed,
        "tokens": [{name: getattr(token, name) for name in names} for token in strip.tokens],
        "sentences": statements(words),
        "faithfulness": faithfulness,
        "provenance": {key: value for key, value in attrs.items() if key not in _SAID},
    }
