"""What a run stands on: device, versions, shape; and the document that its numbers go into."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from probe.dashboard.bench.options import DTYPES

if TYPE_CHECKING:
    from probe.dashboard.bench.options import Plan

    Document = dict[str, Any]

_PACKAGES = ("attention-probe", "torch", "triton", "flash-colsum")


def begin(plan: Plan) -> Document:
    """A document with the facts of the run and nothing measured.

    Args:
        plan: The run.
    """
    names = {getattr(torch, long): short for short, long in DTYPES.items()}
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "partial": True,
        "why_partial": "not finished",
        "wall_seconds": 0.0,
        "device": _device(plan.device),
        "versions": _versions(),
        "shape": {
            "batch": 1,
            "heads": plan.heads,
            "key_heads": plan.key_heads,
            "head_size": plan.head_size,
            "dtype": names[plan.dtype],
        },
        "lengths": list(plan.lengths),
        "patterns": list(plan.patterns),
        "rates": None,
        **{name: [] for name in ("gate", "measurements", "skipped", "fits", "goals")},
        "capture": None,
    }


def _device(device: torch.device) -> Document:
    if device.type != "cuda":
        facts = {"name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        return (
            {"type": "cpu"}
            | facts
            | dict.fromkeys(("driver", "capability", "multiprocessors", "memory_bytes"))
        )
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "threads": None,
        "driver": _driver(),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
    }


def _driver() -> str | None:
    """The driver's version as nvidia-smi tells it; None where that is not installed."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return told.stdout.split("\n")[0].strip() or None


def _versions() -> Document:
    found: Document = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    if found["attention-probe"] is None:
        import probe

        found["attention-probe"] = probe.__version__
    found["torch"] = torch.__version__
    found["cudnn"] = torch.backends.cudnn.version() if torch.version.cuda else None
    return found
