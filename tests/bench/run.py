"""Benchmarks: what tables are worth, written with commit, machine and versions. `make bench`, `make gpu-check`.

Everything is measured anew in a scratch folder; nothing is read from earlier results. On a CPU three spaces are tried,
on a GPU the preset that `lgc-profile` takes there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import properties
from ablation import ablation
from usual import usual_error_pct, usual_table

from lgc.device import Device
from lgc.errors import LgcError
from lgc.lut import LatencyTable, Target
from lgc.models import SearchSpace
from lgc.models.space.plan import DENSE
from lgc.profiler.backends import BACKENDS, get_backend
from lgc.profiler.deployment.deploy import Network, time_network
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import DEVICE_NAME, fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.verification import unseen, verify
from report import ablation_page, markdown

HERE = Path(__file__).resolve().parent
COMMANDS = tuple(
    f"lgc-{name}" for name in ("profile", "lut", "search", "train", "export", "bench", "predict", "scenes", "demo")
)
NETWORKS, EXPORTS = 24, 4
EXPORT_SECONDS = 5.0


def spaces(device: str) -> list[SearchSpace]:
    if device != "cpu":
        return [SearchSpace.load("lgcnet-cityscapes")]
    camvid = SearchSpace.load("lgcnet-camvid").with_input(360, 480)
    return [SearchSpace.load("tiny"), camvid, SearchSpace.load(HERE / "wide.yaml")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--spaces", nargs="*", help="of the benchmark's, by name; all if left out")
    parser.add_argument("--backends", nargs="*", help="onnxruntime on a CPU, all that run there on a GPU, if left out")
    parser.add_argument("--precisions", nargs="*", default=["fp32"])
    parser.add_argument("--protocol", action="store_true", help="only what each part of the protocol gains, on a CPU")
    parser.add_argument("--keep", type=Path, help="folder in which the tables are kept")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = check_device(arguments.device)
    head = {
        "commit": git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain") else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    failures: list[str] = []  # what fails under one backend is no reason to leave the others out
    for target in targets(device, arguments.backends, arguments.precisions):
        if arguments.protocol:
            result = {**head, **ablation(SearchSpace.load("tiny"), target)}
            write(arguments.out, result, target, ablation_page(result), "protocol-")
            continue
        for space in spaces(device):
            if arguments.spaces and space.name not in arguments.spaces:
                continue
            try:
                result = {**head, **bench(space, target, arguments.keep)}
            except LgcError as error:
                failures.append(f"{space.name} on {target}: {error}")
                continue
            write(arguments.out, result, target, markdown(result))
    if failures:
        sys.exit("\n".join(failures))


def path_of(folder: Path, result: dict[str, Any], target: Target, prefix: str = "") -> Path:
    """The JSON file of a result; the page stands beside it."""
    machine = slug(result["environment"][DEVICE_NAME])
    return folder / (prefix + "-".join([*result["name"], machine, target.backend, target.precision]) + ".json")


def write(folder: Path, result: dict[str, Any], target: Target, page: str, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, result, target, prefix)
    path.write_text(json.dumps(result, indent=2) + "\n")
    path.with_suffix(".md").write_text(page)
    print(page, flush=True)


def targets(device: str, backends: list[str] | None, precisions: list[str]) -> list[Target]:
    """Targets on the device; a backend that is not here is named and left out, or an error if it was asked for."""
    found = []
    for name in backends or (["onnxruntime"] if device == "cpu" else list(BACKENDS)):
        backend = get_backend(name)
        reason = backend.diagnose(Device(device))
        if reason is not None and backends:
            sys.exit(f"{name} on {device}: {reason}")
        if reason is not None:
            print(f"left out: {name} on {device}: {reason}", file=sys.stderr)
            continue
        found += [Target(device, name, p) for p in precisions if p in backend.precisions(Device(device))]
    return found


def bench(space: SearchSpace, target: Target, keep: Path | None) -> dict[str, Any]:
    """Profile, verify, compare with the usual table; for the smallest space also the properties and the exports."""
    height, width = space.input
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        lut = (keep or scratch) / f"{space.name}-{height}x{width}-{target.backend}-{target.precision}.lut"
        lut.unlink(missing_ok=True)
        profiled = profile(space, target, lut)
        with LatencyTable.open(lut) as table:
            again = verify(table, NETWORKS, seed=1)
            plain, at_speed, corrected = usual_error_pct(usual_table(space, target), again.networks)
            result: dict[str, Any] = {
                "name": [space.name, f"{height}x{width}"],
                "target": str(target),
                "environment": fingerprint(target, get_backend(target.backend)),
                "protocol": table.protocol,
                "calibration": table.note("calibration"),
                "profile_seconds": profiled.seconds,
                "entries": profiled.entries,
                "noisy": profiled.noisy,
                "held_out": profiled.verification.as_dict() if profiled.verification else None,
                "verify": {
                    **again.report.as_dict(),
                    "drift_pct": again.drift_pct,
                    "inside_90_pct_interval_pct": again.covered_pct,
                },
                "usual_table": {
                    "mape_pct": plain,
                    "mape_at_its_best_scale_pct": at_speed,
                    "mape_with_our_correction_pct": corrected,
                },
                "predictions": properties.prediction_rate(table),
            }
            if space.name == "tiny":
                result["repeatability"] = properties.repeatability(space, target, scratch)
                result["interpolation"] = properties.interpolation(space, target, scratch)
                result["exports"] = [
                    export_error(table, target, network) for network in unseen(table, EXPORTS, seed=2).values()
                ]
                result["help_seconds"] = {name: help_seconds(name) for name in COMMANDS}
    return result


def export_error(table: LatencyTable, target: Target, architecture: Any) -> dict[str, float | None]:
    result = time_network(Network(architecture, None, DENSE), target, table, seconds=EXPORT_SECONDS)
    names = ("predicted_ms", "measured_ms", "error_pct", "drift_pct", "max_abs_diff", "argmax_agreement_pct")
    return {name: getattr(result, name) for name in names}


def help_seconds(command: str) -> float:
    """Median wall time of `--help` over five calls."""
    program = str(Path(sys.executable).parent / command)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([program, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).lower().split())


if __name__ == "__main__":
    main()
