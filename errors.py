"""Errors that lgc raises on purpose. A message says what is wrong, where, and how to fix it.

The commands print the message of an `LgcError` as a single line and exit with its `exit_code`. Any other exception is
a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class LgcError(Exception):
    """Base class of all errors that lgc raises on purpose."""

    exit_code = 2


class UsageError(LgcError):
    """An invalid call: a wrong option, or options that contradict each other."""


class UnknownNameError(LgcError):
    """A name that is not in its registry. The message lists the registered names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], remedy: str = "") -> None:
        """Build the message from the `kind` of name, the unknown `name` and the `known` names; suggest the closest."""
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"unknown {kind} {name!r}{hint}{remedy and f': {remedy}'}; known: {', '.join(names)}")


class UnknownOperatorError(UnknownNameError):
    """Operators that are not registered, e.g. because their plugin is not loaded."""

    def __init__(self, names: Sequence[str], known: Iterable[str], failures: Iterable[str] = ()) -> None:
        """Build the message from the `names`, the `known` ones and the `failures` of plugins of installed packages."""
        if len(names) == 1:
            remedies = ["it may come from a plugin: name it with --plugin FILE|MODULE", *failures]
            super().__init__("operator", names[0], known, "; ".join(remedies))
            return
        remedies = ["they may come from plugins: name these with --plugin FILE|MODULE", *failures]
        LgcError.__init__(self, f"unknown operators {', '.join(map(repr, names))}: {'; '.join(remedies)}")


class FileFormatError(LgcError):
    """A missing, truncated or damaged file, or one with a different format or schema version."""


class MissingOperatorError(FileFormatError):
    """A file with an operator that is not registered. The message says how to name its plugin."""


class OutputError(LgcError):
    """An output that cannot be written, or that already exists with other content."""


class DeviceError(LgcError):
    """An unavailable device. The message lists the available devices."""


class BackendUnavailableError(LgcError):
    """A backend that cannot run on this machine. The message gives the reason and, if known, the install command."""


class MismatchError(LgcError):
    """A table whose device, backend, precision or space differs from the requested one."""


class MissingEntryError(LgcError):
    """An entry that is missing from the table. The message gives the profile command that measures it."""


class MeasurementError(LgcError):
    """A measurement that failed or has no usable result."""


class PluginError(LgcError):
    """Code of the user's that cannot be loaded, raises an error, or returns an unexpected object."""


class DataError(LgcError):
    """An unusable dataset folder, image or label."""


class TrainingError(LgcError):
    """A search or training that cannot continue, e.g. because its loss is NaN."""

    exit_code = 1
