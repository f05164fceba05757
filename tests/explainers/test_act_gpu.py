"""ACT on a GPU: Triton's kernels inside a model give what plain torch gives on a CPU, without any map."""

import copy

import pytest
import torch
from act_cases import generated
from tiny_models import batch, tiny

from probe import explainers as ex

pytestmark = pytest.mark.gpu
HEADS = {0: [0, 3], 1: [1, 2]}
A = 1.5


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "mistral-window", "gpt-oss-sinks-window", "gemma2-softcap-window"]
)
@pytest.mark.parametrize("options", [{}, {"threshold": "corrected", "targets": "no_first", "min_queries": 4}])
def test_a_pass_is_that_of_the_reference_on_a_cpu(name, side, options):
    model = tiny(name, "eager" if name.startswith(("gpt-oss", "gemma2")) else "sdpa")
    ids, mask = batch([300, 170], 300, side)
    if name == "gpt2":
        ids, mask = batch([120, 70], 120, side)
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        plain = model(**inputs).logits
        with ex.act(model, HEADS, alpha=A, **options) as here:
            want = model(**inputs).logits
    there = copy.deepcopy(model).cuda()
    given = {key: x.cuda() for key, x in inputs.items()}
    with torch.no_grad():
        own = there(**given).logits.cpu()
        with ex.act(there, HEADS, alpha=A, **options) as steering:
            got = there(**given).logits.cpu()
    valid = mask.bool()
    differs = (here.report()["sink"].values != steering.report()["sink"].values).sum()
    assert differs == 0
    rounding = float((own - plain)[valid].abs().max())
    assert float((got - want)[valid].abs().max()) <= 4 * rounding + 1e-5
    assert float((got - own)[valid].abs().max()) > 0.05


@pytest.mark.parametrize("decoding", ["running", "frozen"])
def test_a_generation_is_that_of_the_reference_on_a_cpu(decoding):
    model = tiny("llama").double()
    ids, mask = batch([40, 25], 40, "left")
    with ex.act(model, HEADS, alpha=A, decoding=decoding):
        tokens, want = generated(model, {"input_ids": ids, "attention_mask": mask}, 12)
    there = copy.deepcopy(model).float().cuda()
    with ex.act(there, HEADS, alpha=A, decoding=decoding):
        same, got = generated(there, {"input_ids": ids.cuda(), "attention_mask": mask.cuda()}, 12)
    assert torch.equal(same.cpu(), tokens)
    assert float((got.cpu() - want).abs().max()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_beta_one_and_other_heads_keep_their_bits(dtype):
    model = tiny("llama", head_dim=64).to("cuda", dtype)
    ids = batch([512], 512)[0].cuda()
    seen = []
    hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda module, given: seen.append(given[0].unflatten(2, (4, -1)))
    )
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with ex.act(model, HEADS, alpha=A, beta=1.0):
            assert torch.equal(model(input_ids=ids).logits, plain)
        with ex.act(model, HEADS, alpha=A) as steering:
            model(input_ids=ids)
    hook.remove()
    assert torch.equal(seen[0][:, :, [1, 2]], seen[2][:, :, [1, 2]])
    assert not torch.equal(seen[0][:, :, [0, 3]], seen[2][:, :, [0, 3]])
    assert float(steering.report()["sinks"].max()) > 0


def test_no_map_is_formed():
    n = 16384
    model = tiny("llama", max_position_embeddings=n).to("cuda", torch.bfloat16)
    ids = torch.randint(3, 60, (1, n), device="cuda")
    peaks = []
    with torch.no_grad():
        for heads in ({}, HEADS):
            with ex.act(model, heads):
                model(input_ids=ids, logits_to_keep=1)
                torch.cuda.reset_peak_memory_stats()
                model(input_ids=ids, logits_to_keep=1)
            peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] - peaks[0] < n * n / 8
