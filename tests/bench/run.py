"""Benchmarks: how well a table predicts, written with commit, machine and versions. `make bench`, `make gpu-check`.

Everything is measured anew in a scratch folder; nothing is read from earlier results.
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

from lgc.lut import LatencyTable, Target
from lgc.models import SearchSpace
from lgc.models.plan import DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.defaults import default_backend
from lgc.profiler.deploy import Network, time_network
from lgc.profiler.devices import check_device
from lgc.profiler.environment import DEVICE_NAME, fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.verification import unseen, verify

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("lgc-profile", "lgc-lut", "lgc-search", "lgc-train", "lgc-export", "lgc-scenes", "lgc-demo")
NETWORKS, EXPORTS = 12, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--backends", nargs="*", help="all that run on the device, if left out")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = check_device(arguments.device)
    names = arguments.backends or [n for n in ("onnxruntime", "torch", "tensorrt") if not missing(n, device)]
    commit = git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    for name in names:
        target = Target(device, name)
        result = bench(SearchSpace.load(arguments.space), target, commit)
        stem = f"{arguments.space}-{slug(result['environment'][DEVICE_NAME])}-{name}-fp32"
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
        (arguments.out / f"{stem}.md").write_text(markdown(result))
        print(markdown(result))


def missing(backend: str, device: str) -> str | None:
    reason = get_backend(backend).unavailable(device)
    if reason is not None:
        print(f"left out: {backend} on {device}: {reason}", file=sys.stderr)
    return reason


def bench(space: SearchSpace, target: Target, commit: str) -> dict[str, Any]:
    """Profile, verify and export; the default backend's run also times `--help`."""
    with tempfile.TemporaryDirectory() as scratch:
        lut = Path(scratch) / "bench.lut"
        profiled = profile(space, target, lut)
        with LatencyTable.open(lut) as table:
            again = verify(table, NETWORKS, seed=1)
            exports = [export_error(table, target, network) for network in unseen(table, EXPORTS, seed=2).values()]
    first = target.backend == default_backend(target.device)
    return {
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "space": space.name,
        "target": str(target),
        "environment": fingerprint(target, get_backend(target.backend)),
        "profile_seconds": profiled.seconds,
        "entries": profiled.entries,
        "held_out": profiled.verification.as_dict(),
        "verify": {**again.report.as_dict(), "drift_pct": again.drift_pct},
        "exports": exports,
        "help_seconds": {name: help_seconds(name) for name in COMMANDS} if first else None,
    }


def export_error(table: LatencyTable, target: Target, architecture: Any) -> dict[str, float | None]:
    result = time_network(Network(architecture, None, DENSE), target, table, seconds=5)
    names = (
        "table_ms",
        "predicted_ms",
        "measured_ms",
        "error_pct",
        "drift_pct",
        "max_abs_diff",
        "argmax_agreement_pct",
    )
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
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).lower().split())


def markdown(result: dict[str, Any]) -> str:
    environment = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [
        f"# {result['space']} on {result['target']}",
        "",
        f"Commit {result['commit']}, {result['date']}, {environment[DEVICE_NAME]}, {environment['system']}, "
        f"{versions}, lgc {environment['lgc']}, Python {environment['python']}.",
        "",
        f"Table of {result['entries']} entries from nothing, verified: {result['profile_seconds']:.0f} s.",
        "",
        "| | held out while profiling | anew, unseen networks |",
        "| --- | --- | --- |",
    ]
    held, anew = result["held_out"], result["verify"]
    lines += [f"| {name} | {held[name]:.4g} | {anew[name]:.4g} |" for name in held]
    lines += ["", f"Drift of the machine between table and verification: {anew['drift_pct']:+.1f} %.", ""]
    lines += ["| exported network | predicted ms | measured ms | error % | drift % | max diff |", "|" + " --- |" * 6]
    for index, row in enumerate(result["exports"]):
        lines.append(
            f"| {index} | {row['predicted_ms']:.3f} | {row['measured_ms']:.3f} | {row['error_pct']:+.1f} "
            f"| {row['drift_pct']:+.1f} | {row['max_abs_diff']:.1e} |"
        )
    if result["help_seconds"]:
        lines += ["", "| `--help` | seconds |", "| --- | --- |"]
        lines += [f"| {name} | {seconds:.2f} |" for name, seconds in result["help_seconds"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
