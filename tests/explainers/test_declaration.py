"""Declaring and finding explainers: domains, contracts of results, the folder, other distributions."""

import json
import subprocess
import sys
import types
from typing import Annotated

import pytest
import xarray as xr

from probe import explainers as ex
from probe.errors import InputError
from probe.explainers.discovery import collect, module_stems, with_entry_points
from probe.explainers.spec import (
    Choice,
    DeclarationError,
    Flag,
    Interval,
    Parameter,
    Text,
    check_result,
    explainer,
)

CORE = {"entropy", "saliency", "sinks", "rank", "relevance", "act"}
DECLARED = {"title": "Sums", "shape": "reads", "kind": "head_table", "references": ("by hand",)}


def result(**attrs):
    coords = {"layer": [0], "head": [0]}
    base = {"unit": "1", "value": "total", "model": "none"}
    return xr.Dataset({"total": (("layer", "head"), [[1.0]])}, coords=coords, attrs=base | attrs)


@explainer(**DECLARED)
def total(
    trace,
    *,
    factor: Annotated[float, Interval(0, 2, "how much")] = 1.0,
    steps: Annotated[int | None, Interval(1, 9, "how many")] = None,
    mode: Annotated[str, Choice("a", "b", help="which")] = "a",
    name: Annotated[str, Text("what")] = "x",
    strict: Annotated[bool, Flag("whether")] = False,
):
    """Total of a trace.

    More.
    """
    return result(given=(trace, factor, steps, mode, name, strict))


def test_the_declaration_is_read_from_the_signature():
    entry = total.__explainer__
    assert (entry.name, entry.title, entry.summary) == ("total", "Sums", "Total of a trace.")
    assert [p.name for p in entry.parameters] == ["factor", "steps", "mode", "name", "strict"]
    assert [p.type for p in entry.parameters] == [float, int, str, str, bool]
    assert [p.default for p in entry.parameters] == [1.0, None, "a", "x", False]
    assert [p.help for p in entry.parameters] == ["how much", "how many", "which", "what", "whether"]
    assert entry.function is total


def test_calls_check_values_and_complete_the_result():
    found = total("t", factor=2, steps=3)
    assert found.attrs["given"] == ("t", 2.0, 3, "a", "x", False)
    assert json.loads(found.attrs["parameters"]) == {
        "factor": 2.0, "steps": 3, "mode": "a", "name": "x", "strict": False
    }  # fmt: skip
    assert (found.attrs["kind"], found.attrs["explainer"], found.attrs["title"]) == (
        "head_table",
        "total",
        "Sums",
    )
    assert found.attrs["references"] == ["by hand"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"factor": 3}, r"total: factor = 3, expected 0 to 2 \(float\): how much"),
        ({"factor": "1"}, "factor = '1'"),
        ({"factor": float("nan")}, "factor = nan"),
        ({"factor": None}, "factor = None"),
        ({"steps": 2.0}, "steps = 2.0, expected 1 to 9 \\(int\\)"),
        ({"steps": True}, "steps = True"),
        ({"mode": "c"}, "mode = 'c', expected one of a, b"),
        ({"name": ""}, "name = '', expected a text that is not empty"),
        ({"strict": 1}, "strict = 1, expected true or false"),
    ],
)
def test_values_outside_their_domain_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        total("t", **given)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("factor", "0.5", 0.5),
        ("steps", "7", 7),
        ("mode", "b", "b"),
        ("strict", "Yes", True),
        ("strict", "false", False),
    ],
)
def test_parameters_parse_the_text_of_a_command_line(name, text, value):
    (parameter,) = (p for p in total.__explainer__.parameters if p.name == name)
    assert parameter.parse(text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("factor", "x"), ("steps", "1.5"), ("strict", "maybe"), ("steps", "10")]
)
def test_texts_that_are_no_value_are_refused(name, text):
    (parameter,) = (p for p in total.__explainer__.parameters if p.name == name)
    with pytest.raises(InputError, match=f"total: {name} = "):
        parameter.parse(text, "total")


def test_a_result_that_breaks_its_contract_never_leaves_the_function():
    @explainer(**DECLARED)
    def broken(trace):
        """A result without its primary variable."""
        return result(value="other")

    with pytest.raises(DeclarationError, match="broken: a head_table result lacks the variables other"):
        broken("t")


def undeclared(trace, *, factor: float = 1.0):
    """Total."""
    return result()


def no_default(trace, *, factor: Annotated[float, Interval(0, 1, "x")]):
    """Total."""
    return result()


def bad_default(trace, *, factor: Annotated[float, Interval(0, 1, "x")] = 2.0):
    """Total."""
    return result()


def silent(trace):
    return result()


@pytest.mark.parametrize(
    ("function", "changes", "error"),
    [
        (undeclared, {}, DeclarationError),
        (no_default, {}, DeclarationError),
        (bad_default, {}, InputError),
        (silent, {}, DeclarationError),
        (total.__wrapped__, {"references": ()}, DeclarationError),
        (total.__wrapped__, {"shape": "paints"}, DeclarationError),
        (total.__wrapped__, {"kind": "song"}, DeclarationError),
    ],
)
def test_incomplete_declarations_are_refused(function, changes, error):
    with pytest.raises(error):
        explainer(**DECLARED | changes)(function)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.attrs.update(kind="song"), "kind is 'song'"),
        (lambda r: r.attrs.pop("unit"), "lacks the attributes unit"),
        (lambda r: r.attrs.update(value="other"), "lacks the variables other"),
        (lambda r: r.update({"total": (("head", "layer"), [[1.0]])}), r"has dims \('head', 'layer'\)"),
    ],
)
def test_results_that_break_the_contract_of_their_kind_are_refused(change, message):
    found = total("t")
    change(found)
    with pytest.raises(DeclarationError, match=message):
        check_result(found)


def module(name, **functions):
    made = types.ModuleType(name)
    for key, value in functions.items():
        setattr(made, key, value)
    made.__all__ = list(functions)
    sys.modules[name] = made
    return made


def test_one_name_from_two_modules_is_refused_naming_both():
    module("first_home", total=total)
    module("second_home", total=total)
    with pytest.raises(DeclarationError, match=f"'total' is offered twice: by {__name__} and by second_home"):
        collect(["first_home", "second_home"])


def test_the_folder_is_walked_for_private_modules(tmp_path):
    for name in ("_one.py", "two.py", "__init__.py", "_notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "_three").mkdir()
    (tmp_path / "_three" / "__init__.py").touch()
    (tmp_path / "_empty").mkdir()
    assert module_stems(tmp_path) == ["_one", "_three"]


class Point:
    def __init__(self, name, thing, home):
        self.name, self.value, self._thing = name, f"{home}:{name}", thing
        self.dist = types.SimpleNamespace(name=home)

    def load(self):
        if isinstance(self._thing, Exception):
            raise self._thing
        return self._thing


def test_other_distributions_add_explainers():
    assert with_entry_points({}, [Point("total", total, "theirs")]) == {"total": total.__explainer__}


def test_a_name_taken_by_two_distributions_is_refused_naming_both():
    own = {"total": total.__explainer__}
    with pytest.raises(DeclarationError, match=f"two explainers are named 'total': {__name__} and theirs"):
        with_entry_points(own, [Point("total", total, "theirs")])


@pytest.mark.parametrize("thing", [ImportError("no torch"), lambda: None])
def test_a_distribution_that_cannot_be_loaded_is_named_and_left_out(thing):
    with pytest.warns(RuntimeWarning, match="'odd' of theirs is left out"):
        found = with_entry_points({}, [Point("odd", thing, "theirs"), Point("total", total, "others")])
    assert list(found) == ["total"]


def test_unknown_names_list_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'magic'; there is: ") as caught:
        ex.magic  # noqa: B018
    names = str(caught.value).partition("there is: ")[2].split(", ")
    assert names == sorted(names)
    assert CORE | {"rank_measures", "verbalization", "verbalize"} <= set(names)
    assert {"registry", "sinks", "verbalize"} <= set(dir(ex))


def test_the_registry_needs_neither_torch_nor_captum():
    code = (
        "import sys; from probe import explainers as ex\n"
        "heavy = {'torch', 'captum', 'xarray', 'numpy', 'transformers'}\n"
        "import probe.explainers.spec\n"
        "early = heavy & set(sys.modules)\n"
        "names = sorted(ex.registry())\n"
        "late = {'torch', 'captum', 'transformers'} & set(sys.modules)\n"
        "import json; print(json.dumps([sorted(early), names, sorted(late)]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    early, names, late = json.loads(out)
    assert (early, late) == ([], [])
    assert set(names) >= CORE


def test_a_parameter_may_stay_open_only_where_its_default_is():
    assert Parameter("n", int, None, Interval(1, 2, "x"), "x").check(None) is None
