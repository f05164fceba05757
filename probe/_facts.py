"""What a record says of its run: the model, its dtype and backend, the machine, the versions of what took part."""

import datetime
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from probe.edits import open_edits

_VERSIONED = ("attention-probe", "torch", "transformers", "triton", "numpy", "xarray", "zarr")


def facts(model: Any, module: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """The attributes of a record that do not depend on what was recorded.

    Args:
        model: what the user gave.
        module: its module.
        device: where it computes.
    """
    config = getattr(module, "config", None)
    name = getattr(model, "name", None) or getattr(config, "_name_or_path", None) or type(module).__name__
    first = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return {
        "model": str(name),
        "model_class": type(module).__name__,
        "model_source": str(getattr(model, "source", "object")),
        "model_revision": str(getattr(model, "revision", "")),
        "dtype": str(first).removeprefix("torch."),
        "device": f"{device} ({torch.cuda.get_device_name(device)})"
        if device.type == "cuda"
        else str(device),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        **({"edits": edits} if (edits := open_edits(module)) else {}),
    }


def fingerprint(
    known: Mapping[str, Any], module: torch.nn.Module, inputs: Mapping[str, Any], asked: object
) -> str:
    """One line that is the same for the same capture: the model, its weights' ends, the inputs, what was asked for.

    Args:
        known: the facts of the run.
        module: the model; the first and the last value of every parameter are looked at.
        inputs: keyword arguments of its forward.
        asked: the options of the capture, of a form that JSON can hold.
    """
    digest = hashlib.sha256()
    stable = {name: value for name, value in known.items() if name != "created"}
    digest.update(json.dumps([stable, asked], sort_keys=True, default=str).encode())
    for name, parameter in module.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        if parameter.numel() and parameter.device.type != "meta":
            flat = parameter.detach().flatten()
            digest.update(torch.stack([flat[0], flat[-1]]).float().cpu().numpy().tobytes())
    for name, value in sorted(inputs.items()):
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: object) -> None:
    """Add an input, tensors by their values: the words for a long tensor leave most of them out."""
    if isinstance(value, Tensor):
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for part in value:
            _add(digest, part)
    else:
        digest.update(repr(value).encode())


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
