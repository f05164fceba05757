"""What a run measures: read from words of the command line, with defaults by device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe.dashboard.options import option
from probe.errors import InputError

if TYPE_CHECKING:
    import torch

PATTERNS = ("causal", "full", "window", "padded", "varlen")
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LENGTHS = {"cuda": "1k,4k,8k,32k,128k", "cpu": "256,512,1k,2k,4k"}
QUICK = {"cuda": "8k,32k", "cpu": "256,1k"}
SHAPES = {"cuda": (32, 8, 128, "bf16"), "cpu": (9, 3, 64, "fp32")}
_SHORTEST = 128


@dataclass(frozen=True)
class Request:
    """The options as a person gives them; `resolve` makes a plan of them."""

    lengths: str | None = option("Tokens, joined by commas; 8k is 8,192. Default by device.", metavar="N,N")
    patterns: str | None = option(
        "Of causal, full, window, padded, varlen; default all.", metavar="NAME,NAME"
    )
    heads: int | None = option("Query heads: 32 on CUDA, 9 elsewhere.")
    key_heads: int | None = option("Key heads: 8 on CUDA, 3 elsewhere.")
    head_size: int | None = option("Head size: 128 on CUDA, 64 elsewhere.")
    dtype: str | None = option("bf16, fp16 or fp32: bf16 on CUDA, fp32 elsewhere.")
    device: str = option("auto, cpu, cuda, cuda:1, …", "auto")
    repeats: int | None = option("Timed calls of each; default by their length, 3 to 50.")
    flex: bool | None = option(
        "FlexAttention beside the others (it compiles for each length); default on CUDA."
    )
    capture: bool | None = option("Capture of SmolLM2 beside its forward; default on, off with --quick.")
    quick: bool = option("Two lengths, causal and full, few repeats.", False)
    json: str | None = option(
        "Write the measurements as JSON; - for standard output, without tables.", metavar="FILE|-"
    )
    html: str | None = option("Write the figure as a page that opens offline.", metavar="FILE")


@dataclass(frozen=True)
class Plan:
    """A run, all defaults filled in."""

    device: torch.device
    dtype: torch.dtype
    lengths: tuple[int, ...]
    patterns: tuple[str, ...]
    heads: int
    key_heads: int
    head_size: int
    repeats: int | None
    budget: float
    flex: bool
    capture: bool


def resolve(request: Request) -> Plan:
    """Fill in the defaults of the device and check the rest.

    Args:
        request: As given.

    Raises:
        InputError: An option is out of its domain, or the device is not there; the message says what was expected.
    """
    import torch

    device = _device(request.device)
    kind = "cuda" if device.type == "cuda" else "cpu"
    heads, key_heads, size, name = SHAPES[kind]
    heads = _positive("heads", request.heads, heads)
    key_heads = _positive("key-heads", request.key_heads, min(key_heads, heads))
    if heads % key_heads:
        raise InputError(f"--key-heads {key_heads} does not divide --heads {heads}")
    dtype = DTYPES.get(request.dtype or name)
    if dtype is None:
        raise InputError(f"--dtype {request.dtype!r}: expected one of {', '.join(DTYPES)}")
    default = (QUICK if request.quick else LENGTHS)[kind]
    return Plan(
        device=device,
        dtype=getattr(torch, dtype),
        lengths=lengths(request.lengths or default),
        patterns=_patterns(request.patterns or ("causal,full" if request.quick else ",".join(PATTERNS))),
        heads=heads,
        key_heads=key_heads,
        head_size=_positive("head-size", request.head_size, size),
        repeats=None if request.repeats is None else _positive("repeats", request.repeats, 1),
        budget=(0.05 if request.quick else 0.15) if kind == "cuda" else (0.1 if request.quick else 1.0),
        flex=(kind == "cuda") if request.flex is None else request.flex,
        capture=not request.quick if request.capture is None else request.capture,
    )


def lengths(words: str) -> tuple[int, ...]:
    """Token counts from `1k,4096`: rising, each once.

    Args:
        words: Joined by commas; `k` stands for 1,024.

    Raises:
        InputError: A word is no length, or shorter than 128 tokens.
    """
    found = set()
    for word in words.lower().split(","):
        number = word.strip().removesuffix("k")
        if not number.isdecimal():
            raise InputError(
                f"--lengths: got {word.strip()!r}, expected tokens such as 4096 or 4k, joined by commas"
            )
        found.add(int(number) * (1024 if word.strip().endswith("k") else 1))
    if min(found) < _SHORTEST:
        raise InputError(f"--lengths: got {min(found)}, expected at least {_SHORTEST} tokens")
    return tuple(sorted(found))


def _patterns(words: str) -> tuple[str, ...]:
    given = [word.strip() for word in words.split(",") if word.strip()]
    unknown = [word for word in given if word not in PATTERNS]
    if unknown or not given:
        raise InputError(f"--patterns: got {words!r}, expected some of {', '.join(PATTERNS)}")
    return tuple(dict.fromkeys(given))


def _positive(name: str, given: int | None, default: int) -> int:
    value = default if given is None else given
    if value < 1:
        raise InputError(f"--{name}: got {value}, expected at least 1")
    return value


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name!r}: expected auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name!r}: expected auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices here")
    return device


def check_target(path: str | None) -> Path | None:
    """The file to write, if its folder is there.

    Args:
        path: As given; None or `-` for none.

    Raises:
        InputError: A folder, or a file in a folder that does not exist.
    """
    if path is None or path == "-":
        return None
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder, expected a file name")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist: make it first, or choose another path")
    return target
