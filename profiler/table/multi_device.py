"""One table filled by several equal devices, one process each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ...device import Device
from ...errors import LgcError, MismatchError, UsageError
from ...lut.target import Target
from ...models.space.protocol import SearchSpace, Space
from ...plugins import list_plugins, load_plugins
from ...precisions import PRECISIONS
from ..backends import require_backend
from ..machine.cpu_limits import read_cpu_limits
from ..machine.environment import compare_fingerprints, fingerprint
from ..profile import DEFAULT_SETTINGS, ProfileResult, ProfileSettings, open_or_create, profile
from ..timing.observer import OnProgress, quiet
from .worker import ProcessShare


def profile_on(
    devices: Sequence[Device],
    space: Space,
    target: Target,
    out: Path,
    settings: ProfileSettings = DEFAULT_SETTINGS,
    *,
    on_open: Callable[[], None] = lambda: None,
    on_progress: OnProgress = quiet,
    **changes: Any,
) -> ProfileResult:
    """Fill one table with several equal devices.

    This process measures on the first device and starts one process for each other device. A last pass of this process
    measures the benchmarks of processes that died.

    Args:
        devices: `cuda:0`, `cuda:1`, ...; repeated `cpu` entries run on different cores.
        space: see `profile`.
        target: see `profile`, on the first device.
        out: see `profile`.
        settings: see `profile`.
        on_open: see `profile`.
        on_progress: receives the progress of this process.
        changes: see `profile`.

    Raises:
        MismatchError: the devices differ; the message names the differences.
        LgcError: see `profile`.
    """
    start = time.monotonic()
    settings = replace(settings, **changes)
    require_equal(devices, target)
    open_or_create(out, target, space, require_backend(target, PRECISIONS), settings.context).close()
    fraction = 1 / len(devices)
    spawn = get_context("spawn")
    others = []
    for worker, device in enumerate(devices[1:], start=1):
        process = ProcessShare(device, worker, fraction)
        arguments = (space.to_dict(), asdict(target), str(out), settings, process, list_plugins())
        others.append(spawn.Process(target=_work, args=arguments))
    for other in others:
        other.start()
    try:
        share = ProcessShare(fraction=fraction)
        profile(space, target, out, settings, process=share, on_open=on_open, on_progress=on_progress)
        for other in others:
            other.join()
    finally:
        for other in others:
            other.terminate()
            other.join()
    if settings.budget_s is not None:
        settings = replace(settings, budget_s=max(settings.budget_s - (time.monotonic() - start), 0.0))
    try:
        result = profile(space, target, out, settings, on_progress=on_progress)
    except UsageError:  # the rest of the budget is too short for the remaining benchmarks
        result = profile(space, target, out, settings, budget_s=0.0)
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
    if not gpus and (reason := read_cpu_limits().explain(len(devices) * target.threads)) is not None:
        raise UsageError(f"{len(devices)} processes of {target.threads} threads need more cores: {reason}")
    first = fingerprint(target, require_backend(target, PRECISIONS))
    for device in devices[1:]:
        other = replace(target, device=device)
        differences = compare_fingerprints(first, fingerprint(other, require_backend(other)))
        if differences:
            raise MismatchError(
                f"{target.device} and {device} differ, so they cannot fill one table: {'; '.join(differences)}"
            )


def _work(
    space: dict[str, Any],
    target: dict[str, Any],
    out: str,
    settings: ProfileSettings,
    process: ProcessShare,
    plugins: tuple[str, ...],
) -> None:
    """Measure a share in another process; the last pass meets any error again."""
    try:
        load_plugins(plugins)
        profile(SearchSpace.check(space, "space"), Target(**target), Path(out), settings, process=process)
        profile(Space.check(space, "space"), Target(**target), Path(out), settings, process=process)
    except (LgcError, KeyboardInterrupt):
        return
