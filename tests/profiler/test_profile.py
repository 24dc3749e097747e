import sqlite3
from collections import Counter

import pytest

from lgc.errors import FileFormatError, MismatchError, OutputError, UsageError
from lgc.lut import LatencyTable, Target
from lgc.lut.calibration import cross_validate
from lgc.lut.predictor import Predictor
from lgc.lut.table import network_key
from lgc.models import SCOPES, OpSpec
from lgc.profiler.backends.ort import OnnxRuntimeBackend
from lgc.profiler.profile import calibrate, profile

TARGET = Target("cpu", "onnxruntime")
QUICK = {"rounds": 4, "networks": 4}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "t.lut"


def rows(path, table="visits"):
    """All rows of a table in the file, times of measurement included."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
    connection.close()
    return found


def everything(path):
    return {table: rows(path, table) for table in ("meta", "entries", "networks", "visits")}


class TestRealDevice:
    """On this machine's CPU, under ONNX Runtime."""

    def test_the_table_is_complete(self, measured_table, mini_space):
        with LatencyTable.open(measured_table) as table:
            assert (table.target, table.space) == (TARGET, mini_space)
            assert {entry.status for entry in table.entries()} == {"measured"}
            assert all(0 < entry.min_ms <= entry.median_ms < 1000 for entry in table.entries())
            assert all(0 < entry.latency_ms < 1000 for entry in table.entries())
            networks = table.networks()
            assert [scope for _, _, scope in networks] == ["core", "dense"] * 4
            assert {entry.status for entry, _, _ in networks} == {"measured"}
            keys = [entry.key for entry in (*table.entries(), *(entry for entry, _, _ in networks))]
            assert table.rounds_done() == dict.fromkeys(keys, 4)
            assert table.environment["versions"]["onnxruntime"]

    def test_the_verification_is_by_fits_that_have_not_seen_the_network(self, measured_table):
        with LatencyTable.open(measured_table) as table:
            for scope in ("dense", "core"):
                stored = table.note("verification")[scope]
                networks = [(entry, network) for entry, network, at in table.networks() if at == scope]
                predictor = Predictor(table.space, table, scope)
                measured = [entry.latency_ms for entry, _ in networks]
                predicted = cross_validate([predictor.sum_ms(network) for _, network in networks], measured)
                errors = [abs(p / m - 1) * 100 for p, m in zip(predicted, measured, strict=True)]
                assert stored["networks"] == 4
                assert stored["mape_pct"] == pytest.approx(sum(errors) / 4)
                assert predictor.calibrated

    def test_a_second_call_does_nothing(self, mini_lut, mini_space, monkeypatch):
        before = everything(mini_lut)
        monkeypatch.setattr(OnnxRuntimeBackend, "compile", None)
        result = profile(mini_space, TARGET, mini_lut, **QUICK)
        assert everything(mini_lut) == before
        assert (result.entries, result.measured, result.failed) == (len(before["entries"]),) * 2 + ({},)
        assert result.verification.networks == 4


class TestSimulatedDevice:
    """On a device whose true latencies are known."""

    def test_entries_and_calibration_are_the_devices(self, device, mini_space, out):
        result = profile(mini_space, TARGET, out, networks=12, rounds=8)
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                assert entry.latency_ms == pytest.approx(device.true_ms(OpSpec.parse(entry.key)), rel=0.01)
            for scope in ("core", "dense"):
                calibration = Predictor(mini_space, table, scope).calibration
                assert calibration.slope == pytest.approx(1.1, rel=0.03)
                assert calibration.intercept_ms == pytest.approx(0.05, abs=0.02)
        assert result.verification.mape_pct < 1
        assert result.verification.within_5_pct == 100
        assert result.verification.kendall_tau > 0.9

    def test_the_seed_draws_the_networks(self, device, mini_space, tmp_path):
        for seed in (1, 2):
            path = tmp_path / f"{seed}.lut"
            profile(mini_space, TARGET, path, seed=seed, **QUICK)
            drawn = {network_key(network, scope) for network in mini_space.spread(4, seed) for scope in SCOPES}
            assert {key for key, *_ in rows(path, "networks")} == drawn

    def test_no_networks_leave_the_table_uncalibrated(self, device, mini_space, out):
        result = profile(mini_space, TARGET, out, networks=0)
        assert result.verification is None
        with LatencyTable.open(out) as table:
            assert table.networks() == []
            assert table.note("calibration") is None
            assert not Predictor(mini_space, table).calibrated
            assert calibrate(table) is None

    def test_networks_and_rounds_are_added_to_a_table(self, device, mini_space, out):
        profile(mini_space, TARGET, out, rounds=4, networks=0)
        before = rows(out)
        result = profile(mini_space, TARGET, out, rounds=6, networks=5)
        assert set(before) < set(rows(out))
        assert {number for _, number, *_ in rows(out)} == set(range(6))
        assert result.verification.networks == 5

    def test_an_interrupted_table_is_gone_on_with(self, device, mini_space, out):
        def interrupt(progress):
            if progress.label == "measuring" and progress.done > 0.5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            profile(mini_space, TARGET, out, on_progress=interrupt, **QUICK)
        before = rows(out)
        assert {number for _, number, *_ in before} == {0, 1}
        with LatencyTable.open(out) as table:
            assert {entry.status for entry in table.entries()} == {"pending"}
        result = profile(mini_space, TARGET, out, **QUICK)
        after = rows(out)
        assert set(before) < set(after)
        assert len(after) == 2 * len(before)
        assert result.measured == result.entries

    def test_a_call_killed_before_its_statistics_is_gone_on_with(self, device, mini_space, out, monkeypatch):
        """All visits are there, and hardly a summary; nothing has to be measured again."""
        calls = []
        record = LatencyTable.record_summary

        def killed(table, key, summary):
            calls.append(key)
            if len(calls) > 3:
                raise KeyboardInterrupt
            record(table, key, summary)

        with monkeypatch.context() as patched:
            patched.setattr(LatencyTable, "record_summary", killed)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, **QUICK)
        before, compiled = rows(out), list(device.compiled)
        result = profile(mini_space, TARGET, out, **QUICK)
        assert result.measured == result.entries
        assert result.verification.networks == 4
        assert rows(out) == before
        assert device.compiled == compiled

    def test_a_refused_operator_is_reported_and_mended_by_the_next_call(self, device, mini_space, out):
        key = "add/c4-4/8x8/s1/b1"
        device.refused = {key}
        result = profile(mini_space, TARGET, out, **QUICK)
        assert result.failed == {key: f"refused: {key}"}
        assert (result.measured, result.verification) == (result.entries - 1, None)
        device.refused = set()
        device.compiled.clear()
        result = profile(mini_space, TARGET, out, **QUICK)
        assert (result.failed, result.measured) == ({}, result.entries)
        assert device.compiled == [key]
        assert result.verification.networks == 4

    def test_a_refused_network_is_left_out_of_the_verification(self, device, mini_space, out):
        device.refused = {"mini network"}
        result = profile(mini_space, TARGET, out, **QUICK)
        assert (result.measured, result.verification) == (result.entries, None)
        assert set(result.failed.values()) == {"refused: mini network"}
        assert {row[3] for row in rows(out, "networks")} == {"failed"}

    def test_a_budget_ends_the_rounds_and_the_next_call_goes_on(self, device, mini_space, out):
        first = profile(mini_space, TARGET, out, rounds=100_000, networks=0, budget_s=1.0)
        (rounds,) = set(Counter(key for key, *_ in rows(out)).values())
        assert 4 <= rounds < 100_000
        assert first.measured == first.entries
        profile(mini_space, TARGET, out, rounds=rounds + 1, networks=0)
        assert len(rows(out)) == (rounds + 1) * first.entries

    def test_spreads_tell_a_noisy_device(self, device, mini_space, tmp_path):
        spreads = []
        for noise in (0.0, 0.5):
            device.noise = noise
            result = profile(mini_space, TARGET, tmp_path / str(noise), rounds=12, networks=0)
            spreads.append(sum(result.spreads_pct) / len(result.spreads_pct))
        assert spreads[0] == pytest.approx(0, abs=1e-9)
        assert spreads[1] > 0.1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"networks": 3}, "3 networks are too few to calibrate with: at least 4, or 0 for none"),
        ({"networks": -1}, "-1 networks are too few"),
        ({"rounds": 3}, "3 rounds are too few for a statistic: at least 4"),
        ({"rounds": 0}, "0 rounds are too few"),
    ],
    ids=str,
)
def test_too_little_is_refused_before_a_file_is_made(device, mini_space, out, options, complaint):
    with pytest.raises(UsageError, match=complaint):
        profile(mini_space, TARGET, out, **options)
    assert not out.exists()


def test_too_many_threads_are_refused_before_a_file_is_made(device, mini_space, out):
    with pytest.raises(UsageError, match="9999 threads asked for, but this machine has"):
        profile(mini_space, Target("cpu", "onnxruntime", threads=9999), out)
    assert not out.exists()


def test_a_folder_is_no_output(device, mini_space, tmp_path):
    with pytest.raises(OutputError, match="is a folder; give the table's file name"):
        profile(mini_space, TARGET, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file_is_refused(device, mini_space, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot write"):
        profile(mini_space, TARGET, tmp_path / "file" / "t.lut")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("noun", ["an empty file", "a PNG image", "an SQLite database"])
def test_a_foreign_file_is_left_as_it_is(device, mini_space, foreign_files, noun):
    path = foreign_files[noun]
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match=noun):
        profile(mini_space, TARGET, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "difference"),
    [
        (Target("cpu", "torch"), "backend onnxruntime, not torch"),
        (Target("cuda:0", "onnxruntime"), "device cpu, not cuda:0"),
        (Target("cpu", "onnxruntime", "fp16"), "precision fp32, not fp16"),
    ],
    ids=str,
)
def test_a_table_of_another_target_is_left_as_it_is(device, mini_space, mini_lut, monkeypatch, target, difference):
    monkeypatch.setattr("lgc.profiler.profile.fingerprint", lambda *_: {"device_name": "x"})
    before = mini_lut.read_bytes()
    with pytest.raises(MismatchError, match=f"{difference}.*lgc-profile and another --out"):
        profile(mini_space, target, mini_lut, **QUICK)
    assert mini_lut.read_bytes() == before


def test_a_table_of_another_space_is_left_as_it_is(device, mini_space, mini_lut):
    before = mini_lut.read_bytes()
    with pytest.raises(MismatchError, match=r"space mini 32x32 .* not mini 64x64"):
        profile(mini_space.with_input(64, 64), TARGET, mini_lut, **QUICK)
    assert mini_lut.read_bytes() == before


def test_a_table_of_another_machine_is_left_as_it_is(device, mini_space, mini_lut):
    with sqlite3.connect(mini_lut) as connection:
        connection.execute("UPDATE meta SET value = json_set(value, '$.device_name', 'Z80') WHERE key = 'environment'")
    connection.close()
    before = mini_lut.read_bytes()
    with pytest.raises(MismatchError, match=r"was measured on Z80, this is .*lgc-profile and another --out"):
        profile(mini_space, TARGET, mini_lut, **QUICK)
    assert mini_lut.read_bytes() == before
