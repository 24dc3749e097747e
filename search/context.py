"""One search on its way: what every part of it needs, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..lut.predictor import Predictor
from .config import SearchConfig
from .constraint.refinement import MeasureLatency
from .data.datasets import SegmentationDataset
from .decisions import Decisions
from .runtime.run_folder import OnStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class SearchContext:
    """One search on its way: what every part of it needs."""

    predictors: Sequence[Predictor]
    blocks: Decisions
    config: SearchConfig
    fabric: Fabric
    halves: tuple[SegmentationDataset, SegmentationDataset]
    judged_on: SegmentationDataset
    class_weights: Tensor | None
    settings: dict[str, Any]
    out: Path
    progress: SearchProgress
    measure: MeasureLatency | None = None


class SearchProgress:
    """Steps of everything that a search does, told as one count.

    Args:
        on_step: told the count and the total.
        config: settings, which say how many steps there will be.
    """

    def __init__(self, on_step: OnStep, config: SearchConfig) -> None:
        self._on_step = on_step
        points, trials = max(len(config.targets_ms), 1), config.trials if config.trials > 1 else 0
        self.of_a_point = config.steps - config.warm_up_steps + trials * config.trial_steps
        self._total = config.warm_up_steps + points * self.of_a_point
        self._done = 0

    def shifted(self, before: int) -> OnStep:
        """What a part that counts its own steps is to tell, after `before` steps of other parts."""
        return lambda step, _: self._tell(before + step)

    def reached(self, done: int) -> None:
        """Go on from here; nothing is told, since a resumed search may have been here before."""
        self._done = done

    def skip(self, steps: int) -> None:
        """Leave out steps that an earlier call made."""
        self._done += steps

    def tick(self) -> None:
        """One step more."""
        self._tell(self._done + 1)

    def _tell(self, done: int) -> None:
        self._done = done
        self._on_step(done, self._total)
