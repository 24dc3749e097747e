"""Time the test suite and measure its coverage; docs/benchmarks/tests.md is the page.

    python tests/bench/suite.py [--out DIR] [--workers N] [--all]

Runs `make test`'s tests once for the time and once more for coverage, which slows them down. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lut", "models", "profiler", "report", "search", "tools")
BEFORE = {"commit": "99bd0e6", "processes": 1, "seconds": 821.3, "tests": 3627, "passed": 3556, "skipped": 71}
"""The suite before it ran in parallel, on two cores of the same type of machine."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of tests.json and .md")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="test processes")
    parser.add_argument("--all", action="store_true", help="also time all tests, those marked slow included")
    arguments = parser.parse_args()
    quick = ("-m", "not slow")
    result = describe_machine(arguments.workers)
    result["make test"] = run_suite(arguments.workers, *quick)
    if arguments.all:
        result["make test-all"] = run_suite(arguments.workers)
    result["coverage, %"] = {"make test": measure_coverage(arguments.workers, *quick)}
    if arguments.all:
        result["coverage, %"]["make test-all"] = measure_coverage(arguments.workers)
    result["before"] = BEFORE
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tests.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "tests.md").write_text(format_page(result))
    print(format_page(result))


def describe_machine(workers: int) -> dict[str, object]:
    """Return commit, date and machine."""
    git = ("git", "-C", str(ROOT))
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": (commit or "unknown") + ("-dirty" if changed else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "workers": workers,
        "python": platform.python_version(),
    }


def run_pytest(workers: int, *options: str) -> float:
    """Run the suite as `make test` does, and return its seconds; exit with its code if a test fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "worksteal", *options]
    start = time.monotonic()
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        sys.exit(code)
    return time.monotonic() - start


def run_suite(workers: int, *options: str) -> dict[str, object]:
    """Return seconds and counts of a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.xml"
        seconds = run_pytest(workers, *options, f"--junit-xml={file}")
        (suite,) = ET.parse(file).getroot().iter("testsuite")
    tests, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    return {"seconds": round(seconds, 1), "tests": tests, "passed": tests - skipped, "skipped": skipped}


def measure_coverage(workers: int, *options: str) -> dict[str, float]:
    """Return the percentage of statements run: of each package, and of all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "coverage.json"
        sources = [f"--cov={name}" for name in PACKAGES]
        os.environ["COVERAGE_FILE"] = str(Path(folder) / "coverage")
        run_pytest(workers, *options, *sources, f"--cov-report=json:{file}")
        files = json.loads(file.read_text())["files"]
    counts = {name: [0, 0] for name in (*PACKAGES, "all")}
    for path, content in files.items():
        for name in (path.split("/")[0], "all"):
            counts[name][0] += content["summary"]["covered_lines"]
            counts[name][1] += content["summary"]["num_statements"]
    return {name: round(100 * covered / total, 1) for name, (covered, total) in counts.items() if total}


def format_page(result: dict) -> str:
    """Return the page as Markdown."""
    before, names = result["before"], [name for name in ("make test", "make test-all") if name in result]
    lines = [
        "# The test suite",
        "",
        f"Commit {result['commit']}, {result['date']}, {result['cores']} cores, {result['workers']} test processes, "
        f"Python {result['python']}. Written by `make coverage`.",
        "",
        "| | seconds | tests | passed | skipped |",
        "| --- | --- | --- | --- | --- |",
        f"| before ({before['commit']}, {before['processes']} process) | {before['seconds']:.0f} | {before['tests']} | "
        f"{before['passed']} | {before['skipped']} |",
    ]
    for name in names:
        row = result[name]
        lines.append(f"| `{name}` | {row['seconds']:.0f} | {row['tests']} | {row['passed']} | {row['skipped']} |")
    coverage = result["coverage, %"]
    lines += ["", "Statements run by the tests, %; what runs in processes that tests start is not counted.", ""]
    lines += [f"| package | {' | '.join(f'`{name}`' for name in coverage)} |", "| --- |" + " --- |" * len(coverage)]
    for package in coverage["make test"]:
        lines.append(f"| {package} | {' | '.join(f'{values[package]:.1f}' for values in coverage.values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
