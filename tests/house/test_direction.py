"""Imports run to the left: kernels ← probe ← {explainers, viz} ← dashboard."""

import pytest
from house import ROOMS, ROOT, imported, room_of, sources

ALLOWED = {
    "kernels": {"kernels"},
    "probe": {"kernels", "probe"},
    "explainers": {"kernels", "probe", "explainers"},
    "viz": {"kernels", "probe", "viz"},
    "dashboard": set(ROOMS),
}


def wrong_imports(room, files):
    found = []
    for path in files:
        for module in imported(path):
            if module.startswith("."):
                found.append(f"{path.name}: relative import {module}; write it out from probe")
            elif module.split(".")[0] in ROOMS and module.split(".")[0] != "probe":
                found.append(f"{path.name}: imports {module}; write probe.{module}")
            elif module.startswith(("probe.probe", "probe.tests")):
                found.append(f"{path.name}: imports {module}, which exists in a checkout only")
            elif room_of(module) not in (None, *ALLOWED[room]):
                # `from probe import x` names the parent: what matters is what x is
                found.append(f"{path.name}: {room} imports {module}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_to_its_left(room):
    assert wrong_imports(room, sources(room)) == []


def test_the_package_root_stays_out_of_the_kernels():
    assert not [
        p
        for p in sources("kernels")
        if any(m == "probe" or room_of(m) == "probe" for m in imported(p) if m != "probe")
    ]


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("kernels", "from probe.record import open_record"),
        ("explainers", "from probe.viz import draw"),
        ("viz", "import probe.explainers"),
        ("probe", "from kernels.score import ScoreSpec"),
        ("probe", "def f():\n    from probe import explainers"),
    ],
)
def test_the_check_itself_can_fail(tmp_path, room, line):
    planted = tmp_path / "planted.py"
    planted.write_text(line)
    assert wrong_imports(room, [planted])


def test_kernels_is_a_namespace_folder():
    assert not (ROOT / "kernels" / "__init__.py").exists()
