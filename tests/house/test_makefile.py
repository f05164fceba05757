"""`make browser` on machines of other kinds: stand-ins for apt-get and id are all that it finds."""

import os
import shutil
import subprocess

import pytest
from house import ROOT

APT_THAT_WORKS = (
    '#!/bin/sh\necho "$@" >> "$HERE/calls"\ncase "$*" in *install*) cp "$HERE/id" "$HERE/chromium";; esac\n'
)
APT_THAT_FAILS = '#!/bin/sh\necho "$@" >> "$HERE/calls"\necho "E: Could not resolve host" >&2\nexit 100\n'


@pytest.fixture
def machine(tmp_path):
    """Run `make browser` with the given programs and user; gives what it says, and what apt-get was told."""
    make = shutil.which("make")
    for name in ("sh", "cp", "mktemp", "tail", "rm", "cat", "echo"):
        (tmp_path / name).symlink_to(shutil.which(name))

    def run(user=0, **programs):
        for name, text in ({"id": f"#!/bin/sh\necho {user}\n"} | programs).items():
            path = tmp_path / name.replace("_", "-")
            path.write_text(text)
            path.chmod(0o755)
        env = {
            "PATH": str(tmp_path),
            "HERE": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "HOME": os.environ["HOME"],
        }
        ended = subprocess.run(
            [make, "--no-print-directory", "browser"],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
        calls = tmp_path / "calls"
        return ended.stdout, calls.read_text().splitlines() if calls.exists() else []

    return run


@pytest.mark.parametrize("browser", ["chromium", "google_chrome"])
def test_a_browser_that_is_there_is_enough(machine, browser):
    assert machine(apt_get=APT_THAT_WORKS, **{browser: "#!/bin/sh\n"}) == ("", [])


def test_chromium_is_installed_and_said(machine):
    said, calls = machine(apt_get=APT_THAT_WORKS)
    assert said.startswith("== installing Chromium")
    assert len(said.splitlines()) == 1
    assert calls[0].startswith("update")
    assert "chromium" in calls[1].split()
    assert machine(apt_get=APT_THAT_WORKS) == ("", calls), "and not a second time"


def test_where_apt_fails_the_tests_go_on_without_and_the_reason_is_said(machine):
    said, calls = machine(apt_get=APT_THAT_FAILS)
    assert "browser tests will be skipped (apt-get: E: Could not resolve host)" in said
    assert len(calls) == 2


def test_without_root_nothing_is_tried(machine):
    said, calls = machine(user=1000, apt_get=APT_THAT_WORKS)
    assert "will be skipped (that needs root: sudo apt-get install chromium)" in said
    assert calls == []


def test_without_apt_nothing_is_tried(machine):
    assert machine() == (
        "== no Chromium, so the browser tests will be skipped (there is no apt-get here)\n",
        [],
    )


def test_the_full_tests_ask_for_it():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("test:")]
    assert "browser" in line.split("##")[0].split()
