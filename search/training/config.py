"""Settings of a training, checked once: the recipe of docs/training.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]

SCRATCH, SUPERNET = "scratch", "supernet"


class TrainConfig(BaseModel):
    """Settings of `train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    """Optimiser steps."""
    batch: Count = 8
    """Images in a batch of each process."""
    crop: tuple[Count, Count] | None = None
    """Height and width of training crops, in pixels; None takes the space's input size."""
    seed: Natural = 0
    """Of everything random."""
    lr: Positive = 0.01
    """Learning rate after the warm-up (SGD 0.9, polynomial decay of power 0.9)."""
    warm_up: Natural = 1000
    """Steps in which the learning rate rises; at most a tenth of all steps is taken."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Of convolution weights; none on norms and biases."""
    ohem: bool = True
    """Whether only hard pixels count; see `losses.ohem_loss`."""
    balanced: bool = False
    """Whether rare classes weigh more; see `losses.balanced_weights`."""
    aux: Annotated[float, Field(ge=0)] = 0.4
    """Weight of the auxiliary head's loss; 0 leaves the head out."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the weights' running mean, which is scored and saved; 0 takes the last step's weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the computation; weights and their updates are float32 in all of them."""
    init: str = SCRATCH
    """Where weights come from: `scratch`, the run's own `supernet`, or a safetensors file."""
    train_split: Literal["train", "train_extra"] = "train"
    """Images to train on: `train`, or Cityscapes' coarsely labelled `train_extra`."""
    workers: Natural = 0
    """Processes that load images, for each process that trains."""

    def factor(self, step: int) -> float:
        """Share of `lr` at a step counted from 0: rises in the warm-up, falls as a polynomial, never 0."""
        warm_up = min(self.warm_up, self.steps // 10)
        rise = (step + 1) / warm_up if step < warm_up else 1.0
        return float(rise * (1 - step / self.steps) ** 0.9)
