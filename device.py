"""Devices as values: kind, ordinal and host."""

from __future__ import annotations

import re

from .errors import UsageError

KINDS = ("cpu", "cuda")
"""Kinds of devices. All but `cpu` have an ordinal."""

_NAME = re.compile(rf"(?:(?P<host>ssh://[^/\s]+)/)?(?P<kind>{'|'.join(KINDS)})(?::(?P<index>\d+))?")


class Device(str):
    """A device: `cpu`, `cuda:0` or, on another machine, `ssh://board/cuda:0`.

    The value is its canonical name, so files, messages and torch take it as it is. Read `kind`, `ordinal` and `host`
    instead of comparing or splitting names.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Device:
        """Return the device called `name`; `cuda` is short for `cuda:0`.

        Raises:
            UsageError: malformed name.
        """
        match = _NAME.fullmatch(name)
        if match is None or (match["kind"] == "cpu" and match["index"]):
            raise UsageError(f"device {name!r} is neither 'cpu' nor 'cuda:N'")
        local = "cpu" if match["kind"] == "cpu" else f"{match['kind']}:{int(match['index'] or 0)}"
        return super().__new__(cls, f"{match['host']}/{local}" if match["host"] else local)

    @property
    def host(self) -> str | None:
        """Machine of the device, e.g. `ssh://board`; None for this machine."""
        return self.rpartition("/")[0] or None

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.rpartition("/")[2].partition(":")[0]

    @property
    def ordinal(self) -> int:
        """Number among the devices of its kind; 0 for a CPU."""
        return int(self.rpartition("/")[2].partition(":")[2] or 0)

    @property
    def is_cpu(self) -> bool:
        """True if operators run on the CPU."""
        return self.kind == "cpu"

    def num_threads(self, requested: int) -> int:
        """Return the CPU threads inside an operator: `requested` on a CPU, 1 elsewhere."""
        return requested if self.is_cpu else 1


CPU = Device("cpu")
"""The CPU of this machine."""
