"""One table filled by several equal devices, one process each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ...device import Device
from ...errors import LgcError, MismatchError, UsageError
from ...lut.target import Target
from ...models.space.protocol import SearchSpace
from ..backends import require_backend
from ..machine.environment import compare_fingerprints, fingerprint
from ..profile import ProfileResult, open_or_create, profile
from ..timing.rounds import OnProgress, quiet


def profile_on(
    devices: Sequence[Device],
    space: SearchSpace,
    target: Target,
    out: Path,
    *,
    budget_s: float | None = None,
    on_progress: OnProgress = quiet,
    **options: Any,
) -> ProfileResult:
    """Fill one table with several equal devices.

    This process measures on the first device and starts one process for each other device. A last pass of this process
    measures the benchmarks of processes that died.

    Args:
        devices: `cuda:0`, `cuda:1`, ...; repeated `cpu` entries run on different cores.
        space: see `profile`.
        target: see `profile`, on the first device.
        out: see `profile`.
        budget_s: see `profile`.
        on_progress: receives the progress of this process.
        options: further arguments of `profile`.

    Raises:
        MismatchError: the devices differ; the message names the differences.
        LgcError: see `profile`.
    """
    start = time.monotonic()
    require_equal(devices, target)
    open_or_create(out, target, space, require_backend(target), options.get("context")).close()
    common = {**options, "budget_s": budget_s, "share": 1 / len(devices)}
    spawn = get_context("spawn")
    others = [
        spawn.Process(target=_work, args=(space.to_dict(), asdict(target), str(out), device, worker, common))
        for worker, device in enumerate(devices[1:], start=1)
    ]
    for process in others:
        process.start()
    try:
        profile(space, target, out, on_progress=on_progress, **common)
        for process in others:
            process.join()
    finally:
        for process in others:
            process.terminate()
            process.join()
    left_s = None if budget_s is None else max(budget_s - (time.monotonic() - start), 0.0)
    try:
        result = profile(space, target, out, on_progress=on_progress, **{**options, "budget_s": left_s})
    except UsageError:  # the rest of the budget is too short for the remaining benchmarks
        result = profile(space, target, out, **{**options, "budget_s": 0.0})
    return replace(result, seconds=time.monotonic() - start)


def require_equal(devices: Sequence[Device], target: Target) -> None:
    """Check that all devices equal the target's.

    Raises:
        BackendUnavailableError: the backend does not run on one of them.
        MismatchError: a device differs; the message names the differences.
        UsageError: a GPU is listed twice, or the machine has too few cores.
    """
    gpus = [device for device in devices if not device.is_cpu]
    if len(set(gpus)) < len(gpus):
        raise UsageError(
            f"a GPU is listed twice: {', '.join(devices)}; two processes on one GPU would disturb each other"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not gpus and len(devices) * target.threads > cores:
        raise UsageError(
            f"{len(devices)} processes of {target.threads} threads need more than the {cores} available cores"
        )
    first = fingerprint(target, require_backend(target))
    for device in devices[1:]:
        other = replace(target, device=device)
        differences = compare_fingerprints(first, fingerprint(other, require_backend(other)))
        if differences:
            raise MismatchError(
                f"{target.device} and {device} differ, so they cannot fill one table: {'; '.join(differences)}"
            )


def _work(
    space: dict[str, Any], target: dict[str, Any], out: str, device: Device, worker: int, options: dict[str, Any]
) -> None:
    """Measure a share in another process; the last pass meets any error again."""
    try:
        profile(SearchSpace.check(space, "space"), Target(**target), Path(out), device=device, worker=worker, **options)
    except (LgcError, KeyboardInterrupt):
        return
