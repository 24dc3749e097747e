"""Measuring what a table lacks for another number of classes."""

import shutil
from types import SimpleNamespace

import pytest

from lgc.errors import BackendUnavailableError, DeviceError, MismatchError
from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import OpSpec
from lgc.profiler import derivation
from lgc.profiler.derivation import has_derived, profile_derived
from lgc.profiler.table.worker import SENTINELS

from .conftest import latencies, put_in_place, rows, truth

CLASSES = 5
ROUNDS = 6


@pytest.fixture
def source(simulated_table, tmp_path):
    with LatencyTable.open(shutil.copy(simulated_table, tmp_path / "source.lut")) as table:
        yield table


@pytest.fixture(scope="module")
def slow(simulated_table, tmp_path_factory):
    """Return a derived table, and the device: 1.5 times slower than when the source was measured; read-only."""
    out = tmp_path_factory.mktemp("derived") / "derived.lut"
    with pytest.MonkeyPatch.context() as patch, LatencyTable.open(simulated_table) as table:
        device = put_in_place(patch)
        device.clock.now, device.pace = 1e6, 1.5
        result = profile_derived(table, CLASSES, out, rounds=ROUNDS)
    return SimpleNamespace(device=device, out=out, result=result)


def depends_on_classes(key):
    spec = OpSpec.parse(key)
    return spec.operator in ("classifier", "argmax") or (spec.operator == "upsample" and spec.c_in == CLASSES)


def measured_operators(device):
    """Return the operators in the probes that a device compiled."""
    return {name.split("/", 1)[1].rpartition("/x")[0] for name in device.built if name.startswith(("probe/", "image/"))}


def test_only_difference_and_references_are_measured(slow):
    assert (slow.result.pending, slow.result.failed) == (0, {})
    required = {key for key in latencies(slow.out) if depends_on_classes(key)}
    assert {OpSpec.parse(key).operator for key in required} == {"classifier", "upsample", "argmax"}
    references = measured_operators(slow.device) - required
    assert required <= measured_operators(slow.device)
    assert len(references) <= 2 * SENTINELS < len(latencies(slow.out)) - len(required)


def test_new_entries_have_the_sources_speed(slow, simulated_table):
    measured, expected, before = latencies(slow.out), truth(slow.out), latencies(simulated_table)
    new = [key for key in measured if depends_on_classes(key) and "argmax" not in key]  # which includes overhead
    assert [measured[key] for key in new] == pytest.approx([expected[key] for key in new], rel=0.05)
    kept = [key for key in measured if not depends_on_classes(key)]
    assert [measured[key] for key in kept] == pytest.approx([before[key] for key in kept], rel=0.02)


def test_samples_of_the_source_are_kept(slow, simulated_table):
    with LatencyTable.open(slow.out) as derived, LatencyTable.open(simulated_table) as source:
        operators = [{each.key for each in table.benchmarks() if each.kind != "network"} for table in (derived, source)]
        assert len(operators[0] & operators[1]) > 20
        for key in operators[0] & operators[1]:
            kept = [batch for batch in derived.sample_batches(key) if batch.session == 1]
            assert kept == source.sample_batches(key)


def test_calibration_is_fitted_to_new_networks(slow):
    with LatencyTable.open(slow.out) as derived:
        assert {architecture.space.classes for _, architecture, _ in derived.networks()} == {CLASSES}
        assert derived.correction("dense").networks == slow.result.verification.networks == 8
        assert slow.result.verification.mape_pct < 2
        assert Predictor(derived.space, derived).calibrated


def test_finished_table_is_not_measured_again(device, slow, source, tmp_path):
    out = shutil.copy(slow.out, tmp_path / "again.lut")
    assert has_derived(source, CLASSES, out)
    profile_derived(source, CLASSES, out)
    assert not device.built
    assert rows(out) == rows(slow.out)


def test_interrupted_table_is_resumed(device, source, out):
    def interrupt(name):
        raise KeyboardInterrupt

    before = source.path.read_bytes()
    device.on_run = interrupt
    with pytest.raises(KeyboardInterrupt):
        profile_derived(source, CLASSES, out, rounds=ROUNDS)
    assert not has_derived(source, CLASSES, out)
    device.on_run = lambda name: None
    assert profile_derived(source, CLASSES, out, rounds=ROUNDS).verification.networks == 8
    assert has_derived(source, CLASSES, out)
    assert source.path.read_bytes() == before


def test_uncalibrated_source_gives_uncalibrated_table(device, source, out):
    with source.store.transaction() as connection:
        connection.execute("DELETE FROM subjects WHERE kind = 'network'")
    assert profile_derived(source, CLASSES, out, rounds=ROUNDS).verification is None
    assert not any(name.endswith("network") for name in device.built)


class TestRefusals:
    """Nothing is written."""

    @pytest.fixture(autouse=True)
    def _nothing_written(self, device, out):
        yield
        assert not out.exists()

    def test_absent_device(self, source, out):
        source.target = Target("cuda:77", "torch")
        with pytest.raises(DeviceError, match="no device 'cuda:77'"):
            profile_derived(source, CLASSES, out)

    def test_absent_backend(self, source, out, monkeypatch):
        def refuse(target, precisions):
            raise BackendUnavailableError("not installed")

        monkeypatch.setattr(derivation, "require_backend", refuse)
        with pytest.raises(BackendUnavailableError, match="not installed"):
            profile_derived(source, CLASSES, out)

    @pytest.mark.parametrize("field", ["device_name", "versions"])
    def test_another_machine(self, source, out, field):
        source.environment[field] = {"device_name": "abacus", "versions": {"simulated": "0"}}[field]
        with pytest.raises(MismatchError, match="was measured "):
            profile_derived(source, CLASSES, out)


def test_another_table_in_the_way_is_kept(device, source, simulated_table, tmp_path):
    taken = shutil.copy(simulated_table, tmp_path / "taken.lut")
    with pytest.raises(MismatchError, match="different space"):
        profile_derived(source, CLASSES, taken)
    assert taken.read_bytes() == simulated_table.read_bytes()
