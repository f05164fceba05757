"""ACT at length: prefill and decoding with calibrated heads, beside the same model's plain ones.

python -m probe.dashboard.bench.steer --shape smollm2-135m --tokens 32768 --heads 30
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from probe.dashboard.bench.length import SHAPES, measure, model_of


def main(arguments: list[str] | None = None) -> int:
    """Run it and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="of probe.load; instead of random weights of a known shape")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=32, help="tokens to decode")
    parser.add_argument(
        "--heads",
        default="30",
        help='how many, drawn at random beyond layers 0 and 1; or JSON {"layer": [heads]}',
    )
    parser.add_argument("--decoding", choices=("running", "frozen"), default="running")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(report(asked), indent=1) + "\n")
    return 0


def report(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the prefill and of a decoding step, plain and under ACT, and their quotients."""
    import torch

    from probe import explainers as ex

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _model(asked, device)
    heads = _heads(asked.heads, model.config)
    ids = torch.randint(0, model.config.vocab_size, (1, asked.tokens), device=device)

    def act() -> AbstractContextManager[Any]:
        steering: AbstractContextManager[Any] = ex.act(model, heads, decoding=asked.decoding)
        return steering

    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {"plain": nullcontext, "act": act}
    seconds: dict[str, dict[str, list[float]]] = {way: {"prefill": [], "decode": []} for way in ways}
    peak = dict.fromkeys(ways, 0)
    for repeat in range(asked.repeats + 1):
        for way, context in ways.items():  # in turns, so that a busy machine slows both
            with context():
                cache: list[Any] = []
                prefill, memory = measure(lambda cache=cache: _prefill(model, ids, cache), device, 1)
                decode, _ = measure(lambda cache=cache: _decode(model, ids, cache, asked.steps), device, 1)
            if repeat:  # the first compiles and warms up
                seconds[way]["prefill"].append(prefill)
                seconds[way]["decode"].append(decode / asked.steps)
                peak[way] = max(peak[way], memory)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "model": asked.model or f"random weights, {asked.shape}",
        "tokens": asked.tokens,
        "steps": asked.steps,
        "heads": sum(map(len, heads.values())),
        "layers": len(heads),
        "decoding": asked.decoding,
    }
    for part in ("prefill", "decode"):
        plain, steered = (statistics.median(seconds[way][part]) for way in ways)
        found |= {
            f"{part}_plain_seconds": plain,
            f"{part}_act_seconds": steered,
            f"{part}_quotient": steered / plain,
        }
    return found | {f"prefill_{way}_peak_gb": round(memory / 1e9, 3) for way, memory in peak.items()}


def _model(asked: argparse.Namespace, device: str) -> Any:
    import probe

    if asked.model is None:
        return model_of(asked.shape, asked.tokens + asked.steps, device, asked.layers)
    return probe.load(asked.model, device=device).model


def _heads(asked: str, config: Any) -> dict[int, list[int]]:
    """The heads that were named, or as many as were asked for, drawn with one seed."""
    text = Path(asked).read_text(encoding="utf-8") if asked.endswith(".json") else asked
    given = json.loads(text)
    if isinstance(given, dict):
        given = given.get("heads", given)
        return {int(layer): list(heads) for layer, heads in given.items()}
    first = min(2, config.num_hidden_layers - 1)
    every = [
        (n, h) for n in range(first, config.num_hidden_layers) for h in range(config.num_attention_heads)
    ]
    found: dict[int, list[int]] = {}
    for layer, head in sorted(random.Random(0).sample(every, min(int(given), len(every)))):
        found.setdefault(layer, []).append(head)
    return found


def _prefill(model: Any, ids: Any, cache: list[Any]) -> None:
    import torch

    with torch.no_grad():
        cache[:] = [model(input_ids=ids, use_cache=True, logits_to_keep=1)]


def _decode(model: Any, ids: Any, cache: list[Any], steps: int) -> None:
    import torch

    (out,) = cache
    with torch.no_grad():
        for _ in range(steps):
            step = out.logits[:, -1:].argmax(-1).to(ids.dtype)
            out = model(input_ids=step, past_key_values=out.past_key_values, use_cache=True)


if __name__ == "__main__":
    raise SystemExit(main())
