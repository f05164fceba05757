"""A record of any length with made-up queries and keys, written through the public writer: `python long_record.py N FOLDER`.

The head is made to look like heads of real models: a sink at the first token, a local band whose decay is that of rotary
positions, and blocks of a topic that attend to each other over any distance. Its statistics, pooled maps and rules are what
capture would have stored: the same kernels compute them.
"""

import sys

import torch

SIZE, TOPICS = 32, 6


def made_up_head(n, seed=0):
    """q and k [1, 1, N, D] of one head."""
    make = torch.Generator().manual_seed(seed)
    place = torch.arange(n, dtype=torch.float32)[:, None]
    speed = 0.5 ** torch.arange(8, dtype=torch.float32)[None] * 0.3
    wave = torch.cat([torch.cos(place * speed), torch.sin(place * speed)], 1)  # q·k falls with distance
    lengths = torch.randint(max(1, n // 60), max(2, n // 12), (200,), generator=make)
    topic = torch.repeat_interleave(torch.randint(0, TOPICS, (200,), generator=make), lengths)[:n]
    about = torch.nn.functional.one_hot(topic, TOPICS).float()
    noise = torch.randn(n, SIZE - 16 - TOPICS - 1, generator=make)
    sink = torch.zeros(n, 1)
    q = torch.cat([1.1 * wave, 1.9 * about, noise, torch.ones(n, 1)], 1)
    sink[0] = 14.0
    k = torch.cat([1.1 * wave, 1.9 * about, 0.5 * noise.roll(1, 0), sink], 1)
    return q[None, None], k[None, None]


def write(
    n, store, stats=("entropy", "received", "max_prob", "max_key"), reduce=("mean", "max"), progress=print
):
    """Write a record with one head of N tokens, kept with pooled maps."""
    import numpy as np
    import xarray as xr

    from probe.deepzoom.kept import Kept
    from probe.kernels.score import ScoreSpec
    from probe.kernels.statistics import map_statistics
    from probe.kernels.visible import visible_counts
    from probe.positions import numbered
    from probe.record import strings
    from probe.record.target import writer

    q, k = made_up_head(n)
    spec = ScoreSpec(scale=1.0, causal=True)
    found = map_statistics(q, k, spec, [*stats, "lse"], "reference")
    progress(f"statistics of {n} tokens")
    kept = Kept.of(q, k, k, found["lse"], spec)
    kept = kept.with_pyramid("reference", reduce=reduce) if kept.large else kept
    progress("pooled maps")
    counts = visible_counts(spec, 1, n, n, torch.device("cpu"))
    values = {name: found[name].numpy() for name in stats}
    values |= {name: x.numpy() for name, x in zip(("keys_seen", "seen_by"), counts, strict=True)}
    tokens = numbered("tokens", "text", torch.ones(1, n, dtype=torch.bool)).dataset
    words = [f" w{i:06d}" for i in range(n)]
    tokens["text"] = (("sample", "token"), strings(words)[None])
    with writer(1, store) as target:
        target.add("text", 0, "made.up.0", values, kept=kept.dataset(), facts={"rule": "causal"})
        passed = {
            "name": strings(["none"]), "layer": np.array([0]), "worst": np.array([0.0]),
            "tolerance": np.array([0.0]), "passed": np.array([True]), "meaning": strings(["made up, nothing was captured"]),
        }  # fmt: skip
        groups = {
            "tokens": tokens,
            "input": xr.Dataset({"text": ("sample", strings(["".join(words)]))}),
            "validity": xr.Dataset({name: ("check", x) for name, x in passed.items()}),
        }
        attrs = {
            "model": "made up", "dtype": "float32", "backend": "reference", "device": "cpu", "created": "2026-11-28",
            "versions": {"torch": torch.__version__}, "stats": list(stats),
        }  # fmt: skip
        return target.finish(groups, attrs)


if __name__ == "__main__":
    write(int(sys.argv[1]), sys.argv[2])
