"""Results that are committed already: a part that passed with the same code on the same device need not run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from . import Part

PATTERN = "gpu-check-*.jsonl"
SUFFIXES = (".py", ".yaml")


def digest(root: Path, part: Part) -> str:
    """Return the fingerprint of the code on which a part's result depends, its own module included."""
    found = hashlib.sha256()
    for source in sorted({*part.sources, f"tests/gpu/checks/{part.module}.py"}):
        path = root / source
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        for file in files:
            found.update(f"{file.relative_to(root)}\n".encode())
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def committed_lines(folder: Path, device_name: str) -> dict[tuple[int, str], str]:
    """Return (part, fingerprint of its code) -> file, of the parts that passed on such a device."""
    passed = {}
    for file in sorted(folder.glob(PATTERN)):
        for line in map(json.loads, file.read_text().splitlines()):
            if line["status"] == "passed" and line["device_name"] == device_name:
                passed[line["part"], line["code"]] = file.name
    return passed
