"""Any rectangle of the map against the whole map in float64: every rule, both implementations, awkward lengths."""

from dataclasses import replace

import pytest
import torch
from attention_oracle import EPS32, attention, scores, tolerance, worst
from fresh_memory import Largest, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from score_cases import RULES, SHAPES, make

from probe.kernels.row_pass import row_stats
from probe.kernels.score import ScoreSpec
from probe.kernels.score_block import CHUNK_SCORES
from probe.kernels.tile import tile

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    poison(monkeypatch)


def numbers(chosen):
    return torch.tensor(list(chosen)) if isinstance(chosen, range) else chosen.cpu()


def whole(q, k, spec, lse, what, dtype):
    """The whole map from its definition: scores, or their exponentials relative to the stored log-sum-exp."""
    s = scores(q, k, spec, dtype)
    lse = lse.cpu().to(dtype)[..., None]
    return s if what == "score" else torch.where(lse == -torch.inf, 0, (s - lse).exp())


def assert_rectangle(q, k, spec, rows, keys, implementation, heads=None):
    """Weights and scores of a rectangle against the map written out, cut afterwards."""
    host = spec.to("cpu")
    lse = attention(q, k, host)[1].float().to(q.device)
    cut = list(range(q.shape[1])) if heads is None else heads
    for what in ("prob", "score"):
        truth, plain = (whole(q, k, host, lse, what, dtype) for dtype in (torch.float64, torch.float32))
        truth, plain = (x[:, cut][:, :, numbers(rows)][..., numbers(keys)] for x in (truth, plain))
        if spec.query_valid is not None:
            padded = ~host.query_valid[:, None, numbers(rows), None]
            truth, plain = truth.masked_fill(padded, torch.nan), plain.masked_fill(padded, torch.nan)
        got = tile(q, k, spec, lse, rows, keys, what, heads, implementation)
        assert got.shape == truth.shape
        assert got.dtype == torch.float32
        error, allowed = worst(got, truth), tolerance(plain, truth)
        if what == "prob":
            # four roundings of the exponent, as `tolerance` allows for any value: a weight a = exp(s - lse) moves by a·|s|·eps
            exponents = whole(q, k, host, lse, "score", torch.float64)[:, cut][:, :, numbers(rows)][
                ..., numbers(keys)
            ]
            allowed = max(allowed, 8 * EPS32 * float((truth * exponents.abs()).nan_to_num().max()))
        assert error <= allowed, f"{what}: error {error:.2e}, allowed {allowed:.2e}"


def rectangles(n):
    """A whole map; its lower right part; every third row with every second key; chosen numbers, out of order and repeated."""
    yield range(n), range(n)
    yield range(n // 2, n), range(n // 3, n)
    yield range(n // 5, n, 3), range(n // 4, n, 2)
    yield torch.tensor([n - 1, 0, n // 2, n // 2]), torch.tensor([n // 3, n - 1, 0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_plain_torch(rule, shape):
    q, k, spec = make(rule, *SHAPES[shape])
    for rows, keys in rectangles(q.shape[2]):
        assert_rectangle(q, k, spec, rows, keys, "reference")


@pytest.mark.parametrize("rule", RULES)
def test_triton_interpreted(rule):
    q, k, spec = make(rule, *SHAPES["130" if rule in ("full", "causal") else "63"])
    for rows, keys in list(rectangles(q.shape[2]))[2:]:
        assert_rectangle(q, k, spec, rows, keys, "triton")


@BOTH
@pytest.mark.parametrize("shape", ["one-token", "100"])
def test_awkward_shapes(shape, implementation):
    q, k, spec = make("causal", *SHAPES[shape])
    assert_rectangle(q, k, spec, range(q.shape[2]), range(q.shape[2]), implementation)


@BOTH
@pytest.mark.parametrize("rule", ["window", "alibi", "distance-bias", "prefix", "chunk", "sink", "documents"])
def test_rows_of_a_later_part_of_the_text(rule, implementation):
    q, k, spec = make(rule, 2, 4, 2, 97, 32)
    spec = replace(spec, offset=60)
    assert_rectangle(q[:, :, 60:], k, spec, range(5, 37, 2), range(40, 97), implementation)


@BOTH
def test_a_chosen_head_leaves_the_others_unread(implementation):
    q, k, spec = make("alibi", 2, 6, 3, 50, 16)
    expected = tile(q, k, spec, None, range(50), range(50), "score", implementation=implementation)
    q[:, [0, 2, 3, 4]] = torch.nan
    k[:, 1] = torch.nan
    got = tile(q, k, spec, None, range(50), range(50), "score", [5, 1], implementation)
    assert torch.equal(got, expected[:, [5, 1]])


@BOTH
@pytest.mark.parametrize("heads", [[3], [3, 0, 1]])
def test_chosen_heads_have_their_own_rules(heads, implementation):
    for rule in ("alibi", "distance-bias", "sink"):
        q, k, spec = make(rule, 2, 4, 2, 40, 16)
        assert_rectangle(q, k, spec, range(40), range(40), implementation, heads)


@BOTH
def test_rows_that_see_nothing(implementation):
    q, k, _ = make("full", 1, 2, 2, 20, 16)
    spec = ScoreSpec(scale=0.25, causal=True, key_valid=torch.arange(20)[None] >= 6)
    assert_rectangle(q, k, spec, range(20), range(20), implementation)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    assert torch.equal(
        tile(q, k, spec, lse, range(6), range(20), implementation=implementation), torch.zeros(1, 2, 6, 20)
    )
    assert (tile(q, k, spec, None, range(6), range(20), "score", None, implementation) == -torch.inf).all()


@BOTH
def test_equal_keys_give_the_uniform_map(implementation):
    q, k = torch.randn(1, 2, 50, 16), torch.ones(1, 1, 50, 16)
    spec = ScoreSpec(scale=0.25, causal=True)
    got = tile(
        q,
        k,
        spec,
        row_stats(q, k, spec, ("lse",))["lse"],
        range(50),
        range(50),
        implementation=implementation,
    )
    uniform = torch.ones(50, 50).tril() / torch.arange(1, 51)[:, None]
    assert torch.allclose(got, uniform.expand(1, 2, 50, 50), rtol=3e-6, atol=0)
    assert torch.equal(got == 0, (uniform == 0).expand_as(got))


@BOTH
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits(size, implementation):
    """One key at ±1e4, all others at 0: the answer is 1 and 0, or 0 and 1/(n - 1)."""
    n = 40
    q, k = torch.ones(1, 1, n, 16), torch.zeros(1, 1, n, 16)
    k[:, :, 7] = size / 16
    spec = ScoreSpec(scale=1.0)
    got = tile(
        q, k, spec, row_stats(q, k, spec, ("lse",))["lse"], range(n), range(n), implementation=implementation
    )
    row = torch.zeros(n) if size > 0 else torch.full((n,), 1 / (n - 1))
    row[7] = 1.0 if size > 0 else 0.0
    assert torch.allclose(got, row.expand(1, 1, n, n), rtol=3e-6, atol=1e-38)


def test_float64_input_is_exact_in_float64():
    q, k, spec = make("gemma", 2, 4, 2, 60, 24, torch.float64)
    lse = attention(q, k, spec)[1]
    got = tile(q, k, spec, lse, range(60), range(60))
    assert got.dtype == torch.float64
    truth = attention(q, k, spec)[0].masked_fill(~spec.query_valid[:, None, :, None], torch.nan)
    assert worst(got, truth) < 1e-14


@given(rule=st.sampled_from(sorted(RULES)), n=st.integers(2, 60), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_rectangle_is_a_part_of_the_whole(rule, n, seed, data):
    q, k, spec = make(rule, 2, 4, 2, n, 20, seed=seed)
    lse = row_stats(q, k, spec, ("lse",))["lse"]
    whole = tile(q, k, spec, lse, range(n), range(n))
    part = st.builds(range, st.integers(0, n - 1), st.just(n), st.integers(1, n))
    rows, keys = data.draw(part), data.draw(part)
    got = tile(q, k, spec, lse, rows, keys)
    expected = whole[:, :, list(rows)][..., list(keys)]
    assert torch.allclose(got, expected, atol=2e-6, rtol=2e-5, equal_nan=True)


def test_memory_is_that_of_the_rectangle():
    n = 30_000
    q, k = torch.randn(1, 2, n, 16), torch.randn(1, 1, n, 16)
    lse = torch.zeros(1, 2, n)
    with Largest() as seen:
        tile(q, k, ScoreSpec(scale=0.25, causal=True), lse, range(n - 64, n), range(5_000, 5_064), heads=[1])
        tile(q, k, ScoreSpec(scale=0.25, causal=True, window=n), lse, range(0, n, 600), range(0, n, 600))
    assert seen.elements <= CHUNK_SCORES["cpu"]


def test_refusals():
    q, k, spec = make("causal", 2, 4, 2, 10, 16)
    lse = torch.zeros(2, 4, 10)
    for match, arguments in (
        (r"what: got 'logit', expected one of prob, score", {"what": "logit"}),
        (r"lse: got None, expected \(2, 4, 10\)", {"lse": None}),
        (r"lse: got shape \(2, 4, 9\)", {"lse": lse[..., :9]}),
        (r"rows: got range\(4, 11\), expected at least one number of a query row, each from 0 to 9", {"rows": range(4, 11)}),
        (r"rows: got range\(4, 4\)", {"rows": range(4, 4)}),
        (r"keys: got numbers from -1 to 3, .* a key, each from 0 to 9", {"keys": torch.tensor([3, -1])}),
        (r"keys: got torch.float32 \(2,\), expected a range or a vector", {"keys": torch.ones(2)}),
        (r"keys: got slice\(0, 3, None\)", {"keys": slice(0, 3)}),
        (r"heads: got \[4\], expected at least one number from 0 to 3", {"heads": [4]}),
        (r"heads: got \[\]", {"heads": []}),
        (r"implementation: got 'cuda'", {"implementation": "cuda"}),
    ):  # fmt: skip
        given_ = {"lse": lse, "rows": range(10), "keys": range(10)} | arguments
        with pytest.raises(ValueError, match=match):
            tile(q, k, spec, **given_)
    n = 40_000
    with pytest.raises(
        ValueError,
        match=r"got 40000 rows × 40000 keys of 1 heads and 1 samples = 1600000000 values, .* 268435456",
    ):
        tile(
            torch.ones(1, 1, n, 4), torch.ones(1, 1, n, 4), ScoreSpec(1.0), None, range(n), range(n), "score"
        )


def test_the_comparison_itself_can_fail(monkeypatch):
    q, k, spec = make("causal", *SHAPES["63"])
    monkeypatch.setattr("probe.kernels.tile.reference.compute_dtype", lambda x: torch.bfloat16)
    with pytest.raises(AssertionError):
        assert_rectangle(q, k, spec, range(63), range(63), "reference")
