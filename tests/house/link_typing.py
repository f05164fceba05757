"""Lay the links that type checkers follow: `.typing/probe/` shows the sibling folders as subpackages of `probe`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIBLINGS = ("kernels", "explainers", "viz", "dashboard")


def lay(root: Path = ROOT) -> Path:
    target = root / ".typing" / "probe"
    target.mkdir(parents=True, exist_ok=True)
    for link in target.iterdir():
        link.unlink()
    for source in [*(root / "probe").iterdir(), *(root / name for name in SIBLINGS)]:
        if source.name != "__pycache__":
            (target / source.name).symlink_to(source)
    return target


if __name__ == "__main__":
    lay()
