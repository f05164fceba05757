"""ACT on SmolLM2: what is known of it comes out (specification of analyzers, ACT on a 135M model)."""

from pathlib import Path

import pytest
import torch

import probe
from probe import explainers as ex
from probe.models import catalog

pytestmark = [pytest.mark.real, pytest.mark.slow]
TEXT = (Path(__file__).resolve().parents[2] / "LICENSE").read_text(encoding="utf-8")
EVERY = {layer: range(9) for layer in range(2, 29)}
SOME = {3: [0, 4], 9: [2], 17: [1, 5, 8]}


@pytest.fixture(scope="module")
def smollm2():
    if not catalog.is_installed(catalog.find("smollm2")):
        pytest.skip("SmolLM2 is not installed: `probe models install smollm2`")
    return probe.load("smollm2", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def windows(smollm2):
    ids = smollm2.processor(TEXT, return_tensors="pt").input_ids[0]
    return ids[: 6 * 64].view(6, 64)


def loss(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def test_calibrating_every_head_hurts_and_half_of_what_is_freed_goes_to_the_first_token(smollm2, windows):
    plain = loss(smollm2.model, windows)
    with ex.act(smollm2, EVERY) as steering:
        changed = loss(smollm2.model, windows)
    report = steering.report()
    assert 0.02 < changed - plain < 0.6
    share = float(report["row_to_first"].sum() / report["row_freed"].sum())
    assert 0.35 < share < 0.7
    assert 1 < float(report["sinks"].mean()) < 8
    with ex.act(smollm2, EVERY, beta=1.0):
        assert loss(smollm2.model, windows) == plain


def test_generation_is_steered_and_frozen_sinks_are_those_of_one_pass(smollm2):
    model, steps = smollm2.model, 8
    prompt = smollm2.processor("The capital of France is the city of", return_tensors="pt")
    options = {
        "max_new_tokens": steps,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    with ex.act(smollm2, SOME, alpha=2.0, decoding="frozen") as steering:
        output = model.generate(**prompt, **options)
    logits = torch.stack(output.logits, 1)
    n, fed = prompt["input_ids"].shape[1], output.sequences[:, :-1]
    with torch.no_grad(), ex.act(smollm2, SOME, alpha=2.0, decoding="frozen", prompt=n) as whole:
        once = model(input_ids=fed).logits[:, n - 1 :]
    with torch.no_grad():
        parts, plain = model.generate(**prompt, **options), model(input_ids=fed).logits[:, n - 1 :]
    assert (whole.report()["sink"].values[..., :n] == steering.report()["sink"].values[..., :n]).all()
    assert float((plain - once).abs().max()) > 0.05, "it is steered"
    # decoding and one pass differ as they do without ACT: by rounding
    own = 64 * torch.finfo(torch.float32).eps * float(once.abs().max())
    assert float((logits - once).abs().max()) < own
    assert torch.equal(parts.sequences[:, :n], output.sequences[:, :n])
