import numpy as np
import pytest

from probe import InputError
from probe.kernels.statistics import MAP_STATISTICS
from probe.stats import SAMPLED, STATS, resolve


def test_every_statistic_has_its_kernel():
    # the map on a grid takes a grid, and estimates take a share of the queries: arguments, not names
    assert set(STATS) == {*MAP_STATISTICS, "pooled", *SAMPLED}


def test_what_is_estimated_says_so_in_its_name():
    assert SAMPLED == ("received_sampled", "received_error")
    assert all(STATS[name].along == "key" and STATS[name].sweep == "sample" for name in SAMPLED)


def test_only_what_is_received_runs_along_keys_and_only_pooled_over_the_map():
    assert [s.name for s in STATS.values() if s.along == "key"] == ["received", *SAMPLED]
    assert [s.name for s in STATS.values() if s.along == "map"] == ["pooled"]
    assert STATS["entropy"].dims == ("sample", "layer", "head", "query")
    assert STATS["pooled"].dims == ("sample", "layer", "head", "row", "column")


@pytest.mark.parametrize(
    ("asked", "names"), [("lse", ["lse"]), (("received", "entropy", "received"), ["received", "entropy"])]
)
def test_names_resolve_in_order_and_once(asked, names):
    assert [s.name for s in resolve(asked)] == names


@pytest.mark.parametrize("asked", [(), ("entropie",), "sinks"])
def test_unknown_names_are_refused_with_the_known_ones(asked):
    with pytest.raises(
        InputError, match=r"stats: got .*expected one or more of entropy, effective_keys, received"
    ) as caught:
        resolve(asked)
    assert "\n" not in str(caught.value)


def test_absent_is_nan_or_minus_one():
    assert STATS["max_key"].absent == -1
    assert np.isnan(STATS["entropy"].absent)
