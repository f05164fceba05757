"""Records of several towers, pooled maps on a grid, facts of layers, and bit rounding."""

import numpy as np
import pytest
import torch
from record_cases import GROUPS, TOWERS, assert_same, groups_of, layer_values, one_line, write_all

import probe
from probe import InputError, ModelError, RecordError
from probe.kernels.pooling import edges
from probe.record import chunk_shape, positions, towers, validate
from probe.record.rounding import round_bits
from probe.record.target import writer


@pytest.fixture(scope="module")
def record():
    with writer(3, None) as target:
        return write_all(target)


@pytest.fixture
def disk(tmp_path):
    with writer(3, tmp_path / "run.zarr") as target:
        return write_all(target)


def test_towers_differ_in_everything_and_are_the_same_in_a_folder(record, disk):
    assert_same(disk, record)
    for tree in (record, disk):
        assert towers(tree) == list(TOWERS)
        for name, (samples, heads, queries, keys, _, stats, layers) in TOWERS.items():
            tower = tree[name].to_dataset()
            want = {"sample": samples, "layer": len(layers), "head": heads, "query": queries, "key": keys}
            assert {n: tower.sizes[n] for n in want} == want
            assert tower.attrs["stats"] == list(stats)
            assert tower["layer"].values.tolist() == list(layers)
            assert tower["module"].values.tolist() == [f"{name}.{layer}" for layer in layers]
            assert tower["rule"].values.tolist() == [f"causal {layer}" for layer in layers]
            for at, layer in enumerate(layers):
                for variable, values in layer_values(name, layer).items():
                    np.testing.assert_array_equal(tower[variable].values[:, at], values)


def test_positions_of_either_side(record):
    for tower, (_, _, _, _, groups, _, _) in TOWERS.items():
        for side, group in zip(("queries", "keys"), groups, strict=True):
            assert tuple(positions(record, tower, side).sizes.values()) == GROUPS[group]
    with pytest.raises(InputError, match="side: got 'rows', expected 'queries' or 'keys'"):
        positions(record, "text", "rows")
    with pytest.raises(RecordError, match="no tower 'audio'; it has: text, vision"):
        positions(record, "audio", "keys")


def test_a_group_of_positions_that_a_tower_names_must_be_there(record):
    tree = record.copy()
    tree.children["patches"].orphan()
    with pytest.raises(RecordError, match="/vision names 'patches' as its queries, but there is no such"):
        validate(tree)


def test_a_record_without_tokens_is_whole():
    with writer(1, None) as target:
        target.add("vision", 4, "v", layer_values("vision", 4), queries="patches", keys="patches")
        groups = {n: g for n, g in groups_of([]).items() if n != "tokens"}
        attrs = dict.fromkeys(("model", "dtype", "backend", "device", "created", "versions"), "")
        tree = target.finish(groups, attrs | {"stats": ["entropy", "received", "lse"]})
    assert towers(tree) == ["vision"]


def test_the_cells_of_a_pooled_map_say_what_they_cover(record, disk):
    for tree in (record, disk):
        text = tree["text"].to_dataset()
        assert text["pooled"].dims == ("sample", "layer", "head", "row", "column")
        assert "visible pairs" in text["pooled"].attrs["meaning"]
        for along, cells in (("row", 2), ("column", 3)):
            want = edges(5, cells).tolist()
            assert text[f"{along}_start"].values.tolist() == want[:-1]
            assert text[f"{along}_stop"].values.tolist() == want[1:]
        assert "row_start" not in tree["vision"].to_dataset().coords


def test_pooled_maps_are_chunked_by_head():
    sizes = {"sample": 2, "head": 32, "query": 131072, "key": 131072, "row": 512, "column": 512}
    assert chunk_shape("pooled", sizes) == (1, 1, 4, 512, 512)
    assert chunk_shape("pooled", sizes | {"row": 4096, "column": 4096}) == (1, 1, 1, 256, 4096)
    assert chunk_shape("pooled", sizes | {"head": 3, "row": 8, "column": 9}) == (2, 1, 3, 8, 9)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda v: v.pop("entropy"), {}, r"entropy is absent, but \(2, 4, 5\) in the layers of /text before"),
        (lambda v: v.update(lse=v["entropy"]), {}, r"lse is \(2, 4, 5\), but absent"),
        (lambda v: v.update(entropy=v["entropy"][:, :2]), {}, r"entropy is \(2, 2, 5\), but \(2, 4, 5\)"),
        (lambda v: None, {"keys": "source"}, "keys is source, but tokens"),
        (lambda v: None, {"facts": {}}, r"facts is \[\], but \['rule'\]"),
    ],
)
def test_a_layer_unlike_those_before_it_is_refused(change, options, said):
    values = layer_values("text", 1)
    change(values)
    with writer(2, None) as target:
        target.add("text", 0, "a", layer_values("text", 0), facts={"rule": "causal"})
        with pytest.raises(ModelError, match=f"^b: {said}") as caught:
            target.add("text", 1, "b", values, **{"facts": {"rule": "causal"}} | options)
        one_line(caught)


@pytest.mark.parametrize(
    ("stream", "change"),
    [
        ("text", lambda v: v.pop("seen_by")),
        ("text", lambda v: v.update(sinks=v["entropy"])),
        ("text", lambda v: [v.pop(n) for n in list(v) if n not in ("keys_seen", "seen_by")]),
        ("validity", lambda v: None),
    ],
)
def test_values_that_are_no_tower_are_refused(stream, change):
    values = layer_values("text", 0)
    change(values)
    with (
        writer(1, None) as target,
        pytest.raises(RecordError, match=r"expected statistics with keys_seen and seen_by"),
    ):
        target.add(stream, 0, "a", values)


def rounded_by_hand(values, bits):
    """Decimal by decimal: the nearest multiple of 2^(exponent - bits)."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1)


@pytest.mark.parametrize("bits", [1, 3, 7, 12, 22, 23])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_bit_rounding_is_to_nearest_within_its_bound(bits, kind):
    rng = np.random.default_rng(0)
    exponents = rng.integers(-10, 12, 4000)
    values = (rng.uniform(-2, 2, 4000) * 2.0**exponents).astype(kind)
    values = values[np.abs(values) >= np.finfo(kind).smallest_normal]
    got = round_bits(values, bits)
    assert got.dtype == kind
    np.testing.assert_array_equal(
        got.astype(np.float64), rounded_by_hand(values, min(bits, np.finfo(kind).nmant))
    )
    assert (np.abs(got - values.astype(np.float64)) <= 2.0 ** -(bits + 1) * np.abs(values)).all()


def test_bit_rounding_leaves_what_is_no_ordinary_number():
    f32 = np.finfo(np.float32)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, f32.smallest_subnormal, f32.smallest_normal / 3, f32.max]
    values = np.array(special, dtype=np.float32)
    np.testing.assert_array_equal(round_bits(values, 5).view(np.uint32), values.view(np.uint32))
    assert round_bits(np.array([1 + 2.0**-6, 1 + 3 * 2.0**-6], np.float32), 5).tolist() == [
        1,
        1 + 2.0**-4,
    ]  # ties to even


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_rounded_record_says_so_and_keeps_integers(kind, record, tmp_path):
    with writer(3, None if kind == "memory" else tmp_path / "run.zarr", keep_bits=7) as target:
        tree = write_all(target)
    assert (tree.attrs["keep_bits"], tree.attrs["relative_rounding"]) == (7, 2.0**-8)
    for name in TOWERS:
        for variable, want in record[name].to_dataset().data_vars.items():
            got = tree[name][variable]
            if want.dtype.kind == "f":
                assert (got.attrs["keep_bits"], got.attrs["relative_rounding"]) == (7, 2.0**-8)
                np.testing.assert_array_equal(got.values, round_bits(want.values, 7))
                assert not np.array_equal(got.values, want.values, equal_nan=True)
            else:
                assert "keep_bits" not in got.attrs
                np.testing.assert_array_equal(got.values, want.values)
    assert "keep_bits" not in record.attrs


@pytest.mark.parametrize("bits", [0, 24, 7.5, True])
def test_bits_that_no_mantissa_has_are_refused(bits):
    with pytest.raises(InputError, match=r"keep_bits: got .*, expected 1 to 23 bits"):
        writer(1, None, keep_bits=bits)


def test_an_ordinary_capture_has_one_tower(tmp_path):
    from tiny_models import batch, tiny

    ids, mask = batch([9, 6], 9)
    tree = probe.capture(
        tiny("llama"),
        {"input_ids": ids, "attention_mask": mask},
        stats=("entropy", "pooled"),
        store=tmp_path / "r.zarr",
    )
    assert torch.is_tensor(ids)
    assert towers(tree) == ["text"]
    assert positions(tree, "text", "keys")["valid"].values.tolist() == (mask > 0).tolist()
