"""The example of CONTRIBUTING.md is an explainer as it stands."""

import re

import numpy as np
import xarray as xr
from house import ROOT


def test_the_printed_explainer_runs_and_keeps_the_contract():
    code = re.search(
        r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S
    ).group(1)
    space = {"__name__": "explainer_of_the_guide"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), space)
    from probe.explainers.kinds import check_result

    values = np.arange(24.0).reshape(1, 2, 3, 4)
    text = xr.Dataset(
        {"distance": (("sample", "layer", "head", "query"), values)},
        coords={"layer": [0, 1], "head": [0, 1, 2]},
    )
    trace = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"model": "tiny"}), "/text": text})
    result = space["distance"](trace)
    check_result(result)
    assert result["distance"].dims == ("layer", "head")
    assert float(result["distance"][1, 2]) == values[0, 1, 2].mean()
