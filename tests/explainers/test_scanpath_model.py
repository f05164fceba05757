"""OAT: its position code, its symmetries, what it can learn, and how it is decoded."""

import itertools
import math

import numpy as np
import pytest
import torch

from probe.errors import InputError
from probe.explainers._scanpath.decode import beam_paths, predict_paths, step_probabilities
from probe.explainers._scanpath.evaluate import fit_oat
from probe.explainers._scanpath.measures import sequence_score
from probe.gaze.scene import Scene, Trial, grid
from probe.zoo.oat.networks import OAT, Shape, batch_of, path_loss
from probe.zoo.oat.position import codes, gram, table
from probe.zoo.oat.simulate import LONGEST, Searcher, search, simulated_trial

TINY = Shape(features=3, width=24, heads=2, encoder=1, decoder=1, feedforward=32, cells=6, dropout=0.0)


def network(shape=TINY, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return OAT(shape).eval()


def scene(count=7, target=2, seed=0, features=3):
    draw = np.random.default_rng(seed)
    return Scene(
        draw.random((count, 2)),
        draw.uniform(0.05, 0.3, (count, 2)),
        draw.normal(size=(count, features)).astype(np.float32),
        target,
    )


@pytest.mark.parametrize(("cells", "sigma"), [(14, 2.0), (11, 2.0), (14, 2.5), (1, 1.0)])
def test_the_closed_form_has_the_gaussian_gram_matrix(cells, sigma):
    code = table(cells, sigma)
    np.testing.assert_allclose(code @ code.T, gram(cells, sigma), atol=1e-12)
    np.testing.assert_allclose(code, code.T, atol=1e-12)


def test_places_in_the_middle_of_cells_have_the_table_s_codes_and_others_lie_between():
    middle = (np.arange(14) + 0.5) / 14
    np.testing.assert_allclose(codes(middle, 14), table(14), atol=1e-7)
    between = codes([0.5, 0.55, 0.9], 14)
    want = np.exp(-((14 * np.array([0.05, 0.4])) ** 2) / 8)
    np.testing.assert_allclose(between[0] @ between[1:].T, want, atol=1e-3)
    with pytest.raises(InputError, match="outside the picture"):
        codes([1.01], 14)
    with pytest.raises(InputError, match="width above 0"):
        table(3, 0.0)


@pytest.mark.parametrize("tell_place", [False, True])
def test_objects_have_no_order(tell_place):
    model, one, path = network(), scene(), [3, 0, 2]
    order = np.random.default_rng(3).permutation(7)
    new = np.argsort(order)  # where each old object went
    before = step_probabilities(model, one, path, tell_place=tell_place)
    after = step_probabilities(model, one.permuted(order), new[path].tolist(), tell_place=tell_place)
    np.testing.assert_allclose(after[:, [*new, 7]], before, atol=1e-6)
    assert np.abs(after[:, :7] - before[:, :7]).max() > 1e-4  # and it can tell them apart


def test_padding_and_what_comes_later_change_nothing():
    model, small, large = network(), scene(4, 1, 1), scene(9, None, 2)
    batch = batch_of([small, large], TINY, tell_place=False)
    paths = torch.tensor([[1, 3, 0], [8, 5, 5]])
    with torch.no_grad():
        both = model(batch, paths)
        alone = model(batch_of([small], TINY, tell_place=False), paths[:1, :2])
    torch.testing.assert_close(both[0, :3, :5], alone[0], atol=1e-5, rtol=0)
    assert torch.isinf(both[0, :, 5:]).all()
    assert torch.isinf(both[:, 0][torch.arange(2), batch.last]).all()  # no path ends before it began
    assert torch.isfinite(both[1, 1:]).all()


def test_the_place_of_the_target_is_told_only_when_asked():
    model, here = network(), scene(target=2)
    there = Scene(here.places.copy(), here.sizes, here.features, 2)
    moved = batch_of([here], TINY, tell_place=False)
    told = batch_of([here], TINY, tell_place=True)
    assert not moved.position[0, 7, : -TINY.cells].any()
    np.testing.assert_allclose(
        told.position[0, 7, : -TINY.cells], codes(there.places[2], 6).ravel(), atol=1e-6
    )
    blind, given = (step_probabilities(model, here, [0], tell_place=t) for t in (False, True))
    assert np.abs(blind - given).max() > 1e-5


def test_the_loss_is_that_of_the_probabilities_by_hand():
    model, one, path = network(), scene(), [3, 2]
    chances = step_probabilities(model, one, path)
    batch = batch_of([one], TINY, tell_place=False)
    ended = -np.log([chances[0, 3], chances[1, 2], chances[2, 7]])
    with torch.no_grad():
        assert float(path_loss(model, batch, [path], [True])) == pytest.approx(ended.mean(), rel=1e-5)
        assert float(path_loss(model, batch, [path], [False])) == pytest.approx(ended[:2].mean(), rel=1e-5)


def test_decoding_greedy_sampled_and_beam_against_every_path():
    model, one = network(seed=4), scene(3, 1, 5)
    greedy = predict_paths(model, [one, scene()], longest=5)
    assert all(1 <= len(p) <= 5 for p in greedy)
    chances = step_probabilities(model, one, greedy[0])
    assert [int(np.argmax(row)) for row in chances[: len(greedy[0])]] == greedy[0]
    assert predict_paths(model, [one] * 3, sample=True, seed=1) == predict_paths(
        model, [one] * 3, sample=True, seed=1
    )
    every = []
    for length in (1, 2, 3):
        for path in itertools.product(range(3), repeat=length):
            rows = step_probabilities(model, one, path)
            total = sum(math.log(rows[n, stop]) for n, stop in enumerate(path))
            every.append((list(path), (total + math.log(rows[-1, 3])) / (length + 1)))
            if length == 3:
                every.append((list(path), total / 3))
    best = max(every, key=lambda entry: entry[1])
    wide = beam_paths(model, one, width=200, longest=3)
    assert wide[0][0] == best[0]
    assert wide[0][1] == pytest.approx(best[1], abs=1e-5)
    with pytest.raises(InputError, match="width 0"):
        beam_paths(model, one, width=0)


def test_drawn_first_steps_have_the_probabilities_of_the_network():
    model, one = network(seed=4), scene(3, 1, 5)
    chances = step_probabilities(model, one, [])[0]
    drawn = (
        np.bincount([p[0] for p in predict_paths(model, [one] * 4000, sample=True, longest=1)], minlength=3)
        / 4000
    )
    assert np.abs(drawn - chances[:3]).max() < 4 * 0.5 / math.sqrt(4000)  # four standard errors at most
    assert chances[3] == 0


def test_decoding_leaves_the_network_in_its_mode():
    model = network().train()
    predict_paths(model, [scene()], longest=2)
    assert model.training
    with pytest.raises(InputError, match="features"):
        predict_paths(model, [scene(features=2)])
    assert model.training


@pytest.mark.slow
def test_people_who_scan_row_by_row_and_stop_at_the_target_are_copied():
    trials = [Trial(grid(3, 4, target=t), tuple(range(t + 1))) for t in range(12)]
    shape = Shape(features=0, width=48, heads=4, encoder=1, decoder=1, feedforward=64, dropout=0.0)
    model = fit_oat(trials * 16, shape, tell_place=True, epochs=30, seed=0)
    paths = predict_paths(model, [t.scene for t in trials], tell_place=True)
    assert np.mean([sequence_score(p, t.path) for p, t in zip(paths, trials, strict=True)]) > 0.95
    assert all(p[-1] == t.scene.target for p, t in zip(paths, trials, strict=True))
    untrained = predict_paths(OAT(shape), [t.scene for t in trials], tell_place=True, sample=True)
    assert np.mean([sequence_score(p, t.path) for p, t in zip(untrained, trials, strict=True)]) < 0.5


def test_the_simulated_searcher_is_drawn_by_what_looks_like_the_target():
    draw, found = np.random.default_rng(0), {0.0: [], 400.0: []}
    for blur, when in found.items():
        for seed in range(60):
            one = scene(24, int(draw.integers(24)), seed, features=12)
            path = search(one, np.random.default_rng(seed), Searcher(blur=blur))
            when.append(path.index(one.target) if one.target in path else LONGEST)
            assert 1 <= len(path) <= LONGEST
    assert (
        np.mean(found[0.0]) < 2 < np.mean(found[400.0])
    )  # sharp sight finds it at once, a blurred one must search
    trials = [simulated_trial(np.random.default_rng(n)) for n in range(100)]
    assert 0 < sum(t.scene.target is None for t in trials) < 25
    again = simulated_trial(np.random.default_rng(7))
    assert again.path == trials[7].path
