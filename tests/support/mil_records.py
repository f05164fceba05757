"""Records of bags made of numbers, by hand."""

import numpy as np
import xarray as xr

from probe.record import strings


def mil_groups(
    attention, *, features=None, labels=None, names=None, coords=None, patch_size=None, annotation=None
):
    """The groups /mil and /bags.

    Args:
        attention: for each bag [M, N], rows sum to one.
        features: for each bag [N, F].
        labels: class of each bag.
        names: of the bags.
        coords: for each bag [N, 2].
        patch_size: of all bags.
        annotation: for each bag [N].
    """
    sizes = [np.asarray(a).shape[1] for a in attention]
    longest, count = max(sizes), len(sizes)

    def padded(parts, *more):
        whole = np.full((count, *more), np.nan)
        for row, part in zip(whole, parts, strict=True):
            row[tuple(slice(n) for n in np.shape(part))] = part
        return whole

    mil = {
        "attention": (
            ("bag", "branch", "instance"),
            padded(attention, np.shape(attention[0])[0], longest).astype(np.float32),
        ),
        "instances": ("bag", np.array(sizes)),
    }
    if features is not None:
        width = np.shape(features[0])[1]
        mil["features"] = (
            ("bag", "instance", "feature"),
            padded(features, longest, width).astype(np.float32),
        )
    bags = {
        "name": ("bag", strings(names or [f"slide {i}" for i in range(count)])),
        "label": ("bag", np.array(labels if labels is not None else [-1] * count)),
    }
    if coords is not None:
        bags["coords"] = (("bag", "instance", "axis"), padded(coords, longest, 2))
        bags["patch_size"] = ("bag", np.full(count, np.nan if patch_size is None else patch_size))
    if annotation is not None:
        bags["annotation"] = (("bag", "instance"), padded(annotation, longest))
    return {"/mil": xr.Dataset(mil), "/bags": xr.Dataset(bags, attrs={"classes": ["benign", "tumour"]})}


def mil_record(attention, **facts):
    """A record of these bags alone (see `mil_groups`)."""
    root = xr.Dataset(attrs={"schema": 2, "model": "by hand"})
    return xr.DataTree.from_dict({"/": root, **mil_groups(attention, **facts)})


def some_bags(count=8, size=9, branches=2, seed=0):
    """The groups of random bags with everything that bags can have."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(size // 3)), -1).reshape(-1, 2) * 16.0
    attention = [rng.dirichlet(np.full(size, 0.3), branches) for _ in range(count)]
    return mil_groups(
        attention,
        features=[rng.normal(size=(size, 4)) for _ in range(count)],
        labels=[i % 2 for i in range(count)],
        coords=[grid] * count,
        patch_size=16.0,
        annotation=[np.arange(size) % 3 for _ in range(count)],
    )
