"""ABMIL and ACMIL against a restatement in plain tensors, step for step; batches, masks and losses with known answers."""

import math

import pytest
import torch
from torch.nn import functional as F

from probe.errors import InputError
from probe.explainers import mil


def bag(instances, width=12, seed=0):
    return torch.randn(instances, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def made(build=mil.ACMIL, **settings):
    torch.manual_seed(1)
    return build(12, hidden=8, gate=5, **settings)


def restated(model, x):
    """Steps 1 to 5 of the paper in float64, instance by instance where that is simple."""
    p = {name: value.double() for name, value in model.state_dict().items()}
    h = torch.relu(x.double() @ p["embed.0.weight"].T)
    v = torch.tanh(h @ p["tanh.weight"].T + p["tanh.bias"])
    u = torch.sigmoid(h @ p["gate.weight"].T + p["gate.bias"])
    branches = []
    for w, b in zip(p["score.weight"], p["score.bias"], strict=True):
        e = torch.stack([(w * v[n] * u[n]).sum() + b for n in range(len(x))]).exp()
        branches.append(e / e.sum())
    a = torch.stack(branches)
    z = torch.stack([sum(a[m, n] * h[n] for n in range(len(x))) for m in range(len(a))])
    heads = [
        p[f"heads.{m}.weight"] @ z[m] + p[f"heads.{m}.bias"]
        for m in range(len(a))
        if f"heads.{m}.weight" in p
    ]
    under_mean_map = a.mean(0) @ h
    return a.T, heads, p["bag_head.weight"] @ under_mean_map + p["bag_head.bias"]


@pytest.mark.parametrize("instances", [1, 7, 63])
@pytest.mark.parametrize("branches", [1, 3])
def test_forward_is_the_paper(instances, branches):
    model, x = made(branches=branches).eval(), bag(instances)
    attention, heads, logits = restated(model, x)
    got = model(x)
    torch.testing.assert_close(got.attention[0].double(), attention, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.branch_logits[:, 0].double(), torch.stack(heads), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.logits[0].double(), logits, rtol=1e-5, atol=1e-6)


def test_one_branch_without_masking_is_abmil_step_for_step():
    one, plain = made(branches=1, drop=0.0), made(mil.ABMIL)
    plain.load_state_dict({k: v for k, v in one.state_dict().items() if not k.startswith("heads")})
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (one, plain)]
    for step in range(5):
        x, y = bag(20, seed=step), torch.tensor([step % 2])
        for model, optimizer in zip((one, plain), optimizers, strict=True):
            loss, parts = mil.acmil_loss(model.train()(x), y)
            assert set(parts) == {"bag"}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, one.state_dict()[name]), name


def test_bags_behind_one_another_are_bags_one_by_one():
    model, sizes = made().eval(), [1, 40, 7]
    parts = [bag(n, seed=n) for n in sizes]
    whole = model(torch.cat(parts), torch.tensor([0, 1, 41]))
    for row, part in enumerate(parts):
        alone = model(part)
        torch.testing.assert_close(whole.logits[row], alone.logits[0])
        torch.testing.assert_close(whole.attention[row], alone.attention[0])
        torch.testing.assert_close(whole.branch_logits[:, row], alone.branch_logits[:, 0])


@pytest.mark.parametrize("offsets", [[1], [0, 0], [0, 5], [0, 3, 2], []])
def test_offsets_that_cut_no_bags_are_refused(offsets):
    with pytest.raises(InputError, match="offsets"):
        made()(bag(5), torch.tensor(offsets, dtype=torch.int64))


def test_order_of_instances_does_not_matter():
    model, x = made().eval(), bag(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(model(x[order]).logits, model(x).logits)
    torch.testing.assert_close(model(x[order]).attention[0], model(x).attention[0][order])


def test_a_bag_of_100_000_instances_and_bad_bags():
    model = made().eval()
    with torch.no_grad():
        got = model(bag(100_000))
    assert got.attention[0].shape == (100_000, 5)
    torch.testing.assert_close(
        got.attention[0].double().sum(0), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-4
    )
    for wrong in (bag(0), bag(4, width=11), bag(4)[None, None]):
        with pytest.raises(InputError, match="expected"):
            model(wrong)


@pytest.mark.parametrize(("top_k", "drop", "instances", "hidden"), [
    (10, 0.6, 50, 6), (10, 0.7, 50, 7), (100, 0.29, 200, 29), (10, 1.0, 50, 10), (10, 0.0, 50, 0),
    (10, 0.6, 5, 3), (10, 1.0, 5, 4), (10, 1.0, 1, 0),
])  # fmt: skip
def test_exact_reading_hides_a_fixed_count_of_the_strongest(top_k, drop, instances, hidden):
    scores = torch.randn(instances, 4, generator=torch.Generator().manual_seed(0))
    mask = mil.stkim(scores, top_k, drop, generator=torch.Generator().manual_seed(3))
    assert mask.sum(0).tolist() == [hidden] * 4
    strongest = scores.argsort(0, descending=True).argsort(0) < top_k
    assert not bool((mask & ~strongest).any())
    before, after = scores.softmax(0), scores.masked_fill(mask, float("-inf")).softmax(0)
    torch.testing.assert_close(after.sum(0), torch.ones(4))
    kept = (before * ~mask) / (before * ~mask).sum(0)
    torch.testing.assert_close(after, kept)
    assert torch.equal(mask, mil.stkim(scores, top_k, drop, generator=torch.Generator().manual_seed(3)))


def test_branches_hide_different_instances():
    scores = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(50, 8)
    mask = mil.stkim(scores, 10, 0.5, generator=torch.Generator().manual_seed(0))
    assert len({tuple(column.tolist()) for column in mask.T}) > 1


def test_independent_reading_hides_each_with_its_probability():
    scores = torch.randn(40, 2000, generator=torch.Generator().manual_seed(0))
    mask = mil.stkim(scores, 10, 0.6, reading="independent", generator=torch.Generator().manual_seed(1))
    counts = mask.sum(0).double()
    n = mask.shape[1]
    assert abs(float(counts.mean()) - 6) < 5 * math.sqrt(10 * 0.6 * 0.4 / n)
    assert abs(float(counts.var()) - 2.4) < 0.5, "the count itself varies: binomial, not fixed"
    strongest = scores.argsort(0, descending=True).argsort(0) < 10
    assert not bool((mask & ~strongest).any())


@pytest.mark.parametrize("reading", ["exact", "independent"])
@pytest.mark.parametrize("instances", [1, 2, 10])
def test_somebody_always_survives(reading, instances):
    scores = torch.randn(instances, 64, generator=torch.Generator().manual_seed(0))
    mask = mil.stkim(scores, 10, 1.0, reading=reading, generator=torch.Generator().manual_seed(0))
    assert (~mask).sum(0).tolist() == [1] * 64


def test_masking_is_for_training_alone():
    model, x = made(drop=1.0), bag(30)
    assert torch.equal(model.eval()(x).logits, model.eval()(x).logits)
    assert bool((model(x).attention[0] > 0).all())
    hidden = model.train()(x, generator=torch.Generator().manual_seed(0)).attention[0] == 0
    assert hidden.sum(0).tolist() == [10] * 5


def test_diversity_loss_of_equal_and_of_disjoint_branches():
    equal = torch.rand(20, 1).softmax(0).expand(20, 4)
    assert float(mil.diversity_loss(equal)) == pytest.approx(1, abs=1e-6)
    assert float(mil.diversity_loss(torch.eye(6))) == 0
    assert float(mil.diversity_loss(equal[:, :1])) == 0
    a = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).softmax(0)
    pairs = [F.cosine_similarity(a[:, i], a[:, j], dim=0) for i in range(3) for j in range(i + 1, 3)]
    assert float(mil.diversity_loss(a)) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-5)


def test_the_loss_is_the_sum_of_its_parts():
    model, x, y = made(branches=3, drop=0.0), torch.cat([bag(9), bag(4, seed=2)]), torch.tensor([0, 1])
    out = model(x, torch.tensor([0, 9]))
    loss, parts = mil.acmil_loss(out, y)
    assert set(parts) == {"bag", "branch", "diversity"}
    own = F.cross_entropy(out.logits, y)
    own = own + sum(F.cross_entropy(row, y) for row in out.branch_logits) / 3
    own = own + (mil.diversity_loss(out.attention[0]) + mil.diversity_loss(out.attention[1])) / 2
    torch.testing.assert_close(loss, own)


def test_methods_by_name_and_widths_as_released():
    assert mil.build("abmil", 512, branches=5).settings["branches"] == 1
    assert mil.build("stkim", 512).settings["branches"] == 1
    assert mil.build("mba", 512).settings["drop"] == 0
    assert [mil.build("acmil", w).settings["hidden"] for w in (512, 384, 768, 1024, 1536, 40)] == [
        256,
        128,
        384,
        512,
        768,
        32,
    ]
    for wrong in (
        lambda: mil.build("clam", 5),
        lambda: mil.ACMIL(5, drop=1.5),
        lambda: mil.ACMIL(5, branches=0),
    ):
        with pytest.raises(InputError):
            wrong()


def test_the_tap_reads_these_models():
    import probe

    model, x = made(branches=3).eval(), bag(15)
    record = probe.capture_mil(model, x, attention="score", features="embed")
    got = torch.from_numpy(record["mil/attention"].values[0]).T
    torch.testing.assert_close(got, model(x).attention[0].detach(), rtol=1e-6, atol=1e-7)
    assert record["mil/features"].shape == (1, 15, 8)
    assert record["output/logits"].shape == (1, 2)


def test_torchmil_agrees():
    """An oracle that shares no code: ABMIL of torchmil (Apache-2.0) with our weights, in float64."""
    models = pytest.importorskip("torchmil.models", reason="torchmil is not installed")
    ours = made(mil.ABMIL).eval()
    theirs = models.ABMIL((12,), att_dim=5, gated=True, feat_ext=ours.embed).double()
    ours.double()
    theirs.pool.fc1.module.load_state_dict(ours.tanh.state_dict())
    theirs.pool.fc_gated.module.load_state_dict(ours.gate.state_dict())
    with torch.no_grad():
        theirs.pool.fc2.weight.copy_(ours.score.weight)  # its missing bias moves all scores alike
        w, b = ours.bag_head.weight, ours.bag_head.bias
        theirs.classifier.module.weight.copy_(w[1:] - w[:1])
        theirs.classifier.module.bias.copy_(b[1:] - b[:1])
        for instances in (1, 30, 500):
            x = bag(instances, seed=instances).double()
            logit, scores = theirs(x[None], return_att=True)
            got = ours(x)
            torch.testing.assert_close(got.logits[0, 1] - got.logits[0, 0], logit[0])
            torch.testing.assert_close(got.attention[0][:, 0], scores[0].flatten().softmax(0))
