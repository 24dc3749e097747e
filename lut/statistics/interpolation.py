"""Latencies of operators that were not measured, from measured ones of the same kind.

Operators of one name, stride and batch size are a group; at P points, specs of a group that were measured,

    terms[P, 5]      1, pixels, pixels * c_in, pixels * c_out, pixels * c_in * c_out
    law[P]           terms times weights >= 0, milliseconds: overhead, work a pixel, reading, writing, arithmetic
    place[P, 4]      logarithms of pixels, height / width, c_in and c_out, the latter three times `SHAPE_SCALE`
    rest[P]          log(latency / law)

The law is fitted to relative errors; what it leaves over is interpolated between the places (linear radial basis
functions: straight lines between points on a line, level beyond). The law knows overhead and slope, the rest what the
device does with, say, 12 channels. On the preset tiny, measured at five input sizes (ONNX Runtime, one core), latencies
at a resolution that is left out are met within 3 % by both, 7 % by the law alone and 6 % by the rest of no law (medians
over 172 specs). At one input size alone, where most channels occur at one resolution, both together err by 10 to 20 %.
Steps between two points, such as of planes whose rows fall on the same cache lines, are known to neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import MeasurementError, MissingEntryError
from ...models.space.operators import is_free
from ...models.space.opspec import OpSpec

Array = NDArray[np.float64]

MIN_GROUP_POINTS = 3
"""Measured points that a group needs: two for overhead and slope, one that shows how wrong they are."""
MAX_EXTRAPOLATION = 0.1
"""How far outside the measured range a spec may lie, as a share of its pixels, proportions or channels."""
SHAPE_SCALE = 4.0
"""Twice the channels are as far away as 2**4 times the pixels: devices have ways of their own with some channels."""
LAW_DEVIATION = 0.1
"""How far latencies typically are from the law, relative: points that are noisier than that count less."""
Z_95 = 1.96
"""Half the width of a 95 % confidence interval in standard deviations."""


@dataclass(frozen=True)
class Estimate:
    """A latency that was not measured.

    Attributes:
        latency_ms: the estimate, milliseconds.
        error_pct: median relative error of such estimates of the group's measured points, each made without the point;
            or without all points of its channels, if this spec's channels were not measured either.
    """

    latency_ms: float
    error_pct: float


class Interpolator:
    """Estimates latencies from measured ones of the same operator, stride and batch size.

    Args:
        latencies: measured latencies, milliseconds.
        ci_ms: half the widths of their 95 % confidence intervals, milliseconds; what is missing counts as exact. A
            latency that is not above it still counts a little, towards the overhead.

    Raises:
        MeasurementError: a latency is no positive number, or a confidence interval is no number.
    """

    def __init__(self, latencies: Mapping[OpSpec, float], ci_ms: Mapping[OpSpec, float] | None = None) -> None:
        ci_ms = ci_ms or {}
        points: dict[tuple[str, int, int], list[_Point]] = defaultdict(list)
        for spec, latency in latencies.items():
            point = _Point(spec, latency, ci_ms.get(spec, 0.0))
            if not (0 < latency < np.inf and 0 <= point.ci_ms < np.inf):
                raise MeasurementError(f"{spec} was measured with {latency} ± {point.ci_ms} ms, no latency")
            points[_group_key(spec)].append(point)
        self._groups = {key: _Group(group) for key, group in points.items()}

    def __call__(self, spec: OpSpec) -> Estimate:
        """Estimate the latency of `spec`; 0 where it takes no time by construction.

        Raises:
            MissingEntryError: too little was measured of its group, or `spec` lies outside of what was.
        """
        if is_free(spec):
            return Estimate(0.0, 0.0)
        name, stride, batch = _group_key(spec)
        kind = f"{name} with stride {stride} and batch {batch}"
        group = self._groups.get(_group_key(spec))
        if group is None:
            others = sorted(f"stride {s} and batch {b}" for n, s, b in self._groups if n == name)
            known = f"only with {'; '.join(others)}" if others else "nor with any other stride"
            raise MissingEntryError(f"no estimate of {spec}: no {kind} was measured, {known}")
        if len(group.points) < MIN_GROUP_POINTS:
            raise MissingEntryError(
                f"no estimate of {spec}: {MIN_GROUP_POINTS} measured {kind} are needed, there are only {group.range}"
            )
        error_pct = group.error_pct(spec)
        if error_pct is None or group.fit.gap(spec) > MAX_EXTRAPOLATION:
            raise MissingEntryError(f"no estimate of {spec}: it lies outside the measured {kind}, {group.range}")
        return Estimate(group.fit(spec), error_pct)

    def leave_one_resolution_out(self) -> list[tuple[OpSpec, float, float]]:
        """Measured specs, their latencies, and estimates without any point of their group at their resolution.

        Estimates that would not be made, because too few points are left or because they then lie outside, are left
        out.

        Returns:
            (spec, measured milliseconds, estimated milliseconds) each.
        """
        rows = []
        for group in self._groups.values():
            for point, estimate, inside in group.estimates_without(_resolution, MIN_GROUP_POINTS):
                if inside:
                    rows.append((point.spec, point.latency_ms, estimate))
        return rows


@dataclass(frozen=True)
class _Point:
    """A measured spec; the confidence interval's half width and the latency in milliseconds."""

    spec: OpSpec
    latency_ms: float
    ci_ms: float


class _LatencyModel:
    """Law and rest of points, as in the table of symbols above."""

    def __init__(self, points: Sequence[_Point]) -> None:
        from scipy.interpolate import RBFInterpolator
        from scipy.optimize import nnls

        specs = [point.spec for point in points]
        latency = np.array([point.latency_ms for point in points])
        noise = np.array([point.ci_ms for point in points]) / Z_95 / latency
        trust = LAW_DEVIATION / np.hypot(LAW_DEVIATION, noise)
        terms = _law_terms(specs)
        scale = terms.max(axis=0)
        weights, _ = nnls(terms / scale * (trust / latency)[:, None], trust)
        self._weights: Array = weights / scale
        self._places = _coordinates(specs)
        rest = np.log(latency / self._law(specs))
        smoothing = (noise / LAW_DEVIATION) ** 2
        self._rest = RBFInterpolator(self._places, rest, smoothing=smoothing, kernel="linear", degree=0)

    def __call__(self, spec: OpSpec) -> float:
        """Estimated latency of `spec`, milliseconds."""
        return float(self._law([spec])[0] * np.exp(self._rest(_coordinates([spec]))[0]))

    def gap(self, spec: OpSpec) -> float:
        """How far `spec` lies outside the convex hull of the points, in the coordinate that is farthest out."""
        from scipy.optimize import linprog

        points, dimensions = self._places.shape
        hull = (self._places / _COORDINATE_SCALES).T
        wanted = (_coordinates([spec]) / _COORDINATE_SCALES)[0]
        slack = -np.ones((dimensions, 1))
        nearest = linprog(
            np.append(np.zeros(points), 1.0),
            A_ub=np.block([[hull, slack], [-hull, slack]]),
            b_ub=np.concatenate([wanted, -wanted]),
            A_eq=np.append(np.ones(points), 0.0)[None],
            b_eq=np.ones(1),
        )
        return np.inf if nearest.x is None else float(nearest.x[-1])

    def _law(self, specs: Sequence[OpSpec]) -> Array:
        law: Array = _law_terms(specs) @ self._weights
        return law


class _Group:
    """The measured points of one operator, stride and batch size."""

    def __init__(self, points: list[_Point]) -> None:
        self.points = points

    @cached_property
    def fit(self) -> _LatencyModel:
        """The fit to all points."""
        return _LatencyModel(self.points)

    @property
    def range(self) -> str:
        """How many points there are and what they span, for people."""
        specs = sorted((point.spec for point in self.points), key=lambda spec: (spec.height * spec.width, spec))
        first, last = specs[0], specs[-1]
        channels = ", ".join(f"{c_in}-{c_out}" for c_in, c_out in sorted({_channels(spec) for spec in specs}))
        return f"{len(specs)} from {first.height}x{first.width} to {last.height}x{last.width}, channels {channels}"

    def error_pct(self, spec: OpSpec) -> float | None:
        """The error to expect of an estimate of `spec`, percent; None if only one other pair of channels is known."""
        seen = any(_channels(point.spec) == _channels(spec) for point in self.points)
        return self._error_of_seen if seen else self._error_of_unseen

    @cached_property
    def _error_of_seen(self) -> float | None:
        return self._error_without(str)

    @cached_property
    def _error_of_unseen(self) -> float | None:
        return self._error_without(_channels)

    def _error_without(self, part: Callable[[OpSpec], Hashable]) -> float | None:
        """Median error where everything of a point's `part` is left out, percent; None where that is everything.

        Points that are mostly noise are no judges, nor are those that then lie outside, unless there are no others.
        """
        rows = [
            ((point.latency_ms > point.ci_ms, inside), abs(estimate / point.latency_ms - 1) * 100)
            for point, estimate, inside in self.estimates_without(part, MIN_GROUP_POINTS - 1)
        ]
        best = max((judge for judge, _ in rows), default=None)
        return float(np.median([error for judge, error in rows if judge == best])) if rows else None

    def estimates_without(self, part: Callable[[OpSpec], Hashable], least: int) -> list[tuple[_Point, float, bool]]:
        """Each point with its estimate from the points of other `part`s, if there are `least`, and whether inside."""
        rows = []
        for left_out in dict.fromkeys(part(point.spec) for point in self.points):
            others = [point for point in self.points if part(point.spec) != left_out]
            if len(others) >= least:
                fit = _LatencyModel(others)
                held_out = [point for point in self.points if part(point.spec) == left_out]
                rows += [(point, fit(point.spec), fit.gap(point.spec) <= MAX_EXTRAPOLATION) for point in held_out]
        return rows


def _group_key(spec: OpSpec) -> tuple[str, int, int]:
    return spec.operator, spec.stride, spec.batch


def _channels(spec: OpSpec) -> tuple[int, int]:
    return spec.c_in, spec.c_out


def _resolution(spec: OpSpec) -> tuple[int, int]:
    return spec.fine


def _law_terms(specs: Sequence[OpSpec]) -> Array:
    """What the time of an operator is made up of, [P, 5]."""
    rows = []
    for spec in specs:
        pixels = spec.height * spec.width
        rows.append([1, pixels, pixels * spec.c_in, pixels * spec.c_out, pixels * spec.c_in * spec.c_out])
    return np.array(rows, float)


def _coordinates(specs: Sequence[OpSpec]) -> Array:
    """Coordinates of specs, [P, 4]."""
    rows = [[spec.height * spec.width, spec.height / spec.width, spec.c_in, spec.c_out] for spec in specs]
    places: Array = np.log(np.array(rows, float)) * _COORDINATE_SCALES
    return places


_COORDINATE_SCALES: Array = np.array([1.0, SHAPE_SCALE, SHAPE_SCALE, SHAPE_SCALE])
