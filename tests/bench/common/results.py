"""Result files of the benchmarks: JSON with commit, machine and versions, and a Markdown page with the same name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.profiler.machine.environment import DEVICE_NAME

BENCH = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str:
    """Return the output of a git command in this repository."""
    done = subprocess.run(["git", *arguments], cwd=BENCH, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def stamp() -> dict[str, str]:
    """Return commit and time."""
    dirty = "-dirty" if git("status", "--porcelain") else ""
    return {
        "commit": git("rev-parse", "--short", "HEAD") + dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def slug(name: str) -> str:
    """Return `name` in lower case with hyphens between its words, for file names."""
    return "-".join("".join(c if c.isalnum() else " " for c in name).lower().split())


def result_path(folder: Path, result: dict[str, Any], target: Target, prefix: str = "") -> Path:
    """Return the path of a result's JSON file; the page has the suffix `.md`."""
    machine = slug(result["environment"][DEVICE_NAME])
    return folder / (prefix + "-".join([*result["name"], machine, target.backend, target.precision]) + ".json")


def write_result(folder: Path, result: dict[str, Any], target: Target, page: str, prefix: str = "") -> None:
    """Write a result and its page, and print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    path = result_path(folder, result, target, prefix)
    path.write_text(json.dumps(result, indent=2) + "\n")
    path.with_suffix(".md").write_text(page)
    print(page, flush=True)


def merge_parts(
    result: dict[str, Any], path: Path, parts: Sequence[str], settings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a result with the commit of each part, completed by the other parts of an earlier file.

    Args:
        result: New result with `stamp`.
        path: Earlier file, if it exists.
        parts: Keys of the parts.
        settings: Keys that must be equal in both.
    """
    made = {part: {name: result[name] for name in ("commit", "date")} for part in parts if part in result}
    if not path.exists() or set(parts) <= set(result):
        return result | {"made": made}
    earlier = json.loads(path.read_text())
    if any(earlier.get(name) != result[name] for name in settings):
        sys.exit(f"{path} has other settings: choose another folder, or run all parts")
    kept = {part: earlier[part] for part in parts if part in earlier and part not in result}
    default = {name: earlier[name] for name in ("commit", "date")}  # for a file without `made`
    before = {part: earlier.get("made", {}).get(part, default) for part in kept}
    return result | kept | {"made": {**before, **made}}


def describe_parts(made: dict[str, dict[str, str]]) -> str:
    """Return the parts by commit and date, as text."""
    commits: dict[str, list[str]] = {}
    for part, origin in made.items():
        commits.setdefault(f"{origin['commit']}, {origin['date'][:10]}", []).append(part)
    return "; ".join(f"{', '.join(parts)}: {commit}" for commit, parts in commits.items())


def page_header(title: str, result: dict[str, Any]) -> list[str]:
    """Return the title of a page and a line with commit, date, machine and versions."""
    environment = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return [
        f"# {title}",
        "",
        f"Commit {result['commit']}, {result['date']}, {environment[DEVICE_NAME]}, {environment['system']}, "
        f"{versions}, lgc {environment['lgc']}, Python {environment['python']}.",
        "",
    ]
