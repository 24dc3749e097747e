"""Benchmark of a table in somebody else's supernet: the example of docs/supernets.md. Part of `make bench-latency`."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from docs.pages import code_blocks, read_page

import lgc
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint

from ..common.results import page_header, stamp, write_result

SHAPES = [(1, 3, 64, 64)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=24, help="unseen networks")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    result = {**stamp(), "name": ["mobile", "64x64"]}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        example = run_page()
        table = example["table"]
        unseen = lgc.verify(table, example["build"], SHAPES, networks=arguments.networks, seed=1)
        result |= {
            "target": str(table.target),
            "environment": fingerprint(table.target, get_backend(table.target.backend)),
            "calibration": table.metadata("calibration"),
            "held_out": table.metadata("verification")["dense"],
            "verify": {**unseen.report.as_dict(), "drift_pct": unseen.drift_pct},
        }
        write_result(out, result, table.target, supernet_page(result), prefix="supernet-")
        table.close()


def run_page() -> dict[str, Any]:
    """Run the Python code of docs/supernets.md in the current folder, and return its names."""
    names: dict[str, Any] = {}
    exec(compile("\n".join(code_blocks("python", read_page("supernets"))), "supernets.md", "exec"), names)
    return names


def supernet_page(result: dict[str, Any]) -> str:
    """Return the page of the benchmark."""
    unseen, held_out = result["verify"], result["held_out"]
    lines = [
        *page_header(f"A table in somebody else's supernet on {result['target']}", result),
        "The supernet of docs/supernets.md, profiled by its own code. Errors are in percent.",
        "",
        "| prediction of networks | held out while profiling | unseen networks |",
        "| --- | --- | --- |",
        *(f"| {name} | {held_out[name]:.4g} | {unseen[name]:.4g} |" for name in held_out),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
