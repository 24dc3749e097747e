"""Measure a backend in a precision, in a process of `deployment.py`, since a GPU error can persist in a process.

`python -m bench.gpu.measure --target cuda:0 tensorrt fp16 --space lgcnet-cityscapes --seconds 10 --to FILE.json`
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.models import Architecture, SearchSpace
from lgc.models.space.protocol import DENSE, END_TO_END
from lgc.precisions import INT8
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.trt.backend import get_engine
from lgc.profiler.deployment.engines import write_engine
from lgc.profiler.deployment.latency import time_network
from lgc.profiler.deployment.network import Network
from lgc.profiler.machine.environment import fingerprint
from lgc.search.data.synthetic.scenes import generate_scene

from ..common.paired_timing import against_bare_loop
from .trtexec import against_trtexec

SCOPES = (DENSE, END_TO_END)
SPREAD, SEED = 9, 4
"""Number and seed of random architectures; the one with the median number of MACs is measured."""
CALIBRATION = 8
"""Number of generated images for int8 calibration."""
FIELDS = ("fps", "median_ms", "p90_ms", "p99_ms", "iqr_ms", "runs", "settings", "note")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs=3, required=True, metavar=("DEVICE", "BACKEND", "PRECISION"))
    parser.add_argument("--space", required=True)
    parser.add_argument("--input", nargs=2, type=int)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    space = SearchSpace.load(arguments.space)
    space = space.with_input(*arguments.input) if arguments.input else space
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LGC_CACHE"] = str(Path(scratch) / "cache")  # build engines even if the user's cache has them
        result = measure_target(Target(*arguments.target), median_architecture(space), arguments.seconds, Path(scratch))
    arguments.to.write_text(json.dumps(result))


def median_architecture(space: SearchSpace) -> Architecture:
    """Return the architecture with the median number of MACs; it is the same in every run."""
    return sorted(space.spread(SPREAD, SEED), key=lambda architecture: architecture.macs)[SPREAD // 2]


def measure_target(target: Target, architecture: Architecture, seconds: float, scratch: Path) -> dict[str, Any]:
    """Return all results of a target; a failed part has its error message."""
    backend = get_backend(target.backend)
    environment = fingerprint(target, backend)
    environment["versions"] = get_backend("torch").versions() | environment["versions"]
    images = calibration_images(architecture.space.input) if target.precision == INT8 else ()
    networks = {scope: Network(architecture, None, scope, images=images) for scope in SCOPES}
    result: dict[str, Any] = {
        "environment": environment,
        "architecture": architecture.provenance,
        "calibration_images": len(images),
        "scopes": {scope: attempt(measure_network, networks[scope], target, seconds) for scope in SCOPES},
        "clock": attempt(compare_bare_loop, networks[DENSE], target),
    }
    if target.backend == "tensorrt":
        result["trtexec"] = attempt(compare_trtexec, networks[DENSE], target, seconds, scratch)
    return result


def measure_network(network: Network, target: Target, seconds: float) -> dict[str, Any]:
    """Return output differences, latency, frame rate, and for TensorRT the engine."""
    engine = {"engine": describe_engine(network, target)} if target.backend == "tensorrt" else {}
    timing = time_network(network, target, None, seconds=seconds)
    parity = {} if timing.parity is None else vars(timing.parity)
    return {name: getattr(timing, name) for name in FIELDS} | parity | {"equals_torch": timing.equals_torch(), **engine}


def describe_engine(network: Network, target: Target) -> dict[str, Any]:
    """Return the properties of the timed engine."""
    engine = get_engine(network.workload(precision=target.precision), target)
    return {
        "made_for": engine.origin,
        "bytes": engine.size_bytes,
        "layers": len(engine.layers),
        "fused": len(engine.fusions),
        "build_seconds": engine.seconds,
        "remarks": engine.remarks,
    }


def compare_bare_loop(network: Network, target: Target) -> dict[str, Any]:
    """Compare lgc's timing with a bare loop."""
    return against_bare_loop(network.workload(precision=target.precision), target)


def compare_trtexec(network: Network, target: Target, seconds: float, scratch: Path) -> dict[str, Any]:
    """Compare lgc\'s timing with trtexec on the same engine file."""
    engine = get_engine(network.workload(precision=target.precision), target)
    return against_trtexec(write_engine(network, engine, scratch), engine.flavour, target.device, seconds)


def calibration_images(size: tuple[int, int]) -> tuple[Any, ...]:
    """Return generated images."""
    return tuple(generate_scene(SEED, index, size).image for index in range(CALIBRATION))


def attempt(part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return the result of `part` or its error, so that the other results are kept on an unknown device."""
    try:
        return part(*arguments)
    except Exception as error:
        return {"refused": str(error) or type(error).__name__}


if __name__ == "__main__":
    main()
