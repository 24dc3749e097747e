"""Settings of a search, validated once; docs/method.md explains the marks of the defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..models.space.protocol import DENSE, SCOPES
from ..precisions import Precision
from .training.config import (
    ADAMW,
    LEARNING_RATES,
    WEIGHT_DECAYS,
    Balanced,
    Batch,
    Cache,
    Count,
    Crop,
    Natural,
    NonNegative,
    Optimiser,
    Positive,
    Seed,
    Share,
    TrainConfig,
    Workers,
)

ARCH_LR = 1e-3
"""Learning rate of the architecture in searches of `ARCH_TRAVEL` / `ARCH_LR` steps or more. Assumption."""
ARCH_TRAVEL = 14.0
"""Distance that parameters can move in shorter ones: steps times learning rate. Ours, see docs/benchmarks."""

MAX_ARCH_LR = 0.05
"""Learning rate of the architecture in the shortest searches. Ours."""

# AdamW's are lgc-train's, with the rate for twice the batch; SGD's are assumptions.
WEIGHT_LRS: dict[str, float] = {ADAMW: 2 * LEARNING_RATES[ADAMW], "sgd": 0.025}
LAST_LRS: dict[str, float] = {ADAMW: 0.0, "sgd": 1e-3}
DECAYS: dict[str, float] = {ADAMW: WEIGHT_DECAYS[ADAMW], "sgd": 3e-4}
"""Optimiser of the weights -> first and last learning rate, weight decay."""


class SearchConfig(BaseModel):
    """Settings of `search`. The texts below the fields are also the help of `lgc-search`.

    A default marked "assumption" is recalled from GAS; one marked "ours" is this project's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: Count
    """Steps of the search: each trains the weights and, after the warm-up, the architecture."""
    strategy: Literal["gradient", "random", "evolution"] = "gradient"
    """Search strategy: gradient (differentiable), or random or evolution on a supernet trained on random paths; same
    compute budget. With searched widths, random is the default."""
    batch: Batch = 16  # Assumption.
    crop: Crop = None
    seed: Seed = 0
    halves: Literal["contiguous", "random"] = "contiguous"  # Ours; random in DARTS and GAS.
    """Halves of the training images, for the weights and for the architecture: contiguous in the order of their names,
    so that frames of a video stay together, or random."""
    scope: Literal[SCOPES] = DENSE  # type: ignore[valid-type]  # a tuple of names
    """Scope of the predicted latency."""
    targets_ms: tuple[tuple[Positive, ...], ...] = ()
    """Maximum latencies of results, in milliseconds: one point per result, one target per table in each point. Without
    targets, `beta` trades latency against the loss."""
    targets_fps: tuple[tuple[Positive, ...], ...] | None = None
    """Frame rates that `targets_ms` were converted from, by `Predictor.from_fps`; for reports only."""
    quantile: Annotated[float, Field(ge=0.5, lt=1)] | None = None
    """Probability, e.g. 0.9, that the measured latency meets the target; by default only the predicted one has to."""
    latency_term: bool = True
    """Include the latency term in the loss; without it, only the projection at the end uses the target."""
    beta: Positive = 2e-3  # Assumption: 5e-4 to 5e-3.
    """Weight of log(latency in ms) in the loss without a target."""
    multiplier_lr: Positive = 0.02  # Ours.
    """Step size of the dual ascent on the target's multiplier, per unit of log(latency / target)."""
    cells: Literal["independent", "shared"] = "independent"
    """Architecture of the cells: independent, or shared by all cells of a kind."""
    communication: Literal["gcn", "linear", "none"] | None = None
    """Communication from each cell to the next; by default gcn, or none with shared cells."""
    fusion: Literal["searched", "fixed"] = "searched"
    """Densely connected fusion cell: searched, or fixed."""
    warm_up: Share = 0.3  # Assumption.
    """Fraction of steps for weight-only warm-up."""
    explore: Share = 0.2  # Ours.
    """Share of random paths near the target in the weights' steps after the warm-up, so every operator is trained."""
    balanced: Balanced = True
    optimiser: Optimiser = ADAMW  # Ours; GAS has SGD.
    """Optimiser of the supernet's weights; SGD has momentum 0.9."""
    weight_lr: Positive = Field(default_factory=lambda settings: WEIGHT_LRS[settings.get("optimiser", ADAMW)])
    """First learning rate of the weights; it falls by a cosine."""
    weight_lr_end: NonNegative = Field(default_factory=lambda settings: LAST_LRS[settings.get("optimiser", ADAMW)])
    """Last learning rate of the weights."""
    weight_decay: NonNegative = Field(default_factory=lambda settings: DECAYS[settings.get("optimiser", ADAMW)])
    """Weight decay of the weights."""
    arch_lr: Positive | None = None  # 1e-3: Assumption. Raised where parameters could not travel as far: Ours.
    """Learning rate of the architecture (Adam)."""
    arch_decay: NonNegative = 1e-4  # Assumption.
    """Weight decay of the architecture."""
    temperature: Positive = 1.0  # Assumption.
    """First temperature of the Gumbel-softmax."""
    temperature_end: Positive = 0.3  # Ours: GAS's 0.03 (recalled) leaves hardly any gradient.
    """Last temperature, reached exponentially."""
    gamma: NonNegative = 0.5  # Assumption.
    """Weight of the communication between cells."""
    embedding: Count = 64  # Assumption.
    """Width of the communication's hidden layer."""
    samples: Count = 512  # Ours.
    """Architectures sampled at the end of a search by gradients."""
    finalists: Count = 64  # Ours.
    """Number of most probable samples whose losses are compared in the supernet."""
    trials: Natural = 8  # Ours: as DARTS picks among its runs.
    """Number of top candidates to train briefly from scratch; 0 or 1 skips this."""
    trial_seeds: Count = 2  # Ours.
    """Number of such training runs of the best candidates, each with its own seed: after each, half of them remain."""
    trial_share: Annotated[float, Field(gt=0, lt=1)] = 0.25  # Ours.
    """Length of each of them, as a share of the search's steps."""
    workers: Workers = None
    cache: Cache = None

    @model_validator(mode="after")
    def _consistent(self) -> SearchConfig:
        if self.cells == "shared" and self.communication in ("gcn", "linear"):
            raise ValueError(
                f"shared cells cannot communicate by {self.communication}: use communication none, or independent cells"
            )
        if self.quantile is not None and not self.targets_ms:
            raise ValueError("--quantile requires --target-ms or --target-fps")
        if len({len(point) for point in self.targets_ms}) > 1:
            raise ValueError("every point needs one target per table")
        if self.targets_fps is not None and [*map(len, self.targets_fps)] != [*map(len, self.targets_ms)]:
            raise ValueError("every target in frames per second needs one in milliseconds")
        return self

    def find_fps(self, point: Sequence[float] | None) -> tuple[float | None, ...]:
        """Return the frame rates that a point of `targets_ms` was converted from; None each for a target in ms."""
        if point is None:
            return ()
        rates = dict(zip(self.targets_ms, self.targets_fps or (), strict=self.targets_fps is not None))
        return rates.get(tuple(point), (None,) * len(point))

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
    def num_trials(self) -> int:
        """Number of short training runs for each result: of all candidates, of the better half again, and so on."""
        candidates, total = self.trials if self.trials > 1 else 0, 0
        for _ in range(self.trial_seeds):
            total += candidates
            candidates = -(-candidates // 2)
        return total

    @property
    def trial_steps(self) -> int:
        """Steps of each short training run."""
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


class SearchRunConfig(SearchConfig):
    """Settings of a search, and the precision of its supernet's training, as a run folder stores them."""

    precision: Precision = "fp32"
    """Precision of the training."""

    def make_trial(self, seed: int) -> TrainConfig:
        """Return the settings of a short training run: the recipe of `lgc-train` at the search's batch and crop."""
        return TrainConfig(
            steps=self.trial_steps,
            batch=self.batch,
            crop=self.crop,
            seed=seed,
            balanced=self.balanced,
            precision=self.precision,
            workers=self.workers,
        )
