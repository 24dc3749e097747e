"""Networks on a GPU under every backend and precision: outputs, frame rates, engines beside trtexec. `make gpu-check`.

One JSON file and page for each backend and precision. What is left out or refused is in them, in the words of what
refused it. `--device cpu` runs the same under ONNX Runtime and torch in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpupage import page
from parts import stamp
from rtxwords import last_words, rtx_words
from run import HERE, write

from lgc.device import Device
from lgc.errors import DeviceError
from lgc.lut import Target
from lgc.models import SearchSpace
from lgc.profiler.backends import BACKENDS, get_backend
from lgc.profiler.machine.devices import check_device
from lgc.profiler.machine.environment import fingerprint

NOT_RUN = "NOT RUN UNDER TENSORRT"
LIMIT_S = 3600
"""For one backend at one precision."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--space", default="lgcnet-cityscapes")
    parser.add_argument("--input", nargs=2, type=int, help="height and width; the space's own if left out")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each network")
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=BACKENDS)
    parser.add_argument("--precisions", nargs="*", help="if left out all on a GPU, fp32 on a CPU")
    parser.add_argument("--install-words", type=Path, help="file that says what could not be installed, if it is there")
    parser.add_argument("--told", type=Path, help="file for the closing lines, which are printed anyway")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "benchmarks")
    arguments = parser.parse_args()
    try:
        device = check_device(arguments.device)
    except DeviceError as error:
        sys.exit(f"{NOT_RUN}: {error}")
    beside = {
        "left_out": left_out(device, arguments.backends),
        "installation": installation(arguments.install_words),
        "tensorrt_rtx": rtx_words(device),
    }
    found = targets(device, arguments.backends, beside["left_out"], arguments.precisions)
    results = record(arguments, found, beside)
    told = summary(device, results, beside)
    if arguments.told:
        arguments.told.write_text(told + "\n")
    print(told)
    sys.exit(any(refusals(result) for result in results.values()))


def left_out(device: str, backends: list[str]) -> dict[str, str]:
    """Backends that do not run on the device, and why."""
    reasons = {name: get_backend(name).diagnose(Device(device)) for name in backends}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def targets(device: str, backends: list[str], refused: dict[str, str], precisions: list[str] | None) -> list[Target]:
    """Every backend that runs on the device, in every precision that it offers there and that is wanted."""
    wanted = precisions or (["fp32"] if device == "cpu" else None)
    return [
        Target(device, name, precision)
        for name in backends
        if name not in refused
        for precision in get_backend(name).precisions(Device(device))
        if wanted is None or precision in wanted
    ]


def record(arguments: argparse.Namespace, found: list[Target], beside: dict[str, Any]) -> dict[Target, dict[str, Any]]:
    """Measure each target in a process of its own, and write its file; the results."""
    results = {}
    space = SearchSpace.load(arguments.space)
    height, width = arguments.input or space.input
    for target in found:
        print(f"{target}: measuring", file=sys.stderr, flush=True)
        kind = "cpu" if target.device == "cpu" else "gpu"
        result: dict[str, Any] = {
            "name": [f"deployment-{kind}", space.name, f"{height}x{width}"],
            **stamp(),
            "target": str(target),
            "seconds": arguments.seconds,
            **measured(target, arguments.space, (height, width), arguments.seconds),
            **beside,
        }
        write(arguments.out, result, target, page(result))
        results[target] = result
    return results


def measured(target: Target, space: str, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """What `gpumeasure.py` finds, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        call = [sys.executable, str(HERE / "gpumeasure.py"), "--space", space, "--seconds", str(seconds)]
        call += ["--input", *map(str, size), "--to", str(file)]
        call += ["--target", target.device, target.backend, target.precision]
        try:
            done = subprocess.run(call, stderr=subprocess.PIPE, text=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return failed(target, f"not done after {LIMIT_S} s")
        sys.stderr.write(done.stderr)
        if done.returncode == 0:
            return dict(json.loads(file.read_text()))
    return failed(target, last_words(done.returncode, done.stderr))


def failed(target: Target, words: str) -> dict[str, Any]:
    """The result where a process brought none."""
    return {"environment": fingerprint(target, get_backend(target.backend)), "scopes": {}, "refused": words}


def installation(file: Path | None) -> list[str]:
    """What the installation could not install, a line for each."""
    return file.read_text().splitlines() if file is not None and file.exists() else []


def refusals(result: dict[str, Any]) -> list[str]:
    """What of a result could not be had or is wrong, in the words of what refused it."""
    parts = result["scopes"] | {name: result[name] for name in ("clock", "trtexec") if name in result}
    found = [f"{name}: {part['refused']}" for name, part in parts.items() if "refused" in part]
    found += [f"{name}: outputs are not torch's" for name, part in parts.items() if not part.get("equals_torch", True)]
    return [*([result["refused"]] if "refused" in result else []), *found]


def summary(device: str, results: dict[Target, dict[str, Any]], beside: dict[str, Any]) -> str:
    """What has run and what has not; on the last line whether TensorRT has, and if not why."""
    ran = [target for target, result in results.items() if any("fps" in row for row in result["scopes"].values())]
    lines = [f"run on {device}: {', '.join(f'{target.backend} {target.precision}' for target in ran) or 'nothing'}"]
    lines += beside["installation"]
    lines += [f"left out: {name} on {device}: {why}" for name, why in beside["left_out"].items()]
    failures = {target: refusals(result) for target, result in results.items()}
    lines += [f"failed: {target}: {words}" for target, found in failures.items() for words in found]
    precisions = [target.precision for target in ran if target.backend == "tensorrt"]
    reason = beside["left_out"].get("tensorrt") or "no engine ran, see above"
    return "\n".join([*lines, f"run under TensorRT: {', '.join(precisions)}" if precisions else f"{NOT_RUN}: {reason}"])


if __name__ == "__main__":
    main()
