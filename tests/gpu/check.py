"""Check lgc on a GPU, the most valuable part first: `python3 tests/gpu/check.py --out DIR`.

The check needs only the machine's own Python and packages: no virtual environment, pip, make, network or git. Missing
packages may be unpacked in `.gpu-site`, see `make gpu-wheels`. Each part runs in its own process with a time limit and
adds one line to DIR/results.jsonl. After a part that fails, lacks a package or runs out of time, the next part starts.
DIR/check.md shows the results, DIR/check.log holds the output.

`--device cpu` runs a rehearsal with the preset tiny.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("check.py: lgc needs Python 3.11 or later (JetPack 6 has 3.10, JetPack 7 has 3.12)")
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXTRA_SITE, EXTRA_PYTHON = ROOT / ".gpu-site", (3, 12)
"""Folder of `make gpu-wheels`, and the Python version of its packages."""
RESULTS, PAGE, LOG = "results.jsonl", "check.md", "check.log"
sys.path.insert(0, str(HERE))

from checks import PARTS, Part  # noqa: E402
from checks.committed import compute_digest, read_committed  # noqa: E402
from checks.page import format_page, merge_lines, read_lines, write_lines  # noqa: E402
from checks.process import PartResult, run_part, warm_imports  # noqa: E402
from checks.settings import Settings  # noqa: E402

REHEARSAL_SECONDS, FULL_SECONDS = 30.0, 520.0
CLOSING_S = 1.0
"""Time reserved for the end; a part that would have less time than its minimum is not started."""


def main() -> None:
    arguments = parse_arguments()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / LOG).open("a").close()
    except OSError as error:
        exit_with_error(f"cannot write to {arguments.out}: {error.strerror}; name another folder with --out")
    try:
        with tempfile.TemporaryDirectory(prefix="lgc-check-") as scratch:
            make_importable(Path(scratch))
            lines = run_all(arguments, Path(scratch))
    except KeyboardInterrupt as interrupt:
        print(f"check.py: interrupted; finished parts are in {arguments.out / RESULTS}", file=sys.stderr)
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))
    print(format_summary(lines))
    statuses = {line["status"] for line in lines}
    sys.exit(bool(statuses & {"failed", "error", "timed out"}) or not statuses & {"passed", "committed"})


def raise_interrupt(number: int, _: object) -> NoReturn:
    """Handle a signal like Ctrl-C, so that the running part ends too."""
    raise KeyboardInterrupt(number)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="output folder; created if missing")
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu for a rehearsal [default: cuda:0]")
    parser.add_argument(
        "--seconds", type=parse_seconds, help="time limit of the whole check [default: 520; 30 on a CPU]"
    )
    parser.add_argument(
        "--parts", type=parse_parts, help="part numbers, e.g. 5,10; these run even if their results are committed"
    )
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (REHEARSAL_SECONDS if arguments.device == "cpu" else FULL_SECONDS)
    return arguments


def parse_seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def exit_with_error(message: str) -> NoReturn:
    """Print a one-line error and exit with code 2."""
    print(f"check.py: {message}", file=sys.stderr)
    sys.exit(2)


def parse_parts(text: str) -> tuple[int, ...]:
    """Parse part numbers such as `5,10`."""
    known = {part.number for part in PARTS}
    try:
        chosen = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of part numbers such as 5,10") from None
    if unknown := set(chosen) - known:
        raise argparse.ArgumentTypeError(f"no part {min(unknown)}: choose from {min(known)} to {max(known)}")
    return chosen


def make_importable(scratch: Path) -> None:
    """Make this checkout importable as `lgc`, and the packages in `.gpu-site`, here and in child processes."""
    site = scratch / "site"
    site.mkdir()
    (site / "lgc").symlink_to(ROOT, target_is_directory=True)
    usable = EXTRA_SITE.is_dir() and sys.version_info[:2] == EXTRA_PYTHON
    if EXTRA_SITE.is_dir() and not usable:
        version = ".".join(map(str, EXTRA_PYTHON))
        print(f"{EXTRA_SITE.name} is ignored: its packages are for Python {version}", file=sys.stderr)
    paths = [str(site), *([str(EXTRA_SITE)] if usable else [])]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["LGC_CACHE"] = str(scratch / "cache")  # build engines, do not read those of an earlier run


def run_all(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run the chosen parts in order; write and return their lines."""
    start = time.monotonic()
    log = arguments.out / LOG
    settings = Settings(arguments.device, arguments.out.resolve(), scratch, rehearsal=arguments.device == "cpu")
    warm_imports()
    device_name = get_device_name(arguments.device, settings, log)
    done = {} if arguments.parts else read_committed(ROOT / "docs" / "benchmarks", device_name)
    codes = {part.number: compute_digest(ROOT, part) for part in PARTS}
    committed = {number: done[number, code] for number, code in codes.items() if (number, code) in done}
    for required in {part.needs for part in PARTS if part.number not in committed}:
        committed.pop(required, None)  # a part that runs needs its table
    lines: list[dict[str, Any]] = []
    results = arguments.out / RESULTS
    earlier = [line for line in read_lines(results) if line["device_name"] == device_name]
    for part in PARTS:
        if arguments.parts is not None and part.number not in arguments.parts:
            continue
        left_s = arguments.seconds - (time.monotonic() - start) - CLOSING_S
        head = {"part": part.number, "name": part.name, "device": arguments.device, "device_name": device_name}
        line = head | make_stamp() | {"code": codes[part.number]}
        line |= run_or_skip(part, committed, settings, left_s, log, arguments)
        lines.append(line)
        lines_to_write = merge_lines(earlier, lines)
        write_lines(results, lines_to_write)
        print(f"{part.number:2} {part.name}: {line['status']}{format_details(line)}", file=sys.stderr, flush=True)
        (arguments.out / PAGE).write_text(format_page(lines_to_write))
    return lines


def run_or_skip(
    part: Part,
    committed: dict[int, str],
    settings: Settings,
    left_s: float,
    log: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Run a part, or return why it is not run."""
    if part.number in committed:
        return {
            "status": "committed",
            "words": f"passed with the same code, see docs/benchmarks/{committed[part.number]}",
        }
    limit_s = part.limit_s * arguments.seconds / FULL_SECONDS if arguments.device == "cpu" else part.limit_s
    limit_s = min(max(limit_s, part.min_s), left_s)
    if limit_s < part.min_s:
        return {"status": "not begun", "words": f"only {max(left_s, 0):.0f} s left"}
    return vars(run_part(part, replace(settings, part=part.number, limit_s=limit_s), limit_s, log))


def get_device_name(device: str, settings: Settings, log: Path) -> str:
    """Return the device's name, from a child process: this process must not start CUDA before it forks."""
    ended: PartResult = run_part(Part(0, "device", "device", 60.0, 1.0, ()), settings, settings.limit_s, log)
    if ended.words.startswith("DeviceError: "):
        exit_with_error(ended.words.removeprefix("DeviceError: "))
    return str(ended.values.get("device_name") or f"unknown: {ended.words}")


def make_stamp() -> dict[str, str]:
    """Return commit and time; without git, `LGC_COMMIT` gives the commit."""
    commit = os.environ.get("LGC_COMMIT", "")
    if not commit:
        try:
            command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
            commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            commit = "unknown"
    return {"commit": commit, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def format_details(line: dict[str, Any]) -> str:
    """Return duration and reason of a part for the terminal."""
    seconds = f", {line['seconds']:.0f} s" if "seconds" in line else ""
    return seconds + (f": {line['words']}" if line["words"] else "")


def format_summary(lines: list[dict[str, Any]]) -> str:
    statuses = [line["status"] for line in lines]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(lines)} parts on {lines[0]['device_name'] if lines else 'nothing'}: {counts}"


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_interrupt)
    main()
