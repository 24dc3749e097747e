"""The run folder: everything a search or a training leaves behind, and what shows that it is the same one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, OutputError
from ...files import describe, ensure_folder, read_text, write_atomic
from ...models.nets.weights import WEIGHTS_FILE

CHECKPOINT_S = 10.0
"""Seconds between checkpoints."""

OnStep = Callable[[int, int], None]
"""Told the number of finished steps, and of all."""


class RunFolder:
    """One stage (`search` or `train`) in a run folder.

    Args:
        path: the folder; made if it is not there.
        stage: name of the stage, which its files begin with.
        settings: JSON object that tells this stage from another; a folder that holds other settings is refused.
        active: whether this process writes; the others of a parallel run only read.

    Raises:
        OutputError: the folder cannot be written, or holds something else.
    """

    def __init__(self, path: Path, stage: str, settings: dict[str, Any], *, active: bool = True) -> None:
        self.path = path
        self.stage = stage
        self.active = active
        config = path / f"{stage}.json"
        if not active:
            return
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is {describe(path)}, not a folder")
        begun = self.checkpoint.exists() or self.result() is not None
        if config.exists() and begun:
            _require_same(config, settings)
            return
        if stage == "search" and not config.exists() and path.is_dir() and any(path.iterdir()):
            raise OutputError(f"{path} holds something else than a search: name a new or empty folder with --out")
        if (path / WEIGHTS_FILE).exists():
            raise OutputError(f"{path / WEIGHTS_FILE} is not of this run: move it away, or train in another folder")
        ensure_folder(path)
        write_atomic(config, json.dumps(settings, indent=2) + "\n")

    @property
    def checkpoint(self) -> Path:
        """Where the stage's checkpoint lies."""
        return self.path / f"{self.stage}.ckpt"

    def result(self) -> dict[str, Any] | None:
        """The stage's result, once it is finished."""
        path = self.path / f"{self.stage}-result.json"
        return _read_object(path) if path.exists() else None

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write and return the stage's result."""
        if self.active:
            write_atomic(self.path / f"{self.stage}-result.json", json.dumps(result, indent=2) + "\n")
        return result


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the run."""
    try:
        content = json.loads(read_text(path, "file of a run"))
    except ValueError as error:
        raise FileFormatError(f"{path} is damaged ({describe(path)}); delete it, or name another folder") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{path} is no file of a run: it holds no JSON object")
    return content


def _require_same(config: Path, settings: dict[str, Any]) -> None:
    before = _read_object(config)
    wanted = json.loads(json.dumps(settings))
    differences = [
        f"{key} {before.get(key)!r}, not {wanted.get(key)!r}"
        for key in sorted({*before, *wanted})
        if before.get(key) != wanted.get(key)
    ]
    if differences:
        raise OutputError(
            f"{config.parent} holds another run ({'; '.join(differences)}): "
            f"repeat its settings to go on with it, or name another folder"
        )
