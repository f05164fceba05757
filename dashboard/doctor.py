"""`probe doctor`: what is installed, which devices there are, what works here and what not, and why."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from probe.dashboard.provenance import versions
from probe.dashboard.terminal import out, quiet_stdout
from probe.errors import InputError


def examine() -> dict[str, Any]:
    """Look at this machine; nothing is changed, nothing is fetched.

    Returns:
        `system`, `python`, `packages` (version or None), `devices`, `caches`, and `abilities`, each with
        `works` and `why`.
    """
    with quiet_stdout():
        devices = _devices()
    return {
        "system": platform.platform(),
        "python": {
            "version": platform.python_version(),
            "path": sys.executable,
            "system": platform.platform(),
        },
        "packages": versions(),
        "devices": devices,
        "caches": _caches(),
        "abilities": _abilities(devices),
    }


def _devices() -> dict[str, Any]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cuda = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        cuda.append(
            {
                "name": properties.name,
                "gigabytes": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return {
        "cpu_threads": usable,
        "torch_threads": torch.get_num_threads(),
        "cuda": cuda,
        "cuda_of_torch": torch.version.cuda,
        "triton_interpreter": os.environ.get("TRITON_INTERPRET") == "1",
    }


def _caches() -> dict[str, Any]:
    from probe.models import catalog

    folder = catalog.cache_dir()
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")), "hub"
    )
    return {
        "models": {"path": str(folder), "megabytes": _megabytes(folder)},
        "hub": {
            "path": hub,
            "megabytes": _megabytes(Path(hub)),
            "offline": os.environ.get("HF_HUB_OFFLINE") == "1",
        },
    }


def _megabytes(folder: Path) -> float | None:
    if not folder.is_dir():
        return None
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


def _abilities(devices: dict[str, Any]) -> list[dict[str, Any]]:
    from probe.models import catalog

    installed = versions()

    def ability(name: str, works: bool, why: str) -> dict[str, Any]:
        return {"name": name, "works": works, "why": why}

    found = []
    for card in catalog.list_models():
        why = f"{card.task}, {card.license}" if card.installed else f"`probe models install {card.name}`"
        found.append(ability(f"model {card.name}", card.installed, why))
    found.append(
        ability(
            "gradient methods (captum)",
            installed["captum"] is not None,
            installed["captum"] or "captum is missing",
        )
    )
    found.append(ability("capture on the CPU", installed["torch"] is not None, "chunked torch kernels"))
    found.append(ability("capture on CUDA", *_cuda(devices, installed)))
    found.append(
        ability(
            "HTML reports",
            installed["plotly"] is not None,
            "offline, one file" if installed["plotly"] else "plotly is missing",
        )
    )
    return found


def _cuda(devices: dict[str, Any], installed: dict[str, str | None]) -> tuple[bool, str]:
    if not devices["cuda"]:
        why = (
            "torch is built without CUDA"
            if devices["cuda_of_torch"] is None
            else "torch finds no CUDA device"
        )
        return False, f"{why}; everything runs on the CPU, more slowly"
    if installed["triton"] is None:
        return False, "triton is missing (pip install triton); chunked torch kernels are used"
    old = [device["name"] for device in devices["cuda"] if float(device["capability"]) < 8]
    if old:
        return False, f"{', '.join(old)}: the Triton kernels are made for compute capability 8.0 and later"
    return True, f"Triton {installed['triton']} on {devices['cuda'][0]['name']}"


def show(as_json: bool, model: str | None = None, attempt: bool = False) -> int:
    """Print what `examine` found, or what can be captured of a model.

    Args:
        as_json: Print JSON instead of tables.
        model: A model's name; None for this machine.
        attempt: Load the model and run it on one tiny input.

    Returns:
        0; 1 if the model has attention and none of it can be captured.
    """
    if model is not None:
        from probe.dashboard.doctor_model import show_model

        return show_model(model, as_json, attempt)
    if attempt:
        raise InputError("--try: got no model to try; expected --model NAME")
    facts = examine()
    if as_json:
        from probe.dashboard.as_json import emit

        emit(facts)
        return 0
    from rich.text import Text

    console = out()
    python, devices = facts["python"], facts["devices"]
    console.print(f"Python {python['version']} ({python['path']}), {facts['system']}")
    console.print(
        ", ".join(f"{name} {version or '(missing)'}" for name, version in facts["packages"].items())
    )
    console.print(f"CPU: {devices['cpu_threads']} threads, torch uses {devices['torch_threads']}")
    for device in devices["cuda"]:
        console.print(f"CUDA: {device['name']}, {device['gigabytes']} GB, capability {device['capability']}")
    for name, cache in facts["caches"].items():
        size = "empty" if cache["megabytes"] is None else f"{cache['megabytes']:,} MB"
        console.print(f"cache of {name}: {cache['path']} ({size})")
    console.print()
    for ability in facts["abilities"]:
        mark = Text("works ", style="green") if ability["works"] else Text("absent", style="yellow")
        console.print(mark, f"{ability['name']}: {ability['why']}")
    return 0
