"""Shared fixtures: small spaces, tables with random latencies, one measured table."""

from __future__ import annotations

import os

# Set before the libraries that read them are imported. The tests' tensors are small; more threads would mostly wait for
# each other and for the other workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # set by lgc's commands too

import fcntl
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lgc import plugin_imports, plugins
from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.measurement import SampleBatch
from lgc.lut.table.recorder import Recorder
from lgc.models import OPERATORS, Operator, SearchSpace

from .leaks import find_leaks, read_state

# Background processes ignore SIGINT; without this, so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "lgc", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("lgc")


@pytest.fixture
def _own_path() -> Iterator[None]:
    """Restore the search path of modules after a test, and after its `monkeypatch`."""
    path = [*sys.path]
    yield
    sys.path[:] = path


@pytest.fixture(autouse=True)
def _own_plugins(_own_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the plugins of earlier tests, and their folders."""
    monkeypatch.setattr("lgc.plugins._loaded", {})
    monkeypatch.setattr("lgc.plugin_imports._scopes", {})
    monkeypatch.setattr("lgc.plugin_imports._state", type(plugin_imports._state)())


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Use a temporary cache instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _separate_temporary_folder(tmp_path_factory: pytest.TempPathFactory):
    """Give this worker its own folder for temporary files, so that `_no_leaks` sees what is left in it."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest):
    """Fail a test that changes the process, or leaves a file, a thread or a child process behind."""
    # Shared fixtures outlive the test: create them before the state is read.
    for name in request.fixturenames:
        definitions = request._arg2fixturedefs.get(name)
        if definitions and definitions[-1].scope != "function":
            request.getfixturevalue(name)
    before = read_state()
    yield
    if leaks := find_leaks(before):
        pytest.fail("the test leaks: " + "; ".join(leaks), pytrace=False)


MINI = {
    "name": "mini",
    "input": [32, 32],
    "classes": 3,
    "operators": ["zero", "skip", "sep_conv_3x3"],
    "cells": 2,
    "reductions": [1],
    "channels": 4,
    "nodes": 2,
    "stem": {"channels": 4, "strides": [2, 2]},
    "fusion": {"nodes": 2, "channels": 4, "level": 2},
    "head_channels": 4,
}
TARGET = Target("cpu", "onnxruntime")


@pytest.fixture
def own_operators() -> Iterator[dict[str, Operator]]:
    """Return the registry of operators, whose changes end with the test, as do loaded plugin files."""
    operators, modules = dict(OPERATORS), set(sys.modules)
    yield OPERATORS
    OPERATORS.clear()
    OPERATORS.update(operators)
    for name in set(sys.modules) - modules:
        if name.startswith("lgc_plugin_"):
            del sys.modules[name]
    plugins.load_entry_points.cache_clear()


@pytest.fixture(scope="session")
def mini_space() -> SearchSpace:
    """Return a space that is profiled in seconds and has every kind of slot except downsampling."""
    return SearchSpace.check(MINI, "the tests' mini space")


@pytest.fixture(scope="session")
def headed_space() -> SearchSpace:
    """Return the mini space with heads of 2, 4 (default) and 8 channels."""
    return SearchSpace.check({**MINI, "name": "headed", "head_widths": [2, 8]}, "the tests' space of several heads")


@pytest.fixture(scope="session")
def micro_space() -> SearchSpace:
    """Return a space small enough to enumerate: 6 edges with 3 operators, 729 choices."""
    content = {**MINI, "name": "micro", "nodes": 1, "fusion": {"nodes": 1, "channels": 4, "level": 3}}
    return SearchSpace.check(content, "the tests' micro space")


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., LatencyTable]:
    """Return a function that creates finished tables with random latencies.

    Operators are isolated: an entry and its benchmark `alone/OPSPEC` have the same latency.
    """

    def make(space: SearchSpace, name: str = "t.lut", target: Target = TARGET, seed: int = 0) -> LatencyTable:
        protocol = {"name": "interleaved-rounds", "context": "isolated", "statistic": "minima"}
        table = LatencyTable.create(tmp_path / name, target, space, protocol, {"device_name": "x", "system": "y"})
        subjects = {f"alone/{entry.key}": entry.key for entry in table.entries()}
        table.add_benchmarks("operator", {subject: [(key, subject, 1.0)] for subject, key in subjects.items()})
        recorder = Recorder(table, target.device, table.environment)
        rng = np.random.default_rng(seed)
        durations = {subject: rng.uniform(0.01, 1.0) * rng.uniform(1.0, 1.1, (4, 3)) for subject in subjects}
        recorder.record(
            SampleBatch(subject, number, number + 0.001 * index, rows[number].tolist(), recorder.session)
            for number in range(4)
            for index, (subject, rows) in enumerate(durations.items())
        )
        measurement = table.measurement()
        recorder.finish({subject: (measurement.summary(subject), None) for subject in subjects})
        table.finalize()
        return table

    return make


@pytest.fixture(scope="session")
def make_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that fills a folder once for all workers: `make_once(name, fill)` calls `fill(folder)`."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, unfinished = shared / f"once-{name}", shared / f"unfinished-{name}"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def measured_table(mini_space: SearchSpace, make_once: Callable[..., Path]) -> Path:
    """Return a table of the mini space, measured on this machine's CPU; read-only."""
    from lgc.profiler.profile import profile

    folder = make_once("measured", lambda to: profile(mini_space, TARGET, to / "mini.lut", rounds=4, networks=4))
    return folder / "mini.lut"


@pytest.fixture
def mini_lut(measured_table: Path, tmp_path: Path) -> Path:
    """Return a copy of the measured table that a test may change."""
    return Path(shutil.copy(measured_table, tmp_path / "mini.lut"))


@pytest.fixture
def mini_yaml(tmp_path: Path, mini_space: SearchSpace) -> Path:
    """Return the path of the mini space as a YAML file."""
    path = tmp_path / "mini.yaml"
    path.write_text(mini_space.model_dump_json())
    return path


@pytest.fixture
def foreign_files(tmp_path: Path) -> dict[str, Path]:
    """Return files of other programs, and a folder, by their description in error messages."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    (folder / "pickle.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "noise.bin").write_bytes(bytes(range(255, 0, -1)) * 4)
    (folder / "dir").mkdir()
    with sqlite3.connect(folder / "other.db") as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    return {
        "an empty file": folder / "empty",
        "a PNG image": folder / "image.png",
        "a zip archive": folder / "pickle.pt",
        "a binary file of unknown kind": folder / "noise.bin",
        "a folder": folder / "dir",
        "an SQLite database": folder / "other.db",
        "no such file": folder / "missing.bin",
    }


class CommandResult:
    """Exit code, stdout and stderr of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refusal(self, program: str) -> str:
        """Return the error message of a command that rejected its input, and check that it is a single line."""
        lines = [line for line in self.err.splitlines() if line.startswith(f"{program}: ")]
        assert self.code == 2, self.err
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        return lines[0].removeprefix(f"{program}: ")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Return a function that runs a command in this process: `call("lgc-lut", "show", path)`."""

    def run(program: str, *arguments: object) -> CommandResult:
        module = import_module(f"lgc.tools.{program.removeprefix('lgc-')}")
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            module.main()
        captured = capfd.readouterr()
        return CommandResult(int(exit_info.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def command() -> Callable[..., CommandResult]:
    """Return a function that runs an installed command in a new process: `command("lgc-lut", "show", path)`."""

    def run(program: str, *arguments: object) -> CommandResult:
        call = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=300)
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fp32_precision():
    """Torch's TF32 switches, restored afterwards."""
    import torch

    backends = torch.backends
    switches = (backends, backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before, matmul = [switch.fp32_precision for switch in switches], torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(matmul)  # sets those of matrix products
    for switch, value in zip(switches, before, strict=True):
        switch.fp32_precision = value
