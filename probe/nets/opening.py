"""From files of weights to a network that is ready: our own folders, and state dicts that torchvision saved."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from probe.errors import ModelError
from probe.nets import NETS, Net, build

if TYPE_CHECKING:
    from torch import Tensor, nn

    from probe.models.catalog import Progress

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")


def net_of(folder: Path) -> str:
    """The name in `NETS` that a folder's config.json gives, or ""."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("net", "")) if isinstance(config, dict) else ""


def write_folder(source: Path, folder: Path, name: str, progress: Progress) -> None:
    """Write published weights as a folder of ours: config.json and model.safetensors under our parameter names.

    Raises:
        ModelError: The file is not what the network needs.
    """
    from safetensors.torch import save_file

    progress(f"reading {source.name}")
    module = import_module(f"probe.nets.{NETS[name].module}")
    try:
        weights = module.renamed(read_weights(source))
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{source.name} does not hold the weights of {name}: {error}") from error
    filled(name, weights, source)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"net": name}), "utf-8")


def open_net(place: Path, name: str) -> nn.Module:
    """The network with the weights of a folder of ours, or of a file, in eval mode.

    Args:
        place: The folder, or the file.
        name: A key of `NETS`.

    Raises:
        ModelError: Weights that do not fit.
    """
    if name not in NETS:
        raise ModelError(f"{place}: no network is called {name!r}; there are {', '.join(NETS)}")
    path = place / "model.safetensors" if place.is_dir() else place
    model = filled(name, read_weights(path), path)
    labels = dict(enumerate(labels_of(NETS[name])))
    vars(model)["config"] = SimpleNamespace(id2label=labels, softmax=NETS[name].softmax)
    return model


def recognise(path: Path) -> str:
    """Which network a file of weights belongs to, by the names and shapes in it.

    Raises:
        ModelError: None of ours.
    """
    import torch

    shapes = {key: tuple(value.shape) for key, value in read_weights(path).items()}
    for name, net in NETS.items():
        if net.task == "image-saliency":
            continue  # carried by ONNX alone
        with torch.device("meta"):
            own = {key: tuple(value.shape) for key, value in build(name).state_dict().items()}
        optional = {key for key in own if key.endswith("num_batches_tracked")}
        if {k: v for k, v in shapes.items() if k not in optional} == {
            k: own[k] for k in own.keys() - optional
        }:
            return name
    raise ModelError(f"{path.name} holds weights of none of {', '.join(NETS)} (as torchvision names them)")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name; nothing in the file is executed.

    Raises:
        ModelError: The file cannot be read, or holds something else.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".onnx":
        from probe.nets.onnx import read_tensors

        return read_tensors(path)

    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(f"{path} is no file of weights that can be read: {first}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelError(f"{path} holds {type(found).__name__}, expected a state dict (names and tensors)")
    return found


def filled(name: str, weights: dict[str, Tensor], path: Path) -> nn.Module:
    """A network with these weights, every one of them used and none left random."""
    model = build(name)
    try:
        missing = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path}: {str(error).splitlines()[-1].strip()}") from error
    lacking = [key for key in missing.missing_keys if not key.endswith("num_batches_tracked")]
    wrong = lacking or missing.unexpected_keys
    if wrong:
        verb = "lacks" if lacking else "has too much:"
        raise ModelError(f"{path} {verb} {wrong[0]} ({len(wrong)} names) for {name}")
    return model.eval()


def labels_of(net: Net) -> tuple[str, ...]:
    """Names of a network's outputs."""
    if net.labels == "imagenet":
        return tuple((Path(__file__).parent / "imagenet.txt").read_text("utf-8").splitlines())
    return tuple(getattr(import_module(f"probe.nets.{net.module}"), net.labels)) if net.labels else ()
