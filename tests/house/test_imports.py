"""Importing changes nothing and loads nothing heavy; each claim is tested in a fresh interpreter."""

import json
import subprocess
import sys

import pytest
from house import ROOT, sources

HEAVY = (
    "torch",
    "xarray",
    "zarr",
    "dash",
    "plotly",
    "transformers",
    "captum",
    "umap",
    "openai",
    "transformer_lens",
    "skimage",
)
ABSENT_ON_A_GPU_MACHINE = ("transformer_lens", "captum", "dash", "plotly", "umap", "openai", "zarr")


def fresh(code, cwd=ROOT):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def loaded(statement):
    return set(
        fresh(
            f"import sys, json\n{statement}\nprint(json.dumps(sorted(m for m in {HEAVY!r} if m in sys.modules)))"
        )
    )


def test_import_probe_loads_nothing_heavy():
    assert loaded("import probe") == set()


def test_the_command_line_loads_nothing_heavy():
    assert loaded("import probe.dashboard.cli") == set()


def test_the_check_itself_can_fail():
    assert "xarray" in loaded("import probe; probe.open_record")


def test_kernels_and_capture_need_nothing_that_a_gpu_machine_lacks():
    code = f"""
import sys, json
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT_ON_A_GPU_MACHINE!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import probe, probe.kernels.statistics, probe._capture, probe.stats, probe.validity, probe.taps.hf
print(json.dumps("ok"))
"""
    assert fresh(code) == "ok"


def test_importing_every_module_changes_nothing_elsewhere():
    modules = []
    for path in sources():
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if "zoo" in parts or parts[-1] == "__main__":
            continue
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        modules.append(".".join(parts if parts[0] == "probe" else ["probe", *parts]))
    code = f"""
import json, os, importlib, logging, warnings
import torch, transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks
import plotly.io, triton
def state():
    return [sorted(functions), sorted(masks), vars(functions).keys().__repr__(), sorted(os.environ.items()),
            torch.get_default_dtype().__str__(), torch.is_grad_enabled(), torch.get_num_threads(), plotly.io.templates.default,
            logging.getLogger("transformers").level, torch.initial_seed() if False else 0, len(warnings.filters)]
import typer, xarray, zarr, rich, captum.attr, dash
before = state()
for name in {modules!r}:
    importlib.import_module(name)
after = state()
print(json.dumps([[str(a), str(b)] for a, b in zip(before, after) if a != b]))
"""
    assert fresh(code) == []


def test_public_names_are_true():
    code = """
import json, probe
from probe import explainers, viz
print(json.dumps([n for p in (probe, explainers, viz) for n in p.__all__ if getattr(p, n, None) is None]))
"""
    assert fresh(code) == []


def test_an_unknown_name_says_what_there_is():
    import probe

    with pytest.raises(AttributeError, match=r"has no attribute 'captur'; public names: .*capture"):
        probe.captur  # noqa: B018
