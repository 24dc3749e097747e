"""Worker scripts in several processes, as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_worker(processes: int, script: Path, *arguments: object, cwd: Path | None = None) -> tuple[str, str]:
    """Run a worker script in processes that talk over the loopback device; return their joined stdout and stderr.

    They get the variables that torchrun sets, without its process; `test_train_parallel` runs torchrun itself.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "none"}
    environment = {**os.environ, **address, **group, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        for rank in map(str, range(processes))
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * processes, outputs
    out, err = map("".join, zip(*outputs, strict=True))
    return out, err
