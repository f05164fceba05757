"""Helpers of the tests of records: their folders, and towers written by hand."""

import json

STATISTICS = ("entropy", "received", "max_key")


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(store, change):
    path = store / "zarr.json"
    root = json.loads(path.read_text())
    change(root["attributes"])
    path.write_text(json.dumps(root))


def places(samples, length):
    import torch

    from probe.positions import numbered

    return numbered("places", "position", torch.ones(samples, length, dtype=torch.bool)).dataset


GROUPS = {"tokens": (2, 5), "patches": (3, 7)}

#: stream → (samples, heads, queries, keys, groups of positions, statistics, layers)
TOWERS = {
    "text": (2, 4, 5, 5, ("tokens", "tokens"), ("entropy", "received", "max_key", "pooled"), (0, 1)),
    "vision": (3, 2, 7, 7, ("patches", "patches"), ("entropy", "received"), (4,)),
}


def layer_values(stream, layer):
    """Values of one layer, made up but always the same."""
    import numpy as np

    from probe.record import COUNTS
    from probe.record import dtype as kind

    samples, heads, queries, keys, _, stats, _ = TOWERS[stream]
    rng = np.random.default_rng([len(stream), layer])
    shapes = dict.fromkeys(stats, (samples, heads, queries))
    shapes |= {"received": (samples, heads, keys), "pooled": (samples, heads, 2, 3)}
    shapes |= {"keys_seen": (samples, queries), "seen_by": (samples, keys)}
    names = (*stats, *COUNTS)
    values = {n: rng.uniform(0.001, 5.0, shapes[n]).astype(kind(n)) for n in names}
    values["entropy"][0, 0, -1] = np.nan
    return values


def kept_of(layer):
    """Queries, keys and values of two heads of a made-up layer, with pooled maps."""
    import torch

    from probe.deepzoom.kept import Kept
    from probe.kernels.row_pass import row_stats
    from probe.kernels.score import ScoreSpec

    make = torch.Generator().manual_seed(layer)
    q, k, v = (torch.randn(2, heads, 5, 4, generator=make) for heads in (4, 2, 2))
    spec = ScoreSpec(scale=0.5, causal=True)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    return Kept.of(q, k, v, lse, spec, heads=(1, 2)).with_pyramid(finest=2)


def write_all(target, keep=False, order=tuple(TOWERS)):
    """Give a writer all layers that it lacks, and finish."""
    from probe.validity.checks import Check

    for stream in order:
        *_, (queries, keys), _, layers = TOWERS[stream]
        for layer in layers:
            if target.has(stream, layer):
                continue
            checks = [Check("one", layer, float("nan") if layer else 0.5, 1.0, f"of {stream}")]
            target.add(
                stream, layer, f"{stream}.{layer}", layer_values(stream, layer), queries=queries, keys=keys,
                checks=checks, facts={"rule": f"causal {layer}"}, kept=kept_of(layer).dataset() if keep else None,
            )  # fmt: skip
    return target.finish(groups_of(target.checks), attributes_of())


def groups_of(checks):
    import numpy as np
    import xarray as xr

    from probe.record import strings

    columns = {
        "name": strings([c.name for c in checks]), "layer": np.array([c.layer for c in checks]),
        "worst": np.array([c.worst for c in checks]), "tolerance": np.array([c.tolerance for c in checks]),
        "passed": np.array([c.passed for c in checks], dtype=bool), "meaning": strings([c.meaning for c in checks]),
    }  # fmt: skip
    groups = {name: places(*size) for name, size in GROUPS.items()}
    groups["input"] = xr.Dataset({"text": ("sample", strings(["a", "b"]))})
    return groups | {"validity": xr.Dataset({n: ("check", v) for n, v in columns.items()})}


def attributes_of():
    return {
        "model": "made up", "dtype": "float32", "backend": "none", "device": "cpu", "created": "today",
        "versions": {"torch": "2"}, "stats": ["entropy", "received", "max_key", "pooled"],
    }  # fmt: skip


def assert_same(got, want):
    """Two records hold the same, in the same order."""
    import xarray as xr

    assert [n.path for n in got.subtree] == [n.path for n in want.subtree]
    assert dict(got.attrs) == dict(want.attrs)
    for node in want.subtree:
        there = (
            got[node.path].to_dataset(inherit=False) if node.path != "/" else got.to_dataset(inherit=False)
        )
        xr.testing.assert_identical(there.load(), node.to_dataset(inherit=False).load())
