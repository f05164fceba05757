"""What a user installs: the wheel holds every room and the weights, and works away from the checkout."""

import subprocess
import sys
import zipfile

import pytest
from house import ROOT, sources

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(build, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return next(out.glob("attention_probe-*.whl"))


def test_every_file_is_in_it_under_probe(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in sources():
        inside = path.relative_to(ROOT).as_posix()
        assert (inside if inside.startswith("probe/") else f"probe/{inside}") in names
    assert "probe/py.typed" in names
    assert any(n.startswith("probe/zoo/sentiment/") and n.endswith(".safetensors") for n in names)
    assert not [n for n in names if n.split("/")[0] not in ("probe",) and ".dist-info" not in n]
    assert wheel.stat().st_size <= 25_000_000


def test_the_installed_command_explains_offline(wheel, tmp_path):
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); import probe; "
        f"assert probe.__file__.startswith({str(target)!r}), probe.__file__; "
        "from probe.dashboard.cli import main; sys.argv = ['probe', 'explain', 'A delight from start to finish.']; main()"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "positive" in run.stdout
