"""Tiles and cells of the deep zoom against the exact tile of the kernels, at every size, with the derived bound."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from probe import InputError, RecordError, open_record
from probe.deepzoom.pyramid import RELATIVE as STORED
from probe.deepzoom.single import alone, distances, entries, strongest
from probe.kernels.tile import tile as exact_tile
from probe.viz import _tiles
from probe.viz._tiles import FLOOR, RELATIVE, SIDE, Tiles, decode, encode


def codes_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def by_hand(weights, size, reduce):
    """Mean or largest of the visible (lower triangle) in cells of `size`, NaN where there are none; in float64."""
    n = len(weights)
    seen = np.tril(np.ones((n, n), dtype=bool))
    pad = -n % size
    grid = [
        np.pad(x, ((0, pad), (0, pad))).reshape((n + pad) // size, size, -1, size)
        for x in (np.where(seen, weights, 0.0), seen)
    ]
    count = grid[1].sum((1, 3))
    with np.errstate(invalid="ignore"):
        value = grid[0].sum((1, 3)) / count if reduce == "mean" else grid[0].max((1, 3))
    return np.where(count, value, np.nan)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50))
def test_a_code_is_off_by_no_more_than_half_a_step(values):
    weights = np.array(values, dtype=np.float32)
    got = decode(encode(weights))
    assert (np.abs(got - weights) <= np.maximum(weights * RELATIVE * (1 + 1e-5), FLOOR)).all()


def test_codes_of_the_hidden_of_nothing_and_of_one():
    assert encode(np.array([np.nan, 0.0, 1.0, 0.5])).tolist() == [0, 1, 255, 247]
    assert pytest.approx(0.0443, abs=1e-4) == RELATIVE


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("name", ["short", "pooled"])
def test_every_tile_is_the_exact_map_within_its_bound(records, maps, name, reduce):
    """`short` is computed from q and k at every size; of `pooled` sizes from 8 on are read from the stored maps."""
    tiles, weights = Tiles(open_record(records / f"{name}.zarr"), layer=0, head=0), maps[name]
    stored = 0.0 if name == "short" else STORED
    size, whole = 1, tiles.largest(reduce)
    assert whole * SIDE >= len(weights)
    while size <= whole:
        want = by_hand(weights, size, reduce)
        across = -(-want.shape[0] // SIDE)
        for row, column in {(0, 0), (across - 1, 0), (across - 1, across - 1), (0, across - 1)}:
            codes = codes_of(tiles.tile(reduce, size, row, column))
            part = want[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            assert codes.shape == part.shape
            np.testing.assert_array_equal(codes == 0, np.isnan(part))
            bound = np.maximum(part * ((1 + RELATIVE) * (1 + stored) * (1 + 1e-4) - 1), 1.01 * FLOOR)
            assert (np.abs(decode(codes) - part)[codes > 0] <= bound[codes > 0]).all()
        size *= 2


def test_a_cell_is_the_kernels_own_value(records, maps):
    tiles = Tiles(open_record(records / "pooled.zarr"), layer=0, head=0)
    for query, key in ((700, 0), (700, 700), (1, 1), (519, 333)):
        found = tiles.cell(query, key)
        assert found["weight"] == pytest.approx(maps["pooled"][query, key], rel=2e-5, abs=1e-12)
        assert (found["query_text"], found["key_text"]) == (f" w{query:06d}", f" w{key:06d}")
    assert tiles.cell(3, 9)["weight"] is None
    assert tiles.cell(3, 9)["score"] is None


def test_the_strongest_links_are_those_of_the_whole_row_and_column(records, maps):
    tiles = Tiles(open_record(records / "short.zarr"), layer=0, head=0)
    row = maps["short"][400]
    links = tiles.links(query=400, links=5)
    assert [link["at"] for link in links] == np.argsort(-row, kind="stable")[:5].tolist()
    column = np.tril(maps["short"])[:, 7]
    assert [link["at"] for link in tiles.links(key=7, links=5)] == np.argsort(-column, kind="stable")[
        :5
    ].tolist()
    assert tiles.links(query=0)[0]["weight"] == pytest.approx(1.0)
    assert len(tiles.links(query=0)) == 1


def test_distances_of_all_queries_are_those_of_the_map(records, maps):
    one = alone(open_record(records / "short.zarr")["qkv/text/0"].to_dataset(inherit=False), 0, 0)
    weights = np.tril(maps["short"])
    n = len(weights)
    apart = np.subtract.outer(np.arange(n), np.arange(n))
    found = distances(one, most=n)
    assert found.attrs["step"] == 1
    assert not found["error"].values.any()
    for first, last, mass in zip(
        found["first"].values, found["last"].values, found["mass"].values, strict=True
    ):
        want = weights[(apart >= first) & (apart <= last)].sum() / n
        assert mass == pytest.approx(want, abs=1e-5)
    sample = distances(one, most=100)
    assert sample.attrs == {"queries": 100, "step": -(-n // 100), "unit": "probability"}
    assert sample["mass"].sum() == pytest.approx(1, abs=1e-4)
    assert sample["error"].values.max() > 0


def test_curves_are_the_means_of_the_record(records):
    tree = open_record(records / "pooled.zarr")
    received = tree["text"]["received"].values[0, 0, 0].astype(np.float64)
    got = Tiles(tree, layer=0, head=0).curve("keys", 2, 1)
    want = received[2 * SIDE :]
    assert got == pytest.approx([want[i : i + 2].mean() for i in range(0, len(want), 2)][:SIDE], rel=1e-6)


def test_one_head_of_a_grouped_layer_is_cut_out_with_its_own_keys():
    from probe.deepzoom.kept import Kept
    from probe.kernels.row_pass import row_stats
    from probe.kernels.score import ScoreSpec

    make = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 63, 8, generator=make), torch.randn(2, 2, 63, 8, generator=make)
    spec = ScoreSpec(scale=0.4, causal=True, sink=torch.tensor([0.0, 1.0, 2.0, 3.0]))
    kept = Kept.of(q, k, k, row_stats(q, k, spec, ("lse",))["lse"], spec, heads=(0, 2, 3)).dataset()
    want = exact_tile(q, k, spec, row_stats(q, k, spec, ("lse",))["lse"], range(63), range(63))
    for head in (0, 2, 3):
        one = alone(kept, head, 1)
        np.testing.assert_allclose(entries(one, range(63), range(63)), want[1, head], atol=1e-6)
    with pytest.raises(InputError, match=r"head: got 1, expected one of those that were kept: \[0, 2, 3\]"):
        alone(kept, 1, 0)
    with pytest.raises(InputError, match="sample: got 2, expected 0 to 1"):
        alone(kept, 0, 2)
    with pytest.raises(InputError, match="either a query or a key"):
        strongest(alone(kept, 0, 0), 3)


def test_what_is_not_there_is_refused_by_name(records):
    tree = open_record(records / "short.zarr")
    tiles = Tiles(tree, layer=0, head=0)
    with pytest.raises(InputError, match="size: got 3, expected a power of two up to 4"):
        tiles.tile("mean", 3, 0, 0)
    with pytest.raises(InputError, match="beyond the map"):
        tiles.tile("mean", 1, 99, 0)
    with pytest.raises(InputError, match="reduce: got 'min', expected one of mean, max"):
        tiles.tile("min", 1, 0, 0)
    with pytest.raises(InputError, match="keys: got 5 to 5"):
        tiles.texts("keys", 5, 5)
    with pytest.raises(InputError, match="links: got 65"):
        tiles.links(query=1, links=65)
    with pytest.raises(RecordError, match="kept no queries and keys of layer 7"):
        Tiles(tree, layer=7, head=0)


@settings(max_examples=20)
@given(st.integers(1, 6))
def test_a_map_without_pooled_maps_offers_only_what_can_be_computed(power):
    """A tile of no stored map never asks for more than the view's limit of entries."""
    n = 4096 * 2**power
    stub = Tiles.__new__(Tiles)
    stub.shape, stub.one = (n, n), {}
    size = stub.largest("max")
    assert min(size * SIDE, n) ** 2 <= _tiles.LIVE < min(2 * size * SIDE, n) ** 2
