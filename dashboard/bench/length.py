"""Capture at length: a random-weight model of a known shape, beside its plain prefill; time, memory, size of the record.

python -m probe.dashboard.bench.length --tokens 131072 --store runs/long.zarr
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

#: Shapes of models, as their configurations give them.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "rope_theta": 100000.0,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
    },
}
_EVERYTHING = "entropy,received,max_prob,max_key,lse,distance,second_moment,key_mass,effective_keys,pooled"


def model_of(shape: str, tokens: int, device: str, layers: int | None) -> Any:
    """A Llama with random weights of a known shape, in bfloat16 on a GPU and float32 on a CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    own = SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})
    config = LlamaConfig(**own, max_position_embeddings=tokens)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def measure(run: Any, device: str, repeats: int) -> tuple[float, int]:
    """Median seconds, and the peak of the device's memory beyond what lay there before."""
    import torch

    seconds, peak = [], 0
    for _ in range(repeats):
        before = 0
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
            peak = max(peak, torch.cuda.max_memory_allocated() - before)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), peak


def main(arguments: list[str] | None = None) -> int:
    """Run it and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--stats", default=_EVERYTHING)
    parser.add_argument("--keep-bits", type=int)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--store", type=Path)
    asked = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(report(asked), indent=1) + "\n")
    return 0


def report(asked: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of the plain prefill and of the capture, and what the record is."""
    import torch

    import probe

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_of(asked.shape, asked.tokens, device, asked.layers)
    ids = torch.randint(0, model.config.vocab_size, (1, asked.tokens), device=device)
    stats = asked.stats.split(",")
    trees: list[Any] = []

    def plain() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def captured() -> None:
        trees.clear()
        tree = probe.capture(
            model,
            {"input_ids": ids},
            stats=stats,
            grid=(min(512, asked.tokens), min(512, asked.tokens)),
            store=asked.store,
            keep_bits=asked.keep_bits,
            overwrite=True,
            progress=_tell,
        )
        trees.append(tree)

    plain()  # compiles and warms up
    short = {"input_ids": ids[:, : min(1024, asked.tokens)]}
    probe.capture(model, short, stats=stats, grid=(16, 16))
    without, memory = measure(plain, device, max(2, asked.repeats))
    with_capture, peak = measure(captured, device, asked.repeats)
    tree = trees[0]
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "shape": asked.shape,
        "tokens": asked.tokens,
        "layers": tree["text"].sizes["layer"],
        "heads": tree["text"].sizes["head"],
        "stats": stats,
        "prefill_seconds": round(without, 3),
        "prefill_peak_gb": round(memory / 1e9, 3),
        "capture_seconds": round(with_capture, 3),
        "capture_peak_gb": round(peak / 1e9, 3),
        "added_share_of_prefill": round(with_capture / without - 1, 3),
        "validity_passed": bool(tree["validity"].attrs["passed"]),
        "checks": tree["validity"].sizes["check"],
    }
    if asked.store is not None:
        begun = time.perf_counter()
        probe.open_record(asked.store)
        found["open_seconds"] = round(time.perf_counter() - begun, 3)
        found["record_gb"] = round(
            sum(f.stat().st_size for f in asked.store.rglob("*") if f.is_file()) / 1e9, 3
        )
        found["disk_free_gb"] = round(shutil.disk_usage(asked.store).free / 1e9, 1)
    return found


def _tell(done: int, total: int, name: str) -> None:
    sys.stderr.write(f"\r{done}/{total} {name} ")


if __name__ == "__main__":
    raise SystemExit(main())
