"""Kept queries, keys and rules: read from a record they are what the model had, bit by bit, and give the same map."""

from dataclasses import fields

import pytest
import torch
import xarray as xr
from record_cases import attributes_of, groups_of, layer_values
from score_cases import RULES, make

from probe import InputError, RecordError
from probe.deepzoom.kept import Kept, rules_of, tensor
from probe.kernels.heads import of_heads
from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.record.target import writer


def same(got, want):
    for rule in fields(ScoreSpec):
        a, b = getattr(got, rule.name), getattr(want, rule.name)
        if isinstance(b, torch.Tensor):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), rule.name
            assert torch.equal(a, b), rule.name
        else:
            assert (type(a), a) == (type(b), b), rule.name


def stored(kept, path):
    """Through a folder and back."""
    with writer(1, path) as target:
        target.add("text", 7, "m", layer_values("text", 0), kept=kept.dataset())
        groups = groups_of([])
        tree = target.finish(groups, attributes_of())
    return tree["qkv/text/7"].to_dataset(inherit=False)


def of(rule, dtype=torch.float32, heads=None):
    q, k, spec = make(rule, 2, 4, 2, 30, 8, dtype)
    v = torch.randn(2, 2, 30, 5).to(dtype)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    return (q, k, v, lse, spec), Kept.of(q, k, v, lse, spec, heads)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_comes_back_exactly(rule, tmp_path):
    (*_, spec), kept = of(rule, heads=[3, 0])
    for dataset in (kept.dataset(), stored(kept, tmp_path / "run.zarr")):
        same(rules_of(dataset), of_heads(spec, [3, 0]))


def test_numbers_that_no_rule_of_the_table_uses(tmp_path):
    q = torch.randn(1, 2, 4, 8)
    numbers = torch.arange(20)[None]
    spec = ScoreSpec(
        scale=1 / 3, causal=True, offset=9, before=7, groups=numbers, sink=torch.tensor([0.1, -0.0]).bfloat16(),
        slopes=torch.tensor([0.1, 0.2], dtype=torch.float64), origin=torch.tensor([3], dtype=torch.int32), chunk=11,
    )  # fmt: skip
    kept = Kept.of(q, torch.randn(1, 1, 6, 8), torch.randn(1, 1, 6, 8), torch.zeros(1, 2, 4), spec)
    same(rules_of(stored(kept, tmp_path / "run.zarr")), spec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_comes_back_bit_by_bit(dtype, tmp_path):
    (q, k, v, lse, _), kept = of("causal", dtype)
    dataset = stored(kept, tmp_path / "run.zarr")
    assert dataset["q"].dtype == ("uint16" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch."))
    for name, want in (("q", q), ("k", k), ("v", v), ("lse", lse)):
        got = tensor(dataset[name].variable)
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


def test_chosen_heads_keep_their_own_key_heads(tmp_path):
    (q, k, _, lse, spec), kept = of("alibi", heads=[2, 3, 0])
    dataset = stored(kept, tmp_path / "run.zarr")
    assert dataset["head"].values.tolist() == [2, 3, 0]
    assert dataset["key_head"].values.tolist() == [0, 1]
    assert dataset["key_head_of"].values.tolist() == [1, 1, 0]
    for at, head in enumerate([2, 3, 0]):
        got = kept.head(at)
        for mine, want in zip(got[:3], (q[:, [head]], k[:, [head // 2]], lse[:, [head]]), strict=True):
            assert torch.equal(mine, want)
        same(got[3], of_heads(spec, [head]))


def test_key_heads_that_nobody_chose_leave_no_gap():
    q, k = torch.randn(1, 6, 4, 8), torch.randn(1, 3, 4, 8)
    kept = Kept.of(q, k, k, torch.zeros(1, 6, 4), ScoreSpec(scale=1.0), [5, 2])
    assert (kept.key_heads, kept.key_head_of) == ((1, 2), (1, 0))
    assert torch.equal(kept.head(1)[1], k[:, 1:2])


def test_positions_are_chunked_and_the_model_s_own_tensors_are_not_shared():
    q = torch.zeros(1, 1, 10000, 128)
    spec = ScoreSpec(scale=1.0, key_valid=torch.ones(1, 10000, dtype=torch.bool))
    dataset = Kept.of(q, q, q, torch.zeros(1, 1, 10000), spec).dataset()
    assert dataset["q"].encoding["chunks"] == (1, 1, 2048, 128)
    spec.key_valid[:] = False
    q += 1
    assert dataset["rule_key_valid"].values.all()
    assert not dataset["q"].values.any()


def test_a_map_is_large_when_a_view_of_all_of_it_would_take_too_long():
    _, kept = of("causal")
    assert not kept.large
    q = torch.empty(1, 1, 4097, 1)
    assert Kept.of(q, q, q, q[..., 0], ScoreSpec(scale=1.0)).large
    assert not Kept.of(q[:, :, 1:], q[:, :, 1:], q, q[..., 0], ScoreSpec(scale=1.0)).large


def test_kept_arrays_are_never_rounded():
    (q, *_), kept = of("causal")
    assert torch.equal(tensor(kept.dataset(keep_bits=3)["q"].variable), q)


def test_pooled_maps_are_rounded_with_the_record():
    _, kept = of("causal")
    kept = kept.with_pyramid(finest=4)
    fine, coarse = kept.dataset()["pyramid_mean"], kept.dataset(keep_bits=4)["pyramid_mean"]
    assert fine.attrs["relative_rounding"] == 2.0**-11
    assert coarse.attrs["relative_rounding"] == 2.0**-5
    gap = abs(coarse.astype("f8") - fine.astype("f8")) / fine.astype("f8")
    assert 2.0**-11 < float(gap.max()) <= 2.0**-5


def test_a_head_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"heads: got \[4\]"):
        of("causal", heads=[4])


@pytest.mark.parametrize("rules", ["", '{"scale": 1.0, "unheard": 2}', '{"scale": 1.0, "window": -1}'])
def test_rules_that_cannot_be_read_are_refused(rules):
    with pytest.raises(RecordError, match="rules of a kept layer cannot be read") as caught:
        rules_of(xr.Dataset(attrs={"rules": rules}))
    assert "\n" not in str(caught.value)
