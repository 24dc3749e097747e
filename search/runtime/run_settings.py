"""Settings that a run folder stores: those of earlier versions, and those that a repeated command leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FileFormatError
from ...files import describe, read_text

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue

BATCH_PER_PROCESS = "batch_per_process"
"""Setting that runs of earlier versions lack: their `batch` is that of each process."""
LEGACY_SETTINGS: dict[str, dict[str, JsonValue]] = {
    "train": {"sync_bn": True, "keep": "last", "optimiser": "sgd", "aux_heads": "single"},
    "search": {"optimiser": "sgd", "balanced": False, "trial_seeds": 1, "halves": "random"},
}
"""Stage -> settings that earlier versions lack, with the values that their runs began with and keep."""


def name_checkpoint(path: Path, stage: str) -> Path:
    """Return the path of a stage's checkpoint in a run folder."""
    return path / f"{stage}.ckpt"


def name_result(path: Path, stage: str) -> Path:
    """Return the path of a stage's result in a run folder."""
    return path / f"{stage}-result.json"


def read_object(path: Path) -> dict[str, JsonValue]:
    """Return the JSON object in a file of a run.

    Raises:
        FileFormatError: the file is damaged.
    """
    try:
        content = json.loads(read_text(path, "file of a run"))
    except ValueError as error:
        raise FileFormatError(
            f"{path} is damaged ({describe(path)}): delete it, or choose another folder with --out"
        ) from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{path} is not a file of a run: it holds no JSON object")
    return content


def read_settings(path: Path, stage: str) -> dict[str, JsonValue]:
    """Return the settings of a stage as its run folder stores them; empty if it has none.

    Raises:
        FileFormatError: the file is damaged.
    """
    config = path / f"{stage}.json"
    return read_object(config) if config.exists() else {}


def upgrade_settings(stored: Mapping[str, JsonValue], stage: str) -> dict[str, JsonValue]:
    """Return stored settings in the form of this version, for the same computation."""
    settings = {**LEGACY_SETTINGS.get(stage, {}), **stored} if stored else {}
    batch, processes = stored.get("batch"), stored.get("processes", 1)
    if BATCH_PER_PROCESS not in stored and isinstance(batch, int) and isinstance(processes, int):
        settings |= {"batch": batch * processes, BATCH_PER_PROCESS: batch}
    return settings


def resume_settings(
    kind: type[BaseModel],
    given: Mapping[str, Any],
    path: Path,
    stage: str,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return the given settings and, of a run that has a checkpoint or a result, its own in place of defaults.

    So a default that changes with a version does not change a run. One that began with a batch per process may be given
    this batch, or that of all processes.

    Args:
        kind: settings of the stage, `TrainConfig` or `SearchConfig`.
        given: fields of `kind` that the user has set.
        path: run folder.
        stage: `search` or `train`.
        log: receives a line on settings of the run that differ from the defaults.

    Raises:
        FileFormatError: the stored settings are damaged.
    """
    if not (name_checkpoint(path, stage).exists() or name_result(path, stage).exists()):
        return dict(given)
    stored = read_settings(path, stage)
    current = upgrade_settings(stored, stage)
    own = {name: current[name] for name in kind.model_fields if name in current and name not in given}
    if BATCH_PER_PROCESS not in stored and "batch" in given and given["batch"] == stored.get("batch"):
        own["batch"] = current["batch"]
    expected = _fill_in_defaults(kind, given)
    changes = [_describe(name, current) for name in own if name in expected and own[name] != expected[name]]
    if changes:
        log(f"{path} keeps the settings that it began with: {', '.join(changes)}")
    return {**given, **own}


def announce_earlier_version(path: Path, stage: str, log: Callable[[str], None]) -> None:
    """Log a line if an earlier version began this run and it is not finished: what changes for its remaining steps.

    Raises:
        FileFormatError: the stored settings are damaged.
    """
    if not name_checkpoint(path, stage).exists() or name_result(path, stage).exists():
        return
    stored, changes = read_settings(path, stage), []
    if BATCH_PER_PROCESS not in stored:
        changes += ["its remaining random views are this one's", *["gradients are clipped"] * (stage == "train")]
    if stage == "search" and "halves" not in stored:
        changes += ["its remaining paths lie near the target", "its trials have the recipe of lgc-train"]
    if changes:
        text = ", and ".join(part for part in (", ".join(changes[:-1]), changes[-1]) if part)
        log(f"{path} was begun by an earlier version: {text}")


def _fill_in_defaults(kind: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given settings, and the others' defaults as JSON values; those without a default are left out."""
    from pydantic_core import to_jsonable_python

    filled: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if name in given:
            filled[name] = given[name]
        elif not field.is_required():
            # Some defaults depend on the settings before them.
            default = field.get_default(call_default_factory=True, validated_data=filled)
            filled[name] = to_jsonable_python(default)
    return filled


def _describe(name: str, settings: Mapping[str, JsonValue]) -> str:
    """Return a setting as text; a batch with that of each process."""
    share = settings.get(BATCH_PER_PROCESS)
    per_process = f" ({share} per process)" if name == "batch" and share != settings[name] else ""
    return f"{name} {settings[name]!r}{per_process}"
