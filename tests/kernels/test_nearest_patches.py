"""The nearest patches: against every pair in float64, in both implementations, where patches are equal too."""

import pytest
import torch
from fresh_memory import Largest, poison
from patch_truth import assert_nearest, distances, nearest, patches

from probe.kernels.nearest_patches import nearest_patches, reference

BOTH = pytest.mark.parametrize("implementation", ["reference", pytest.param("triton", id="interpreter")])


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    poison(monkeypatch)


def run(case, count, falloff=3.0, implementation="auto"):
    *values, own = case
    return nearest_patches(*values, count=count, falloff=falloff, own=own, implementation=implementation)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (63, 49), (100, 147), (1000, 9)])
def test_plain_torch(count, size):
    case = patches(count, size)
    assert_nearest(run(case, 16), *case, 16)


@pytest.mark.parametrize(("count", "size", "kept"), [(1, 3, 4), (33, 9, 5), (17, 49, 64)])
def test_triton_interpreted(count, size, kept):
    case = patches(count, size, 2 * count + 21)
    assert_nearest(run(case, kept, implementation="triton"), *case, kept)


@BOTH
def test_equal_patches_are_at_distance_zero(implementation):
    """Here the product form of float32 is off by 5e-4."""
    case = patches(40, 27, 90, offset=0.3)
    got = run(case, 1, implementation=implementation)
    truth = nearest(*case, 1)
    assert (truth[:16, 0] == 0).all(), "the case has copies of patches"
    assert got[:16].abs().max() <= 1e-7


@BOTH
def test_what_all_patches_share_does_not_matter(implementation):
    case = patches(30, 9, 70, offset=1000.0)
    assert_nearest(run(case, 8, implementation=implementation), *case, 8)


@BOTH
@pytest.mark.parametrize("falloff", [0.0, 0.5, 30.0])
def test_the_place_counts_as_asked(falloff, implementation):
    case = patches(20, 9, 45)
    assert_nearest(run(case, 6, falloff, implementation), *case, 6, falloff)


@BOTH
def test_fewer_candidates_than_asked(implementation):
    case = patches(5, 4, 5)
    got = run(case, 7, implementation=implementation)
    assert_nearest(got, *case, 7)
    assert got[:, 4:].isinf().all(), "five candidates, one of them the patch itself"


@BOTH
def test_a_patch_is_its_own_neighbour_only_if_none_is_named(implementation):
    q, k, at, k_at, _ = patches(12, 9, 12)
    none = torch.full((12,), -1)
    free = nearest_patches(q, k, at, k_at, count=1, own=none, implementation=implementation)
    assert torch.equal(free, nearest_patches(q, k, at, k_at, count=1, implementation=implementation))
    assert (free <= 1e-7).all()
    assert (run((q, k, at, k_at, torch.arange(12)), 1, implementation=implementation) > 0.01).all()


def test_float64_is_the_oracle_itself():
    case = patches(40, 25, dtype=torch.float64)
    got = run(case, 9)
    assert got.dtype == torch.float64
    assert (got - nearest(*case, 9)).abs().max() <= 1e-7


def test_the_size_of_chunks_does_not_matter(monkeypatch):
    case = patches(150, 12)
    whole = run(case, 11)
    monkeypatch.setitem(reference.CHUNK_PAIRS, "cpu", 1)
    assert torch.allclose(run(case, 11), whole, rtol=1e-6, atol=1e-7)


def test_the_whole_matrix_is_never_formed(monkeypatch):
    case = patches(400, 9, 800)
    monkeypatch.setitem(reference.CHUNK_PAIRS, "cpu", 1 << 15)
    with Largest(*case) as seen:
        run(case, 8)
    assert seen.elements <= 2 * reference.CHUNK_PAIRS["cpu"] < 400 * 800


def test_refusals():
    q, k, at, k_at, own = patches(6, 4, 10)
    for arguments, message in (
        ((q, k[:, :3], at, k_at), r"patches \(6, 4\), candidates \(10, 3\)"),
        ((q, k, at[:5], k_at), "expected two coordinates for each patch"),
        ((q.half(), k, at, k_at), "patches: got torch.float16, expected float32"),
        ((q, k.double(), at, k_at), "candidates: got torch.float64"),
        ((q * float("nan"), k, at, k_at), "patches: NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest_patches(*arguments)
    for options, message in (
        ({"count": 0}, "count: got 0, expected 1 to 256"),
        ({"count": 257}, "count: got 257"),
        ({"falloff": -1.0}, "falloff: got -1.0"),
        ({"own": own[:3]}, r"own: got torch.int64 \(3,\)"),
        ({"implementation": "cuda"}, "implementation: got 'cuda'"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest_patches(q, k, at, k_at, **options)


def test_the_comparison_itself_can_fail():
    case = patches(20, 9)
    got = run(case, 5)
    got[3, 4] *= 1.0001
    with pytest.raises(AssertionError):
        assert_nearest(got, *case, 5)
    assert distances(*case, 3.0).shape == (20, 40)
