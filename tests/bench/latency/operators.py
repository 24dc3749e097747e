"""Benchmark of the user's operators: measured in context, predicted in whole networks. Part of `make bench-latency`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lgc.lut import LatencyTable, Target
from lgc.models import OpSpec, SearchSpace
from lgc.plugins import load_plugin
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.default import default_backend
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import fingerprint
from lgc.profiler.profile import profile
from lgc.profiler.verification import VerifiedNetwork, verify

from ..common.results import page_header, stamp, write_result

PLUGIN = Path(__file__).resolve().parents[2] / "operators.py"
TABLE_NETWORKS = 24
MAX_MAPE_PCT, MAX_RATIO = 1.5, 1.3
"""Largest error of the predictions, in percent, or relative to the split-half error of the measurements."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", type=int, default=24, help="unseen networks")
    parser.add_argument("--rounds", type=int, help="sample batches per benchmark; default: the protocol's")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = check_device(arguments.device)
    target = Target(device, default_backend(device))
    examples: Sequence[str] = load_plugin(str(PLUGIN)).module.EXAMPLES
    space = SearchSpace.load(Path(__file__).with_name("operators.yaml"))
    result = {**stamp(), **measure_operators(space, target, examples, arguments.networks, arguments.rounds)}
    write_result(arguments.out, result, target, operators_page(result))


def measure_operators(
    space: SearchSpace, target: Target, examples: Sequence[str], networks: int, rounds: int | None
) -> dict[str, Any]:
    """Profile a table and predict unseen networks, all of them and those that contain each of the operators."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = profile(space, target, Path(folder) / "operators.lut", networks=TABLE_NETWORKS, rounds=rounds)
        with LatencyTable.open(Path(folder) / "operators.lut") as table:
            verification = verify(table, networks, seed=1, rounds=rounds)
            shares = {name: median_entry_ms(table, name) for name in examples}
    report = verification.report.as_dict()
    return {
        "name": [space.name, "x".join(map(str, space.input))],
        "target": str(target),
        "environment": fingerprint(target, get_backend(target.backend)),
        "profile_seconds": profiled.seconds,
        "held_out": profiled.verification.as_dict() if profiled.verification else None,
        "verify": {**report, "drift_pct": verification.drift_pct},
        "within_limits": report["mape_pct"] <= max(MAX_MAPE_PCT, MAX_RATIO * report["ceiling_mape_pct"]),
        "operators": {
            name: {"median_entry_ms": shares[name], **describe_errors(contain(verification.networks, name))}
            for name in examples
        },
    }


def median_entry_ms(table: LatencyTable, operator: str) -> float:
    """Return the median latency of an operator's entries, in ms."""
    entries = [entry for entry in table.entries() if OpSpec.parse(entry.key).operator == operator]
    return float(np.median([entry.latency_ms for entry in entries if entry.latency_ms is not None]))


def contain(networks: Sequence[VerifiedNetwork], operator: str) -> list[VerifiedNetwork]:
    """Return the networks that contain an operator."""
    return [n for n in networks if any(spec.operator == operator for spec in n.architecture.specs())]


def describe_errors(networks: Sequence[VerifiedNetwork]) -> dict[str, float]:
    """Return the errors of the predictions of some networks, in percent."""
    errors = [(network.predicted_ms / network.measured_ms - 1) * 100 for network in networks]
    return {
        "networks": len(networks),
        "mape_pct": float(np.mean(np.abs(errors))) if errors else float("nan"),
        "bias_pct": float(np.mean(errors)) if errors else float("nan"),
    }


def operators_page(result: dict[str, Any]) -> str:
    """Return the page of the benchmark."""
    unseen, held_out = result["verify"], result["held_out"]
    lines = [
        *page_header(f"Operators of the user's own: {' '.join(result['name'])} on {result['target']}", result),
        f"Operators of `tests/operators.py`, measured in context and predicted in networks. Profiled in "
        f"{result['profile_seconds']:.0f} s. Target: a mean error of at most {MAX_MAPE_PCT} %, or {MAX_RATIO} times "
        f"the split-half error of the measurements: {'met' if result['within_limits'] else 'missed'}.",
        "",
        "| prediction of networks | held out while profiling | unseen networks |",
        "| --- | --- | --- |",
        *(f"| {name} | {held_out[name]:.4g} | {unseen[name]:.4g} |" for name in held_out or ()),
        "",
        "| operator | median entry, ms | unseen networks with it | MAPE % | bias % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in result["operators"].items():
        lines.append(
            f"| {name} | {row['median_entry_ms']:.4f} | {row['networks']} | {row['mape_pct']:.2f} "
            f"| {row['bias_pct']:+.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
