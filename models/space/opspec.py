"""OpSpec: what an operator is asked to do, as a value; its string form is the key of every latency table."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import UsageError

_N = "[1-9][0-9]{0,8}"
_KEY = re.compile(
    rf"(?P<operator>[a-z0-9_]+)/c(?P<c_in>{_N})-(?P<c_out>{_N})/(?P<height>{_N})x(?P<width>{_N})/s(?P<stride>{_N})/b(?P<batch>{_N})"
)


@dataclass(frozen=True, order=True)
class OpSpec:
    """An operator at a place: name, channels, resolution, stride and batch size.

    Attributes:
        operator: a name of the operator registry, say `sep_conv_3x3`.
        c_in: channels of each input.
        c_out: channels of the output.
        height: rows of the finer side: of the input, or of the output where the operator upsamples.
        width: columns, likewise.
        stride: factor between the finer and the coarser side; sizes are rounded up, as with padding of half a kernel.
        batch: images at once.
    """

    operator: str
    c_in: int
    c_out: int
    height: int
    width: int
    stride: int = 1
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.operator}/c{self.c_in}-{self.c_out}/{self.height}x{self.width}/s{self.stride}/b{self.batch}"

    @classmethod
    def parse(cls, key: str) -> OpSpec:
        """Read the string form back; `OpSpec.parse(str(spec)) == spec`.

        Raises:
            UsageError: `key` is not of that form.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise UsageError(f"{key!r} is no operator key; an example is sep_conv_3x3/c16-16/90x120/s1/b1")
        numbers = {name: int(text) for name, text in match.groupdict().items() if name != "operator"}
        return cls(operator=match["operator"], **numbers)

    @property
    def fine(self) -> tuple[int, int]:
        """(height, width) of the finer side."""
        return self.height, self.width

    @property
    def coarse(self) -> tuple[int, int]:
        """(height, width) of the coarser side: the finer one divided by the stride, rounded up."""
        return strided_length(self.height, self.stride), strided_length(self.width, self.stride)


def strided_length(length: int, stride: int) -> int:
    """Length of an axis after a stride: divided, rounded up."""
    return -(-length // stride)
