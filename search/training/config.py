"""Settings of a training, validated once: the recipe of docs/training.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Crop = tuple[Count, Count]

SCRATCH, SUPERNET = "scratch", "supernet"


class TrainConfig(BaseModel):
    """Settings of `train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    """Number of optimiser steps."""
    batch: Count = 8
    """Batch size of each process, in images."""
    crop: Crop | None = None
    """Height and width of training crops, in pixels; None for the space's input size."""
    seed: Natural = 0
    """Random seed."""
    lr: Positive = 0.01
    """Learning rate after the warm-up (SGD 0.9, polynomial decay of power 0.9)."""
    warm_up: Natural = 1000
    """Steps in which the learning rate rises; at most a tenth of all steps."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of convolutions; norms and biases have none."""
    ohem: bool = True
    """Train on hard pixels only; see `losses.ohem_loss`."""
    balanced: bool = False
    """Give rare classes more weight; see `losses.compute_class_weights`."""
    aux: NonNegative = 0.4
    """Weight of the auxiliary head's loss; 0 for no auxiliary head."""
    ema: Share = 0.999
    """Decay of the weights' moving average, which is scored and saved; 0 for the last step's weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the computation; weights and their updates are float32 in all of them."""
    init: str = SCRATCH
    """Source of the initial weights: `scratch`, the run's own `supernet`, or a safetensors file."""
    train_split: Literal["train", "train_extra"] = "train"
    """Split to train on: `train`, or Cityscapes' coarsely labelled `train_extra`."""
    workers: Natural = 0
    """Number of data-loading processes for each training process."""

    def factor(self, step: int) -> float:
        """Return the share of `lr` at a step counted from 0: it rises in the warm-up, then decays, and is never 0."""
        warm_up = min(self.warm_up, self.steps // 10)
        rise = (step + 1) / warm_up if step < warm_up else 1.0
        return float(rise * (1 - step / self.steps) ** 0.9)
