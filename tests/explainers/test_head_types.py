"""Head types against planted heads and a count over whole maps; what a repeated sequence shows of a real model."""

import numpy as np
import pytest
import torch
from explainer_cases import language_model
from layer_cases import layer, maps, record

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers._head_types import pairs

WORDS = [
    "the",
    "cat",
    ",",
    "saw",
    "the",
    "dog",
    ".",
    "the",
    "cat",
    "ran",
    ",",
    "and",
    "the",
    "dog",
    "ran",
    ".",
]
IDS = [[sorted(set(WORDS)).index(w) for w in WORDS]]
N = len(WORDS)
MARKS = {",", "."}
KINDS = ("previous_token", "induction", "duplicate_token", "separator", "first_token", "local", "offset")


def looks_at(kind, i, j, causal=True, window=4):
    """Whether key j is of the kind for query i, token by token from the definition."""
    if causal and j > i:
        return False
    return {
        "previous_token": j == i - 1,
        "first_token": j == 0,
        "local": abs(i - j) < window,
        "separator": j > 0 and WORDS[j] in MARKS,
        "duplicate_token": j != i and WORDS[j] == WORDS[i],
        "induction": j != i and j >= 1 and j - 1 != i and WORDS[j - 1] == WORDS[i],
        "offset": j == i - 3,
    }[kind]


def slow(matrix, kind, causal=True):
    """Mean mass over the rows that see such a key and another one, and the mean of an even row."""
    mass, chance = [], []
    for i in range(N):
        seen = [j for j in range(N) if j <= i or not causal]
        keys = [j for j in seen if looks_at(kind, i, j, causal)]
        if len(seen) > 1 and keys:
            mass.append(sum(matrix[i, j] for j in keys))
            chance.append(len(keys) / len(seen))
    return np.mean(mass), np.mean(chance)


@pytest.mark.parametrize("causal", [True, False])
def test_every_score_equals_a_count_over_whole_maps(causal, monkeypatch):
    monkeypatch.setattr(pairs, "PIECE", 5)  # several pieces
    one = layer(N, causal=causal)
    found = ex.head_types(record([one], [WORDS], IDS), window=4, max_offset=3)
    for head in range(4):
        for kind in KINDS[:-1]:
            score, chance = slow(maps(one)[0, head], kind, causal)
            assert found[kind].values[0, head] == pytest.approx(score, rel=1e-6), kind
            assert found[f"{kind}_chance"].values[0, head] == pytest.approx(chance), kind
        offsets = [o for o in range(-3, 4) if o not in (0, 1) and (o > 0 or not causal)]
        means = [np.diagonal(maps(one)[0, head], -o).mean() for o in offsets]
        assert found["offset"].values[0, head] == pytest.approx(max(means), rel=1e-6)
        assert found["offset_of"].values[0, head] == offsets[int(np.argmax(means))]


def planted(kind, rest="first"):
    """A layer of one head that gives nearly all to the keys of a kind, and to the first token where there are none."""
    target = np.zeros((N, N))
    for i in range(N):
        keys = [j for j in range(i + 1) if looks_at(kind, i, j)]
        target[i, keys or [0]] = 1
    # q and k of width N that give these logits: q_i = 20 · target row, k_j = unit vector j
    q = torch.from_numpy(20 * target).double()[None, None]
    one = layer(N, heads=1, key_heads=1, size=N)
    from dataclasses import replace

    eye = torch.eye(N, dtype=torch.float64)[None, None]
    return replace(one, q=q * N**0.5, k=eye, v=eye)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_head_is_named(kind):
    found = ex.head_types(record([planted(kind)], [WORDS], IDS), lift=1.2)
    assert found["type"].item() == kind
    assert found["score"].item() > 0.99
    assert found["mark"].item()
    if kind == "offset":
        assert found["offset_of"].item() == 3


def test_an_even_head_is_of_no_kind_and_thresholds_decide():
    even = layer(N, spread=0.0)
    found = ex.head_types(record([even], [WORDS], IDS), threshold=0.1)
    assert set(found["type"].values.flat) == {""}  # no more than chance, whatever the threshold
    np.testing.assert_allclose(found["local"], found["local_chance"], rtol=1e-6)
    strict = ex.head_types(record([planted("induction")], [WORDS], IDS), threshold=1.0)
    assert strict["type"].item() == ""


def test_padded_samples_count_as_they_do_alone():
    from dataclasses import replace

    one = layer(N, heads=2, key_heads=1)
    pad = torch.zeros(1, 1, 5, 8, dtype=torch.float64)
    valid = torch.arange(N + 5)[None] >= 5
    wide = {
        name: torch.cat([pad.expand(1, getattr(one, name).shape[1], -1, -1), getattr(one, name)], 2)
        for name in "qkv"
    }
    padded = replace(one, spec=replace(one.spec, key_valid=valid, query_valid=valid), **wide)
    alone = ex.head_types(record([one], [WORDS], IDS))
    found = ex.head_types(record([padded], [[""] * 5 + WORDS], [[0] * 5 + IDS[0]]))
    for name in KINDS:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-9, err_msg=name)


def test_a_model_without_inputs_gets_a_repeated_random_sequence():
    found = ex.head_types(language_model(), random_tokens=12, batch=2)
    assert "2 sequences of 12 random tokens" in found.attrs["note"]
    assert np.isfinite(found["induction"]).all()
    again, other = (ex.head_types(language_model(), random_tokens=12, batch=2, seed=s) for s in (0, 1))
    assert found["induction"].equals(again["induction"])
    assert not found["induction"].equals(other["induction"])


def test_a_text_without_repetition_has_no_induction_score():
    found = ex.head_types(record([layer(4)], [list("abcd")], [[0, 1, 2, 3]]))
    assert np.isnan(found["induction"]).all()
    assert np.isfinite(found["score"]).all()


def test_unknown_ids_and_sources_are_refused():
    with pytest.raises(InputError, match="ids of the tokens are not known"):
        ex.head_types(record([layer(4)], [list("abcd")], [[-1] * 4]))
    with pytest.raises(InputError, match=r"expected a record .* or a model, got str"):
        ex.head_types("smollm2")


@pytest.mark.real
@pytest.mark.slow
def test_the_known_heads_of_smollm2():
    """On repeated random tokens (as measured before this existed), with sinks in layers 3-7 and 18-26."""
    import probe
    from probe.models.catalog import list_models

    if not any(card.name == "smollm2" and card.installed for card in list_models()):
        pytest.skip("SmolLM2 is not installed: `probe models install smollm2`")
    found = ex.head_types(probe.load("smollm2", device="cpu", dtype="float32"))
    kinds = found["type"]
    for layer_, head in ((18, 6), (17, 3), (17, 4), (18, 7)):
        assert kinds.values[layer_, head] == "induction"
    for layer_, head in ((16, 0), (11, 1), (2, 1), (19, 3)):
        assert kinds.values[layer_, head] == "previous_token"
    top = [divmod(int(i), 9) for i in np.argsort(-found["induction"].values.ravel())[:4]]
    assert top == [(18, 6), (17, 3), (17, 4), (18, 7)]
    assert found["induction"].values[18, 6] == pytest.approx(0.91, abs=0.03)
    assert found["previous_token"].values[16, 0] == pytest.approx(0.91, abs=0.03)
    by_layer = found["first_token"].mean("head").values
    assert by_layer[[0, 1, 11]].max() < 0.2
    assert by_layer[[3, 4, 5, 6, 7, *range(18, 27)]].min() > 0.35
