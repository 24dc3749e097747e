"""Benchmark networks on a GPU with every backend and precision: outputs, frame rates, trtexec. `make gpu-check`.

There is one JSON file and page per backend and precision; skipped and failed parts have their error messages.
`--device cpu` runs ONNX Runtime and torch in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lgc.device import Device
from lgc.errors import DeviceError
from lgc.lut import Target
from lgc.models import SearchSpace
from lgc.profiler.backends import BACKENDS, get_backend
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import fingerprint

from ..common.results import BENCH, stamp, write_result
from .page import render_page
from .rtx_support import last_line, query_rtx

NOT_RUN = "NOT RUN UNDER TENSORRT"
LIMIT_S = 3600
"""Time limit of a backend in a precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--space", default="lgcnet-cityscapes")
    parser.add_argument("--input", nargs=2, type=int, help="height and width; default: the space's")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration per network")
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--precisions", nargs="*", help="default: all on a GPU, fp32 on a CPU")
    parser.add_argument("--install-log", type=Path, help="file with one line per package that could not be installed")
    parser.add_argument("--summary", type=Path, help="file for the final summary, which is also printed")
    parser.add_argument("--out", type=Path, default=BENCH.parents[1] / "docs" / "benchmarks")
    arguments = parser.parse_args()
    try:
        device = check_device(arguments.device)
    except DeviceError as error:
        sys.exit(f"{NOT_RUN}: {error}")
    context = {
        "left_out": find_unavailable(device, arguments.backends),
        "installation": read_install_log(arguments.install_log),
        "tensorrt_rtx": query_rtx(device),
    }
    targets = list_targets(device, arguments.backends, context["left_out"], arguments.precisions)
    results = measure_all(arguments, targets, context)
    summary = summarise(device, results, context)
    if arguments.summary:
        arguments.summary.write_text(summary + "\n")
    print(summary)
    sys.exit(any(list_failures(result) for result in results.values()))


def find_unavailable(device: str, backends: list[str]) -> dict[str, str]:
    """Return the backends that cannot run on the device, with the reason."""
    reasons = {name: get_backend(name).diagnose(Device(device)) for name in backends}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def list_targets(
    device: str, backends: list[str], unavailable: dict[str, str], precisions: list[str] | None
) -> list[Target]:
    """Return every available backend in every supported and requested precision."""
    requested = precisions or (["fp32"] if device == "cpu" else None)
    return [
        Target(device, name, precision)
        for name in backends
        if name not in unavailable
        for precision in get_backend(name).precisions(Device(device))
        if requested is None or precision in requested
    ]


def measure_all(
    arguments: argparse.Namespace, targets: list[Target], context: dict[str, Any]
) -> dict[Target, dict[str, Any]]:
    """Measure each target in a new process, write its files, and return the results."""
    results = {}
    space = SearchSpace.load(arguments.space)
    height, width = arguments.input or space.input
    for target in targets:
        print(f"{target}: measuring", file=sys.stderr, flush=True)
        kind = "cpu" if target.device == "cpu" else "gpu"
        result: dict[str, Any] = {
            "name": [f"deployment-{kind}", space.name, f"{height}x{width}"],
            **stamp(),
            "target": str(target),
            "seconds": arguments.seconds,
            **measure_target(target, arguments.space, (height, width), arguments.seconds),
            **context,
        }
        write_result(arguments.out, result, target, render_page(result))
        results[target] = result
    return results


def measure_target(target: Target, space: str, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Return the result of `measure.py` in a new process, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        call = [sys.executable, "-m", "bench.gpu.measure", "--space", space, "--seconds", str(seconds)]
        call += ["--input", *map(str, size), "--to", str(file)]
        call += ["--target", target.device, target.backend, target.precision]
        try:
            done = subprocess.run(call, stderr=subprocess.PIPE, text=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return failed_result(target, f"timed out after {LIMIT_S} s")
        sys.stderr.write(done.stderr)
        if done.returncode == 0:
            return dict(json.loads(file.read_text()))
    return failed_result(target, last_line(done.returncode, done.stderr))


def failed_result(target: Target, error: str) -> dict[str, Any]:
    """Return the result of a process that failed."""
    return {"environment": fingerprint(target, get_backend(target.backend)), "scopes": {}, "refused": error}


def read_install_log(file: Path | None) -> list[str]:
    """Return one line per package that could not be installed."""
    return file.read_text().splitlines() if file is not None and file.exists() else []


def list_failures(result: dict[str, Any]) -> list[str]:
    """Return the errors of failed parts, and the parts with wrong outputs."""
    parts = result["scopes"] | {name: result[name] for name in ("clock", "trtexec") if name in result}
    failures = [f"{name}: {part['refused']}" for name, part in parts.items() if "refused" in part]
    failures += [
        f"{name}: outputs differ from torch" for name, part in parts.items() if not part.get("equals_torch", True)
    ]
    return [*([result["refused"]] if "refused" in result else []), *failures]


def summarise(device: str, results: dict[Target, dict[str, Any]], context: dict[str, Any]) -> str:
    """Return a summary; its last line states whether TensorRT ran, or the reason."""
    ran = [target for target, result in results.items() if any("fps" in row for row in result["scopes"].values())]
    lines = [f"run on {device}: {', '.join(f'{target.backend} {target.precision}' for target in ran) or 'nothing'}"]
    lines += context["installation"]
    lines += [f"skipped: {name} on {device}: {reason}" for name, reason in context["left_out"].items()]
    failures = {target: list_failures(result) for target, result in results.items()}
    lines += [f"failed: {target}: {error}" for target, errors in failures.items() for error in errors]
    precisions = [target.precision for target in ran if target.backend == "tensorrt"]
    reason = context["left_out"].get("tensorrt") or "no engine ran, see above"
    return "\n".join([*lines, f"run under TensorRT: {', '.join(precisions)}" if precisions else f"{NOT_RUN}: {reason}"])


if __name__ == "__main__":
    main()
