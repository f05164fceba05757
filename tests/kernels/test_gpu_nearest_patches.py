"""The nearest patches on a CUDA device: awkward sizes, equal patches, the size of a 250-pixel picture."""

import pytest
import torch
from patch_truth import assert_nearest, patches

from probe.kernels.nearest_patches import nearest_patches

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("count", "size", "kept"), [(1, 1, 1), (63, 49, 64), (100, 147, 7), (1000, 49, 64), (300, 27, 256)]
)
def test_against_every_pair(count, size, kept):
    *values, own = case = patches(count, size, 2 * count + 21, device="cuda")
    got = nearest_patches(*values, count=kept, own=own, implementation="triton")
    assert_nearest(got, *case, kept)
    assert torch.equal(got, nearest_patches(*values, count=kept, own=own)), (
        "auto is Triton, and deterministic"
    )


def test_a_picture_of_250_pixels_agrees_with_plain_torch():
    *values, own = patches(6889, 147, 9000, device="cuda")
    got = nearest_patches(*values, own=own, implementation="triton")
    plain = nearest_patches(*values, own=own, implementation="reference")
    assert (got - plain).abs().max() <= 1e-6
