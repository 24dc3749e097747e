"""`lgc-profile` from the command line, and its errors."""

import itertools
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest

from lgc.lut import LatencyTable, Predictor
from lgc.models import OPERATORS
from lgc.profiler import profile as profiler
from lgc.search.data.synthetic.writers import write_scenes

KEYS = ["lut", "entries", "measured", "interpolated", "noisy", "pending", "failed", "seconds", "verification"]
REPORT = {
    "networks",
    "mape_pct",
    "bias_pct",
    "worst_pct",
    "within_5_pct",
    "within_10_pct",
    "kendall_tau",
    "spearman_rho",
    "split_half_mape_pct",
    "split_half_kendall_tau",
    "ceiling_mape_pct",
    "ceiling_kendall_tau",
}


def rows(path):
    """Count the committed sample batches of a table that another process may be writing."""
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return set()
    try:
        return set(connection.execute("SELECT * FROM visits"))
    except sqlite3.OperationalError:
        return set()
    finally:
        connection.close()


def test_profile_prints_json_in_fresh_process(command, mini_yaml, tmp_path):
    out = tmp_path / "deep" / "t.lut"
    arguments = ["--space", mini_yaml, "--backend", "torch", "--threads", 1]
    arguments += ["--rounds", 4, "--networks", 4, "--seed", 3]
    done = command("lgc-profile", "--device", "cpu", "--precision", "fp32", *arguments, "--out", out, "--json")
    first, *remarks = done.err.splitlines()
    assert (done.code, first) == (0, f"profiling mini 32x32 on cpu, torch, fp32, 1 thread into {out}")
    busy = ("sample batches were discarded", "profile on a quieter machine", "entries are noisy")
    assert all(any(reason in remark for reason in busy) for remark in remarks)
    result = json.loads(done.out)
    assert list(result) == KEYS
    with LatencyTable.open(out) as table:
        assert (table.target.backend, table.space.name) == ("torch", "mini")
        assert result["entries"] == result["measured"] == len(table.entries())
        assert table.protocol["context"] == "carriers"
    assert (result["lut"], result["interpolated"], result["pending"], result["failed"]) == (str(out), 0, 0, 0)
    assert 0 <= result["noisy"] <= result["entries"]
    assert result["seconds"] > 0
    assert set(result["verification"]) == REPORT
    assert result["verification"]["networks"] == 4


@pytest.fixture
def noisy_result(monkeypatch) -> None:
    """Let every profiling return 3 noisy of 5 measured entries."""
    result = profiler.ProfileResult(5, 5, 3, 0, 0, 0, {}, [], 1.0, None)
    monkeypatch.setattr(profiler, "profile", lambda *_, **__: result)


@pytest.mark.parametrize(
    ("options", "code", "step"),
    [
        ((), 1, ""),
        (("--rounds", 4), 0, "allow more --rounds, or "),
        (("--budget", "90s"), 0, "run the same command again to continue, or "),
    ],
)
def test_mostly_noisy_table_fails_the_check(call, mini_yaml, mini_lut, noisy_result, options, code, step):
    done = call("lgc-profile", "--device", "cpu", "--space", mini_yaml, "--out", mini_lut, *options)
    assert done.code == code
    advice = f"{step}profile into another file on a quieter machine"
    assert f"3 of 5 entries are noisy (confidence interval wider than 5 %): {advice}\n" in done.err


def test_next_command_is_printed_for_people(call, mini_lut, mini_yaml):
    arguments = ("--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 4, "--out", mini_lut)
    done = call("lgc-profile", *arguments)
    with LatencyTable.open(mini_lut) as table:
        predictor = Predictor(table.space, table)
        middle = median(table.network_latencies("dense"))
    low, high = (f"{predictor.predict(end):.3f}" for end in (predictor.fastest, predictor.slowest))
    line = f"latency of the space's architectures: {low} to {high} ms ("
    assert line in done.out
    assert (
        done.out.splitlines()[-1] == f"next: lgc-search --lut {mini_lut} --data DIR --target-ms {middle:.4g} --out RUN"
    )
    as_json = call("lgc-profile", *arguments, "--json")
    assert list(json.loads(as_json.out)) == KEYS
    assert "lgc-search" not in as_json.out + as_json.err
    assert line in call("lgc-lut", "show", mini_lut).out


def test_incomplete_table_has_no_range(call, mini_lut):
    with LatencyTable.open(mini_lut) as table, table.store.transaction() as connection:
        connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL WHERE rowid = 1")
    done = call("lgc-lut", "show", mini_lut)
    assert done.code == 0
    assert "latency of the space's architectures" not in done.out


def test_finished_table_is_printed_not_measured(call, mini_lut, mini_yaml):
    before = rows(mini_lut)
    done = call(
        "lgc-profile", "--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 4, "--out", mini_lut
    )
    assert done.code == 0
    assert "onnxruntime, fp32, 1 thread" in done.err, "the backend taken by default is named"
    for word in (
        "entries",
        "measured",
        "noisy",
        "pending",
        "failed",
        "mean absolute error",
        "maximum error",
        "Kendall tau",
    ):
        assert word in done.out
    assert rows(mini_lut) == before


def test_inaccurate_table_gives_a_warning(call, mini_lut, mini_yaml):
    arguments = ("--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 4, "--out", mini_lut)
    for mape_pct, warned in ((12.4, True), (9.6, False)):
        with LatencyTable.open(mini_lut) as table:
            verification = table.metadata("verification")
            verification["dense"]["mape_pct"] = mape_pct
            table.set_metadata("verification", verification)
        done = call("lgc-profile", *arguments)
        assert done.code == 0, done.err
        line = f"warning: {mini_lut} has a prediction error of 12 %; profile on a quieter machine"
        assert (line in done.err.splitlines()) is warned


def test_table_without_networks_is_not_verified(call, mini_yaml, tmp_path):
    arguments = ["--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 0, "--out", tmp_path / "t.lut"]
    assert json.loads(call("lgc-profile", *arguments, "--json").out)["verification"] is None
    assert "Not verified" in call("lgc-profile", *arguments).out


def test_default_table_name_describes_the_target(call, mini_yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--device", "cpu", "--space", mini_yaml, "--input", "32x64", "--rounds", 4, "--networks", 0, "--json"]
    done = call("lgc-profile", *arguments)
    assert json.loads(done.out)["lut"] == "mini-32x64-cpu-onnxruntime-fp32.lut"
    with LatencyTable.open("mini-32x64-cpu-onnxruntime-fp32.lut") as table:
        assert table.space.input == (32, 64)


def scene_folder(folder):
    """Write a dataset of 11 classes."""
    write_scenes(folder, "camvid-segnet", {"train": 1, "val": 0, "test": 0}, (32, 32), 0)
    return folder


@pytest.mark.parametrize("option", ["--classes", "--data"])
def test_class_count_replaces_the_spaces(call, mini_yaml, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    value = 11 if option == "--classes" else scene_folder(tmp_path / "scenes")
    arguments = ["--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 0, option, value, "--json"]
    done = call("lgc-profile", *arguments)
    name = "mini-11classes-32x32-cpu-onnxruntime-fp32.lut"
    assert json.loads(done.out)["lut"] == name
    assert f"profiling mini 32x32 with 11 classes on cpu, onnxruntime, fp32, 1 thread into {name}" in done.err
    with LatencyTable.open(name) as table:
        assert (table.space.name, table.space.classes) == ("mini", 11)
        assert any(entry.key.startswith("classifier/c4-11/") for entry in table.entries())


def test_equal_class_count_changes_nothing(call, mini_lut, mini_yaml):
    arguments = ("--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 4, "--out", mini_lut)
    done = call("lgc-profile", *arguments, "--classes", 3)
    assert done.code == 0
    assert "profiling mini 32x32 on cpu" in done.err


def test_contradicting_class_counts_are_rejected(call, mini_yaml, tmp_path):
    data = scene_folder(tmp_path / "scenes")
    arguments = ("--device", "cpu", "--space", mini_yaml, "--data", data, "--out", tmp_path / "t.lut", "--classes")
    line = call("lgc-profile", *arguments, 4).refusal("lgc-profile")
    assert line == f"--classes 4 contradicts --data {data}, which has 11 classes: give one of them"
    assert not (tmp_path / "t.lut").exists()


def test_failed_operator_exits_with_1(call, mini_yaml, tmp_path, monkeypatch):
    from lgc.errors import MeasurementError
    from lgc.profiler.backends.ort.backend import OnnxRuntimeBackend

    compiled = OnnxRuntimeBackend.compile

    def refuse_sums(self, workload, target):
        if workload.name.startswith("probe/add/"):
            raise MeasurementError("no sums today")
        return compiled(self, workload, target)

    monkeypatch.setattr(OnnxRuntimeBackend, "compile", refuse_sums)
    arguments = ["--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 0, "--out", tmp_path / "t.lut"]
    done = call("lgc-profile", *arguments, "--json")
    assert done.code == 1
    assert "failed: add/c4-4/8x8/s1/b1: no sums today" in done.err
    result = json.loads(done.out)
    assert result["failed"] == 2
    assert result["verification"] is None


def test_isolated_context_needs_another_table(call, mini_yaml, tmp_path):
    arguments = ["--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 0, "--out", tmp_path / "t.lut"]
    assert call("lgc-profile", *arguments, "--context", "isolated").code == 0
    with LatencyTable.open(tmp_path / "t.lut") as table:
        assert table.protocol["context"] == "isolated"
        assert {subject.kind for subject in table.benchmarks()} == {"operator"}
    refused = call("lgc-profile", *arguments, "--context", "carriers").refusal("lgc-profile")
    assert refused == f"{tmp_path / 't.lut'} was measured in context isolated, not carriers"


def test_too_small_budget_is_rejected(call, mini_yaml, tmp_path, monkeypatch):
    """A minute passes at each reading of the clock."""
    minutes = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 60.0 * next(minutes))
    monkeypatch.setattr("lgc.profiler.timing.measure.time", clock)
    arguments = ["--device", "cpu", "--space", mini_yaml, "--networks", 0, "--out", tmp_path / "t.lut", "--json"]
    line = call("lgc-profile", *arguments, "--budget", "90s").refusal("lgc-profile")
    assert re.match(r"the budget ran out after compiling 0 of \d+ graphs, nothing was measured", line)


def test_next_run_measures_entries_beyond_budget(call, mini_yaml, tmp_path, monkeypatch):
    """Six seconds pass at each reading of the clock, so the budget ends while graphs are compiled."""
    passed = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 6.0 * next(passed))
    arguments = ["--device", "cpu", "--space", mini_yaml, "--rounds", 4, "--networks", 0, "--out", tmp_path / "t.lut"]
    with monkeypatch.context() as patched:
        patched.setattr("lgc.profiler.timing.measure.time", clock)
        done = call("lgc-profile", *arguments, "--budget", "4m", "--json")
    result = json.loads(done.out)
    assert (done.code, result["verification"]) == (0, None)
    assert result["pending"] > 0
    assert f"{result['pending']} entries are pending: run the same command again to measure them" in done.err
    assert result["pending"] + result["measured"] + result["interpolated"] == result["entries"]
    again = json.loads(call("lgc-profile", *arguments, "--json").out)
    assert (again["pending"], again["measured"]) == (0, again["entries"])


@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["Ctrl-C", "kill -9"]
)
def test_same_command_resumes_after_interrupt(call, mini_yaml, tmp_path, stop, code):
    """Full precision keeps the command from finishing before the interrupt."""
    out = tmp_path / "t.lut"
    arguments = ["--device", "cpu", "--space", mini_yaml, "--networks", 4, "--out", out, "--json"]
    program = str(Path(sys.executable).with_name("lgc-profile"))
    running = subprocess.Popen(
        [program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while len(rows(out)) < 40 and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(stop)
    stdout, stderr = running.communicate()
    assert (running.returncode, stdout) == (code, "")
    assert "Traceback" not in stderr
    if stop == signal.SIGINT:
        assert stderr.endswith(
            "lgc-profile: interrupted: finished work is kept; run the same command again to resume\n"
        )
    before = rows(out)
    assert len(before) >= 40
    done = call("lgc-profile", *arguments, "--rounds", 8)
    result = json.loads(done.out)
    assert (done.code, result["measured"], result["pending"]) == (0, result["entries"], 0)
    assert result["verification"]["networks"] == 4
    assert before < rows(out)


class TestRefusals:
    """Errors are one line with exit code 2; nothing is written."""

    @pytest.fixture
    def refused(self, call, mini_yaml, tmp_path):
        """Return a function that runs a valid command changed by `arguments` and returns its error."""

        def run(*arguments, out=tmp_path / "t.lut"):
            given = {"--device": "cpu", "--space": mini_yaml, "--rounds": 4, "--networks": 4, "--out": out}
            given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
            before = out.read_bytes() if out.is_file() else out.exists()
            done = call("lgc-profile", *(word for pair in given.items() for word in pair))
            line = done.refusal("lgc-profile")
            assert len(done.err.splitlines()) == 1, "nothing is announced before"
            assert (out.read_bytes() if out.is_file() else out.exists()) == before
            return line

        return run

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["--device", "gpu"], "no device 'gpu' on this machine; available: cpu ("),
            (["--device", "cuda:63"], "no device 'cuda:63' on this machine"),
            (["--backend", "onnxrt"], "'onnxrt' is not one of 'onnxruntime'"),
            (["--backend", "tensorrt"], "backend tensorrt cannot run on cpu: TensorRT needs a CUDA device"),
            (["--precision", "fp8"], "'fp8' is not one of 'fp32', 'fp16', 'bf16'"),
            (["--threads", 9999], "--threads 9999: this machine has"),
            (["--threads", 0], "Invalid value for '--threads'"),
            (["--threads", "two"], "Invalid value for '--threads'"),
            (["--rounds", 2], "Invalid value for '--rounds'"),
            (["--networks", 2], "networks 2: a calibration needs at least 4"),
            (["--context", "vacuum"], "'vacuum' is not one of 'carriers', 'isolated'"),
            (["--budget", "4 minutes"], "invalid duration '4 minutes': write e.g. 90s, 4m or 1h"),
            (["--input", "720p"], "invalid size '720p': write height and width, e.g. 720x960"),
            (["--input", "8x8"], "invalid --input: mini at 8x8: input.0: must be at least 32, not 8"),
            (["--classes", 1], "Invalid value for '--classes'"),
            (["--classes", 256], "Invalid value for '--classes'"),
            (["--data", "no/data"], "the dataset folder no/data does not exist"),
            (["--space", "small"], "unknown search space 'small'; known: lgcnet-camvid, lgcnet-cityscapes, rapid"),
            (["--space", "no/such.yaml"], "no such file: no/such.yaml"),
            (["--spice", "tiny"], "No such option"),
        ],
        ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
    )  # fmt: skip
    def test_invalid_option(self, refused, arguments, line):
        assert line in refused(*arguments)

    def test_suggested_precisions_are_those_of_tables(self, refused):
        line = refused("--backend", "onnxruntime", "--precision", "fp16")
        assert line == "backend onnxruntime has no precision 'fp16' on cpu; choose from fp32"

    def test_missing_device(self, call):
        assert "Missing option '--device'" in call("lgc-profile").refusal("lgc-profile")

    def test_missing_package(self, refused, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        line = refused("--backend", "onnxruntime")
        assert line == ("backend onnxruntime cannot run on cpu: ONNX Runtime is not installed: pip install onnxruntime")

    def test_unknown_operator_in_space(self, refused, mini_yaml):
        mini_yaml.write_text(mini_yaml.read_text().replace("sep_conv_3x3", "sep_conv_9x9"))
        line = refused()
        assert "unknown operator 'sep_conv_9x9'" in line
        assert all(name in line for name in OPERATORS)

    def test_truncated_space(self, refused, mini_yaml):
        mini_yaml.write_text(mini_yaml.read_text()[:100])
        assert "mini.yaml: invalid search space: line 1: " in refused()

    def test_foreign_space(self, refused, foreign_files):
        for noun, path in foreign_files.items():
            line = refused("--space", path)
            assert str(path) in line
            assert noun in line

    def test_foreign_output(self, refused, foreign_files):
        for noun in ("an empty file", "a PNG image", "a zip archive", "an SQLite database"):
            line = refused(out=foreign_files[noun])
            assert "cannot read latency table" in line
            assert noun in line

    def test_truncated_output(self, refused, mini_lut):
        mini_lut.write_bytes(mini_lut.read_bytes()[:-5000])
        assert "mini.lut is a damaged latency table" in refused(out=mini_lut)

    def test_output_is_a_folder(self, refused, tmp_path):
        assert "is a folder; give the table's file name" in refused(out=tmp_path)

    def test_unwritable_output(self, refused, tmp_path):
        (tmp_path / "file").write_text("kept")
        assert "cannot make the folder" in refused(out=tmp_path / "file" / "t.lut")
        if Path("/proc/self").exists():
            assert "cannot write /proc/t.lut" in refused(out=Path("/proc/t.lut"))

    def test_table_of_another_target(self, refused, mini_lut):
        line = refused("--backend", "torch", out=mini_lut)
        assert "mini.lut has a different target: backend onnxruntime, not torch. " in line
        assert "lgc-profile and another --out" in line

    def test_table_of_another_precision_and_threads(self, refused, mini_lut):
        line = refused("--backend", "torch", "--precision", "bf16", "--threads", 2, out=mini_lut)
        assert "backend onnxruntime, not torch; precision fp32, not bf16; threads 1, not 2" in line

    def test_table_of_another_space(self, refused, mini_lut):
        line = refused("--space", "tiny", out=mini_lut)
        assert "space mini 32x32" in line
        assert "not tiny 192x256" in line


def test_error_is_one_line_in_fresh_process(command, tmp_path):
    out = tmp_path / "t.lut"
    line = command("lgc-profile", "--device", "cpu", "--space", "tinny", "--out", out).refusal("lgc-profile")
    assert line.startswith("unknown search space 'tinny' (did you mean 'tiny'?)")
    assert list(tmp_path.iterdir()) == []
