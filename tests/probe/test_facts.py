"""What stands for a capture when another run asks whether it may go on with it."""

import pytest
import torch

from probe._facts import fingerprint


def request(known=None, change=None, asked=("entropy",), **inputs):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    if change is not None:
        change(module)
    given = {"input_ids": torch.tensor([[1, 2, 3]]), "scale": torch.tensor(2.0), "note": "x"} | inputs
    return fingerprint({"model": "tiny", "created": "today"} | (known or {}), module, given, list(asked))


def test_the_same_capture_at_another_time_is_the_same():
    assert request() == request(known={"created": "tomorrow"})


def test_a_long_tensor_in_a_list_counts_with_all_its_values():
    long = torch.arange(5000.0)
    other = long.clone()
    other[2500] = 0
    assert repr(long) == repr(other)
    assert request(parts=[long]) != request(parts=[other])


def last_weight(module):
    with torch.no_grad():
        module.weight[-1, -1] += 1


@pytest.mark.parametrize(
    "other",
    [
        {"known": {"model": "another"}},
        {"asked": ("entropy", "received")},
        {"input_ids": torch.tensor([[1, 2, 4]])},
        {"input_ids": torch.tensor([[1], [2], [3]])},
        {"input_ids": torch.tensor([[1, 2, 3]], dtype=torch.int32)},
        {"attention_mask": torch.ones(1, 3)},
        {"scale": torch.tensor(3.0)},
        {"note": "y"},
        {"note": [torch.arange(5000.0), "x"]},
        {"change": last_weight},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_model_input_or_option_is_another_capture(other):
    assert request(**other) != request()
