"""Running Python in a process of its own, by this process's interpreter and what it can import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def python_output(
    *words: str, folders: Sequence[Path] = (), without: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> str:
    """Return the stdout of `python WORDS`; where it fails, the assertion shows its stderr.

    Args:
        words: arguments, say `-c` and a program.
        folders: places to import from, before those of PYTHONPATH, which stay: lgc may be importable by it alone.
        without: environment variables to leave out.
        environment: environment variables to set.
    """
    variables = {name: value for name, value in os.environ.items() if name not in without} | dict(environment or {})
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, env=variables)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    return done.stdout
