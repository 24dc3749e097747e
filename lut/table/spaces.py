"""Search spaces by preset, by YAML file or from a latency table."""

from __future__ import annotations

from pathlib import Path

from ...files import SQLITE_HEADER
from ...models.space.protocol import Space
from .table import LatencyTable


def load_space(source: str | Path) -> Space:
    """Return the space of a preset, of a YAML file or of a latency table.

    Raises:
        UnknownNameError: `source` is neither a preset nor a file.
        FileFormatError: The file is missing or invalid.
        MissingOperatorError: An operator of the table's space is not registered.
    """
    if not _is_table(Path(source)):
        return Space.load(source)
    with LatencyTable.open(source, inspect=True) as table:
        return table.space


def _is_table(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER
