"""Source trees of lgc at other commits, so that two versions run side by side in processes of their own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
TESTS = REPOSITORY / "tests"
"""Folder for `PYTHONPATH` whose package `bench` is that of this checkout."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lgc-bench"
"""Default folder of the trees, outside the repository."""


def resolve_commit(name: str, repository: Path = REPOSITORY) -> str:
    """Return the abbreviated hash of a commit; stop if the repository lacks it."""
    line = ["git", "rev-parse", "--verify", "--quiet", "--short=9", f"{name}^{{commit}}"]
    done = subprocess.run(line, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"no commit {name} in {repository}: the benchmark needs the repository with its history")
    return done.stdout.strip()


def is_changed(repository: Path = REPOSITORY) -> bool:
    """Return True if the checkout has uncommitted changes."""
    line = ["git", "status", "--porcelain", "--untracked-files=no"]
    return bool(subprocess.run(line, cwd=repository, capture_output=True, check=False).stdout)


def check_out(commit: str, cache: Path = CACHE, repository: Path = REPOSITORY) -> Path:
    """Return a folder for `PYTHONPATH` whose package `lgc` is the tree of a commit; it is written once."""
    folder = cache / resolve_commit(commit, repository)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            with (Path(scratch) / "tree.tar").open("w+b") as archive:
                line = ["git", "archive", "--format=tar", "--prefix=tree/lgc/", folder.name]
                subprocess.run(line, cwd=repository, stdout=archive, check=True)
                archive.seek(0)
                with tarfile.open(fileobj=archive) as tar:
                    tar.extractall(scratch, filter="data")
            try:
                (Path(scratch) / "tree").rename(folder)
            except OSError:  # another process was faster
                if not folder.exists():
                    raise
    return folder


def link_checkout(cache: Path = CACHE) -> Path:
    """Return a folder for `PYTHONPATH` whose package `lgc` is this checkout."""
    folder = cache / f"checkout-{hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:9]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "lgc").is_symlink():
        (folder / "lgc").symlink_to(REPOSITORY, target_is_directory=True)
    return folder


def environment(path: Path | str, threads: int) -> dict[str, str]:
    """Return the environment of a process that imports lgc from `path` and computes with some threads."""
    return {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": str(threads)}


def command(name: str) -> list[str]:
    """Return the beginning of the line that runs a command of lgc, e.g. `train`, from the tree in `PYTHONPATH`."""
    return [sys.executable, "-c", f"from lgc.tools.{name} import main; main()"]
