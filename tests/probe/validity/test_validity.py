"""The validity report finds what is planted, and does not cry wolf."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny

import probe
from probe import _recorder
from probe.taps.rules import derive as rules
from probe.validity import Check, Report, parity
from probe.validity.report import entropy_bounds

STATISTICS = ("entropy", "received", "max_prob", "key_mass", "second_moment", "distance")


def captured(model, inputs, **options):
    """A record whose warnings are caught, the names of the checks that failed, and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tree = probe.capture(model, inputs, stats=STATISTICS, **options)
    report = tree.validity.to_dataset()
    failed = set(report["name"].values[~report["passed"].values].tolist())
    return report, failed, [str(w.message) for w in said if w.category is UserWarning]


@pytest.fixture
def inputs():
    ids, mask = batch([20, 14], 20)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def long():
    ids, _ = batch([300], 300)
    return {"input_ids": ids}


def test_a_sound_record_passes_without_a_word(inputs):
    report, failed, said = captured(tiny("llama"), inputs)
    assert report.attrs["passed"]
    assert (failed, said) == (set(), [])
    assert report["name"].values.tolist() == 2 * [
        "padding", "column sums", "entropy bounds", "eager parity", "output",
    ]  # fmt: skip


def test_long_inputs_are_checked_at_their_end_too(long):
    report, failed, _ = captured(tiny("llama", max_position_embeddings=512), long)
    assert failed == set()
    assert (report["name"].values == "last rows").sum() == 2


def plant_rule(monkeypatch, **wrong):
    """Derive a wrong rule, and skip its proof against the mask."""
    derive = rules.Rules.derive
    monkeypatch.setattr(
        rules.Rules, "derive", lambda self, *a, **k: dataclasses.replace(derive(self, *a, **k), **wrong)
    )


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"causal": False}, {"eager parity"}),
        ({"window": 15}, {"eager parity"}),
        ({"scale": 0.36}, {"eager parity"}),
        ({"softcap": 30.0}, {"eager parity"}),
        ({"sink": torch.full((4,), -9.0)}, {"eager parity"}),
        ({"key_valid": None}, {"padding"}),
        ({"query_valid": None}, {"padding"}),
    ],
)
def test_a_wrong_rule_is_found(monkeypatch, inputs, backend, wrong, found):
    plant_rule(monkeypatch, **wrong)
    report, failed, said = captured(tiny("llama", backend), inputs)
    assert found <= failed
    assert not report.attrs["passed"]
    assert len(said) == 1
    assert "validity checks failed" in said[0]
    assert "\n" not in said[0]


def test_a_window_beyond_the_prefix_is_found_at_the_end(monkeypatch, long):
    plant_rule(monkeypatch, window=290)
    _, failed, _ = captured(tiny("llama", max_position_embeddings=512), long)
    assert failed == {"last rows"}


def test_a_dropped_window_is_found(monkeypatch, inputs):
    plant_rule(monkeypatch, window=None)
    _, failed, _ = captured(tiny("mistral-window"), inputs)
    assert "eager parity" in failed


def plant_call(monkeypatch, change):
    """Change what reaches the recorder, as a faulty tap would."""
    receive = _recorder.Recorder.receive
    monkeypatch.setattr(_recorder.Recorder, "receive", lambda self, call: receive(self, change(call)))


def test_heads_in_another_order_are_found_at_the_output(monkeypatch, inputs):
    plant_call(monkeypatch, lambda c: dataclasses.replace(c, q=c.q.flip(1), k=c.k.flip(1)))
    _, failed, _ = captured(tiny("llama"), inputs)
    assert failed == {"output"}


def test_heads_in_another_order_are_found_in_long_inputs(monkeypatch, long):
    plant_call(monkeypatch, lambda c: dataclasses.replace(c, q=c.q.flip(1), k=c.k.flip(1)))
    _, failed, _ = captured(tiny("bert", max_position_embeddings=512), long)
    assert failed == {"last rows"}


def plant_statistic(monkeypatch, change):
    plain = _recorder.map_statistics

    def planted(*arguments, **options):
        found = plain(*arguments, **options)
        change(found)
        return found

    monkeypatch.setattr(_recorder, "map_statistics", planted)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s["received"][0, 1, 3].add_(1e-3), {"column sums"}),
        (lambda s: s["entropy"][0, 1, 3].add_(1e-3), {"eager parity"}),
        (lambda s: s["entropy"][0, 1, 0].add_(1e-3), {"eager parity", "entropy bounds"}),
        (lambda s: s["entropy"][1, 2, 19].fill_(0), {"padding"}),
        (lambda s: s["entropy"][1, 2, 5].fill_(torch.nan), {"padding", "eager parity"}),
        (lambda s: s["received"][1, 2, 15].fill_(0), {"padding"}),
        (lambda s: s["max_prob"][0, 0, 7].mul_(1.001), {"eager parity"}),
        (lambda s: s["second_moment"][0, 0, 7].mul_(1.001), {"eager parity"}),
        (lambda s: s["distance"][0, 3, 19].mul_(1.001), {"eager parity"}),
        (lambda s: s["key_mass"][0, 3, 19].mul_(1.001), {"eager parity"}),
    ],
)
def test_a_wrong_number_is_found(monkeypatch, inputs, change, found):
    plant_statistic(monkeypatch, change)
    _, failed, said = captured(tiny("llama"), inputs)
    assert failed == found
    assert len(said) == 1


def test_a_wrong_number_at_the_end_of_a_long_input_is_found(monkeypatch, long):
    plant_statistic(monkeypatch, lambda s: s["entropy"][0, 1, 299].add_(1e-3))
    _, failed, _ = captured(tiny("llama", max_position_embeddings=512), long)
    assert failed == {"last rows"}


def test_an_output_of_the_backend_that_is_wrong_is_found(monkeypatch, inputs):
    def spoil(call):
        output = call.output.clone()
        output[0, 5, 2, 3] += 1e-3
        return dataclasses.replace(call, output=output)

    plant_call(monkeypatch, spoil)
    _, failed, _ = captured(tiny("llama"), inputs)
    assert failed == {"output"}


def test_pieces_that_do_not_join_are_found(loaded_encoder):
    from probe.families.text import encode

    prepared = encode(["the film"], loaded_encoder.processor, None, torch.device("cpu"))
    report = Report()
    report.tokens(prepared)
    assert report.checks[0].passed
    prepared.tokens["text"].values[0, 1] = "tho"
    report.tokens(prepared)
    assert not report.checks[1].passed
    assert "in the tokens" in report.complaint()


def test_an_error_that_is_not_a_number_never_passes():
    assert not Check("x", 0, float("nan"), 1.0, "").passed


@pytest.mark.parametrize(("place", "value"), [(0, 0.1), (1, -0.1), (2, math.log(4) + 0.1)])
def test_entropy_is_bounded_on_both_sides(place, value):
    seen = np.array([[1, 2, 4]])
    entropy = np.log(seen)[:, None] * np.ones((1, 2, 1))
    assert entropy_bounds(0, False, 4, np.zeros((1, 2)), entropy, seen).passed
    entropy[0, 1, place] = value
    found = entropy_bounds(0, False, 4, np.zeros((1, 2)), entropy, seen)
    assert not found.passed
    assert found.worst == pytest.approx(0.1)


def test_an_empty_report_does_not_pass():
    assert not Report().dataset().attrs["passed"]


def test_tolerances_are_close_to_rounding():
    """The bounds stay small beside what is checked: a tolerance that admits everything proves nothing."""
    ids, _ = batch([128], 128)
    report, _, _ = captured(tiny("llama"), {"input_ids": ids})
    tolerance = {
        n: report["tolerance"].values[report["name"].values == n].max() for n in set(report["name"].values)
    }
    assert tolerance["eager parity"] < 2e-3
    assert tolerance["output"] < 2e-4
    assert tolerance["entropy bounds"] < 2e-3
    assert tolerance["column sums"] < 128 * 1e-4


def test_the_window_holds_the_first_valid_positions_of_each_sample(inputs):
    calls = []
    from probe.taps.hf import HFTap

    ids, mask = batch([150, 100], 150, "left")
    model = tiny("llama")
    with torch.no_grad(), HFTap(model, calls.append, valid=mask.bool()):
        model(input_ids=ids, attention_mask=mask)
    cut = parity.window(calls[0])
    assert cut.rows[:, 0].tolist() == [0, 50]
    assert torch.equal(cut.rows, cut.keys)
    assert cut.row_valid.sum(1).tolist() == [128, 100]
    assert cut.contained.sum(1).tolist() == [128, 100]
    assert torch.equal(cut.of_rows(calls[0].q)[1, :, 7], calls[0].q[1, :, 57])
    assert torch.equal(cut.visible[1, 0, :100, :100], torch.ones(100, 100).tril().bool())
    wide = parity.window(dataclasses.replace(calls[0], mask=mask[:, None, None].expand(2, 1, 150, 150) > 0))
    assert wide.contained.sum(1).tolist() == [0, 100]


def test_the_meaning_of_a_check_is_said(inputs):
    report, _, _ = captured(tiny("llama"), inputs)
    assert all(len(m) > 20 for m in report["meaning"].values.tolist())
    assert np.isfinite(report["tolerance"].values).all()
