"""`lgc-lut show` and `lgc-lut verify` from the command line, and their errors."""

import json
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.calibration import FORMS
from lgc.lut.table.recorder import Recorder
from lgc.models import OpSpec
from lgc.tools.lut import Form


@pytest.fixture
def unfinished(mini_space, mini_lut, tmp_path):
    """Return a table of this machine without measurements."""
    path = tmp_path / "unfinished.lut"
    with LatencyTable.open(mini_lut) as table:
        target = Target("cpu", "torch")
        LatencyTable.create(path, target, mini_space, table.protocol, table.environment).close()
    return path


def test_show_prints_json_in_fresh_process(command, mini_lut):
    done = command("lgc-lut", "show", mini_lut, "--json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert result["lut"] == str(mini_lut)
    assert result["target"] == {"device": "cpu", "backend": "onnxruntime", "precision": "fp32", "threads": 1}
    assert result["space"]["name"] == "mini"
    assert result["environment"]["device_name"]
    with LatencyTable.open(mini_lut) as table:
        assert result["calibration"] == table.metadata("calibration")
        assert result["verification"] == table.metadata("verification")
        assert [entry["key"] for entry in result["entries"]] == [entry.key for entry in table.entries()]
        assert [entry["latency_ms"] for entry in result["entries"]] == [e.latency_ms for e in table.entries()]


def test_show_does_not_import_torch(mini_lut):
    """Torch takes seconds to import."""
    program = (
        "import sys; sys.argv = ['lgc-lut', 'show', sys.argv[1]]\n"
        "from lgc.tools.lut import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, mini_lut], check=True, capture_output=True)


def test_show_prints_entries_and_verification(call, mini_lut):
    done = call("lgc-lut", "show", mini_lut)
    assert (done.code, done.err) == (0, "")
    with LatencyTable.open(mini_lut) as table:
        for entry in table.entries():
            (line,) = (line for line in done.out.splitlines() if line.strip().startswith(entry.key + " "))
            assert entry.status in line
            assert entry.status in ("measured", "noisy")
            assert f"{entry.latency_ms:.4f}" in line
    assert "mini 32x32 on cpu, onnxruntime, fp32, 1 thread" in done.out
    assert "mean absolute error" in done.out


def test_show_filters_by_match(call, mini_lut):
    result = json.loads(call("lgc-lut", "show", mini_lut, "--match", "sep_conv", "--json").out)
    assert result["entries"]
    assert all("sep_conv" in entry["key"] for entry in result["entries"])


def test_show_lists_pending_entries(call, unfinished):
    done = call("lgc-lut", "show", unfinished)
    assert done.code == 0
    assert "pending" in done.out
    assert "Not verified" in done.out
    result = json.loads(call("lgc-lut", "show", unfinished, "--json").out)
    assert (result["calibration"], result["verification"]) == (None, None)
    assert {entry["status"] for entry in result["entries"]} == {"pending"}


def test_show_prints_reason_of_failed_entry(call, mini_lut):
    with LatencyTable.open(mini_lut) as table:
        key = table.entries()[0].key
        (subject, *_) = table.components(OpSpec.parse(key))
        Recorder(table, "cpu", {}).fail(subject, "out of memory")
        table.finalize()
    (line,) = (line for line in call("lgc-lut", "show", mini_lut).out.splitlines() if key in line)
    assert "failed" in line
    assert "out of memory" in line


def test_show_survives_closed_pipe(mini_lut):
    program = Path(sys.executable).with_name("lgc-lut")
    done = subprocess.run(
        f"{shlex.quote(str(program))} show {shlex.quote(str(mini_lut))} --json | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("{")
    assert "Traceback" not in done.stderr


def test_verify_prints_json(call, mini_lut):
    before = mini_lut.read_bytes()
    done = call("lgc-lut", "verify", mini_lut, "--networks", 3, "--seed", 2, "--rounds", 4, "--json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert {
        "networks",
        "mape_pct",
        "bias_pct",
        "within_5_pct",
        "within_10_pct",
        "kendall_tau",
        "spearman_rho",
        "split_half_mape_pct",
        "split_half_kendall_tau",
    } <= result.keys()
    assert result["ceiling_mape_pct"] == result["split_half_mape_pct"], "the old name of the key stays for a release"
    assert (result["networks"], result["seed"], result["lut"]) == (3, 2, str(mini_lut))
    assert isinstance(result["drift_pct"], float)
    assert mini_lut.read_bytes() == before


def test_verify_prints_error_and_drift(call, mini_lut):
    done = call("lgc-lut", "verify", mini_lut, "--networks", 2, "--rounds", 4)
    assert done.code == 0
    assert "mean absolute error" in done.out
    assert "than when the table was measured" in done.out


@pytest.mark.parametrize("verb", ["show", "verify"])
class TestRefusals:
    """Errors are one line with exit code 2; the file is unchanged."""

    def test_foreign_file(self, call, foreign_files, verb):
        for noun, path in foreign_files.items():
            before = path.read_bytes() if path.is_file() else None
            line = call("lgc-lut", verb, path).refusal("lgc-lut")
            assert str(path) in line
            assert noun in line
            assert (path.read_bytes() if path.is_file() else None) == before

    @pytest.mark.parametrize("length", [50, 4096, 20_000])
    def test_truncated_table(self, call, mini_lut, verb, length):
        mini_lut.write_bytes(mini_lut.read_bytes()[:length])
        assert "mini.lut is a damaged latency table" in call("lgc-lut", verb, mini_lut).refusal("lgc-lut")
        assert mini_lut.stat().st_size == length

    def test_table_of_a_newer_schema(self, call, mini_lut, verb):
        with sqlite3.connect(mini_lut) as connection:
            connection.execute("PRAGMA user_version = 9")
        connection.close()
        line = call("lgc-lut", verb, mini_lut).refusal("lgc-lut")
        assert line.endswith("has table schema 9, this lgc reads 3: update lgc")

    def test_missing_table(self, call, verb):
        assert "Missing argument 'T.lut'" in call("lgc-lut", verb).refusal("lgc-lut")


def test_verify_rejects_unfinished_table(call, unfinished):
    line = call("lgc-lut", "verify", unfinished, "--networks", 4).refusal("lgc-lut")
    assert "not measured yet; measure it with: lgc-profile --device cpu --backend torch --precision fp32" in line
    assert f"--out {unfinished}" in line


def test_verify_rejects_table_of_another_machine(call, mini_lut):
    with sqlite3.connect(mini_lut) as connection:
        connection.execute("UPDATE meta SET value = json_set(value, '$.device_name', 'Z80') WHERE key = 'environment'")
    connection.close()
    line = call("lgc-lut", "verify", mini_lut).refusal("lgc-lut")
    assert "was measured on Z80, this is " in line
    assert "lgc-profile" in line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--networks", 1], "networks 1: at least 2 are needed"),
        (["--networks", 2, "--rounds", 1], "Invalid value for '--rounds'"),
        (["--networks", "many"], "Invalid value for '--networks'"),
    ],
    ids=str,
)
def test_verify_rejects_too_few_networks_or_rounds(call, mini_lut, arguments, line):
    assert line in call("lgc-lut", "verify", mini_lut, *arguments).refusal("lgc-lut")


def test_unknown_subcommand_is_rejected(call):
    line = call("lgc-lut", "shaw").refusal("lgc-lut")
    assert "No such command 'shaw'" in line
    assert line.endswith("(see lgc-lut --help)")


def test_option_error_names_the_subcommand(call, mini_lut):
    for arguments in ((), (mini_lut, "--sort", "size"), (mini_lut, "--mtach", "x")):
        assert call("lgc-lut", "show", *arguments).refusal("lgc-lut").endswith("(see lgc-lut show --help)")


def test_error_is_one_line_in_fresh_process(command, tmp_path):
    (tmp_path / "t.lut").write_text("speed: fast")
    line = command("lgc-lut", "show", tmp_path / "t.lut").refusal("lgc-lut")
    assert line == f"cannot read latency table {tmp_path / 't.lut'}: it is text that begins with 'speed: fast'"


def test_calibrate_prints_json(call, mini_lut):
    with LatencyTable.open(mini_lut) as table:
        before = table.metadata("verification")
    done = call("lgc-lut", "calibrate", mini_lut, "--form", "affine", "--json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert {correction["form"] for correction in result["calibration"].values()} == {"affine"}
    assert result["before"] == before
    with LatencyTable.open(mini_lut) as table:
        assert result["calibration"] == table.metadata("calibration")
        assert result["after"] == table.metadata("verification")


@pytest.mark.parametrize("form", FORMS)
def test_calibrate_prints_lines(call, mini_lut, form):
    done = call("lgc-lut", "calibrate", mini_lut, "--form", form)
    assert done.code == 0
    assert f"calibration, dense, form {form}: latency = " in done.out
    assert "mean absolute error" in done.out


def test_calibrate_offers_all_forms():
    assert get_args(Form) == tuple(FORMS)


def test_calibrate_rejects_bad_input(call, mini_lut, make_table, mini_space):
    line = call("lgc-lut", "calibrate", mini_lut, "--form", "affin").refusal("lgc-lut")
    assert "'affin' is not one of 'offset', 'affine'" in line
    line = call("lgc-lut", "calibrate", make_table(mini_space).path).refusal("lgc-lut")
    assert "has too few measured networks to calibrate, at least 4 are needed: lgc-profile --device cpu" in line
    with sqlite3.connect(mini_lut) as connection:
        connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL")
    connection.close()
    before = mini_lut.read_bytes()
    assert "not measured yet; measure it with" in call("lgc-lut", "calibrate", mini_lut).refusal("lgc-lut")
    assert mini_lut.read_bytes() == before
