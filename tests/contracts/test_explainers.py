"""What every explainer of the registry promises, our own and those of other distributions alike."""

import functools
import inspect
import json

import numpy as np
import pytest
import xarray as xr
from explainer_cases import causal, classifier, language_model, record, same_state, snapshot, uniform
from mil_records import some_bags
from picture_cases import network, picture
from vlm_cases import scene, vlm

from probe import explainers as ex
from probe.errors import InputError, ProbeError
from probe.explainers.kinds import KINDS, check_result
from probe.explainers.spec import SHAPES, Choice, Flag, Interval, Text

REGISTRY = ex.registry()
RUNS = [name for name, entry in REGISTRY.items() if entry.shape == "runs"]
READS = [name for name, entry in REGISTRY.items() if entry.shape == "reads"]
PICTURES = [name for name in RUNS if REGISTRY[name].kind in ("image_overlay", "path")]
TEXTS = {
    classifier: "the film was wonderful, but the plot is dull",
    language_model: "the capital of france is",
}
BAD = {"text": "", "picture": np.zeros((4, 4, 2), np.uint8)}
#: Explainers of pictures that need more than a network of pictures.
ASKING = {"carve": {vlm: scene()}, "image_attention": {vlm: scene()}, "refam": {vlm: scene()}}
SUBJECTS = [
    (name, build, given, BAD["picture" if name in PICTURES else "text"])
    for name in RUNS
    for build, given in ASKING.get(
        name,
        {ex.load_oat: picture()}
        if REGISTRY[name].kind == "path"
        else {network: picture()}
        if name in PICTURES
        else TEXTS,
    ).items()
]


def trace():
    rng = np.random.default_rng(0)
    maps = np.exp(rng.normal(size=(2, 3, 4, 20, 20))) * causal(20)
    maps /= maps.sum(-1, keepdims=True)
    text = record(maps, np.broadcast_to(causal(20), (2, 3, 20, 20)), [[f"w{i}" for i in range(20)]] * 2)
    return text.assign({name.strip("/"): xr.DataTree(group) for name, group in some_bags().items()})


@functools.cache
def results():
    found = [REGISTRY[name].function(trace()) for name in READS]
    return found + [REGISTRY[name].function(build(), given) for name, build, given, _ in SUBJECTS]


@pytest.mark.parametrize("name", list(REGISTRY))
def test_it_says_what_it_is(name):
    entry = REGISTRY[name]
    assert entry.name == name == entry.function.__name__
    assert len(inspect.getdoc(entry.function)) > 100
    assert entry.summary.endswith(".")
    assert entry.title
    assert not entry.title.endswith(".")
    assert entry.references
    assert all(len(reference) > 10 for reference in entry.references)
    assert entry.kind in KINDS
    assert entry.shape in SHAPES
    assert getattr(ex, name) is entry.function


@pytest.mark.parametrize("name", list(REGISTRY))
def test_its_parameters_have_domains_and_defaults_inside_them(name):
    for parameter in REGISTRY[name].parameters:
        assert isinstance(parameter.domain, (Interval, Choice, Text, Flag))
        assert parameter.help
        assert "\n" not in parameter.help
        assert parameter.check(parameter.default) == parameter.default
        assert f"{parameter.name}:" in inspect.getdoc(REGISTRY[name].function), (
            "its docstring says what it means"
        )


@pytest.mark.parametrize("name", list(REGISTRY))
def test_values_outside_a_domain_are_refused_before_anything_runs(name):
    outside = {Interval: float("inf"), Choice: "no such choice", Text: "", Flag: 7}
    for parameter in REGISTRY[name].parameters:
        with pytest.raises(InputError, match=f"{name}: {parameter.name} = ") as caught:
            REGISTRY[name].function(
                *(object(), object())[: 1 + (name not in READS)],
                **{parameter.name: outside[type(parameter.domain)]},
            )
        assert "\n" not in str(caught.value)


def test_results_keep_the_contract_of_their_kind():
    for result in results():
        entry = REGISTRY[result.attrs["explainer"]]
        check_result(result)
        assert result.attrs["kind"] == entry.kind
        assert set(json.loads(result.attrs["parameters"])) == {p.name for p in entry.parameters}
        assert result.attrs["references"] == list(entry.references)
        json.dumps(result.attrs)  # what a record or a page can keep
        finite = np.isfinite(result[result.attrs["value"]].values)
        # a strip's token may have no score: one that too few queries see
        assert finite.any() if entry.kind == "token_strip" else finite.all()


def test_results_have_words():
    for result in results():
        found = ex.verbalization(result)
        check_result(found)
        assert found.sizes["statement"] >= 3
        assert np.isfinite(found["value"].values).all()
        for text in found["text"].values:
            assert text[0].isupper() or text[0] == "“"
            assert text.endswith(".")


@pytest.mark.filterwarnings("error")
def test_results_fit_into_a_record(tmp_path):
    for number, result in enumerate(results()):
        path = tmp_path / f"{number}.zarr"
        result.to_zarr(path, consolidated=False, zarr_format=3)


@pytest.mark.parametrize("name", READS)
def test_a_record_is_not_changed_by_reading(name):
    source = trace()
    before = source.copy(deep=True)
    REGISTRY[name].function(source)
    assert source.identical(before)


@pytest.mark.parametrize("name", READS)
def test_something_else_than_a_record_is_refused(name):
    for wrong in (None, "r.zarr", uniform(causal(3)), trace()["text"].to_dataset()):
        with pytest.raises(ProbeError, match="expected a record"):
            REGISTRY[name].function(wrong)


@pytest.mark.parametrize(("name", "build", "given", "bad"), SUBJECTS)
def test_a_model_is_as_before_after_success_bad_arguments_and_failure(name, build, given, bad):
    model, function = build().model, REGISTRY[name].function
    before = snapshot(model)
    function(build(), given)
    assert same_state(before, snapshot(model)), "after success"
    with pytest.raises(InputError):
        function(build(), bad)
    assert same_state(before, snapshot(model)), "after bad arguments"
    broken = list(model.children())[-1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        function(build(), given)
    broken.remove()
    assert same_state(before, snapshot(model)), "after a failure inside"
