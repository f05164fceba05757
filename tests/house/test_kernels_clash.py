"""Hugging Face has a package `kernels`, too: our folder of that name must not stand in its way.

With an `__init__.py` in `kernels/` and that package installed, no transformers model can be imported from the repository root.
"""

import subprocess
import sys

import pytest
from house import ROOT

FAKE = '__version__ = "0.18.3"\nTHEIRS = True\n'
CODE = """
import sys
sys.path.insert(0, {root!r}); sys.path.append({behind!r})
import kernels
assert getattr(kernels, "THEIRS", False), "our folder shadows the installed package"
from probe.kernels.score import ScoreSpec
from transformers.utils import is_torch_available
ScoreSpec(scale=1.0)
"""


def test_an_installed_kernels_package_wins_over_our_folder(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(FAKE)
    code = CODE.format(root=str(ROOT), behind=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-1500:]


@pytest.mark.slow
def test_a_model_can_be_imported_from_the_root():
    code = "from transformers import LlamaForCausalLM; from probe.kernels.score import ScoreSpec"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-1500:]
