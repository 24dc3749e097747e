"""Settings of a search, checked once; the defaults carry METHOD's marks (docs/method.md)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..models.space.plan import DENSE

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Crop = tuple[Count, Count]

ARCH_LR = 1e-3
"""Learning rate of the architecture in a long search. Assumption."""
ARCH_TRAVEL = 14.0
"""How far parameters may move in shorter ones: steps times learning rate. Ours, as docs/benchmarks has it."""

MAX_ARCH_LR = 0.05
"""Learning rate of the architecture in the shortest searches. Ours."""


class SearchConfig(BaseModel):
    """Settings of `search`. Every default that says "assumption" is recalled of GAS, or ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    """Steps of the search, each one batch for the weights and, after the warm-up, one for the architecture."""
    strategy: Literal["gradient", "random", "evolution"] = "gradient"
    """How the architecture is found: by gradients, or by trying architectures in an evenly trained supernet, drawn at
    random or by regularised evolution, for the same computation."""
    batch: Count = 16
    """Images in a batch, in each process. Assumption."""
    crop: Crop | None = None
    """Height and width of training crops, in pixels; None takes the space's input size."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""
    scope: str = DENSE
    """Scope of the latency: `dense` or `core`."""
    targets_ms: tuple[tuple[Positive, ...], ...] = ()
    """Latencies that results must not exceed, in milliseconds: a result for each point, a target for each table. Empty,
    latency is traded by `beta` instead."""
    quantile: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Probability with which the measured latency is to stay below the target; None holds the prediction against it."""
    latency_term: bool = True
    """Whether the loss has a latency term at all; without, only the last step lands on the target."""
    beta: Positive = 2e-3
    """Weight of log(latency in ms) in the loss where there is no target. Assumption: 5e-4 to 5e-3."""
    multiplier_lr: Positive = 0.02
    """Step of the dual ascent on the target's multiplier, per step and unit of log(latency / target). Ours."""
    cells: Literal["independent", "shared"] = "independent"
    """Whether every cell has architecture parameters of its own, or all of a kind share them."""
    communication: Literal["gcn", "linear", "none"] | None = None
    """How a cell's parameters are informed by the cell before; None is `gcn`, or `none` where cells share."""
    fusion: Literal["searched", "fixed"] = "searched"
    """Whether the fusion cell is searched, or sums its levels as `blocks.plain_fusion` says."""
    warm_up: Share = 0.3
    """Share of the steps in which only weights are trained, on evenly drawn paths. Assumption."""
    explore: Share = 0.2
    """Share of the even distribution in the paths of the weights after the warm-up: no operator is to starve. Ours."""
    balanced: bool = False
    """Whether rare classes weigh more in the loss; see `losses.balanced_weights`."""
    weight_lr: Positive = 0.025
    """First learning rate of the weights (SGD 0.9, cosine). Assumption."""
    weight_lr_end: Positive = 1e-3
    """Last learning rate of the weights. Assumption."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-4
    """Of the weights. Assumption."""
    arch_lr: Positive | None = None
    """Learning rate of the architecture (Adam, betas 0.5 and 0.999). None: 1e-3 (assumption), raised in shorter
    searches so that parameters can travel as far as in the papers' 80 epochs of Cityscapes (ours)."""
    arch_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of the architecture. Assumption."""
    temperature: Positive = 1.0
    """First temperature of the Gumbel-softmax. Assumption."""
    temperature_end: Positive = 0.3
    """Last temperature, reached exponentially. Ours: the 0.03 recalled of GAS leaves hardly any gradient."""
    gamma: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the guidance between cells. Assumption."""
    embedding: Count = 64
    """Width of the guidance's hidden layer. Assumption."""
    samples: Count = 512
    """Architectures drawn for the last step of a search by gradients. Ours."""
    finalists: Count = 64
    """Of these, the most likely ones that are compared by their loss in the supernet. Ours."""
    trials: Annotated[int, Field(ge=0)] = 4
    """Of these, the best ones that are trained from scratch for a while; the least loss wins, as where DARTS picks
    among its runs. 0 or 1 takes the best one in the supernet. Ours."""
    trial_share: Share = 1 / 3
    """Length of such a training, as a share of the search's steps. Ours."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load images."""

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.cells == "shared" and self.communication in ("gcn", "linear"):
            raise ValueError(f"cells that share their parameters cannot inform each other by {self.communication}")
        if self.quantile is not None and not self.targets_ms:
            raise ValueError("a quantile bounds a target: give one")
        if len({len(point) for point in self.targets_ms}) > 1:
            raise ValueError("every point needs a target for each table")
        return self

    @property
    def informed_by(self) -> str:
        """The communication between cells, `none` where it has no weight."""
        default = "none" if self.cells == "shared" else "gcn"
        return (self.communication or default) if self.gamma > 0 else "none"

    @property
    def warm_up_steps(self) -> int:
        """Steps in which only weights are trained: all of them where gradients do not find the architecture."""
        return self.steps if self.strategy != "gradient" else self.gradient_warm_up_steps

    @property
    def gradient_warm_up_steps(self) -> int:
        """Warm-up of a search by gradients; the other strategies may spend the computation of what comes after it."""
        return math.ceil(self.warm_up * self.steps)

    @property
    def trial_steps(self) -> int:
        """Steps of each short training."""
        return math.ceil(self.trial_share * self.steps)

    @property
    def arch_rate(self) -> float:
        """Learning rate of the architecture."""
        steps = max(self.steps - self.warm_up_steps, 1)
        return self.arch_lr or min(max(ARCH_LR, ARCH_TRAVEL / steps), MAX_ARCH_LR)

    @property
    def guide_rate(self) -> float:
        """Learning rate of the guidance: thousands of weights, all moved at a raised rate, would saturate a cell."""
        return min(ARCH_LR * math.sqrt(self.arch_rate / ARCH_LR), self.arch_rate)
