"""What a survey says in advance is what a capture then does, over every family; and what it says of the rest."""

import copy
import json
import warnings

import pytest
import torch
from tiny_cnns import Gated, seeded
from tiny_models import FAMILIES, MODELS, tiny
from torch import nn

from probe._survey import attempt, survey
from probe.errors import InputError
from probe.taps.eager import LIMIT

ALL = {**MODELS, **FAMILIES}
#: What is said of each family's rows in order of appearance: (tower, mechanism, rules, verdict).
SAID = {
    "llama": [("text", "interface", ("causal",), "exact")],
    "mistral-window": [("text", "interface", ("causal", "window 4"), "exact")],
    "gemma2-softcap-window": [
        ("text", "interface", ("causal", "window 4", "soft-cap 2"), "exact"),
        ("text", "interface", ("causal", "soft-cap 2"), "exact"),
    ],
    "gpt-oss-sinks-window": [
        ("text", "interface", ("causal", "window 4", "sinks"), "exact"),
        ("text", "interface", ("causal", "sinks"), "exact"),
    ],
    "llama4-chunks": [
        ("text", "interface", ("causal", "chunks of 5"), "exact"),
        ("text", "interface", ("causal",), "exact"),
    ],
    "bert": [("text", "interface", (), "exact")],
    "t5": [
        ("encoder", "interface", ("bias by distance",), "exact"),
        ("decoder", "interface", ("causal", "bias by distance"), "exact"),
        ("cross", "interface", ("cross",), "exact"),
    ],
    "bamba-hybrid": [("text", "no softmax", (), "no map"), ("text", "interface", ("causal",), "exact")],
    "qwen3-next-hybrid": [("text", "no softmax", (), "no map"), ("text", "interface", ("causal",), "exact")],
    "swin-windows": [("vision", "interface", ("learned bias of places",), "refused")],
    "siglip-vision": [("vision", "interface", (), "exact"), ("vision", "MultiheadAttention", (), "exact")],
    "llava": [("vision", "interface", (), "exact"), ("text", "interface", ("causal",), "exact")],
    "falcon": [("text", "sdpa", ("causal",), "exact")],
    "bloom": [("text", "written out", (), "slow")],
    "gptj": [("text", "interface", ("causal",), "exact")],
}


@pytest.mark.parametrize("family", SAID)
def test_what_is_said(family):
    found = survey(tiny(family, ALL[family][3][0]))
    said = [(row.tower, row.mechanism, row.rules, row.verdict) for row in found.rows]
    assert list(dict.fromkeys(said)) == SAID[family]
    assert found.towers == tuple(dict.fromkeys(t for t, _, _, v in said if v in ("exact", "slow")))
    json.dumps(found.as_dict())


@pytest.mark.parametrize("family", ALL)
def test_a_tiny_run_agrees_with_what_was_said(family):
    model = tiny(family, ALL[family][3][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said, tried = survey(model), attempt(model)
    assert tried.tried
    assert not said.tried
    for before, after in zip(said.rows, tried.rows, strict=True):
        if "bias" in "".join(before.rules) and before.mechanism == "sdpa":
            continue  # whether a bias of its own can be told apart is seen in the run only
        assert after.verdict == before.verdict, after
    reached = [row for row in tried.rows if row.verdict in ("exact", "slow") and "not reached" not in row.why]
    assert reached or not tried.towers


def test_a_survey_needs_no_weights_and_changes_nothing():
    model = tiny("gpt-oss-sinks-window", "eager")
    with torch.device("meta"):
        shell = type(model)._from_config(model.config)
    assert survey(shell).rows == survey(model).rows
    before = copy.deepcopy(model.state_dict())
    attempt(model)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())


def test_sinks_that_the_backend_leaves_out_are_refused_in_advance():
    model = tiny("gpt-oss-sinks-window", "eager")
    model.config._attn_implementation_internal = "sdpa"
    rows = survey(model).rows
    assert {row.verdict for row in rows} == {"refused"}
    assert "sinks" in rows[0].why


def test_the_slow_route_says_how_far_it_goes():
    model = tiny("bloom", "eager")
    (row, *_rest) = survey(model).rows
    tokens = int(row.why.split("up to ")[1].split(" ")[0].replace(",", ""))
    size = 2 * 4 * tokens**2 * 4  # layers, heads, bytes
    assert size <= LIMIT * 2**20 < size * (1 + 1 / tokens) ** 2


def test_lazy_masks_and_heads():
    assert survey(tiny("llama")).lazy_masks is True
    assert survey(tiny("gpt2")).lazy_masks is False
    assert survey(tiny("llama", "eager")).lazy_masks is False
    assert survey(seeded(Gated())).lazy_masks is None
    assert {row.heads for row in survey(tiny("llama")).rows} == {(4, 2)}


def test_compiled_offloaded_and_quantised_models(tmp_path):
    from accelerate import disk_offload

    model = tiny("llama")
    model.model.layers[1].compile(backend="eager")
    found = attempt(model)
    assert "model.layers.1: 1 of its modules are compiled" in found.refused
    assert not found.tried
    offloaded = attempt(disk_offload(tiny("llama"), str(tmp_path), execution_device="cpu"))
    assert len(offloaded.placement.offloaded) > 10
    assert offloaded.lazy_masks is False
    assert {row.verdict for row in offloaded.rows} == {"exact"}
    model = tiny("llama")
    model.config.quantization_config = {"quant_method": "gptq"}
    assert survey(model).quantisation == "gptq"


def test_a_model_of_ones_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.encoder = Sdpa(), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.encoder(self.attend(x))

    class Sdpa(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.qkv = 2, nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    model = seeded(Own())
    found = {row.module: (row.mechanism, row.verdict, row.heads) for row in survey(model).rows}
    assert found == {
        "attend": ("sdpa", "exact", (2, 2)),
        "encoder.self_attn": ("MultiheadAttention", "exact", (2, 2)),
    }
    with pytest.raises(InputError, match="what it takes cannot be told"):
        attempt(model)
    tried = attempt(model, {"x": torch.randn(1, 6, 8)})
    assert {row.module: (row.mechanism, row.verdict, row.heads) for row in tried.rows} == found
    assert not any("not reached" in row.why for row in tried.rows)


def test_what_nothing_hears_is_named():
    class GaussianAttention(nn.Module):
        def forward(self, x):
            return torch.exp(-torch.cdist(x, x)) @ x

    (row,) = survey(nn.Sequential(nn.Linear(4, 4), GaussianAttention()).eval()).rows
    assert (row.module, row.mechanism, row.verdict) == ("1", "unknown", "refused")


def test_a_module_that_fails_alone_is_named_alone():
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0] = torch.nan
    first, second = attempt(model).rows
    assert first.verdict == "exact"
    assert second.verdict == "refused"
    assert second.why.startswith("model.layers.1.self_attn: NaN")
