"""Committed results: a part that passed with the same code on the same device does not run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from . import Part

PATTERN = "gpu-check-*.jsonl"
SUFFIXES = (".py", ".yaml")


def compute_digest(root: Path, part: Part) -> str:
    """Return the digest of the code on which a part's result depends, including its own module."""
    code = hashlib.sha256()
    for source in sorted({*part.sources, f"tests/gpu/checks/{part.module}.py"}):
        path = root / source
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        for file in files:
            code.update(f"{file.relative_to(root)}\n".encode())
            code.update(file.read_bytes())
    return code.hexdigest()[:12]


def read_committed(folder: Path, device_name: str) -> dict[tuple[int, str], str]:
    """Return (part, digest of its code) -> file, for the parts that passed on such a device."""
    passed = {}
    for file in sorted(folder.glob(PATTERN)):
        for line in map(json.loads, file.read_text().splitlines()):
            if line["status"] == "passed" and line["device_name"] == device_name:
                passed[line["part"], line["code"]] = file.name
    return passed
