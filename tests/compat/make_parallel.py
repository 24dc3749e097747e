"""Make the fixtures in `files/parallel/`: runs of two processes, by the last commit with a batch per process.

    python tests/compat/make_parallel.py files/parallel      # needs a clone with commit 3ed29be

Do not make them with a later version, see `make.py`. Both runs have the default number of steps, as two processes with
one image each count it, and were killed shortly before their end:

    run           lgc-search and lgc-train, with checkpoints
    search.jsonl, train.jsonl
                  the last steps' metrics of the same commands, uninterrupted
    train-result.json
                  the result of the uninterrupted training
"""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from make import forget_folders, older

COMMIT = "3ed29be"
FILES = Path(__file__).with_name("files")
SEARCH = ("lgc-search", "--lut", "tables/torch.lut", "--data", "scenes", "--batch", "1", "--trials", "0")
TRAIN = ("lgc-train", "run", "--data", "scenes", "--batch", "1", "--warm-up", "5")
KILLED_AT = {"search": "70", "train": "390"}
"""Stage -> step after which it is killed, shortly before its last one."""
PARTS = ("architecture.json", "search.json", "train.json", "search.ckpt", "train.ckpt")

WORKER = """
import importlib, sys
from lgc.search.runtime import training_loop
stage, killed_at, *sys.argv = sys.argv[1:]
tool = importlib.import_module(f"lgc.tools.{stage}")

def kill(step, steps):
    if step == int(killed_at):
        raise SystemExit(0)

if int(killed_at):
    training_loop.CHECKPOINT_S = 0.0
    tool.make_step_progress = lambda *_: kill
tool.main()
"""


def run(stage: str, killed_at: str, words: tuple[str, ...], work: Path, package: Path) -> None:
    """Run a command in two processes as torchrun does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    variables |= {"TORCHELASTIC_RUN_ID": "none", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", WORKER, stage, killed_at, *words]
    ranks = [{**os.environ, **variables, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    running = [subprocess.Popen(command, cwd=work, env=environment) for environment in ranks]
    codes = [process.wait() for process in running]
    assert killed_at != "0" or codes == [0, 0], codes


def main(out: Path) -> None:
    """Make all files in a scratch folder, and copy them to `out`."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(shutil.copytree(FILES, Path(name) / "files"))
        shutil.rmtree(work / "run")
        (work / "tables/torch.lut").write_bytes(gzip.decompress((work / "tables/torch.lut.gz").read_bytes()))
        package = older(COMMIT, work)
        out.mkdir()
        for stage, words in (("search", (*SEARCH, "--out", "run")), ("train", TRAIN)):
            run(stage, "0", words, work, package)
            lines = (work / f"run/{stage}.jsonl").read_text().splitlines(keepends=True)
            (out / f"{stage}.jsonl").write_text("".join(lines[int(KILLED_AT[stage]) :]))
            (work / f"run/{stage}.ckpt").unlink()
            for path in [*work.glob(f"run/{stage}-result.json"), *work.glob("run/weights.safetensors")]:
                path.rename(work / path.name)
            run(stage, KILLED_AT[stage], words, work, package)
        forget_folders(work)
        shutil.copy(work / "train-result.json", out)
        (out / "run").mkdir()
        for name in PARTS:
            content = (work / "run" / name).read_bytes()
            packed = name.endswith(".ckpt")
            (out / "run" / (f"{name}.gz" if packed else name)).write_bytes(
                gzip.compress(content, 9, mtime=0) if packed else content
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
