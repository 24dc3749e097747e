"""The reference of the commands, docs/cli.md, from their own help texts. `make docs` writes it, a test checks it."""

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
    ("lgc-scenes",),
    ("lgc-demo",),
)


def reference() -> str:
    """The page, as Markdown."""
    parts = ["# Commands\n\nWritten from the commands' own `--help` by `make docs`.\n"]
    parts += [f"\n## {' '.join(command)}\n\n```\n{help_of(command)}\n```\n" for command in COMMANDS]
    return "".join(parts)


def help_of(command: tuple[str, ...]) -> str:
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
