"""One backend at one precision, for `gpudeployment.py`: a process of its own, since what fails on a GPU can stay.

`python gpumeasure.py --target cuda:0 tensorrt fp16 --space lgcnet-cityscapes --seconds 10 --to FILE.json`
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trtexec import against_trtexec
from turns import against_bare_loop

from lgc.lut import Target
from lgc.models import Architecture, SearchSpace
from lgc.models.space.plan import DENSE, END_TO_END
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.trt.backend import get_engine
from lgc.profiler.deployment.deploy import time_network, write_engine
from lgc.profiler.deployment.network import INT8, Network
from lgc.profiler.machine.environment import fingerprint
from lgc.search.data.synthetic.scenes import generate_scene

SCOPES = (DENSE, END_TO_END)
SPREAD, SEED = 9, 4
"""The architecture is the middle one, by multiply-accumulates, of so many random ones of this seed."""
CALIBRATION = 8
"""Generated images that int8 takes its ranges from."""
KEPT = ("fps", "median_ms", "p90_ms", "p99_ms", "iqr_ms", "runs", "settings", "note")


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
        os.environ["LGC_CACHE"] = str(Path(scratch) / "cache")  # engines are built, not found
        found = measured(Target(*arguments.target), middle(space), arguments.seconds, Path(scratch))
    arguments.to.write_text(json.dumps(found))


def middle(space: SearchSpace) -> Architecture:
    """The architecture of the middle of a spread, the same in each run."""
    return sorted(space.spread(SPREAD, SEED), key=lambda one: one.macs)[SPREAD // 2]


def measured(target: Target, architecture: Architecture, seconds: float, scratch: Path) -> dict[str, Any]:
    """Everything of one target; a part that is refused says so in the words of what refused it."""
    backend = get_backend(target.backend)
    environment = fingerprint(target, backend)
    environment["versions"] = get_backend("torch").versions() | environment["versions"]
    images = calibration(architecture.space.input) if target.precision == INT8 else ()
    networks = {scope: Network(architecture, None, scope, images=images) for scope in SCOPES}
    found: dict[str, Any] = {
        "environment": environment,
        "architecture": architecture.provenance,
        "calibration_images": len(images),
        "scopes": {scope: attempt(timed, networks[scope], target, seconds) for scope in SCOPES},
        "clock": attempt(clock, networks[DENSE], target),
    }
    if target.backend == "tensorrt":
        found["trtexec"] = attempt(beside_trtexec, networks[DENSE], target, seconds, scratch)
    return found


def timed(network: Network, target: Target, seconds: float) -> dict[str, Any]:
    """Outputs against torch's, latency and frame rate; of TensorRT also what was built."""
    engine = {"engine": engine_of(network, target)} if target.backend == "tensorrt" else {}
    found = time_network(network, target, None, seconds=seconds)
    agreement = {} if found.parity is None else vars(found.parity)
    return {name: getattr(found, name) for name in KEPT} | agreement | {"equals_torch": found.equals_torch(), **engine}


def engine_of(network: Network, target: Target) -> dict[str, Any]:
    """What the engine tells of itself; the one that is timed."""
    engine = get_engine(network.workload(precision=target.precision), target)
    return {
        "made_for": engine.origin,
        "bytes": engine.size_bytes,
        "layers": len(engine.layers),
        "fused": len(engine.fusions),
        "build_seconds": engine.seconds,
        "remarks": engine.remarks,
    }


def clock(network: Network, target: Target) -> dict[str, Any]:
    return against_bare_loop(network.workload(precision=target.precision), target)


def beside_trtexec(network: Network, target: Target, seconds: float, scratch: Path) -> dict[str, Any]:
    engine = get_engine(network.workload(precision=target.precision), target)
    return against_trtexec(write_engine(network, engine, scratch), engine.flavour, target.device, seconds)


def calibration(size: tuple[int, int]) -> tuple[Any, ...]:
    return tuple(generate_scene(SEED, index, size).image for index in range(CALIBRATION))


def attempt(part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `part` gives, or why there is nothing: a benchmark on a device not met before keeps what it learns."""
    try:
        return part(*arguments)
    except Exception as error:
        return {"refused": str(error) or type(error).__name__}


if __name__ == "__main__":
    main()
