"""The page of a check's results: `python3 tests/gpu/checks/page.py results.jsonl > page.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST = 120
"""Characters of a value that the page shows."""


def page(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: an overview, then the checks and values of each part."""
    first = lines[0]
    commits = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    out = [
        f"# GPU check on {first['device_name']}",
        "",
        f"Commit {commits}, {first['date']}, device {first['device']}. Written by `tests/gpu/check.py`.",
        "",
        "| part | what | status | seconds | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
        out.append(f"| {line['part']} | {line['name']} | {line['status']} | {seconds} | {_cell(line['words'])} |")
    for line in lines:
        if line.get("checks") or line.get("values"):
            out += ["", f"## {line['part']}. {line['name'].capitalize()}", *_checks(line), *_values(line)]
    return "\n".join(out) + "\n"


def _checks(line: dict[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {_short(check['value'])} | {check['bound']} | {'yes' if check['holds'] else '**no**'} |"
        for name, check in line.get("checks", {}).items()
    ]
    return ["", "| check | value | bound | holds |", "| --- | --- | --- | --- |", *rows] if rows else []


def _values(line: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {_cell(_short(value))} |" for name, value in _flat(line.get("values", {}))]
    return ["", "| measured | |", "| --- | --- |", *rows] if rows else []


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value, those of dictionaries under `outer inner`; lists of dictionaries only by their length."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{prefix}{name}", f"{len(value)} rows, see the results file"
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return str(value)


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


if __name__ == "__main__":
    print(page([json.loads(row) for row in Path(sys.argv[1]).read_text().splitlines()]), end="")
