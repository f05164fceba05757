"""Writing the trained student as an ordinary transformers folder: float16 weights, compact tokenizer."""

import json
import os
from pathlib import Path
from typing import Any

import torch


def fold_temperature(model: Any, temperature: float) -> None:
    """Divide the classification layer by the temperature, so that softmax of the logits is calibrated."""
    with torch.no_grad():
        model.classifier.weight.div_(temperature)
        model.classifier.bias.div_(temperature)


def save(model: Any, tokenizer: Any, folder: Path) -> int:
    """Save weights as float16, configuration and tokenizer; returns the bytes on disk of all of them.

    Args:
        model: The student; it is left in float16.
        tokenizer: A transformers fast tokenizer.
        folder: Where to write; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(
        json.dumps(json.loads(path.read_text("utf-8")), separators=(",", ":"), ensure_ascii=False), "utf-8"
    )
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    for name in names:
        os.chmod(folder / name, 0o644)
    return sum((folder / name).stat().st_size for name in names)
