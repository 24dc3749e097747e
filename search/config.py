"""Settings of a search, validated once; docs/method.md explains the marks of the defaults."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..models.space.protocol import DENSE
from .training.config import Count, Crop, Natural, NonNegative, Positive, Share

ARCH_LR = 1e-3
"""Learning rate of the architecture in a long search. Assumption."""
ARCH_TRAVEL = 14.0
"""Distance that parameters can move in shorter searches: steps times learning rate. Ours, see docs/benchmarks."""

MAX_ARCH_LR = 0.05
"""Learning rate of the architecture in the shortest searches. Ours."""


class SearchConfig(BaseModel):
    """Settings of `search`. A default marked "assumption" is recalled from GAS; one marked "ours" is this project's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    """Number of steps: each has a batch for the weights and, after the warm-up, another for the architecture."""
    strategy: Literal["gradient", "random", "evolution"] = "gradient"
    """Search strategy: by gradients, or by comparing random or evolved (regularised evolution) architectures in an
    evenly trained supernet, with the same amount of computation."""
    batch: Count = 16
    """Batch size of each process, in images. Assumption."""
    crop: Crop | None = None
    """Height and width of training crops, in pixels; None for the space's input size."""
    seed: Natural = 0
    """Random seed."""
    scope: str = DENSE
    """Scope of the latency: `dense` or `core`."""
    targets_ms: tuple[tuple[Positive, ...], ...] = ()
    """Maximum latencies of results, in milliseconds: one point per result, one target per table in each point. Without
    targets, `beta` trades latency against the loss."""
    quantile: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Probability that the measured latency stays below the target; None to compare the prediction itself."""
    latency_term: bool = True
    """Include the latency term in the loss; without it, only the projection at the end uses the target."""
    beta: Positive = 2e-3
    """Weight of log(latency in ms) in the loss where there is no target. Assumption: 5e-4 to 5e-3."""
    multiplier_lr: Positive = 0.02
    """Step size of the dual ascent on the target's multiplier, per unit of log(latency / target). Ours."""
    cells: Literal["independent", "shared"] = "independent"
    """Architecture parameters of the cells: independent, or shared by all cells of a kind."""
    communication: Literal["gcn", "linear", "none"] | None = None
    """Communication from each cell to the next; None for `gcn`, or `none` with shared cells."""
    fusion: Literal["searched", "fixed"] = "searched"
    """Fusion cell: searched, or fixed as in `decisions.make_fixed_fusion`."""
    warm_up: Share = 0.3
    """Share of the steps that train only the weights, on evenly drawn paths. Assumption."""
    explore: Share = 0.2
    """Share of the uniform distribution in the weights' paths after the warm-up, so every operator is trained. Ours."""
    balanced: bool = False
    """Give rare classes more weight in the loss; see `losses.compute_class_weights`."""
    weight_lr: Positive = 0.025
    """First learning rate of the weights (SGD 0.9, cosine). Assumption."""
    weight_lr_end: Positive = 1e-3
    """Last learning rate of the weights. Assumption."""
    weight_decay: NonNegative = 3e-4
    """Weight decay of the weights. Assumption."""
    arch_lr: Positive | None = None
    """Learning rate of the architecture (Adam, betas 0.5 and 0.999). None for 1e-3 (assumption), raised in shorter
    searches so that parameters can travel the same distance as in the papers' 80 epochs of Cityscapes (ours)."""
    arch_decay: NonNegative = 1e-4
    """Weight decay of the architecture. Assumption."""
    temperature: Positive = 1.0
    """First temperature of the Gumbel-softmax. Assumption."""
    temperature_end: Positive = 0.3
    """Last temperature, reached exponentially. Ours: GAS's 0.03 (recalled) leaves hardly any gradient."""
    gamma: NonNegative = 0.5
    """Weight of the communication between cells. Assumption."""
    embedding: Count = 64
    """Width of the communication's hidden layer. Assumption."""
    samples: Count = 512
    """Architectures sampled at the end of a search by gradients. Ours."""
    finalists: Count = 64
    """Number of most probable samples whose losses are compared in the supernet. Ours."""
    trials: Natural = 4
    """Number of best finalists that are trained from scratch for a while; the lowest loss wins, as where DARTS picks
    among its runs. 0 or 1 for the best one in the supernet. Ours."""
    trial_share: Share = 1 / 3
    """Length of such a training, as a share of the search's steps. Ours."""
    workers: Natural = 0
    """Number of data-loading processes."""

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.cells == "shared" and self.communication in ("gcn", "linear"):
            raise ValueError(
                f"shared cells cannot communicate by {self.communication}: use communication none, or independent cells"
            )
        if self.quantile is not None and not self.targets_ms:
            raise ValueError("a quantile bounds a target: give one")
        if len({len(point) for point in self.targets_ms}) > 1:
            raise ValueError("every point needs one target per table")
        return self

    @property
    def active_communication(self) -> str:
        """Communication between cells; `none` where its weight is 0."""
        default = "none" if self.cells == "shared" else "gcn"
        return (self.communication or default) if self.gamma > 0 else "none"

    @property
    def warm_up_steps(self) -> int:
        """Steps that train only the weights: all of them unless the strategy is `gradient`."""
        return self.steps if self.strategy != "gradient" else self.gradient_warm_up_steps

    @property
    def gradient_warm_up_steps(self) -> int:
        """Warm-up of a search by gradients; the other strategies have the computation after it as their budget."""
        return math.ceil(self.warm_up * self.steps)

    @property
    def trial_steps(self) -> int:
        """Steps of each short training."""
        return math.ceil(self.trial_share * self.steps)

    @property
    def resolved_arch_lr(self) -> float:
        """Learning rate of the architecture."""
        steps = max(self.steps - self.warm_up_steps, 1)
        return self.arch_lr or min(max(ARCH_LR, ARCH_TRAVEL / steps), MAX_ARCH_LR)

    @property
    def communication_lr(self) -> float:
        """Learning rate of the communication: its thousands of weights would saturate a cell at a raised rate."""
        return min(ARCH_LR * math.sqrt(self.resolved_arch_lr / ARCH_LR), self.resolved_arch_lr)
