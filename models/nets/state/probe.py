"""Probe of a network: some of its logits for a fixed image, to recognise the network after it is built again."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat
from torch import Tensor, nn

from ....errors import MismatchError
from ....plugins import describe_error
from ..outputs import get_logits

PROBE_SIDE = 256
"""Sides of the image, unless the network accepts its own size only."""
PROBE_VALUES = 256
"""Number of logits."""
TOLERANCE = 1e-3
"""Largest difference by rounding, as a share of the largest logit."""


class LogitsProbe(BaseModel):
    """Logits of a network in evaluation mode, in float32 on the CPU.

    Attributes:
        size: Height and width of the image in pixels.
        shape: Shape of the logits.
        values: Logits at even distances.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int]
    shape: tuple[int, ...]
    values: tuple[FiniteFloat, ...]

    @classmethod
    def take(cls, network: nn.Module, size: tuple[int, int]) -> Self:
        """Return the probe of a network on the fixed image; `size` is that of its own images.

        Raises:
            MismatchError: The network raises an error, or returns NaN or infinite logits.
        """
        reduced = min(size[0], PROBE_SIDE), min(size[1], PROBE_SIDE)
        try:
            return cls._take(network, reduced)
        except MismatchError:
            if reduced == size:
                raise
            return cls._take(network, size)

    def repeat(self, network: nn.Module) -> Self:
        """Run another network on the same image.

        Raises:
            MismatchError: See `take`.
        """
        return self._take(network, self.size)

    @classmethod
    def _take(cls, network: nn.Module, size: tuple[int, int]) -> Self:
        image = torch.from_numpy(np.random.RandomState(0).standard_normal((1, 3, *size)).astype(np.float32))
        try:
            logits = _run(network, image)
        except Exception as error:
            raise MismatchError(f"it fails on an image of {size[0]}x{size[1]}: {describe_error(error)}") from error
        if not bool(logits.isfinite().all()):
            raise MismatchError(f"it returns NaN or infinite logits for an image of {size[0]}x{size[1]}")
        indices = np.linspace(0, logits.numel() - 1, min(logits.numel(), PROBE_VALUES)).round().astype(np.int64)
        values = [float(f"{value:.7g}") for value in logits.flatten()[torch.from_numpy(indices)].tolist()]
        return cls(size=size, shape=tuple(logits.shape), values=tuple(values))

    def require_equal(self, other: Self) -> None:
        """Check that another probe has the same logits, apart from rounding.

        Raises:
            MismatchError: It has not; the message says by how much they differ.
        """
        if (self.size, self.shape) != (other.size, other.shape):
            raise MismatchError(f"its logits have the shape {[*other.shape]}, not {[*self.shape]}")
        largest = max(map(abs, self.values))
        difference = max(abs(a - b) for a, b in zip(self.values, other.values, strict=True))
        if difference > TOLERANCE * largest:
            raise MismatchError(f"its logits for a fixed image differ by up to {difference:.2g}, of {largest:.2g}")


@torch.no_grad()
def _run(network: nn.Module, image: Tensor) -> Tensor:
    """Return the main logits in evaluation mode on the CPU; leave device and mode unchanged."""
    device = next((parameter.device for parameter in network.parameters()), image.device)
    training = [module for module in network.modules() if module.training]
    try:
        return get_logits(network.cpu().eval()(image)).float()
    finally:
        network.to(device)
        for module in training:
            module.training = True
