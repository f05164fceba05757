"""A map cut into chunks of keys or of queries, anywhere: merged statistics are those of the whole map in float64."""

from itertools import pairwise

import pytest
import torch
from attention_oracle import EPS32, attention, columns, links, statistics, tolerance, worst
from hypothesis import given, settings
from hypothesis import strategies as st
from score_cases import RULES, make

from probe.kernels import score_block
from probe.kernels.column_pass import column_mass, column_stats
from probe.kernels.merge import chunk_weights, for_keys, merge_keys, merge_queries
from probe.kernels.row_pass import row_stats
from probe.kernels.sampled import for_queries
from probe.kernels.score import ScoreSpec
from probe.kernels.top_links import top_links
from probe.kernels.visible import visible_block, visible_counts

ROWS = ("lse", "entropy", "effective_keys", "max_prob", "max_key", "distance", "second_moment")
LINKS = 4


def key_parts(q, k, spec, cuts, x=None, implementation="reference", names=ROWS):
    """Statistics of every chunk between neighbouring cuts; {} where two cuts meet."""
    parts = []
    for a, b in pairwise(cuts):
        if a == b:
            parts.append({})
            continue
        chunk = q, k[:, :, a:b], for_keys(spec, a, b)
        part = row_stats(*chunk, names, implementation, x=None if x is None else x[:, :, a:b])
        parts.append({**part, "top_links": top_links(*chunk, links=LINKS, implementation=implementation)})
    return parts


def assert_whole(got, q, k, spec, x=None):
    """Tolerance of the whole, and the rounding of the parts' log-sum-exp, of which every weight is the exponential."""
    truth, plain = statistics(q, k, spec), statistics(q, k, spec, dtype=torch.float32)
    keys, probs, a = links(q, k, spec, LINKS)
    truth["links"], plain["links"] = probs, links(q, k, spec, LINKS, torch.float32)[1]
    found = {**got, "links": got["top_links"].probs}
    if x is not None:
        group = q.shape[1] // x.shape[1]
        truth["applied"] = a @ x.double().repeat_interleave(group, 1)
        plain["applied"] = attention(q, k, spec, torch.float32)[0] @ x.repeat_interleave(group, 1)
        if spec.query_valid is not None:
            for values in (truth, plain):
                values["applied"] = values["applied"].masked_fill(
                    ~spec.query_valid[:, None, :, None], torch.nan
                )
    finite = truth["lse"][torch.isfinite(truth["lse"])]
    lse_size = max(1.0, float(finite.abs().max())) if len(finite) else 1.0
    for name in {*found} - {"max_key", "top_links"}:
        size = truth[name][torch.isfinite(truth[name])].abs()
        size = max(1.0, float(size.max())) if len(size) else 1.0
        # the entropy moves by the error of its weights times their logarithms; effective keys by that again
        depth = {"entropy": 8, "effective_keys": 8, "second_moment": 2}.get(name, 1)
        allowed = tolerance(plain[name], truth[name]) + depth * EPS32 * lse_size * size
        error = worst(found[name], truth[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    for numbers, weights in ((got["max_key"][..., None], found["max_prob"][..., None]), got["top_links"]):
        wanted = keys[..., : numbers.shape[-1]]
        assert torch.equal(numbers < 0, wanted < 0)
        carried = torch.where(numbers >= 0, a.gather(-1, numbers.clamp(min=0)), 0)
        assert float((carried - weights.double()).nan_to_num(0).abs().max()) <= 4e-6 * lse_size


CUTS = {"middle": [0.5], "thirds": [0.33, 0.67], "ragged": [0.02, 0.03, 0.03, 0.5, 0.98], "all": None}


def cuts_of(name, n):
    inner = range(1, n) if CUTS[name] is None else [int(n * at) for at in CUTS[name]]
    return [0, *inner, n]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("rule", RULES)
def test_chunks_of_keys(rule, cut):
    n = 12 if cut == "all" else 63
    q, k, spec = make(rule, 2, 4, 2, n, 16)
    x = torch.randn(2, 2, n, 5)
    parts = key_parts(q, k, spec, cuts_of(cut, n), x)
    assert_whole(merge_keys(parts, spec.sink, cuts_of(cut, n)[:-1]), q, k, spec, x)


@pytest.mark.parametrize(
    "rule", ["causal", "window-both-ways", "chunk-left-padded", "documents-window-groups", "documents-both-ways", "alibi",
             "distance-bias", "sink-window-padded"]
)  # fmt: skip
def test_chunks_of_keys_interpreted(rule):
    """Pages of 7 keys in a text of 70: most blocks of rows stand far outside of the page."""
    q, k, spec = make(rule, 2, 2, 1, 70, 16)
    cuts = [0, 20, 65, 70]
    parts = key_parts(q, k, spec, cuts, implementation="triton")
    whole = merge_keys(parts, spec.sink, cuts[:-1])
    assert_whole(whole, q, k, spec)
    received = [
        column_mass(q, k[:, :, a:b], for_keys(spec, a, b), whole["lse"], implementation="triton")
        for a, b in pairwise(cuts)
    ]
    truth, plain = (statistics(q, k, spec, dtype=t)["received"] for t in (torch.float64, torch.float32))
    allowed = tolerance(plain, truth) + EPS32 * 30 * float(truth.nan_to_num(0).max())
    assert worst(torch.cat(received, -1), truth) <= allowed


@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 50), (17, 80)])
@pytest.mark.parametrize("rule", ["causal", "window", "prefix", "documents", "chunk-from-an-origin", "holes"])
def test_decoding_from_pages(rule, n_queries, n_keys):
    from dataclasses import replace

    q, k, spec = make(rule, 2, 4, 2, n_keys, 16)
    q, spec = q[:, :, -n_queries:], replace(spec, offset=n_keys - n_queries)
    cuts = [*range(0, n_keys, 16), n_keys]
    assert_whole(merge_keys(key_parts(q, k, spec, cuts), spec.sink, cuts[:-1]), q, k, spec)


@pytest.mark.parametrize("rule", ["causal", "window", "documents", "chunk-left-padded", "prefix", "sink"])
def test_blocks_of_rows_that_see_nothing_of_a_chunk(rule, monkeypatch):
    monkeypatch.setitem(score_block.CHUNK_SCORES, "cpu", 1)
    monkeypatch.setattr(score_block, "_FEWEST_ROWS", 5)
    q, k, spec = make(rule, 2, 4, 2, 40, 16)
    parts = key_parts(q, k, spec, [0, 12, 30, 40])
    assert_whole(merge_keys(parts, spec.sink, [0, 12, 30]), q, k, spec)


def test_what_the_weights_of_a_chunk_count():
    none, nan = -torch.inf, torch.nan
    own, whole = torch.tensor([0.0, none, none, nan, 3.0]), torch.tensor([1.0, 1.0, none, nan, 3.0])
    got = chunk_weights(own, whole)
    assert torch.equal(got.isnan(), own.isnan())
    assert torch.allclose(got.nan_to_num(-5), torch.tensor([0.36787944, 0.0, 0.0, -5.0, 1.0]))


@settings(max_examples=25, deadline=None)
@given(
    rule=st.sampled_from(sorted(RULES)),
    n=st.integers(2, 60),
    places=st.lists(st.floats(0, 1), max_size=6),
    seed=st.integers(0, 99),
)
def test_cut_anywhere(rule, n, places, seed):
    q, k, spec = make(rule, 2, 4, 2, n, 16, seed=seed)
    cuts = sorted([0, n, *(round(at * n) for at in places)])
    assert_whole(merge_keys(key_parts(q, k, spec, cuts), spec.sink, cuts[:-1]), q, k, spec)


@settings(max_examples=10, deadline=None)
@given(
    rule=st.sampled_from(["causal", "sink", "sink-window-padded", "gemma", "documents"]),
    at=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_merging_is_associative(rule, at, seed):
    """Merged parts are parts: in two groups, with the sink counted in either, as all at once."""
    q, k, spec = make(rule, 2, 4, 2, 40, 16, seed=seed)
    cuts = [0, 5, 17, 30, 40]
    parts, starts = key_parts(q, k, spec, cuts), cuts[:-1]
    left = merge_keys(parts[:at], None, starts[:at])
    right = merge_keys(parts[at:], None, starts[at:])
    sunk = merge_keys(parts[at:], spec.sink, starts[at:])
    once = merge_keys(parts, spec.sink, starts)
    for both in (merge_keys([left, right], spec.sink, [0, 0]), merge_keys([left, sunk], None, [0, 0])):
        assert_whole(both, q, k, spec)
        assert torch.equal(both["max_key"] < 0, once["max_key"] < 0)
    assert_whole(merge_keys([sunk, left], None, [0, 0]), q, k, spec)


def test_one_part_is_the_whole():
    q, k, spec = make("right-padded", 2, 4, 2, 40, 16)
    part = key_parts(q, k, spec, [0, 40])[0]
    whole = merge_keys([{}, part, {}], None, [0, 0, 40])
    for name in ("lse", "entropy", "max_prob", "distance", "second_moment"):
        assert torch.equal(whole[name].nan_to_num(-5), part[name].nan_to_num(-5)), name
    assert torch.equal(whole["top_links"].keys, part["top_links"].keys)


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_logits(size):
    q, k, spec = make("causal", 1, 2, 2, 40, 16)
    got = merge_keys(key_parts(q * size, k, spec, [0, 13, 40]), None, [0, 13])
    assert all(torch.isfinite(got[name]).all() for name in ("lse", "entropy", "max_prob", "distance"))
    assert_whole(got, q * size, k, spec)


@pytest.mark.parametrize("sink", [None, 1.5])
def test_rows_that_see_nothing_anywhere(sink):
    q, k, _ = make("full", 1, 2, 2, 20, 16)
    sink = None if sink is None else torch.tensor([sink, sink])
    spec = ScoreSpec(scale=0.25, causal=True, key_valid=torch.arange(20)[None] >= 6, sink=sink)
    got = merge_keys(key_parts(q, k, spec, [0, 3, 9, 20]), sink, [0, 3, 9])
    for name in ("entropy", "effective_keys", "max_prob", "key_mass"):
        assert (got[name][:, :, :6] == 0).all(), name
    assert (got["max_key"][:, :, :6] == -1).all()
    assert_whole(got, q, k, spec)


@pytest.mark.parametrize("rule", RULES)
def test_columns_of_chunks_of_keys(rule):
    """Side by side with the whole log-sum-exp; or from each chunk's own, with the weights that it counts."""
    q, k, spec = make(rule, 2, 4, 2, 50, 16)
    cuts = [0, 11, 37, 50]
    chunks = [(q, k[:, :, a:b], for_keys(spec, a, b)) for a, b in pairwise(cuts)]
    own = [row_stats(*chunk, ("lse",))["lse"] for chunk in chunks]
    whole = merge_keys([{"lse": lse} for lse in own], spec.sink)["lse"]
    truth, plain = statistics(q, k, spec)["received"], statistics(q, k, spec, dtype=torch.float32)["received"]
    allowed = tolerance(plain, truth) + EPS32 * 30 * float(truth.nan_to_num(0).max())
    beside = torch.cat([column_mass(*chunk, whole) for chunk in chunks], -1)
    weighted = torch.cat(
        [column_mass(*chunk, lse, chunk_weights(lse, whole)) for chunk, lse in zip(chunks, own, strict=True)],
        -1,
    )
    assert worst(beside, truth) <= allowed
    assert worst(weighted, truth) <= allowed


@pytest.mark.parametrize("rule", RULES)
def test_chunks_of_queries(rule):
    q, k, spec = make(rule, 2, 4, 2, 50, 16)
    y = torch.randn(2, 4, 50, 3)
    parts = [{}]
    for a, b in ((0, 7), (7, 8), (8, 40), (40, 50)):
        piece = q[:, :, a:b], k, for_queries(spec, a, b)
        lse = row_stats(*piece, ("lse",))["lse"]
        parts.append(column_stats(*piece, lse, y=y[:, :, a:b], grid=(1, 5)))
    got = merge_queries([merge_queries(parts[:3]), merge_queries(parts[3:])])
    truth, plain = (columns(q, k, spec, y=y, grid=(1, 5), dtype=t) for t in (torch.float64, torch.float32))
    for name in ("received", "transposed", "pooled"):
        assert worst(got[name], truth[name]) <= tolerance(plain[name], truth[name]), name


@pytest.mark.parametrize("rule", RULES)
def test_visibility_of_a_slice_of_the_keys(rule):
    _, _, spec = make(rule, 3, 2, 2, 61, 16)
    for a, b in ((0, 9), (20, 41), (60, 61)):
        part = for_keys(spec, a, b)
        for sample in range(3):
            whole = visible_block(spec, sample, range(61), range(61), "cpu")[:, a:b]
            assert torch.equal(visible_block(part, sample, range(61), range(b - a), "cpu"), whole)
            valid = torch.ones(61, dtype=torch.bool) if spec.query_valid is None else spec.query_valid[sample]
            seen, by = visible_counts(part, 3, 61, b - a)
            assert torch.equal(seen[sample], (whole & valid[:, None]).sum(1).int())
            assert torch.equal(by[sample], (whole & valid[:, None]).sum(0).int())


def test_a_slice_of_a_slice():
    _, _, spec = make("documents-window-groups", 1, 2, 2, 50, 16)
    twice, once = for_keys(for_keys(spec, 10, 40), 5, 20), for_keys(spec, 15, 30)
    assert (twice.offset, twice.before) == (once.offset, once.before) == (-15, 15)


def test_refusals():
    q, k, spec = make("causal", 1, 2, 1, 10, 16)
    part = row_stats(q, k, spec, ("lse", "max_prob", "max_key"))
    unequal = [{"lse": part["lse"], "top_links": top_links(q, k, spec, links=n)} for n in (2, 3)]
    for parts, arguments, message in (
        ([], {}, "got 0 parts and none that holds anything"),
        ([{}, {}], {}, "got 2 parts and none that holds anything"),
        ([part, {"lse": part["lse"]}], {}, "expected the same of lse"),
        ([{"lse": part["lse"], "received": part["lse"]}], {}, "expected the same of lse"),
        ([{"max_prob": part["max_prob"]}], {}, "got 'max_prob' without 'lse'"),
        ([{"lse": part["lse"], "max_key": part["max_key"]}], {"starts": [0]}, "got 'max_key' without 'max_prob'"),
        ([part], {}, "starts: got None with key numbers to merge"),
        ([part, part], {"starts": [0]}, "starts: got 1 numbers for 2 parts"),
        (unequal, {"starts": [0, 5]}, "different lengths"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            merge_keys(parts, **arguments)
    with pytest.raises(ValueError, match="expected the same of received"):
        merge_queries([part])
    for a, b in ((-1, 3), (4, 4)):
        with pytest.raises(ValueError, match="expected 0 ≤ start < stop"):
            for_keys(spec, a, b)
    with pytest.raises(ValueError, match=r"ScoreSpec.before: got 3 with offset -4"):
        ScoreSpec(1.0, offset=-4, before=3)
    with pytest.raises(ValueError, match=r"ScoreSpec.groups: got 10 positions.* 4 keys with 8 before them"):
        row_stats(
            q, k[:, :, :4], ScoreSpec(1.0, offset=-8, before=8, groups=torch.zeros(1, 10, dtype=torch.int64))
        )
