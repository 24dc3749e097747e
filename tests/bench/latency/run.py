"""Benchmark of latency tables: accuracy, repeatability, speed. `make bench`, `make gpu-check`.

Everything is measured in a temporary folder. A CPU is measured with five spaces, a GPU with the default preset of
`lgc-profile`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lgc.device import Device
from lgc.errors import LgcError
from lgc.lut import LatencyTable, Target
from lgc.lut.predictor import Predictor
from lgc.models import SearchSpace
from lgc.models.space.protocol import DENSE
from lgc.profiler.backends import BACKENDS, get_backend
from lgc.profiler.deployment.latency import time_network
from lgc.profiler.deployment.network import Network
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.verification import sample_unseen, verify

from ..common.results import stamp, write_result
from . import properties
from .ablation import measure_ablation
from .conventional import conventional_errors_pct, measure_conventional
from .page import ablation_page, space_page
from .remainder import explain_remainder

COMMANDS = tuple(
    f"lgc-{name}" for name in ("profile", "lut", "search", "train", "export", "bench", "predict", "scenes", "demo")
)
NETWORKS, EXPORTS = 40, 4
EXPORT_SECONDS = 5.0


def load_spaces(device: str) -> list[SearchSpace]:
    """Return the spaces to measure on a device."""
    if device != "cpu":
        return [SearchSpace.load("lgcnet-cityscapes")]
    camvid = SearchSpace.load("lgcnet-camvid")
    wide = SearchSpace.load(Path(__file__).with_name("wide.yaml"))
    small, large = camvid.with_input(288, 384), camvid.with_input(360, 480)
    return [SearchSpace.load("tiny"), SearchSpace.load("rapid"), small, large, wide]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--spaces", nargs="*", help="names of spaces; default: all")
    parser.add_argument("--backends", nargs="*", help="default: onnxruntime on a CPU, all available ones on a GPU")
    parser.add_argument("--precisions", nargs="*", default=["fp32"])
    parser.add_argument("--protocol", action="store_true", help="measure the ablation of the protocol only (CPU)")
    parser.add_argument("--keep", type=Path, help="folder for the tables")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = check_device(arguments.device)
    header = stamp()
    failures: list[str] = []  # the other targets are measured after a failure
    for target in list_targets(device, arguments.backends, arguments.precisions):
        if arguments.protocol:
            result = {**header, **measure_ablation(SearchSpace.load("tiny"), target)}
            write_result(arguments.out, result, target, ablation_page(result), "protocol-")
            continue
        for space in load_spaces(device):
            if arguments.spaces and space.name not in arguments.spaces:
                continue
            try:
                result = {**header, **measure_space(space, target, arguments.keep)}
            except LgcError as error:
                failures.append(f"{space.name} on {target}: {error}")
                continue
            write_result(arguments.out, result, target, space_page(result))
    if failures:
        sys.exit("\n".join(failures))


def list_targets(device: str, backends: list[str] | None, precisions: list[str]) -> list[Target]:
    """Return the targets on a device.

    An unavailable backend is skipped with a message; if it was requested explicitly, the program exits.
    """
    result = []
    for name in backends or (["onnxruntime"] if device == "cpu" else list(BACKENDS)):
        backend = get_backend(name)
        reason = backend.diagnose(Device(device))
        if reason is not None and backends:
            sys.exit(f"{name} on {device}: {reason}")
        if reason is not None:
            print(f"skipped: {name} on {device}: {reason}", file=sys.stderr)
            continue
        result += [Target(device, name, p) for p in precisions if p in backend.precisions(Device(device))]
    return result


def measure_space(space: SearchSpace, target: Target, keep: Path | None) -> dict[str, Any]:
    """Profile, verify and compare with a conventional table; for `tiny` also measure properties and exports."""
    height, width = space.input
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        lut = (keep or scratch) / f"{space.name}-{height}x{width}-{target.backend}-{target.precision}.lut"
        lut.unlink(missing_ok=True)
        profiled = profile(space, target, lut)
        with LatencyTable.open(lut) as table:
            verification = verify(table, NETWORKS, seed=1)
            plain, scaled, corrected = conventional_errors_pct(
                measure_conventional(space, target), verification.networks
            )
            result: dict[str, Any] = {
                "name": [space.name, f"{height}x{width}"],
                "target": str(target),
                "environment": fingerprint(target, get_backend(target.backend)),
                "protocol": table.protocol,
                "calibration": table.metadata("calibration"),
                "profile_seconds": profiled.seconds,
                "entries": profiled.entries,
                "noisy": profiled.noisy,
                "range_ms": list(Predictor(space, table).range_ms),
                "held_out": profiled.verification.as_dict() if profiled.verification else None,
                "verify": {
                    **verification.report.as_dict(),
                    "drift_pct": verification.drift_pct,
                    "inside_90_pct_interval_pct": verification.covered_pct,
                },
                "remainder": explain_remainder(table, verification.networks),
                "usual_table": {
                    "mape_pct": plain,
                    "mape_at_its_best_scale_pct": scaled,
                    "mape_with_our_correction_pct": corrected,
                },
                "predictions": properties.prediction_rate(table),
            }
            if space.name == "tiny":
                result["repeatability"] = properties.repeatability(space, target, scratch)
                result["interpolation"] = properties.interpolation(space, target, scratch)
                result["exports"] = [
                    export_error(table, target, network) for network in sample_unseen(table, EXPORTS, seed=2).values()
                ]
                result["help_seconds"] = {name: help_seconds(name) for name in COMMANDS}
    return result


def export_error(table: LatencyTable, target: Target, architecture: Any) -> dict[str, float | None]:
    """Return prediction, measurement and output differences of an exported architecture."""
    result = time_network(Network(architecture, None, DENSE), target, table, seconds=EXPORT_SECONDS)
    assert result.parity is not None
    names = ("predicted_ms", "measured_ms", "error_pct", "drift_pct")
    differences = ("max_abs_diff", "argmax_agreement_pct")
    return {name: getattr(result, name) for name in names} | {
        name: getattr(result.parity, name) for name in differences
    }


def help_seconds(command: str) -> float:
    """Return the median wall time of `--help` over five calls."""
    program = str(Path(sys.executable).parent / command)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([program, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
