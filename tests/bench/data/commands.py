"""Commands of lgc as a user runs them; their results are kept, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 600
"""Longest wait for the first checkpoint of a training."""


class Commands:
    """Run the commands of the environment's lgc with `--json`, and keep each result under its name."""

    def __init__(self, scratch: Path, threads: int) -> None:
        self.scratch = scratch
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._results = scratch / "results"
        self._results.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, command: str, *arguments: object) -> dict[str, Any]:
        """Return the result of a command, and its duration as `wall_s`; a second call reads the kept one.

        Exit code 1 is a result too: the work is done, and a check failed. It is in `exit_code`.
        """
        kept = self._results / f"{name}.json"
        if kept.exists():
            result: dict[str, Any] = json.loads(kept.read_text())
            return result
        print(f"{name}: {command} {' '.join(map(str, arguments))}", flush=True)
        start = time.monotonic()
        done = subprocess.run(
            self._line(command, *arguments), env=self._environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode not in (0, 1):
            sys.exit(f"{name}: exit code {done.returncode}")
        result = {**json.loads(done.stdout), "exit_code": done.returncode, "wall_s": time.monotonic() - start}
        kept.write_text(json.dumps(result, indent=2) + "\n")
        return result

    def interrupt(self, name: str, run: Path, *arguments: object) -> int:
        """Start a training in a run folder, kill it after its first checkpoint, and return the number of its steps."""
        kept = self._results / f"{name}.json"
        if not kept.exists():
            line = self._line("lgc-train", *arguments, "--out", run)
            process = subprocess.Popen(
                line, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            end = time.monotonic() + PATIENCE_S
            while not (run / "train.ckpt").exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
            if not (run / "train.ckpt").exists():
                sys.exit(f"{name}: no checkpoint")
            kept.write_text(json.dumps(len((run / "train.jsonl").read_text().splitlines())))
        steps: int = json.loads(kept.read_text())
        return steps

    def _line(self, command: str, *arguments: object) -> list[str]:
        return [str(Path(sys.executable).with_name(command)), *map(str, arguments), "--json"]
