"""Conditions of a measurement: remarks on hardware samples that show a disturbed or throttled machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

HARMLESS = ("idle", "application clocks", "display clocks")
"""Throttle reasons of a GPU that do not affect a measurement, or that the user set."""


def describe_throttling(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return remarks on throttling of the GPU and on stops by a CPU quota; none if neither happened.

    Args:
        samples: Hardware samples of a table, as the monitor wrote them; older tables lack some of the values.
    """
    reasons = Counter(reason for sample in samples for reason in sample.get("throttle") or [])
    remarks = [
        f"the GPU was throttled in {count} of {len(samples)} samples: {reason}"
        for reason, count in reasons.items()
        if reason not in HARMLESS
    ]
    stopped = [sample for sample in samples if sample.get("cpu_throttled_periods")]
    if stopped:
        waited_s = sum(sample.get("cpu_throttled_ms") or 0.0 for sample in stopped) / 1000
        remarks.append(
            f"the CPU quota stopped this process in {len(stopped)} of {len(samples)} samples, for {waited_s:.1f} s in "
            "all: raise the quota, or use fewer threads and processes"
        )
    return remarks
