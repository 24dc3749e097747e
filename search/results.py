"""Results of a search, and the conversion of results to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Self

from pydantic import Field, JsonValue, TypeAdapter


@dataclass(frozen=True)
class Result:
    """Result of a search, a training or an evaluation, as in the run folder's file and with `--json`.

    JSON has the names of the fields, or their aliases; fields that equal their default are left out.
    """

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the JSON object."""
        content: dict[str, JsonValue] = TypeAdapter(type(self)).dump_python(
            self, mode="json", by_alias=True, exclude_defaults=True
        )
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, JsonValue]) -> Self:
        """Return the result that a JSON object holds; unknown keys are ignored.

        Raises:
            ValueError: a key is missing, or its value has the wrong type.
        """
        return TypeAdapter(cls).validate_python(content)


@dataclass(frozen=True)
class TableTarget:
    """Target and prediction on one of several latency tables, in milliseconds.

    Attributes:
        lut: path of the table.
        target_ms: target; None for a search without targets.
        predicted_ms: predicted latency of the architecture.
        bound_ms: predicted latency with the margin of `--quantile`.
        target_fps: frame rate that `target_ms` was converted from; None for a target in ms.
        predicted_fps: predicted frame rate, of the median of all runs; None without `target_fps`.
    """

    lut: str
    target_ms: float | None
    predicted_ms: float
    bound_ms: float
    target_fps: float | None = None
    predicted_fps: float | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult(Result):
    """Architecture that a search chose, its latency, and statistics of the search.

    Attributes:
        architecture: path of the architecture file.
        target_ms: target on the first table; None for a search without targets.
        predicted_ms: latency that the first table predicts.
        target_fps: frame rate that `target_ms` was converted from; None for a target in ms.
        predicted_fps: predicted frame rate, of the median of all runs; None without `target_fps`.
        median_ratio: median of all runs over the first table's statistic; None without `target_fps`, and if unknown.
        predicted_low_ms: lower end of the 90 % prediction interval; None for a table without verification.
        predicted_high_ms: upper end of it.
        measured_ms: latency measured by the refinement, at the table's machine speed; None without refinement.
        corrected_ms: prediction after the refinement; None without refinement.
        refinements: number of measured architectures; None without refinement.
        steps: steps of the supernet's training.
        scope: scope of the latencies: `core` or `dense`.
        strategy: strategy that chose the architecture.
        tables: one row per table, for several tables or with a quantile.
        seconds: duration of the search.
        supernet_seconds: duration of the supernet's training.
        waiting_pct: share of the time of its steps that was spent waiting for data, in percent, since the search was
            last resumed; None if unknown.
        fastest_ms: latency of the space's fastest architecture.
        slowest_ms: latency of the space's slowest architecture.
        operators: operator -> number of edges; empty for a space without edges.
        head_channels: channels of the head; None for a space without a head width.
        widths: channels of each other part of the network whose width was searched, by name, as text.
        tried: number of architectures compared in the supernet.
        passes: forward passes that the strategy used.
        trial_losses: mean loss of each candidate's trials; None for a candidate that diverged.
        trial_mious: mean mIoU of each candidate's trials, in percent, which ranks them; None for a candidate that
            diverged, and without a labelled pixel; empty in results of earlier versions, which ranked by loss.
        trial_seeds: seed of each trial: of initial weights, order of images and views; empty in earlier results.
        trial_steps: steps of each trial; 0 without trials.
        trial_miou: mean mIoU of the result's trials, in percent; None without, and in results of earlier versions.
        loss_before: mean loss of sampled paths.
        loss_likeliest: loss of the most probable architecture; None for a strategy without probabilities.
        gap: `loss_likeliest` - `loss_before`.
        loss_after: loss of the architecture in the supernet.
        supernet_miou: its mIoU in the supernet, in percent, which ranks candidates; None without a labelled pixel, and
            in results of earlier versions, which ranked by loss.
        dominated: True if another point of the front is at least as fast and more accurate; None outside a front.
    """

    architecture: Path
    target_ms: float | None
    predicted_ms: float
    predicted_low_ms: float | None
    predicted_high_ms: float | None
    target_fps: float | None = None
    predicted_fps: float | None = None
    median_ratio: float | None = None
    measured_ms: float | None = None
    corrected_ms: float | None = None
    refinements: Annotated[int | None, Field(alias="landings")] = None
    steps: int
    scope: str
    strategy: str
    tables: tuple[TableTarget, ...] = ()
    seconds: float
    supernet_seconds: float
    fastest_ms: float
    slowest_ms: float
    operators: dict[str, int] = field(default_factory=dict)
    head_channels: int | None = None
    widths: dict[str, str] = field(default_factory=dict)
    tried: int
    passes: int
    trial_losses: list[float | None]
    trial_mious: list[float | None] = field(default_factory=list)
    trial_seeds: list[int] = field(default_factory=list)
    trial_steps: int
    trial_miou: float | None = None
    loss_before: float
    loss_likeliest: float | None
    gap: float | None
    loss_after: float
    supernet_miou: float | None = None
    dominated: bool | None = None
    waiting_pct: float | None = None

    @property
    def rows(self) -> tuple[TableTarget | SearchResult, ...]:
        """Target and prediction on each table; the result itself where it has a single table."""
        return self.tables or (self,)

    @property
    def measured_error_pct(self) -> float | None:
        """Deviation of the measured latency from the target, in percent; None without refinement."""
        if self.measured_ms is None or self.target_ms is None:
            return None
        return (self.measured_ms / self.target_ms - 1) * 100

    def dominates(self, other: SearchResult) -> bool:
        """Return True if this point is at least as fast as another on every table, and more accurate.

        More accurate: a higher mIoU after the best trial, or in the supernet where a point has no trials, if the
        architectures differ and not only the seeds of their trials; without both, a lower loss.
        """
        pairs = [(a.predicted_ms, b.predicted_ms) for a, b in zip(self.rows, other.rows, strict=True)]
        if not all(a <= b for a, b in pairs):
            return False
        miou, rival_miou = self.best_trial_miou, other.best_trial_miou
        if not (self.trial_losses and other.trial_losses):
            miou, rival_miou = self.supernet_miou, other.supernet_miou
        if miou is None or rival_miou is None:
            return self._lowest_loss < other._lowest_loss
        networks = [(each.operators, each.widths, each.head_channels) for each in (self, other)]
        is_same = all(a == b for a, b in pairs) and networks[0] == networks[1]
        return miou > rival_miou and not is_same

    @property
    def best_trial_miou(self) -> float | None:
        """Mean mIoU of the result's trials: the highest one in results of earlier versions; None without trials."""
        if self.trial_miou is not None:
            return self.trial_miou
        return max((miou for miou in self.trial_mious if miou is not None), default=None)

    @property
    def _lowest_loss(self) -> float:
        return min((loss for loss in self.trial_losses if loss is not None), default=self.loss_after)


@dataclass(frozen=True)
class FrontResult(Result):
    """Front of a search with several points of targets.

    Attributes:
        front: one result per point.
        steps: steps of the supernet's training for each point, the shared warm-up included.
        warm_up_steps: steps of the shared warm-up.
        seconds: duration of the search.
    """

    front: tuple[SearchResult, ...]
    steps: int
    warm_up_steps: int
    seconds: float


@dataclass(frozen=True)
class Spread:
    """Mean of several searches, and their standard deviation."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Self | None:
        """Return the spread of numbers; None if one is missing."""
        numbers = [value for value in values if value is not None]
        return cls(mean(numbers), stdev(numbers)) if len(numbers) == len(values) else None


@dataclass(frozen=True)
class SeedsResult(Result):
    """Searches that differ in their seed only.

    Attributes:
        seeds: seed of each search, at least two.
        searches: their results.
        predicted_ms: spread of the predicted latencies.
        trial_miou: spread of the mIoU after the trials, in percent; None without trials.
    """

    seeds: tuple[int, ...]
    searches: tuple[SearchResult, ...]
    predicted_ms: Spread
    trial_miou: Spread | None = None

    @classmethod
    def from_searches(cls, first_seed: int, searches: Sequence[SearchResult]) -> Self:
        """Return the results of consecutive seeds with their spreads."""
        predicted = Spread.of([search.predicted_ms for search in searches])
        assert predicted is not None
        mious = Spread.of([search.best_trial_miou for search in searches])
        return cls(tuple(range(first_seed, first_seed + len(searches))), tuple(searches), predicted, mious)

    @property
    def best(self) -> SearchResult:
        """Search with the highest mIoU after its trials, or in its supernet without trials.

        The trials of two searches may have the same images, and the supernets are trained apart: a comparison of two
        networks needs a training of both.
        """
        return max(self.searches, key=lambda search: search.best_trial_miou or search.supernet_miou or 0.0)
