"""OpSpec: an operator with its shapes, as a value. Its string form is the key of latency tables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import UsageError
from ..geometry import strided_length

OPERATOR_NAME = "[a-z0-9_]+"
"""Pattern of an operator's name."""
_N = "[1-9][0-9]{0,8}"
_KEY = re.compile(
    rf"(?P<operator>{OPERATOR_NAME})/c(?P<c_in>{_N})-(?P<c_out>{_N})/(?P<height>{_N})x(?P<width>{_N})/s(?P<stride>{_N})/b(?P<batch>{_N})"
)


@dataclass(frozen=True, order=True)
class OpSpec:
    """Operator with channels, resolution, stride and batch size.

    Attributes:
        operator: Name in the operator registry, e.g. `sep_conv_3x3`.
        c_in: Channels of each input.
        c_out: Channels of the output.
        height: Height of the finer side in pixels: the input, or the output of an upsampling operator.
        width: Width of the finer side in pixels.
        stride: Ratio of the finer to the coarser side; sizes are rounded up, as with padding of half a kernel.
        batch: Number of images.
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
        """Parse the string form: `OpSpec.parse(str(spec)) == spec`.

        Raises:
            UsageError: Invalid key.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise UsageError(f"invalid operator key {key!r}; example: sep_conv_3x3/c16-16/90x120/s1/b1")
        numbers = {name: int(text) for name, text in match.groupdict().items() if name != "operator"}
        return cls(operator=match["operator"], **numbers)

    @property
    def fine(self) -> tuple[int, int]:
        """Height and width of the finer side."""
        return self.height, self.width

    @property
    def coarse(self) -> tuple[int, int]:
        """Height and width of the coarser side: the finer side's divided by the stride, rounded up."""
        return strided_length(self.height, self.stride), strided_length(self.width, self.stride)
