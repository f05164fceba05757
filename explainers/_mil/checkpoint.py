"""Models and half-finished trainings on disk: safetensors with their settings as JSON; nothing is pickled."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.errors import ModelError
from probe.explainers._mil.modules import ACMIL, build

MODEL, LAST = "model.safetensors", "last.safetensors"
_FORMAT = "attention-probe mil 1"


def save_mil(model: ACMIL, path: str | Path, **facts: Any) -> Path:
    """Write a model to one file.

    Args:
        model: to be written.
        path: the file, or a folder (then `model.safetensors` in it).
        **facts: kept beside it: classes, history, and what else JSON can hold; `method` is needed to load it.

    Returns:
        The file.
    """
    place = _file(Path(path), MODEL)
    write(place, model.state_dict(), {"settings": model.settings, **facts})
    return place


def load_mil(path: str | Path) -> ACMIL:
    """A model that the trainer wrote, in eval mode on the CPU; its attribute `facts` holds what was kept beside it.

    Args:
        path: the file, or the folder of a training.

    Raises:
        ModelError: no file, one of another kind, or a damaged one.
    """
    place = _file(Path(path).expanduser(), MODEL)
    if not place.is_file():
        raise ModelError(f"there is no model at {place}; expected what `probe mil train` wrote")
    tensors, facts = read(place)
    if "method" not in facts or "settings" not in facts:
        raise ModelError(f"{place}: says no method; expected what `probe mil train` wrote")
    model = build(facts["method"], **facts["settings"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{place}: its weights do not fit its settings: {str(error).splitlines()[-1].strip()}"
        ) from error
    model.facts = facts
    return model.eval()


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts in one step: the file is whole, or not there."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    kept = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    try:
        save_file(kept, partial, metadata={"format": _FORMAT, "facts": json.dumps(facts)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file that `write` made.

    Raises:
        ModelError: a file of another kind, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file, or damaged: {error}") from error
    if meta.get("format") != _FORMAT:
        raise ModelError(f"{path}: was not written by attention-probe's MIL trainer")
    return tensors, json.loads(meta["facts"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as flat tensors: "<parameter>.<name>"."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _file(path: Path, name: str) -> Path:
    return path if path.suffix == ".safetensors" else path / name
