"""The root holds what the design fixes and nothing else; no path of a machine and no registry host is committed."""

import re
import subprocess

import pytest
from house import ROOT

ROOT_ENTRIES = {
    "pyproject.toml", "probe", "explainers", "viz", "dashboard", "kernels", "notebooks", "tests", "README.md", "LICENSE",
    "Makefile", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "constraints.txt", ".ci", ".gitignore",
}  # fmt: skip
FORBIDDEN = re.compile(r"/(?:work|opt|root|home)/[a-z.]|files\.pythonhosted|registry\.npmjs|https?://pypi\.")


def tracked():
    run = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if run.returncode:
        pytest.skip("not a git checkout: there is no list of tracked files")
    return run.stdout.split("\n")[:-1]


def test_the_root_holds_nothing_else():
    assert {name.split("/")[0] for name in tracked()} <= ROOT_ENTRIES


def test_no_machine_and_no_registry_is_named():
    found = []
    for name in tracked():
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".cff", ""}
            and path.name != "test_root.py"
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: {match.group()}" for match in FORBIDDEN.finditer(text)]
    assert found == []


def test_large_files_are_weights_only():
    large = {
        n: (ROOT / n).stat().st_size
        for n in tracked()
        if (ROOT / n).is_file() and (ROOT / n).stat().st_size > 1_000_000
    }
    assert all(name.startswith("probe/zoo/") and name.endswith(".safetensors") for name in large), large
    assert sum(large.values()) <= 25_000_000
