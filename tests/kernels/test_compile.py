"""The kernels compile to machine code for sm_80 and sm_90 without a GPU, inside the shared memory of the chip."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("compile_kernels.py")


@pytest.fixture(scope="module")
def compiled():
    """One process without the interpreter compiles everything; its report is shared by the tests."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_every_variant_gives_a_cubin(compiled):
    assert {(c["kernel"], c["arch"]) for c in compiled} == {
        *((k, a) for k in ("row", "column", "tile", "shift", "links", "nearest") for a in (80, 90)),
        ("row-hopper", 90),
        ("column-hopper", 90),
    }
    assert all(c["cubin"] > 1000 for c in compiled)


def test_hopper_uses_its_tensor_cores_for_half_precision(compiled):
    for c in compiled:
        if c["arch"] == 90 and c["dtype"] != "fp32":
            assert c["wgmma"] > 0, c


def test_two_programs_of_the_fast_paths_fit_a_multiprocessor(compiled):
    shared = [c["shared"] for c in compiled if c["kernel"].endswith("-hopper")]
    assert len(shared) == 6
    assert max(shared) <= 113 * 1024


def test_shared_memory_fits(compiled):
    limit = {80: 163 * 1024, 90: 227 * 1024}
    assert all(c["shared"] <= limit[c["arch"]] for c in compiled)
