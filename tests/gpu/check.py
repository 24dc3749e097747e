"""Prove the CUDA half of lgc on this machine, the most valuable part first: `python3 tests/gpu/check.py --out DIR`.

It needs the machine's own Python and what is installed there: no virtual environment, pip, make, network or git. What
the machine lacks may lie unpacked in `.gpu-site`, see `make gpu-wheels`. Each part runs in a process with a limit of
its own and adds one line to DIR/results.jsonl; a part that fails, lacks a package or runs out of time says so there,
and the next one begins. DIR/check.md is the page of these lines, DIR/check.log what was printed.

`--device cpu` rehearses it with the preset tiny.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("check.py: lgc needs Python 3.11 or later, this is an older one; JetPack 6 has 3.10, JetPack 7 has 3.12")
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CARRIED, CARRIED_FOR = ROOT / ".gpu-site", (3, 12)
"""What `make gpu-wheels` gathers, and the Python that it is compiled for."""
RESULTS, PAGE, LOG = "results.jsonl", "check.md", "check.log"
sys.path.insert(0, str(HERE))

from checks import PARTS, Part  # noqa: E402
from checks.committed import committed_lines, digest  # noqa: E402
from checks.page import merged, page, read_lines, write_lines  # noqa: E402
from checks.process import Ended, run_part, warm_imports  # noqa: E402
from checks.settings import Settings  # noqa: E402

REHEARSAL_SECONDS, FULL_SECONDS = 30.0, 520.0
CLOSING_S = 1.0
"""Kept free at the end: a part that would be left with less is not begun."""


def main() -> None:
    arguments = parse_arguments()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / LOG).open("a").close()
    except OSError as error:
        refuse(f"cannot write to {arguments.out}: {error.strerror}; name another folder with --out")
    try:
        with tempfile.TemporaryDirectory(prefix="lgc-check-") as scratch:
            make_importable(Path(scratch))
            lines = run_all(arguments, Path(scratch))
    except KeyboardInterrupt as interrupt:
        print(f"check.py: interrupted; the parts that ended are in {arguments.out / RESULTS}", file=sys.stderr)
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))
    print(summary(lines))
    statuses = {line["status"] for line in lines}
    sys.exit(bool(statuses & {"failed", "error", "timed out"}) or not statuses & {"passed", "committed"})


def interrupt(number: int, _: object) -> NoReturn:
    """Take a signal as Ctrl-C is taken, so that the running part is ended too."""
    raise KeyboardInterrupt(number)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; made if it is not there")
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu for a rehearsal")
    parser.add_argument("--seconds", type=positive, help="time for everything; 520, and 30 on a cpu, if left out")
    parser.add_argument("--parts", type=numbers, help="such as 5,10; these run even if their results are committed")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (REHEARSAL_SECONDS if arguments.device == "cpu" else FULL_SECONDS)
    return arguments


def positive(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def refuse(words: str) -> NoReturn:
    """Say what is wrong in one line, and end with exit code 2."""
    print(f"check.py: {words}", file=sys.stderr)
    sys.exit(2)


def numbers(text: str) -> tuple[int, ...]:
    """Return the part numbers in a text such as `5,10`."""
    known = {part.number for part in PARTS}
    try:
        chosen = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of part numbers such as 5,10") from None
    if unknown := set(chosen) - known:
        raise argparse.ArgumentTypeError(f"no part {min(unknown)}: there are {min(known)} to {max(known)}")
    return chosen


def make_importable(scratch: Path) -> None:
    """Let this process and all it starts import this tree as `lgc`, and what was carried here; prepends PYTHONPATH."""
    site = scratch / "site"
    site.mkdir()
    (site / "lgc").symlink_to(ROOT, target_is_directory=True)
    carried = CARRIED.is_dir() and sys.version_info[:2] == CARRIED_FOR
    if CARRIED.is_dir() and not carried:
        wanted = ".".join(map(str, CARRIED_FOR))
        print(f"{CARRIED.name} is left out: it is for Python {wanted}", file=sys.stderr)
    places = [str(site), *([str(CARRIED)] if carried else [])]
    sys.path[:0] = places
    os.environ["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["LGC_CACHE"] = str(scratch / "cache")  # engines are built, not read from an earlier run


def run_all(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run the chosen parts in order of number; write and return their lines."""
    start = time.monotonic()
    log = arguments.out / LOG
    settings = Settings(arguments.device, arguments.out.resolve(), scratch, rehearsal=arguments.device == "cpu")
    warm_imports()
    device_name = name_of(arguments.device, settings, log)
    done = {} if arguments.parts else committed_lines(ROOT / "docs" / "benchmarks", device_name)
    codes = {part.number: digest(ROOT, part) for part in PARTS}
    committed = {number: done[number, code] for number, code in codes.items() if (number, code) in done}
    for needed in {part.needs for part in PARTS if part.number not in committed}:
        committed.pop(needed, None)  # its table is taken by a part that runs
    lines: list[dict[str, Any]] = []
    results = arguments.out / RESULTS
    earlier = [line for line in read_lines(results) if line["device_name"] == device_name]
    for part in PARTS:
        if arguments.parts is not None and part.number not in arguments.parts:
            continue
        left_s = arguments.seconds - (time.monotonic() - start) - CLOSING_S
        head = {"part": part.number, "name": part.name, "device": arguments.device, "device_name": device_name}
        line = head | stamp() | {"code": codes[part.number]}
        line |= outcome(part, committed, settings, left_s, log, arguments)
        lines.append(line)
        kept = merged(earlier, lines)
        write_lines(results, kept)
        print(f"{part.number:2} {part.name}: {line['status']}{told(line)}", file=sys.stderr, flush=True)
        (arguments.out / PAGE).write_text(page(kept))
    return lines


def outcome(
    part: Part,
    committed: dict[int, str],
    settings: Settings,
    left_s: float,
    log: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Run one part, or say why it is not run."""
    if part.number in committed:
        return {"status": "committed", "words": f"passed with this code, see docs/benchmarks/{committed[part.number]}"}
    limit_s = part.limit_s * arguments.seconds / FULL_SECONDS if arguments.device == "cpu" else part.limit_s
    limit_s = min(max(limit_s, part.least_s), left_s)
    if limit_s < part.least_s:
        return {"status": "not begun", "words": f"{max(left_s, 0):.0f} s were left"}
    return vars(run_part(part, replace(settings, part=part.number, limit_s=limit_s), limit_s, log))


def name_of(device: str, settings: Settings, log: Path) -> str:
    """Return the device's name, asked for in a process of its own: this one must not start CUDA before it forks."""
    ended: Ended = run_part(Part(0, "device", "device", 60.0, 1.0, ()), settings, settings.limit_s, log)
    if ended.words.startswith("DeviceError: "):
        refuse(ended.words.removeprefix("DeviceError: "))
    return str(ended.values.get("device_name") or f"unknown: {ended.words}")


def stamp() -> dict[str, str]:
    """Return commit and time; `LGC_COMMIT` names the commit where there is no git."""
    commit = os.environ.get("LGC_COMMIT", "")
    if not commit:
        try:
            call = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
            commit = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            commit = "unknown"
    return {"commit": commit, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def told(line: dict[str, Any]) -> str:
    """Return what a line of the terminal adds to the status."""
    seconds = f", {line['seconds']:.0f} s" if "seconds" in line else ""
    return seconds + (f": {line['words']}" if line["words"] else "")


def summary(lines: list[dict[str, Any]]) -> str:
    statuses = [line["status"] for line in lines]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(lines)} parts on {lines[0]['device_name'] if lines else 'nothing'}: {counts}"


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    main()
