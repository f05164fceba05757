"""How the tests of the house see the code: its rooms, files and imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "probe", "explainers", "viz", "dashboard")


def sources(*rooms):
    """Every Python file of the given rooms (all of them by default)."""
    for room in rooms or ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path):
    """Every module that a file imports, absolute, wherever the import stands; relative imports are resolved."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            else:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module):
    """The room that a module name belongs to, or None: `probe.kernels.score` is of kernels, `probe.record` of probe."""
    parts = module.split(".")
    if parts[0] != "probe":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS and parts[1] != "probe" else "probe"
