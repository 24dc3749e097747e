"""Settings of a search and of a training, checked once; the defaults carry METHOD's marks (docs/method.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..models.plan import DENSE

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Crop = tuple[Count, Count]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchConfig(_Config):
    """Settings of `search`. Every default that says "assumption" is recalled of GAS, or ours."""

    steps: Count
    """Steps of the search, each one batch for the weights and, after the warm-up, one for the architecture."""
    batch: Count = 16
    """Images in a batch. Assumption."""
    crop: Crop | None = None
    """Height and width of training crops, in pixels; None takes the space's input size."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""
    scope: str = DENSE
    """Scope of the latency: `dense` or `core`."""
    target_ms: Positive | None = None
    """Latency that the result must not exceed, in milliseconds; None trades latency by `beta` instead."""
    beta: Positive = 2e-3
    """Weight of log(latency in ms) in the loss where there is no target. Assumption: 5e-4 to 5e-3."""
    multiplier_lr: Positive = 0.02
    """Step of the dual ascent on the target's multiplier, per step and unit of log(latency / target). Ours."""
    warm_up: Share = 0.2
    """Share of the steps in which only weights are trained. Assumption."""
    weight_lr: Positive = 0.025
    """First learning rate of the weights (SGD 0.9, cosine). Assumption."""
    weight_lr_end: Positive = 1e-3
    """Last learning rate of the weights. Assumption."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-4
    """Of the weights. Assumption."""
    arch_lr: Positive = 1e-3
    """Learning rate of the architecture (Adam, betas 0.5 and 0.999). Assumption."""
    arch_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of the architecture. Assumption."""
    temperature: Positive = 1.0
    """First temperature of the Gumbel-softmax. Assumption."""
    temperature_end: Positive = 0.03
    """Last temperature, reached exponentially. Assumption."""
    gamma: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the graph-convolution guidance between cells; 0 switches it off. Assumption."""
    embedding: Count = 64
    """Width of the guidance's hidden layer. Assumption."""
    samples: Count = 512
    """Architectures sampled for the derivation. Ours."""
    finalists: Count = 6
    """Of these, the most likely ones that are compared by their loss in the supernet. Ours."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load images."""


class TrainConfig(_Config):
    """Settings of `train`: METHOD's recipe as far as it is built (no auxiliary head, no hard-example mining yet)."""

    steps: Count
    """Optimiser steps."""
    batch: Count = 8
    """Images in a batch."""
    crop: Crop | None = None
    """Height and width of training crops, in pixels; None takes the space's input size."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""
    lr: Positive = 0.01
    """Learning rate after the warm-up (SGD 0.9, polynomial decay of power 0.9)."""
    warm_up: Annotated[int, Field(ge=0)] = 1000
    """Steps in which the learning rate rises; at most a tenth of all steps is taken."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Of convolution weights; none on norms and biases."""
    init: Annotated[str, Field(pattern="^(scratch|supernet)$")] = "scratch"
    """Where weights come from: `scratch`, or the run's own `supernet`."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load images."""
