"""The page of a check's results, and their place in docs/benchmarks.

`python3 tests/gpu/checks/page.py results.jsonl docs/benchmarks` adds results to gpu-check-DEVICE.jsonl there, where the
newest line of each part counts, and writes the page beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_RUN = ("committed", "not begun", "skipped")
"""Statuses that leave what is known of a part."""
LONGEST = 120
"""Characters of a value that the page shows."""


def page(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: an overview, then the checks and values of each part."""
    first = lines[0]
    rehearsal = ["", "A rehearsal: it proves that the parts run; its numbers mean nothing."]
    out = [
        f"# GPU check on {first['device_name']}",
        "",
        f"Device {first['device']}. Written by `tests/gpu/check.py`.",
        *(rehearsal if first["device"] == "cpu" else []),
        "",
        "| part | what | status | seconds | commit | date | remark |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
        out.append(
            f"| {line['part']} | {line['name']} | {line['status']} | {seconds} | {line['commit']} "
            f"| {line['date'][:10]} | {_cell(line['words'])} |"
        )
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
    return ["", "| measured | value |", "| --- | --- |", *rows] if rows else []


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value, those of dictionaries under `outer inner`; lists of dictionaries only by their length."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} / ")
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


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file; none where there is no file."""
    return [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    """Write a results file, whole or not at all."""
    draft = file.with_suffix(".draft")
    with draft.open("w") as out:
        out.writelines(f"{json.dumps(line)}\n" for line in lines)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def merged(earlier: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest line of each part, in order; one that was not run leaves what is known of it."""
    parts = {line["part"]: line for line in earlier}
    for line in lines:
        if line["status"] not in NOT_RUN or line["part"] not in parts:
            parts[line["part"]] = line
    return [parts[number] for number in sorted(parts)]


def publish(results: Path, folder: Path) -> Path:
    """Add results to those of their device in `folder`, and write their page; returns the page.

    A part that was not run leaves what is there of it.
    """
    lines = read_lines(results)
    if not lines:
        sys.exit(f"{results} has no results: name the results.jsonl that tests/gpu/check.py wrote")
    if lines[0]["device"] == "cpu":
        sys.exit(f"{results} is of a rehearsal on a CPU, which is no evidence of a GPU")
    if not folder.is_dir():
        sys.exit(f"no such folder: {folder}")
    device = "-".join("".join(c if c.isalnum() else " " for c in lines[0]["device_name"]).lower().split())
    file = folder / f"gpu-check-{device}.jsonl"
    kept = merged(read_lines(file), [line for line in lines if line["status"] not in ("committed", "not begun")])
    write_lines(file, kept)
    file.with_suffix(".md").write_text(page(kept))
    return file.with_suffix(".md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.jsonl of a check")
    parser.add_argument("folder", type=Path, help="folder of the committed results, docs/benchmarks")
    arguments = parser.parse_args()
    print(publish(arguments.results, arguments.folder))
