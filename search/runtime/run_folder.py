"""Run folders: files of a search or a training, and the settings that identify it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...errors import FileFormatError, OutputError
from ...files import describe, ensure_folder, write_atomic
from ...models.nets.state.weights import WEIGHTS_FILE
from ..results import Result
from .run_settings import BATCH_PER_PROCESS, name_checkpoint, name_result, read_object, upgrade_settings

if TYPE_CHECKING:
    from pydantic import JsonValue

CHECKPOINT_S = 10.0
"""Seconds between checkpoints."""
IMAGE_HASHES = "images"
"""Setting with hashes of the images and labels."""
DATASET_DIGEST = "dataset"
"""Setting with the hash of a dataset's description, which known layouts lack."""
INITIAL_WEIGHTS = "initial_weights"
"""Setting with the digest of the file of initial weights."""
_LATER_SETTINGS = (IMAGE_HASHES, INITIAL_WEIGHTS)
"""Settings that older trainings lack."""
_CHANGES = {
    IMAGE_HASHES: "the images or labels have changed",
    DATASET_DIGEST: "the description of the dataset has changed, e.g. classes or label values",
    INITIAL_WEIGHTS: "the file of initial weights has changed",
}
"""Message on settings that are hashes."""

OnStep = Callable[[int, int], None]
"""Callback for the number of finished steps and the total."""
StageResult = TypeVar("StageResult", bound=Result)


def is_finished(path: Path, stage: str) -> bool:
    """Return True if a run folder has the result of a stage, `search` or `train`."""
    return name_result(path, stage).exists()


def suggest_longer_training(path: Path) -> str:
    """Return how to train the weights of a run folder further."""
    return f"to train its weights further: --init {path / WEIGHTS_FILE} --out NEW"


class RunFolder:
    """One stage (`search` or `train`) in a run folder.

    Args:
        path: the folder; created if it does not exist.
        stage: name of the stage, and the prefix of its files.
        settings: JSON object that identifies the stage; a folder with different settings is refused.
        active: True if this process writes; the other processes of a parallel run do not.

    Raises:
        OutputError: the folder cannot be written, or holds other files.
    """

    def __init__(self, path: Path, stage: str, settings: Mapping[str, JsonValue], *, active: bool = True) -> None:
        self.path = path
        self.stage = stage
        self.active = active
        config = self._config
        if not active:
            return
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is {describe(path)}, not a folder")
        started = self.checkpoint.exists() or self._result_file.exists()
        if config.exists() and started:
            _require_same_settings(config, settings)
            return
        if stage == "search" and not config.exists() and path.is_dir() and any(path.iterdir()):
            raise OutputError(f"{path} is not empty and is not a search run: choose a new or empty folder with --out")
        if (path / WEIGHTS_FILE).exists():
            raise OutputError(f"{path / WEIGHTS_FILE} belongs to a different run: move it, or train in another folder")
        ensure_folder(path)
        write_atomic(config, json.dumps(settings, indent=2) + "\n")

    def find_newer(self, files: Iterable[Path]) -> Path | None:
        """Return the newest file if it was changed after the stage began; else None."""
        newest = max(files, key=lambda path: path.stat().st_mtime_ns)
        return newest if newest.stat().st_mtime_ns > self._config.stat().st_mtime_ns else None

    @property
    def _config(self) -> Path:
        return self.path / f"{self.stage}.json"

    @property
    def checkpoint(self) -> Path:
        """Path of the stage's checkpoint."""
        return name_checkpoint(self.path, self.stage)

    @property
    def _result_file(self) -> Path:
        return name_result(self.path, self.stage)

    def read_result(self, kind: type[StageResult]) -> StageResult | None:
        """Return the stage's result; None until it is finished.

        Raises:
            FileFormatError: the file is damaged, or holds another kind of result.
        """
        path = self._result_file
        if not path.exists():
            return None
        try:
            return kind.from_dict(read_object(path))
        except ValueError as error:
            raise FileFormatError(
                f"{path} is not a result of this stage: delete it, or choose another folder with --out"
            ) from error

    def finish(self, result: StageResult) -> StageResult:
        """Write and return the stage's result."""
        if self.active:
            write_atomic(self._result_file, json.dumps(result.as_dict(), indent=2) + "\n")
        return result


def _require_same_settings(config: Path, settings: Mapping[str, JsonValue]) -> None:
    content = read_object(config)
    stored, requested = upgrade_settings(content, config.stem), json.loads(json.dumps(settings))
    differences = [
        _CHANGES.get(key) or f"{key} {content.get(key, stored.get(key))!r}, not {requested.get(key)!r}"
        for key in sorted({*stored, *requested} - {BATCH_PER_PROCESS})
        if stored.get(key) != requested.get(key) and not (key in _LATER_SETTINGS and key not in stored)
    ]
    if differences:
        is_trained = config.stem == "train" and (config.parent / WEIGHTS_FILE).exists()
        raise OutputError(
            f"{config.parent} holds a different run ({'; '.join(differences)}): "
            f"repeat its settings to resume it, or choose another folder with --out"
            + f"; {suggest_longer_training(config.parent)}"
            * (is_trained and stored.get("steps") != requested.get("steps"))
        )
