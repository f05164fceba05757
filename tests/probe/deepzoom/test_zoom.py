"""Deep zoom: every view equals the float64 map pooled by hand, at every level, under every rule, on any length."""

import numpy as np
import pytest
import torch
import xarray as xr
from attention_oracle import attention, mask
from record_cases import write_all
from score_cases import RULES, make

from probe import InputError, RecordError
from probe.deepzoom import zoom as deep
from probe.deepzoom.pyramid import ABSOLUTE, RELATIVE, levels_of
from probe.deepzoom.zoom import Kept, build_pyramid, zoom
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.record.target import writer

EPS = float(torch.finfo(torch.float32).eps)
COORDINATES = ("row_start", "row_stop", "column_start", "column_stop")


class Case:
    """A record of one layer that kept all heads, and its map in float64 and in plain float32."""

    def __init__(
        self, rule, n, heads=4, key_heads=2, size=16, pyramid=("mean",), dtype=torch.float32, finest=2
    ):
        q, k, spec = make(rule, 2, heads, key_heads, n, size, dtype)
        lse = row_stats(q, k, spec, ("lse",))["lse"]
        kept = Kept.of(q, k, k, lse, spec)
        if pyramid:
            kept = kept.with_pyramid(finest=finest, reduce=pyramid)
        self.tree = xr.DataTree.from_dict({"/qkv/text/3": kept.dataset()})
        self.exact, self.plain = (attention(q, k, spec, d)[0] for d in (torch.float64, torch.float32))
        seen = mask(spec, 2, n, n)
        self.seen = seen if spec.query_valid is None else seen & spec.query_valid[:, :, None]

    def check(self, view, sample, head, reduce="mean"):
        """Hold a view against both maps, cell by cell."""
        at = [view[name].values for name in COORDINATES]
        want, plain = (
            by_hand(a[sample, head], self.seen[sample], at, reduce) for a in (self.exact, self.plain)
        )
        got = view["value"].values.astype(np.float64)
        assert view["value"].dtype == np.float32
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        tolerance = 2 * np.nanmax(np.abs(plain - want), initial=0) + 8 * EPS * np.nanmax(want, initial=0)
        if not view.attrs["exact"]:
            tolerance = tolerance + np.maximum(RELATIVE * np.nan_to_num(want), ABSOLUTE)
        assert (np.nan_to_num(np.abs(got - want)) <= tolerance).all()


def by_hand(a, seen, at, reduce):
    top, bottom, left, right = at
    assert (top[1:] == bottom[:-1]).all()
    assert (left[1:] == right[:-1]).all()
    part = slice(top[0], bottom[-1]), slice(left[0], right[-1])

    def cells(x, add):
        return add.reduceat(add.reduceat(x, top - top[0], axis=0), left - left[0], axis=1)

    a, seen = a.numpy().astype(np.float64)[part], seen.numpy()[part]
    count = cells(seen.astype(np.float64), np.add)
    found = cells(np.where(seen, a, 0), np.add if reduce == "mean" else np.maximum)
    with np.errstate(invalid="ignore"):
        return np.where(count == 0, np.nan, found / count if reduce == "mean" else found)


@pytest.fixture
def stored(monkeypatch):
    """Views come from the pooled maps, however small they are."""
    monkeypatch.setattr(deep, "LIVE", 0)


VIEWS = [
    (None, None, (1000, 1000)), ((13, 77), (5, 63), (1000, 1000)), ((13, 77), (5, 63), (20, 7)), (None, None, (9, 30)),
    ((60, 61), (0, 99), (2, 2)), ((0, 100), (97, 100), (50, 3)),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_computed_views_equal_the_map_pooled_by_hand(rule):
    case = Case(rule, 100, pyramid=())
    for number, (rows, columns, cells) in enumerate(VIEWS):
        view = zoom(
            case.tree, layer=3, head=number % 4, sample=number % 2, rows=rows, columns=columns, cells=cells
        )
        assert view.attrs["exact"] is True
        assert all(n <= most for n, most in zip(view["value"].shape, cells, strict=True))
        case.check(view, number % 2, number % 4)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("rule", RULES)
def test_stored_views_equal_the_map_pooled_by_hand(rule):
    case = Case(rule, 63, pyramid=("mean", "max"))
    for level in levels_of(63, 63, 2):
        for sample, head, reduce in ((0, 0, "mean"), (1, 3, "max")):
            most = (max(2, level.rows), max(2, level.columns))
            view = zoom(case.tree, layer=3, head=head, sample=sample, cells=most, reduce=reduce)
            assert view.attrs["exact"] is False
            assert view.attrs["row_level"] == view.attrs["column_level"] == max(2, min(level.size, 32))
            case.check(view, sample, head, reduce)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("n", [1, 2, 100, 1030])
def test_stored_views_on_lengths_that_do_not_divide(n):
    """1030 positions in cells of 2 take four tiles, cut at 512 cells."""
    case = Case("causal", n)
    last = n // 2 or 1
    several = ((n // 3, min(n, n // 3 + 9)), (0, n)), ((max(0, n - 20), n), (max(0, n - 30), n))
    for rows, columns in (*several, ((n - 1, n), (last - 1, n))):
        case.check(zoom(case.tree, layer=3, head=1, rows=rows, columns=columns, cells=(2000, 2000)), 0, 1)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_cell_holds_what_was_asked_for(reduce):
    case = Case("window", 100, pyramid=())
    case.check(zoom(case.tree, layer=3, head=2, cells=(13, 50), reduce=reduce), 0, 2, reduce)


def test_entries_are_exact_and_hidden_ones_absent():
    case = Case("causal", 100)
    view = zoom(case.tree, layer=3, head=0, rows=(40, 50), columns=(45, 60))
    assert view["row_start"].values.tolist() == list(range(40, 50))
    assert (view.attrs["row_level"], view.attrs["column_level"]) == (1, 1)
    hidden = np.arange(45, 60)[None, :] > np.arange(40, 50)[:, None]
    np.testing.assert_array_equal(np.isnan(view["value"].values), hidden)


def test_cells_lie_on_multiples_of_their_length_and_reach_beyond_the_rectangle():
    case = Case("full", 100, pyramid=())
    view = zoom(case.tree, layer=3, head=0, rows=(13, 77), columns=(90, 100), cells=(20, 3))
    assert (view.attrs["row_level"], view.attrs["column_level"]) == (4, 8) or view.attrs["column_level"] == 4
    size = view.attrs["row_level"]
    assert view["row_start"].values.tolist() == list(range(13 // size * size, 77, size))
    assert view["row_stop"].values[-1] == -(-77 // size) * size
    assert view["column_stop"].values[-1] == 100  # the map ends there


def test_no_level_is_finer_than_asked_or_twice_too_coarse():
    case = Case("causal", 1000, heads=1, key_heads=1, pyramid=())
    for most in (2, 3, 10, 63, 64, 500, 999, 1000):
        view = zoom(case.tree, layer=3, head=0, cells=(most, most))
        assert most / 2 <= view.sizes["row"] <= most
        assert view.attrs["row_level"] == 1 or view.sizes["row"] * view.attrs["row_level"] >= 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_of_a_model(dtype):
    case = Case("gemma", 100, dtype=dtype)
    case.check(zoom(case.tree, layer=3, head=3, sample=1, rows=(3, 90), cells=(40, 40)), 1, 3)


def test_a_map_that_is_not_square():
    """Decoding with a cache: 7 queries at the end of 45 keys."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 7, 8), torch.randn(1, 1, 45, 8)
    spec = ScoreSpec(scale=0.4, causal=True, offset=38)
    kept = Kept.of(q, k, k, row_stats(q, k, spec, ("lse",))["lse"], spec, heads=[1]).with_pyramid(finest=4)
    case = Case.__new__(Case)
    case.tree = xr.DataTree.from_dict({"/qkv/text/3": kept.dataset()})
    case.exact, case.plain = (attention(q, k, spec, d)[0][:, 1:] for d in (torch.float64, torch.float32))
    case.seen = mask(spec, 1, 7, 45)
    case.check(zoom(case.tree, layer=3, head=1, cells=(3, 45)), 0, 0)
    deep.LIVE, before = 0, deep.LIVE
    try:
        case.check(zoom(case.tree, layer=3, head=1, cells=(2, 12)), 0, 0)
    finally:
        deep.LIVE = before


def test_tiles_lie_row_after_row():
    case = Case("causal", 1030, heads=1, key_heads=1)
    tiles = case.tree["qkv/text/3/pyramid_mean"].values[0, 0]
    there = [bool((~np.isnan(tile)).any()) for tile in tiles]
    assert there == [True, False, True, True] + [True] * (
        len(there) - 4
    )  # above the diagonal of level 2 lies nothing


def test_a_pyramid_is_built_in_slabs_of_rows_as_in_one(monkeypatch):
    from probe.deepzoom import pyramid_build

    q, k, spec = make("gemma", 2, 2, 1, 100, 16)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    whole = build_pyramid(q, k, spec, lse, finest=4, reduce=("mean", "max"))
    monkeypatch.setattr(pyramid_build, "_SLAB_CELLS", 100)
    parts = build_pyramid(q, k, spec, lse, finest=4, reduce=("mean", "max"))
    for name in ("mean", "max"):
        got, want = parts.maps[name].astype(np.float64), whole.maps[name].astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        # sums in another order may fall to the neighbouring float16
        np.testing.assert_allclose(got, want, rtol=2.0**-10, atol=2.0**-24)


def test_the_record_in_a_folder_gives_the_same_views(tmp_path):
    with writer(3, None) as target:
        memory = write_all(target, keep=True)
    with writer(3, tmp_path / "run.zarr") as target:
        disk = write_all(target, keep=True)
    for tree in (disk, tmp_path / "run.zarr", str(tmp_path / "run.zarr")):
        for reduce in ("mean", "max"):
            options = {"layer": 1, "head": 2, "sample": 1, "cells": (3, 5), "reduce": reduce}
            xr.testing.assert_identical(zoom(tree, **options), zoom(memory, **options))
    assert deep.kept_layers(disk, "text") == [0, 1]
    assert deep.kept_layers(disk, "nowhere") == []


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layer": 4}, RecordError, r"no queries and keys of layer 4 of /text, only of \[3\]; .* keep='qkv'"),
        ({"stream": "vision"}, RecordError, "layer 3 of /vision, only of none"),
        ({"head": 9}, InputError, r"head: got 9, expected one of those that were kept: \[0, 1, 2, 3\]"),
        ({"sample": 2}, InputError, "sample: got 2, expected 0 to 1"),
        ({"rows": (5, 5)}, InputError, r"rows: got \(5, 5\), expected first < last within 0 to 63"),
        ({"columns": (0, 64)}, InputError, r"columns: got \(0, 64\)"),
        ({"cells": (1, 5)}, InputError, "cells: got 1 for the rows, expected at least 2"),
        ({"reduce": "sum"}, InputError, "reduce: got 'sum', expected one of mean, max"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(options, error, said):
    case = Case("causal", 63, pyramid=())
    with pytest.raises(error, match=said) as caught:
        zoom(case.tree, **{"layer": 3, "head": 0} | options)
    assert "\n" not in str(caught.value)


def test_a_large_view_without_pooled_maps_is_refused(monkeypatch):
    case = Case("causal", 63, pyramid=("mean",))
    monkeypatch.setattr(deep, "LIVE", 100)
    monkeypatch.setattr(deep, "PATIENT", 1000)
    zoom(case.tree, layer=3, head=0)
    zoom(case.tree, layer=3, head=0, rows=(0, 10), reduce="max")
    said = r"/qkv/text/3: got a view of 3969 entries, expected at most 1000 .* of 'max' \(it has: mean\)"
    with pytest.raises(RecordError, match=said):
        zoom(case.tree, layer=3, head=0, reduce="max")


@pytest.mark.parametrize(
    ("option", "said"), [({"finest": 3}, "finest: got 3"), ({"reduce": ("sum",)}, "reduce: got")]
)
def test_pooled_maps_that_cannot_be_built_are_refused(option, said):
    q, k, spec = make("causal", 1, 2, 1, 20, 8)
    with pytest.raises(InputError, match=said):
        build_pyramid(q, k, spec, torch.zeros(1, 2, 20), **option)
