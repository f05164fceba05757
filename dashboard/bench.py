"""`make bench`: how long the statistics take beside the forward pass they describe; a wrong result gets no time.

On a CUDA device: the row and the column pass beside the flash and the cuDNN forward of the same shape. Everywhere: a
capture of SmolLM2 beside its plain forward, on the user's own backend.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from probe.errors import ModelError, ProbeError
from probe.kernels.column_pass import column_mass
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec

SHAPE = {"heads": 32, "key_heads": 8, "size": 128}
_GATE = 512


def gate(device: str, dtype: torch.dtype) -> float:
    """Compare both passes with the whole map in float64 at a small size.

    Returns:
        The largest error relative to twice plain torch's own float32 error; at most 1.

    Raises:
        ProbeError: the result is wrong, so no time of it means anything.
    """
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, _GATE, SHAPE["size"], generator=generator).to(dtype).to(device)
    k = torch.randn(1, 1, _GATE, SHAPE["size"], generator=generator).to(dtype).to(device)
    spec = ScoreSpec(scale=SHAPE["size"] ** -0.5, causal=True)
    rows = row_stats(q, k, spec, ("lse", "entropy"))
    got = {"entropy": rows["entropy"], "received": column_mass(q, k, spec, rows["lse"])}
    truth, plain = _whole(q, k, torch.float64), _whole(q, k, torch.float32)
    ratios = []
    for name, value in got.items():
        rounding = 4 * torch.finfo(torch.float32).eps * truth[name].max().item()
        allowed = 2 * max((plain[name] - truth[name]).abs().max().item(), rounding)
        ratios.append((value.double() - truth[name]).abs().max().item() / allowed)
    if not max(ratios) <= 1:
        raise ProbeError(
            f"bench: the kernels' error is {max(ratios):.2g}× the allowed one, expected at most 1; no time is printed"
        )
    return max(ratios)


def _whole(q: torch.Tensor, k: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * SHAPE["size"] ** -0.5
    hidden = torch.ones(_GATE, _GATE, dtype=torch.bool, device=q.device).triu(1)
    a = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return {"entropy": torch.special.entr(a).sum(-1).double(), "received": a.sum(-2).double()}


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of one run after a warm-up; device events on CUDA, the wall clock elsewhere."""
    run()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(float(start.elapsed_time(end)) / 1e3)
        else:
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return float(statistics.median(times))


def kernels(n: int, device: str, repeats: int) -> dict[str, Any]:
    """Time both passes and the forward passes of the same shape: causal, grouped heads, bf16 on CUDA and float32 elsewhere."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q = torch.randn(1, SHAPE["heads"], n, SHAPE["size"], dtype=dtype, device=device)
    k, v = (
        torch.randn(1, SHAPE["key_heads"], n, SHAPE["size"], dtype=dtype, device=device) for _ in range(2)
    )
    spec = ScoreSpec(scale=SHAPE["size"] ** -0.5, causal=True)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    runs: dict[str, Callable[[], object]] = {
        "row pass (lse, entropy)": lambda: row_stats(q, k, spec, ("lse", "entropy")),
        "column pass (received)": lambda: column_mass(q, k, spec, lse),
    }
    backends = {"flash forward": SDPBackend.FLASH_ATTENTION, "cuDNN forward": SDPBackend.CUDNN_ATTENTION}
    for name, backend in (
        backends.items() if device == "cuda" else {"SDPA forward": SDPBackend.FLASH_ATTENTION}.items()
    ):
        runs[name] = _forward(q, k, v, backend)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        rows = row_stats(q, k, spec, ("lse", "entropy"))
        column_mass(q, k, spec, rows["lse"])
        extra = torch.cuda.max_memory_allocated() - held
        del rows
    took = {name: seconds(run, device, repeats) for name, run in runs.items()}
    both = took["row pass (lse, entropy)"] + took["column pass (received)"]
    flops = 2 * SHAPE["heads"] * SHAPE["size"] * n * n / 2
    result: dict[str, Any] = {
        "n": n,
        "device": _device_name(device),
        "dtype": str(dtype),
        "seconds": took,
        "both": both,
    }
    result["tflops"] = {name: flops / took[name] / 1e12 for name in list(took)[:2]}
    result["ratio"] = {name: both / took[name] for name in list(took)[2:]}
    if device == "cuda":
        result["extra_bytes"] = extra
    return result


def _forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: SDPBackend) -> Callable[[], object]:
    def run() -> object:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return run


def capture_beside_forward(model_name: str, n: int, repeats: int) -> dict[str, Any]:
    """Time a capture of `entropy` and `received` and the plain forward of the same prompt, in turns."""
    import probe

    loaded = probe.load(model_name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 40_000, (1, n), generator=generator).to(next(loaded.model.parameters()).device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain: list[float] = []
    captured: list[float] = []

    def forward() -> None:
        with torch.no_grad():
            loaded.model(**inputs, use_cache=False, logits_to_keep=1)

    for _ in range(repeats + 1):
        plain.append(seconds(forward, "cpu", 1) if not plain else _once(forward))
        captured.append(_once(lambda: probe.capture(loaded, inputs, stats=("entropy", "received"))))
    took = statistics.median(plain[1:]), statistics.median(captured[1:])
    pairs = [b / a for a, b in zip(plain[1:], captured[1:], strict=True)]
    return {
        "model": model_name,
        "n": n,
        "forward": took[0],
        "capture": took[1],
        "ratio": statistics.median(pairs),
    }


def _once(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Print one table: a row per length."""
    if not results:
        return
    names = list(results[0]["seconds"])
    table = Table(
        title=f"{results[0]['device']}, {SHAPE['heads']}/{SHAPE['key_heads']} heads, d {SHAPE['size']}, causal"
    )
    for head in [
        "tokens",
        *(f"{n}, ms" for n in names),
        *(f"both ÷ {n}" for n in results[0]["ratio"]),
        "extra MiB",
    ]:
        table.add_column(head, justify="right")
    for r in results:
        ratios = [f"{x:.2f}" for x in r["ratio"].values()]
        extra = f"{r['extra_bytes'] / 2**20:.0f}" if "extra_bytes" in r else "–"
        table.add_row(f"{r['n']:,}", *(f"{r['seconds'][n] * 1e3:.2f}" for n in names), *ratios, extra)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--lengths", type=int, nargs="*", help="tokens; default 8k to 128k on CUDA, 1k and 4k elsewhere"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-capture", action="store_true", help="leave the capture of SmolLM2 out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    console = Console(file=sys.stderr if options.json else sys.stdout)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lengths = options.lengths or ([8_192, 32_768, 131_072] if device == "cuda" else [1_024, 4_096])
    try:
        ratio = gate(device, torch.bfloat16 if device == "cuda" else torch.float32)
        console.print(f"correctness gate: error is {ratio:.2f} of the allowed one")
        results = [kernels(n, device, options.repeats) for n in lengths]
        show(results, console)
        captured = None
        if not options.no_capture:
            captured = capture_beside_forward("smollm2", 4_096, max(2, options.repeats // 2))
            console.print(
                f"capture of entropy and received, {captured['model']}, {captured['n']} tokens: {captured['capture']:.2f} s, "
                f"plain forward {captured['forward']:.2f} s, ratio {captured['ratio']:.2f}"
            )
    except ModelError as error:
        console.print(f"error: {error}")
        return 1
    if options.json:
        sys.stdout.write(json.dumps({"gate": ratio, "kernels": results, "capture": captured}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
