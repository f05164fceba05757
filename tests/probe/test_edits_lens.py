"""ACT on TransformerLens bridges: what the transformers model gives under it, or a refusal by name."""

import warnings

import pytest
import torch
from tiny_models import batch, tiny

from probe import ModelError
from probe import explainers as ex
from probe.taps.lens import LensTap, bridge_of

HEADS = {0: [0, 3], 1: [1, 2]}
A = 1.5


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """No network and no telemetry; TransformerLens warns about itself when it is imported."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("HF_HUB_OFFLINE", "1")
        warnings.simplefilter("ignore")
        yield


def hooks(bridge):
    return [(dict(p._forward_hooks), dict(p._forward_pre_hooks)) for p in bridge.modules()]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2-softcap-window", "gpt-oss-sinks-window"])
def test_it_is_what_the_transformers_model_gives(name, side):
    model = tiny(name, "eager")
    ids, mask = batch([19, 12], 19, side)
    bridge, inputs = bridge_of(model), {"input_ids": ids, "attention_mask": mask}
    if name == "gpt2" and side == "left":
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)  # TransformerLens counts so by itself
    with torch.no_grad():
        bridge(ids, attention_mask=mask)  # also lets TransformerLens place what it places with the first run
    before = hooks(bridge)
    for options in ({"threshold": "relative"}, {"threshold": "corrected", "targets": "no_first"}):
        with torch.no_grad():
            plain = bridge(ids, attention_mask=mask)
            with ex.act(bridge, HEADS, alpha=A, **options) as steering:
                got = bridge(ids, attention_mask=mask)
            with ex.act(bridge, HEADS, alpha=A, beta=1.0, **options):
                assert torch.equal(bridge(ids, attention_mask=mask), plain)
            with ex.act(model, HEADS, alpha=A, **options) as own:
                want = model(**inputs).logits
        assert hooks(bridge) == before
        valid = mask.bool()
        torch.testing.assert_close(got[valid], want[valid], rtol=2e-4, atol=2e-5)
        assert float((plain - want)[valid].abs().max()) > 0.1
        here, there = steering.report(), own.report()
        assert (here["sink"].values == there["sink"].values).all()
        for name_of_row in ("row_freed", "row_to_first", "row_sinks"):
            assert float(abs(here[name_of_row] - there[name_of_row]).max()) < 1e-5
            assert (here[name_of_row].isnull() == there[name_of_row].isnull()).all()


def test_hooks_that_were_there_see_the_plain_pattern_and_later_ones_the_changed():
    bridge, ids = bridge_of(tiny("llama", "eager")), batch([25], 25)[0]
    seen = {}
    point = bridge.blocks[0].attn.hook_pattern

    def keep(name):
        return lambda _point, _given, value: seen.__setitem__(name, value)

    early = point.register_forward_hook(keep("early"))
    calls = []
    with torch.no_grad(), ex.act(bridge, {0: [1]}, alpha=A):
        late = point.register_forward_hook(keep("late"))
        with LensTap(bridge, calls.append):
            bridge(ids)
        late.remove()
    early.remove()
    assert torch.equal(seen["early"][:, [0, 2, 3]], seen["late"][:, [0, 2, 3]])
    assert not torch.equal(seen["early"][:, 1], seen["late"][:, 1])
    assert float((seen["late"].sum(-1) - 1).abs().max()) <= 5e-7
    assert torch.equal(calls[0].weights, seen["late"]), "a record holds the changed map, as it is"


def test_what_a_bridge_cannot_do_is_refused_by_name():
    import transformers
    from tiny_models import ENCODER

    bert = bridge_of(transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER)).eval())
    ids = batch([9], 9)[0]

    def under_act():
        with torch.no_grad(), ex.act(bert, {0: [0]}):
            bert(ids)

    with torch.no_grad():
        bert(ids)
    before = hooks(bert)
    with pytest.raises(ModelError, match="changing it changes nothing; steer the transformers model itself"):
        under_act()
    assert hooks(bert) == before
    bridge = bridge_of(tiny("llama", "eager"))
    with pytest.raises(ModelError, match="a gradient is asked for"), ex.act(bridge, {0: [0]}):
        bridge(ids)
    with pytest.raises(ModelError, match="its hook_pattern never fired"), ex.act(bridge, {0: [0]}):
        pass
