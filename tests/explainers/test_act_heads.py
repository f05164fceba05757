"""Head search on a model in which one head is known to hurt: found exactly, tested honestly, resumable, its cost told."""

import functools
import json

import numpy as np
import pytest
import torch
from explainer_cases import same_state, snapshot
from planted_head import READER, SPOILER, lines, planted

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._act_heads.below import blocks_of
from probe.explainers._act_heads.build import candidates_of, split
from probe.explainers._act_heads.evidence import accuracy_change, evidence, loss_change, mcnemar, random_sets
from probe.explainers._act_heads.journal import Journal, Outcome
from probe.explainers._act_heads.search import slices
from probe.explainers._act_heads.trials import Trials, act_on

ITEMS = 48


@functools.cache
def model(spoiled=10.0):
    return planted(spoiled)


@functools.cache
def result(**parameters):
    return ex.act_heads(model(), lines(ITEMS), **parameters)


def document(found):
    return json.loads(found.attrs["calibration"])


def chosen(found):
    return [(int(layer), int(head)) for layer, head in np.argwhere(found["chosen"].values)]


@pytest.mark.parametrize("how", [{}, {"search": "full", "select": "beats", "metric": "accuracy"}])
def test_exactly_the_planted_head_is_found_and_proven(how):
    found = result(**how)
    assert chosen(found) == [SPOILER]
    assert found.attrs["unit"] == ("1" if how else "nat")
    assert found["gain"].values[SPOILER] > 0.25
    told = document(found)
    assert told["heads"] == {"2": [1]}
    held = told["held_out"]
    assert held["verdict"] == found.attrs["verdict"] == "gain"
    assert held["accuracy"]["after"] == 1
    assert held["accuracy"]["low"] > 0.2
    assert held["put_wrong"] == 0
    assert held["p"] < 0.01
    assert held["random_as_good"] == 0
    assert len(held["random_gain"]) == 20


def test_gains_are_those_of_a_slow_twin_that_steers_head_by_head():
    """One head after the other with the public functions: whole passes, no journal, no layers left out. To the bit."""
    found = result(search="full", layers="0-3")
    known, _ = split(ex.read_task(lines(ITEMS)), 0.5, 0)
    plain = ex.score_task(model(), known)["loss"].values
    for layer in range(4):
        for head in range(4):
            with ex.act(model(), [(layer, head)]):
                steered = ex.score_task(model(), known)["loss"].values
            assert found["gain"].values[layer, head] == (plain - steered).mean()
            assert found["items"].values[layer, head] == ITEMS // 2
    assert found["gain"].values[READER] < -0.1
    assert document(found)["cost"]["whole_passes_because"] == ""
    assert document(found)["cost"]["layers_computed"] < 0.8


def test_the_held_out_items_are_not_those_of_the_search():
    task = ex.read_task(lines(50))
    for seed in range(3):
        known, unseen = split(task, 0.3, seed)
        assert (len(known.items), len(unseen.items)) == (35, 15)
        assert {i.where for i in known.items} | {i.where for i in unseen.items} == {
            i.where for i in task.items
        }
    assert split(task, 0.3, 0) != split(task, 0.3, 1)
    assert split(task, 0.3, 1) == split(task, 0.3, 1)


def test_without_a_harmful_head_it_says_that_nothing_helps():
    found = ex.act_heads(model(0), lines(ITEMS), layers="0,2-3")
    assert chosen(found) == []
    assert found.attrs["verdict"] == "no heads"
    assert ex.verbalize(found).startswith("No gain: no head helped")
    with ex.act(model(0), **ex.calibration(found, model(0))):
        assert ex.score_task(model(0), lines(8)).identical(ex.score_task(model(0), lines(8)))


def test_answers_without_sense_are_no_gain_on_held_out_items():
    """Answers by coin: the search finds heads that help where it looks; the held-out items show that they do not."""
    draw = np.random.default_rng(5)
    coined = [line | {"answer": int(draw.integers(2))} for line in lines(ITEMS)]
    found = ex.act_heads(model(), coined, layers="0-3")
    assert chosen(found)
    told = document(found)
    assert told["calibration_gain"] > 0
    assert told["held_out"]["verdict"] in ("not shown", "harm")
    assert not ex.verbalize(found).startswith("Gain")


def test_a_head_that_answers_rest_on_is_harm_to_calibrate():
    every = [(layer, head) for layer in range(4) for head in range(4)]
    clean = Trials(
        model(0),
        {"held-out": ex.read_task(lines(32))},
        act_on(model(0), {"beta": 0.0, "alpha": 3.0}),
        Journal(None, ""),
        {},
    )
    held = evidence(clean, (READER,), every, "held-out", "loss", 20, 0)
    assert held["verdict"] == "harm"
    assert held["loss"]["gain"] < 0


def test_a_search_that_was_killed_goes_on_to_the_same_result(tmp_path):
    journal, stop = tmp_path / "heads.journal", 5

    def killer(done, _expected, _name):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ex.act_heads(model(), lines(ITEMS), killer, journal)
    with journal.open("a") as file:
        file.write('{"heads": [[2, 0')  # killed while writing
    steps = []
    again = ex.act_heads(model(), lines(ITEMS), lambda *step: steps.append(step), journal)
    assert not journal.exists()
    whole, resumed = document(result()), document(again)
    assert resumed["cost"]["trials_from_journal"] == stop
    assert resumed["cost"]["trials"] == len(steps) == whole["cost"]["trials"] - stop
    for differs in ("cost", "created"):
        whole.pop(differs)
        resumed.pop(differs)
    assert resumed == whole
    np.testing.assert_array_equal(again["gain"].values, result()["gain"].values)


def test_a_journal_of_another_search_is_refused(tmp_path):
    journal = tmp_path / "j"
    Journal(journal, "one").put(((0, 1),), "a", Outcome(np.array([0.1, 1 / 3]), np.array([True, False])))
    kept = Journal(journal, "one").get(((0, 1),), "a")
    np.testing.assert_array_equal(kept.loss, [0.1, 1 / 3])
    np.testing.assert_array_equal(kept.correct, [True, False])
    with pytest.raises(
        InputError, match="is the journal of a search with another model, task or other settings"
    ):
        Journal(journal, "two")
    with pytest.raises(InputError, match="another model, task"):
        ex.act_heads(model(), lines(ITEMS), None, journal)
    for foreign in ("something else\n", "no line", "[]\n"):
        journal.write_text(foreign)
        with pytest.raises(InputError, match="is no journal of a head search"):
            Journal(journal, "one")
        assert journal.read_text() == foreign
    journal.write_text('{"sear')  # killed while its first line was written
    assert Journal(journal, "one").replayed == 0


def test_answers_of_several_tokens_take_whole_passes_and_find_the_same_head():
    longer = [line | {"choices": [" yes w0", " no w0"]} for line in lines(ITEMS)]
    found = ex.act_heads(model(), longer)
    assert chosen(found) == [SPOILER]
    cost = document(found)["cost"]
    assert cost["whole_passes_because"] == "answers of several tokens need the cache of all layers"
    assert cost["layers_computed"] == 1


def test_layers_are_left_out_only_where_that_is_exact():
    """A model whose last layer reads what the first one gave: starting in the middle would lose it."""
    subject = planted()
    layers, kept = subject.model.model.layers, []
    layers[0].register_forward_hook(lambda _m, _i, output: kept.append(output))
    layers[3].register_forward_hook(lambda _m, _i, output: output + 0.1 * kept[-1])
    found = ex.act_heads(subject, lines(ITEMS), layers="2")
    cost = document(found)["cost"]
    assert (
        cost["whole_passes_because"]
        == "a pass from layer 2 on did not give the model's own scores bit by bit"
    )
    assert cost["layers_computed"] == 1
    assert chosen(found) == [SPOILER]


def test_the_model_is_as_before_after_success_interrupt_and_failure():
    subject = planted()
    before = snapshot(subject.model)
    ex.act_heads(subject, lines(20), layers="2")
    assert same_state(before, snapshot(subject.model))

    def stop(done, *_):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ex.act_heads(subject, lines(20), stop, layers="2")
    assert same_state(before, snapshot(subject.model))
    calls = []

    def breaks(*_):
        calls.append(0)
        if len(calls) == 10:
            raise ZeroDivisionError

    handle = subject.model.model.layers[3].register_forward_hook(breaks)
    with pytest.raises(ZeroDivisionError):
        ex.act_heads(subject, lines(20))
    handle.remove()
    assert same_state(before, snapshot(subject.model))


def test_blocks_are_the_members_of_one_list():
    inner = model().model
    names = [f"model.layers.{i}.self_attn" for i in range(4)]
    assert blocks_of(inner, names) == list(inner.model.layers)
    assert blocks_of(inner, names[:3]) is None, "a list with more members than there are layers"
    assert blocks_of(inner, ["lm_head"]) is None
    assert blocks_of(inner, [names[0]] * 4) is None


def test_halving_gives_more_items_to_fewer_heads():
    assert slices(100, "full") == [(0, 100)]
    assert slices(100, "halving") == [(0, 11), (11, 33), (33, 100)]
    assert slices(30, "halving") == [(0, 10), (10, 30)]
    assert slices(20, "halving") == [(0, 20)]
    found = result(layers="0-3")
    tried = found["items"].values
    assert sorted(np.unique(tried, return_counts=True)[1]) == [8, 8]
    assert set(np.unique(tried)) == {8, 24}
    assert tried[SPOILER] == 24
    assert document(found)["cost"]["search_passes"] < document(found)["cost"]["passes_one_by_one"]


def test_layers_to_search():
    layout = dict.fromkeys(range(5), ("m", 2))
    assert candidates_of(layout, None) == [(layer, head) for layer in (2, 3, 4) for head in (0, 1)]
    assert candidates_of({0: ("m", 1), 1: ("m", 1)}, None) == [(0, 0), (1, 0)]
    assert candidates_of(layout, "4, 0-1,1") == [(layer, head) for layer in (0, 1, 4) for head in (0, 1)]
    for wrong, message in (
        ("5", "expected some of 0 to 4"),
        ("3-1", "got '3-1'"),
        ("x", "got 'x'"),
        ("1-", "got '1-'"),
    ):
        with pytest.raises(InputError, match=message):
            candidates_of(layout, wrong)


def test_a_task_too_small_to_search_and_test_is_refused():
    with pytest.raises(
        InputError, match=r"the task: 15 items with held_out=0\.5 make 7 to search on and 8 to test on"
    ):
        ex.act_heads(model(), lines(15))


def outcome(correct, loss=None):
    correct = np.array(correct, dtype=bool)
    return Outcome(np.zeros(len(correct)) if loss is None else np.asarray(loss, dtype=float), correct)


def test_paired_statistics_have_their_published_values():
    """Agresti and Min 2005: with b, c discordant of n, (c* − b*)/n* ± z·sqrt(b* + c* − (c* − b*)²/n*)/n*, 1/2 in each cell."""
    plain = outcome([1] * 60 + [0] * 40)
    steered = outcome([1] * 57 + [0] * 3 + [1] * 12 + [0] * 28)
    change = accuracy_change(plain, steered)
    half = 1.959964 * np.sqrt(12.5 + 3.5 - 81 / 102) / 102
    assert change["gain"] == pytest.approx(0.09)
    assert (change["low"], change["high"]) == (pytest.approx(9 / 102 - half), pytest.approx(9 / 102 + half))
    assert mcnemar(12, 3) == pytest.approx(2 * sum([1, 15, 105, 455]) / 2**15)
    assert mcnemar(0, 0) == 1
    same = accuracy_change(plain, plain)
    assert same["low"] < 0 < same["high"], "no answer changed: that is no proof that none ever would"


def test_the_interval_of_the_loss_covers_as_often_as_it_says():
    draw = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        fell = draw.normal(0.1, 1, 80)
        change = loss_change(outcome([1] * 80, fell), outcome([1] * 80), trial)
        hits += change["low"] <= 0.1 <= change["high"]
        assert change["gain"] == pytest.approx(fell.mean())
    assert 52 <= hits <= 60
    still = loss_change(outcome([1, 0], [1, 1]), outcome([1, 0], [1, 1]), 0)
    assert (still["low"], still["gain"], still["high"]) == (0, 0, 0)


def test_random_sets_are_of_the_same_size_and_not_the_chosen_one():
    every = [(layer, head) for layer in range(3) for head in range(2)]
    sets = random_sets(every, ((0, 0), (2, 1)), 30, 0)
    assert len(sets) == 30
    assert all(len(set(one)) == 2 and set(one) <= set(every) for one in sets)
    assert ((0, 0), (2, 1)) not in sets
    assert sets == random_sets(every, ((0, 0), (2, 1)), 30, 0) != random_sets(every, ((0, 0), (2, 1)), 30, 1)
    assert random_sets(every, (), 30, 0) == []
    assert random_sets(every, tuple(every), 30, 0) == []


def test_words_say_what_the_figures_say():
    found = result()
    text, held = ex.verbalize(found), document(found)["held_out"]
    assert text.startswith("Gain: calibrating this head improves the loss on 24 held-out items.")
    assert f"Accuracy on them goes from {100 * held['accuracy']['before']:.1f}% to 100.0%" in text
    assert "Of 20 sets of 1 random head, none do as well" in text
    assert (
        "Of 8 heads tried, 1 was chosen (layer 2 head 1); their later sinks keep 0.4 of their weight." in text
    )
    assert "The best head alone is layer 2, head 1" in text


def test_a_calibration_is_kept_read_and_refused_by_another_model(tmp_path):
    path = ex.write_calibration(result(), tmp_path / "heads.json")
    assert [p.name for p in tmp_path.iterdir()] == ["heads.json"]
    assert ex.read_calibration(path) == document(result())
    arguments = ex.calibration(path, model())
    assert arguments == {
        "heads": {2: [1]},
        "beta": 0.4,
        "alpha": 5.0,
        "threshold": "relative",
        "min_queries": 1,
        "protect_first": True,
        "targets": "all",
    }
    assert ex.calibration(result(), model().model) == arguments
    with ex.act(model(), **arguments):
        assert ex.score_task(model(), lines(20, seed=9)).attrs["accuracy"] == 1
    other = planted()
    other.revision = "1"
    with pytest.raises(
        InputError, match=r"heads\.json: was made for tiny \(revision 0\), got tiny \(revision 1\)"
    ):
        ex.calibration(path, other)
    with pytest.raises(
        InputError, match=r"was made for tiny \(class LlamaForCausalLM\), got Linear \(class Linear\)"
    ):
        ex.calibration(path, torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema is 2, expected 1"),
        ({"heads": [[1, 2]]}, "heads is missing or no dict"),
        ({"heads": {"x": [1]}}, "heads: got 'x'"),
        ({"heads": {"1": [True]}}, "expected a layer and its heads"),
        ({"settings": {"beta": 0.4}}, "settings lack alpha, threshold"),
        ({"held_out": None}, "held_out is missing or no dict"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path, change, message):
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(document(result()) | change))
    with pytest.raises(InputError, match=message):
        ex.calibration(path, model())
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        ex.read_calibration(path)
    with pytest.raises(InputError, match="no such file"):
        ex.read_calibration(tmp_path / "absent.json")
    with pytest.raises(InputError, match="got dict, expected the result of act_heads or a file"):
        ex.calibration({}, model())
