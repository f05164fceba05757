"""Tables over heads in words, with their figures computed again."""

import numpy as np
import pytest
import xarray as xr
from explainer_cases import causal, record, uniform

from probe import explainers as ex
from probe.errors import InputError


def claims(result):
    found = ex.verbalization(result)
    return dict(zip(found["claim"].values.tolist(), found["text"].values.tolist(), strict=True))


def four_layers():
    """Layers 0 and 1 uniform; in layer 2 a head rests on the first token, in layer 3 one on token 12."""
    even = uniform(causal(40))
    maps = np.broadcast_to(even, (2, 4, 3, 40, 40)).copy()
    maps[:, 2, 1] = 0.1 * even
    maps[:, 2, 1, :, 0] += 0.9
    maps[:, 3, 2, 12:] *= 0.2
    maps[:, 3, 2, 12:, 12] += 0.8
    texts = [["the" if i == 12 else f"w{i}" for i in range(40)]] * 2
    return record(maps, np.broadcast_to(causal(40), (2, 4, 40, 40)), texts)


def test_sinks_in_words():
    found = claims(ex.sinks(four_layers()))
    assert found["first_token"] == (
        "Over 2 texts, 8% of the 12 heads give the first token more than 30% "
        "of the attention of an average query."
    )
    assert found["layers_without"] == "No head does so in layers 0–1 and 3."
    share = 0.9 + 0.1 * np.sum(1 / np.arange(1, 41)) / 40
    assert found["strongest"] == f"The strongest is layer 2, head 1, where it receives {100 * share:.0f}%."
    assert found["later_sinks"] == (
        "Later sinks (corrected rule): 0.08 per head and text on average, most in layer 3, head 2 (1.0)."
    )
    assert found["sink_tokens"] == "The most frequent token is “the” (2)."


def test_a_record_without_later_sinks_says_so():
    found = claims(
        ex.sinks(record(uniform(causal(20))[None, None, None], causal(20)[None, None]), rule="literal")
    )
    assert found["later_sinks"] == "No later token is a sink (literal rule)."
    assert found["first_token"].startswith("Over 1 text, 0% of the 1 heads")
    assert "layers_without" not in found


def test_entropy_in_words():
    maps = np.stack([uniform(causal(4)), np.eye(4)])[None, None]
    found = claims(ex.entropy(record(maps, causal(4)[None, None]), unit="bits"))
    assert found["mean"] == f"An average head spreads its attention like {(2.5 + 1) / 2:.1f} equal keys."
    assert found["most_focused"] == "The most focused head is layer 0, head 1 (entropy 0.00 bits)."
    widest = np.mean(np.log2([1, 2, 3, 4]))
    assert found["widest"] == f"The most widely spread head is layer 0, head 0 (entropy {widest:.2f} bits)."
    assert (
        found["most_focused_layer"]
        == "The most focused layer is 0: on average 50% of the highest entropy possible."
    )


def table(values, **attrs):
    values = np.asarray(values, dtype=float)
    coords = {"layer": np.arange(values.shape[0]), "head": np.arange(values.shape[1])}
    base = {"kind": "head_table", "explainer": "other", "title": "Reach", "parameters": "{}"}
    base |= {"references": ["none"], "unit": "tokens", "value": "mean_reach", "model": "by hand"}
    return xr.Dataset({"mean_reach": (("layer", "head"), values)}, coords=coords, attrs=base | attrs)


def test_tables_of_other_explainers_name_their_extremes():
    found = claims(table([[1.5, np.nan], [4.0, -2.25]]))
    assert found["highest"] == "The highest mean reach is 4 tokens (layer 1, head 0)."
    assert found["lowest"] == "The lowest mean reach is -2.25 tokens (layer 1, head 1)."
    assert found["mean"] == "The mean over all heads is 1.08 tokens."


def test_a_table_without_numbers_is_refused():
    with pytest.raises(InputError, match="no finite number"):
        ex.verbalize(table([[np.nan]]))
