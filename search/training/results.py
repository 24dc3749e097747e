"""Results of training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from ..results import Result
from ..runtime.run_settings import LEGACY_SETTINGS
from .config import SCRATCH, TrainConfig


@dataclass(frozen=True)
class ScoredWeights(Result):
    """Weights and their scores; scores are in percent, and None without a labelled pixel.

    Attributes:
        weights: path of the weights.
        miou: mean of `per_class` over the classes with a value.
        per_class: class name -> intersection over union; None for a class that is in neither labels nor predictions.
        pixel_accuracy: share of correctly classified pixels.
        scored_on: split of the images.
        scored_at: height and width at which labels were compared, or a text where these differ.
        scored_images: number of images.
    """

    weights: Path
    miou: float | None
    per_class: dict[str, float | None]
    pixel_accuracy: float | None
    scored_on: str
    scored_at: tuple[int, int] | str
    scored_images: int


@dataclass(frozen=True)
class EvaluationResult(ScoredWeights):
    """Result of an evaluation.

    Attributes:
        predictions: folder of the predicted classes; None if not requested.
    """

    predictions: Path | None


@dataclass(frozen=True)
class CurvePoint:
    """Scores of a validation during a training, in percent; None without a labelled pixel.

    Attributes:
        step: number of finished steps.
        miou: mean intersection over union.
        pixel_accuracy: share of correctly classified pixels.
    """

    step: int
    miou: float | None
    pixel_accuracy: float | None


@dataclass(frozen=True)
class TrainResult(ScoredWeights):
    """Result of a training.

    Attributes:
        config: settings; in JSON, each is a key of the result, and `init` is `pretrain`.
        seconds: duration of the steps, their validations and checkpoints.
        from_scratch: parts of the network that the initial weights did not fit.
        images: number of training images.
        processes: number of processes.
        batch_per_process: images of each process in a step; None in results of earlier versions, whose `batch` it is.
        weights_digest: digest of the file of the weights; None in results of earlier versions.
        waiting_pct: share of the time of the steps that was spent waiting for data, in percent, since the training was
            last resumed; None if unknown.
        epochs: passes over the training images; None in results of earlier versions.
        curve: scores of each validation; empty in results of earlier versions.
        best_step: steps until the validation with the best mIoU; None without a labelled pixel.
        last_miou: mIoU of the weights after the last step; None without a labelled pixel.
    """

    config: TrainConfig
    seconds: float
    from_scratch: tuple[str, ...]
    images: int
    processes: int
    batch_per_process: int | None = None
    weights_digest: str | None = None
    waiting_pct: float | None = None
    epochs: float | None = None
    curve: tuple[CurvePoint, ...] = ()
    best_step: int | None = None
    last_miou: float | None = None

    @property
    def kept_step(self) -> int:
        """Number of steps that made the weights."""
        return self.config.steps if self.config.keep == "last" else self.best_step or self.config.steps

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the JSON object."""
        content = super().as_dict()
        del content["config"]
        settings = self.config.list_settings(exclude={"init"})
        return content | settings | {"pretrain": "none" if self.config.init == SCRATCH else self.config.init}

    @classmethod
    def from_dict(cls, content: Mapping[str, JsonValue]) -> Self:
        """Return the result that a JSON object holds."""
        pretrain = content.get("pretrain", "none")
        known = {name: content[name] for name in TrainConfig.model_fields if name in content}
        settings = LEGACY_SETTINGS["train"] | known
        config = TrainConfig.model_validate(settings | {"init": SCRATCH if pretrain == "none" else pretrain})
        return super().from_dict({**content, "config": config.model_dump(mode="json")})
