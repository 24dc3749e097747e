"""Run Python in a new process, with this process's interpreter and import path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def python_output(
    *words: str, folders: Sequence[Path] = (), without: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Return the stdout of `python WORDS`; if it fails, the assertion shows its stderr.

    Args:
        words: Arguments, e.g. `-c` and a program.
        folders: Import folders before those of PYTHONPATH.
        without: Environment variables to remove.
        environment: Environment variables to set.
    """
    variables = {name: value for name, value in os.environ.items() if name not in without} | dict(environment or {})
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, env=variables)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    return done.stdout
