"""The command before it does anything: fast, light, and honest about its options."""

import json
import re
import subprocess
import sys
import time

import pytest

from probe import __version__

HEAVY = ("torch", "xarray", "zarr", "dash", "plotly", "transformers", "captum", "numpy", "triton")


def best_of(runs, action):
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        action()
        times.append(time.perf_counter() - begun)
    return min(times)


def test_help_takes_less_than_half_a_second(separate):
    assert best_of(5, lambda: separate("--help")) < 0.5


@pytest.mark.parametrize(
    "line", [[], ["--help"], ["--version"], ["explain", "--help"], ["models", "--help"], ["run", "--help"]]
)
def test_help_loads_nothing_heavy(line):
    source = (
        "import sys, json\nfrom probe.dashboard import cli\n"
        f"cli.run_line({line!r})\n"
        f"sys.stderr.write(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(ended.stderr.splitlines()[-1]) == []


def test_the_version_is_the_package_s(probe):
    assert probe("--version").out == f"attention-probe {__version__}\n"


def test_help_names_all_commands(probe):
    for name in ("explain", "capture", "run", "models", "doctor"):
        assert re.search(rf"^  {name} +\w.*\.$", probe("--help").out, re.MULTILINE)


def test_explain_has_an_option_for_every_parameter_of_saliency(probe):
    from probe import explainers as ex

    shown = probe("explain", "--help").out
    for parameter in ex.registry()["saliency"].parameters:
        assert f"--{parameter.name.replace('_', '-')} " in shown
        for choice in getattr(parameter.domain, "values", ()):
            assert choice in " ".join(shown.split())


def test_help_of_an_explainer_lists_its_parameters(probe):
    ended = probe("run", "sinks", "--help")
    assert ended.code == 0
    assert "--epsilon [0.3]: 0 to 1" in ended.out
    assert "saliency" not in ended.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["explian", "x"], "Did you mean 'explain'?"),
        (["explain"], "Missing argument"),
        (["explain", "x", "--no-such"], "No such option"),
        (["capture", "--model", "sentiment"], "Missing option '--out'"),
        (["explain", "x", "--seed", "soon"], "Invalid value for '--seed'"),
        (["run", "sinks"], "expected an explainer and a record"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(fails, line, message):
    assert message in fails(*line, code=2)
