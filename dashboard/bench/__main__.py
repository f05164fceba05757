"""`python -m probe.dashboard.bench`: the same as `probe bench`, where typer may be missing."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from probe.dashboard.bench.command import bench
from probe.dashboard.bench.options import Request
from probe.dashboard.failure import guarded, show_own_warnings


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Without the program's name; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        prog="probe bench", description="Time exact statistics beside forward passes."
    )
    parser.add_argument("--debug", action="store_true", help="Show tracebacks.")
    for field in fields(Request):
        words = {"default": field.default, "help": field.metadata["help"]}
        if "bool" in str(field.type):
            words["action"] = argparse.BooleanOptionalAction
        else:
            words["type"] = int if "int" in str(field.type) else str
            words["metavar"] = field.metadata["metavar"]
        parser.add_argument(f"--{field.name.replace('_', '-')}", **words)
    given = vars(parser.parse_args(arguments))
    debug = given.pop("debug")
    show_own_warnings(debug=debug)
    return guarded(lambda: bench(Request(**given)), debug=lambda: debug)


if __name__ == "__main__":
    sys.exit(main())
