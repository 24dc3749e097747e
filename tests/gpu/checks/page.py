"""Page of a check's results, and their publication in docs/benchmarks.

`python3 tests/gpu/checks/page.py results.jsonl docs/benchmarks` merges results into gpu-check-DEVICE.jsonl there, with
the newest line of each part, and writes the page next to it.
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
"""Statuses that keep earlier results of a part."""
MAX_CELL_LENGTH = 120
"""Most characters of a value on the page."""


def format_page(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: an overview, then the checks and values of each part."""
    first = lines[0]
    rehearsal = ["", "A rehearsal: it shows that the parts run; its numbers have no meaning."]
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
            f"| {line['date'][:10]} | {_format_cell(line['words'])} |"
        )
    for line in lines:
        if line.get("checks") or line.get("values"):
            out += ["", f"## {line['part']}. {line['name'].capitalize()}", *_format_checks(line), *_format_values(line)]
    return "\n".join(out) + "\n"


def _format_checks(line: dict[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {_format_value(check['value'])} | {check['bound']} | {'yes' if check['holds'] else '**no**'} |"
        for name, check in line.get("checks", {}).items()
    ]
    return ["", "| check | value | bound | holds |", "| --- | --- | --- | --- |", *rows] if rows else []


def _format_values(line: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {_format_cell(_format_value(value))} |" for name, value in _flatten(line.get("values", {}))]
    return ["", "| measured | value |", "| --- | --- |", *rows] if rows else []


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value, `outer / inner` for nested dictionaries, and only the length of lists of dictionaries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name} / ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{prefix}{name}", f"{len(value)} rows, see the results file"
        else:
            yield f"{prefix}{name}", value


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(map(_format_value, value))
    return str(value)


def _format_cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= MAX_CELL_LENGTH else f"{text[:MAX_CELL_LENGTH]}..."


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file; empty without a file."""
    return [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    """Write a results file atomically."""
    temporary = file.with_suffix(".draft")
    with temporary.open("w") as out:
        out.writelines(f"{json.dumps(line)}\n" for line in lines)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)


def merge_lines(earlier: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the newest line of each part, in order; a part that was not run keeps its earlier line."""
    parts = {line["part"]: line for line in earlier}
    for line in lines:
        if line["status"] not in NOT_RUN or line["part"] not in parts:
            parts[line["part"]] = line
    return [parts[number] for number in sorted(parts)]


def publish(results: Path, folder: Path) -> Path:
    """Merge results into those of their device in `folder`, write their page, and return its path.

    A part that was not run keeps its earlier line.
    """
    lines = read_lines(results)
    if not lines:
        sys.exit(f"{results} is missing or empty: pass the results.jsonl of tests/gpu/check.py")
    if lines[0]["device"] == "cpu":
        sys.exit(f"{results} is from a rehearsal on a CPU and cannot be published")
    if not folder.is_dir():
        sys.exit(f"no such folder: {folder}")
    device = "-".join("".join(c if c.isalnum() else " " for c in lines[0]["device_name"]).lower().split())
    file = folder / f"gpu-check-{device}.jsonl"
    lines_to_write = merge_lines(
        read_lines(file), [line for line in lines if line["status"] not in ("committed", "not begun")]
    )
    write_lines(file, lines_to_write)
    file.with_suffix(".md").write_text(format_page(lines_to_write))
    return file.with_suffix(".md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.jsonl of a check")
    parser.add_argument("folder", type=Path, help="folder of the committed results, docs/benchmarks")
    arguments = parser.parse_args()
    print(publish(arguments.results, arguments.folder))
