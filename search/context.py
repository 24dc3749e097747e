"""State of a search in progress: the parts that all stages share, and a count of finished steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..lut.predictor import Predictor
from .config import SearchConfig, SearchRunConfig
from .constraint.refinement import MeasureLatency
from .data.datasets import SegmentationDataset
from .runtime.run_folder import OnStep
from .supernet.blocks import BlockDecisions

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from pydantic import JsonValue


@dataclass
class SearchContext:
    """Everything that the stages of a search share.

    Attributes:
        predictors: one predictor per latency table.
        decisions: decisions of the search.
        config: settings.
        fabric: device, precision and processes.
        images: all training images, as deployed.
        halves: augmented training images for the weights, and for the architecture.
        held_out: the architecture's half as deployed, neither scaled nor cropped; candidates are compared on it.
        settings: JSON object that identifies the search in its run folder.
        out: run folder.
        progress: count of finished steps.
        class_weights: weights of the classes in the loss, [C]; None for equal weights.
        measure: measurement for the refinement of results; None for none.
    """

    predictors: Sequence[Predictor]
    decisions: BlockDecisions
    config: SearchRunConfig
    fabric: Fabric
    images: SegmentationDataset
    halves: tuple[SegmentationDataset, SegmentationDataset]
    held_out: SegmentationDataset
    settings: dict[str, JsonValue]
    out: Path
    progress: SearchProgress
    class_weights: Tensor | None = None
    measure: MeasureLatency | None = None


class SearchProgress:
    """Steps of all stages of a search, reported as one count.

    Args:
        on_step: callback for the number of finished steps and the total.
        config: settings, which determine the total.

    Attributes:
        steps_per_point: steps after the shared warm-up for each point of targets.
    """

    def __init__(self, on_step: OnStep, config: SearchConfig) -> None:
        self._on_step = on_step
        points = max(len(config.targets_ms), 1)
        self.steps_per_point = config.steps - config.warm_up_steps + config.num_trials * config.trial_steps
        self._total = config.warm_up_steps + points * self.steps_per_point
        self._finished = 0

    def make_callback(self, offset: int) -> OnStep:
        """Return a callback for a stage that counts its own steps and starts after `offset` steps of other stages."""
        return lambda step, _: self._report(offset + step)

    def set_finished(self, steps: int) -> None:
        """Set the count without reporting it: an earlier call may have finished these steps."""
        self._finished = steps

    def skip(self, steps: int) -> None:
        """Add steps that an earlier call finished, without reporting them."""
        self._finished += steps

    def advance(self) -> None:
        """Report another finished step."""
        self._report(self._finished + 1)

    def _report(self, finished: int) -> None:
        self._finished = finished
        self._on_step(finished, self._total)
