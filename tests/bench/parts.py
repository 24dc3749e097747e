"""Result files made in parts: a part that is measured anew takes its place beside the others, which stay."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from run import git


def stamp() -> dict[str, str]:
    """Which commit makes a part, and when."""
    dirty = "-dirty" if git("status", "--porcelain") else ""
    return {
        "commit": git("rev-parse", "--short", "HEAD") + dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def with_earlier_parts(
    result: dict[str, Any], path: Path, parts: Sequence[str], alike: Sequence[str] = ()
) -> dict[str, Any]:
    """The result with a note of which part was made by which commit, and with the parts of an earlier file it lacks.

    Args:
        result: what was made now, with the `stamp`.
        path: the earlier file, which need not be there.
        parts: keys of the parts.
        alike: keys that have to be equal in both files.
    """
    made = {part: {name: result[name] for name in ("commit", "date")} for part in parts if part in result}
    if not path.exists() or set(parts) <= set(result):
        return result | {"made": made}
    earlier = json.loads(path.read_text())
    if any(earlier.get(name) != result[name] for name in alike):
        sys.exit(f"{path} was made with other settings: write elsewhere, or all parts")
    kept = {part: earlier[part] for part in parts if part in earlier and part not in result}
    whole = {name: earlier[name] for name in ("commit", "date")}  # of a file made in one go
    before = {part: earlier.get("made", {}).get(part, whole) for part in kept}
    return result | kept | {"made": {**before, **made}}


def told(made: dict[str, dict[str, str]]) -> str:
    """Which part was made when, by which commit, in words."""
    commits: dict[str, list[str]] = {}
    for part, one in made.items():
        commits.setdefault(f"{one['commit']}, {one['date'][:10]}", []).append(part)
    return "; ".join(f"{', '.join(parts)}: {commit}" for commit, parts in commits.items())
