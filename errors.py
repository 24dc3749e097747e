"""The errors lgc raises on purpose: each says what was wrong, where, and what to do about it.

The commands print the message of an `LgcError` as one line and leave with its `exit_code`; anything else is a bug
and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LgcError(Exception):
    """Root of every error that lgc raises on purpose."""

    exit_code = 2


class UsageError(LgcError):
    """The call itself cannot be carried out: a wrong option, a combination that makes no sense."""


class UnknownNameError(LgcError):
    """A name that no registry holds; the message lists the names there are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say that `name` is no `kind`, list the `known` ones and guess which one was meant."""
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


class FileFormatError(LgcError):
    """A file that is not what it was handed over as: truncated, foreign, or of another schema version."""


class OutputError(LgcError):
    """An output that cannot be written, or that holds something else already."""


class DeviceError(LgcError):
    """A device that is not there; the message names the ones that are."""


class BackendUnavailableError(LgcError):
    """A backend that cannot run here; the message gives the reason and, where there is one, the install command."""


class MismatchError(LgcError):
    """A table of another device, backend, precision or space than the one asked for."""


class MissingEntryError(LgcError):
    """The table lacks an entry; the message names the profile command that fills it."""


class MeasurementError(LgcError):
    """A measurement that failed, or that gave nothing usable."""


class DataError(LgcError):
    """A data set folder, image or label that cannot be used."""


class TrainingError(LgcError):
    """A search or a training that cannot go on, say because its loss is no longer a number."""

    exit_code = 1
