"""Write the command reference, docs/cli.md, from the commands' help texts; `make docs` runs it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

COMMANDS = (
    ("lgc-profile",),
    *(("lgc-lut", verb) for verb in ("show", "verify", "calibrate", "diff", "merge", "export", "import", "upgrade")),
    ("lgc-search",),
    ("lgc-train",),
    ("lgc-export",),
    ("lgc-bench",),
    ("lgc-predict",),
    ("lgc-data", "show"),
    ("lgc-data", "check"),
    ("lgc-scenes",),
    ("lgc-demo",),
)


def reference() -> str:
    """Return the page as Markdown."""
    parts = ["# Commands\n\nGenerated from the commands' `--help` by `make docs`.\n"]
    parts += [f"\n## {' '.join(command)}\n\n```\n{read_help(command)}\n```\n" for command in COMMANDS]
    return "".join(parts)


def read_help(command: tuple[str, ...]) -> str:
    """Return the help text of a command at a width of 100 columns."""
    program = str(Path(sys.executable).parent / command[0])
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    result = subprocess.run(
        [program, *command[1:], "--help"], check=True, capture_output=True, text=True, env=environment
    )
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, required=True)
    parser.parse_args().write.write_text(reference())
