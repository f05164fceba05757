"""Everything that is shown stands in the address, and nothing else is taken from it."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.dashboard.explorer.state import _CHOICES, LARGEST, State
from probe.errors import InputError

WHOLE = st.integers(0, LARGEST)
LINE = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=60)


def values(field):
    if field.name in _CHOICES:
        return st.sampled_from(_CHOICES[field.name])
    if field.name == "beta":
        return st.integers(0, 100)
    if field.name == "region":
        spans = st.tuples(st.integers(0, 999), st.integers(1, 999)).map(lambda s: f"{s[0]}-{s[0] + s[1]}")
        return st.one_of(st.just(""), st.tuples(spans, spans).map("x".join))
    if isinstance(field.default, str):
        return LINE
    return WHOLE if field.default is not None else st.one_of(st.none(), WHOLE)


STATES = st.fixed_dictionaries({f.name: values(f) for f in fields(State)}).map(lambda given: State(**given))


@given(STATES)
def test_a_state_survives_its_address(state):
    assert State.of(state.url("/overview").partition("?")[2]) == state
    assert State.from_fields(state.fields()) == state


def test_the_default_has_a_bare_address():
    assert State().url("/records") == "/records"
    assert State.of("") == State()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("layer=-1", "layer = '-1', expected a whole number"),
        ("layer=1.5", "expected a whole number"),
        ("layer=٣", "expected a whole number"),
        ("layer=99999999999", "expected a whole number"),
        ("sample=", "expected a whole number"),
        ("beta=101", "from 0 to 100"),
        ("scale=cubic", "expected one of linear, log"),
        ("region=5-3x0-1", "region = "),
        ("region=0-1", "region = "),
        ("record=a%00b", "control character"),
        ("record=a%0Ab", "control character"),
        ("text=" + "a" * 4001, "at most 4000"),
        ("layer=1&layer=2", "more than once"),
        ("laier=1", "names 'laier'; known are"),
        ("record=%ff", "cannot be read"),
        ("&".join(f"a{i}=1" for i in range(70)), "cannot be read"),
    ],
)
def test_what_is_no_state_is_refused_in_one_line(query, said):
    with pytest.raises(InputError, match=r".") as refused:
        State.of(query)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given", [{"layer": True}, {"layer": [1]}, {"record": 3}, {"record": None}, {"sample": None}, "ab", None]
)
def test_payloads_of_other_types_are_refused(given):
    with pytest.raises(InputError):
        State.from_fields(given)


def test_a_region_is_read_as_two_spans():
    assert State(region="3-9x0-128").rows_and_columns == ((3, 9), (0, 128))
    assert State().rows_and_columns is None
