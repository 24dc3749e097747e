import sqlite3
from collections import Counter

import numpy as np
import pytest

from lgc.errors import FileFormatError, MismatchError, OutputError, UsageError
from lgc.lut import LatencyTable, Target
from lgc.lut.predictor import Predictor
from lgc.lut.statistics.calibration import FORMS, choose_correction, transfer_to_scope
from lgc.lut.statistics.measurement import Measurement
from lgc.lut.table.table import NETWORK_PREFIX, network_key
from lgc.models import SCOPES, OpSpec, SearchSpace
from lgc.models.space.operators import is_free
from lgc.models.space.protocol import SPACES
from lgc.profiler.backends import Workload
from lgc.profiler.backends.ort.backend import OnnxRuntimeBackend
from lgc.profiler.machine.monitor import HardwareSample
from lgc.profiler.profile import CORE_SHARE, ProfileSettings, calibrate, profile
from lgc.profiler.timing.contexts import PROTOCOL
from lgc.profiler.timing.stopping import CPU_NETWORK, CPU_PROBE

from ..spaces import EXAMPLES, list_heads
from . import conftest as law
from .conftest import NO_NETWORKS, QUICK, TARGET, latencies, relative, rows, statuses, truth


def everything(path):
    return {table: rows(path, table=table) for table in ("meta", "entries", "subjects", "terms", "visits", "sessions")}


def refitted(table):
    """A table's corrections, fitted anew; its first networks in `dense` are those in `core`, in the same order."""
    of = {scope: [(s, a) for s, a, at in table.networks() if at == scope] for scope in SCOPES}
    parts = {
        scope: [[(spec, table.latency_ms(spec)) for spec in a.specs(scope) if not is_free(spec)] for _, a in found]
        for scope, found in of.items()
    }
    measured = {scope: [subject.latency_ms for subject, _ in found] for scope, found in of.items()}
    dense = choose_correction(parts["dense"], measured["dense"])
    return {"dense": dense, "core": transfer_to_scope(dense, range(len(of["core"])), parts["core"], measured["core"])}


class TestRealDevice:
    """On this machine's CPU, under ONNX Runtime."""

    def test_the_table_is_complete(self, measured_table, mini_space):
        with LatencyTable.open(measured_table) as table:
            assert (table.target, table.space) == (TARGET, mini_space)
            assert {entry.status for entry in table.entries()} <= {"measured", "noisy"}
            assert all(0 < entry.latency_ms < 1000 and entry.ci_ms >= 0 for entry in table.entries())
            for subject in table.benchmarks():
                assert 0 < subject.min_ms <= subject.median_ms < 1000
                assert subject.visits >= 4
                assert subject.samples >= subject.visits
                assert {visit.session for visit in table.sample_batches(subject.key)} == {1}
            assert [scope for _, _, scope in table.networks()] == ["core", "dense"] * 4
            assert table.environment["versions"]["onnxruntime"]
            assert table.protocol == {"name": PROTOCOL, "context": "carriers", "statistic": "minima"}
        (session,) = rows(measured_table, "id, device", "sessions")
        assert session == (1, "cpu")
        assert rows(measured_table, "session, at_unix_s", "health"), "and how the machine was meanwhile"

    def test_verification_predicts_held_out_networks(self, measured_table):
        with LatencyTable.open(measured_table) as table:
            measured = {scope: [s.latency_ms for s, _, at in table.networks() if at == scope] for scope in SCOPES}
            for scope, choice in refitted(table).items():
                stored = table.metadata("verification")[scope]
                errors = [abs(p / m - 1) * 100 for p, m in zip(choice.held_out_ms, measured[scope], strict=True)]
                assert stored["networks"] == 4
                assert stored["mape_pct"] == pytest.approx(sum(errors) / 4)
                assert Predictor(table.space, table, scope).correction == choice.correction

    def test_every_head_width_is_measured_and_used(self, headed_space, out):
        result = profile(headed_space, TARGET, out, rounds=4, networks=4)
        assert (result.pending, result.failed) == (0, {})
        with LatencyTable.open(out) as table:
            for spec in (spec for specs in list_heads(headed_space) for spec in specs):
                assert table.entry(spec).status in ("measured", "noisy")
                assert 0 < table.latency_ms(spec) < 1000
            for scope in SCOPES:
                assert {a.choices[-1] for _, a, at in table.networks() if at == scope} == {0, 1, 2}
                predictor = Predictor(headed_space, table, scope)
                for architecture in headed_space.spread(3, 1):
                    specs = [(spec, table.latency_ms(spec)) for spec in architecture.specs(scope) if not is_free(spec)]
                    wanted = predictor.correction.intercept_ms + sum(
                        predictor.correction.apply(*part) for part in specs
                    )
                    assert predictor.predict(architecture) == pytest.approx(wanted)

    def test_a_second_call_does_nothing(self, mini_lut, mini_space, monkeypatch):
        before = everything(mini_lut)
        monkeypatch.setattr(OnnxRuntimeBackend, "compile", None)
        result = profile(mini_space, TARGET, mini_lut, networks=4)
        assert everything(mini_lut) == before
        assert (result.entries, result.measured, result.failed) == (len(before["entries"]),) * 2 + ({},)
        assert result.verification.networks == 4


class TestTruth:
    """On a device whose true latencies are known."""

    def test_entries_between_carriers_exclude_overhead_and_borders(self, device, mini_space, out):
        """No carriers, and no overhead and borders but at the ends; half of the noise's range, as of all durations."""
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy, result.pending) == (result.entries, 0, 0)
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                wanted = law.exact_ms(OpSpec.parse(entry.key))
                assert entry.latency_ms == pytest.approx(wanted * 1.005, rel=0.01, abs=3 * entry.ci_ms)
                assert 0 < entry.ci_ms < 0.02 * wanted + 0.001

    @pytest.mark.parametrize("kind", SPACES)
    def test_space_of_any_kind_is_measured(self, device, out, kind):
        """Entries need the protocol alone; whole networks are LGCNet's."""
        device.noise = 0.0
        space = EXAMPLES[kind]()
        result = profile(space, TARGET, out, networks=0)
        assert (result.measured, result.pending, result.failed) == (result.entries, 0, {})
        with LatencyTable.open(out) as table:
            architecture = next(iter(space.spread(1, 0)))
            wanted = sum(law.exact_ms(spec) for spec in architecture.specs("core") if not is_free(spec))
            assert Predictor(table.space, table, "core").predict(architecture) == pytest.approx(wanted, rel=0.02)

    def test_network_of_another_kind_is_refused(self, device, out):
        with pytest.raises(UsageError, match="cannot build networks of space toy: choose 0 networks"):
            profile(EXAMPLES["toy"](), TARGET, out, networks=4)
        assert not out.exists()

    def test_isolated_entries_include_overhead_and_borders(self, device, mini_space, out):
        profile(mini_space, TARGET, out, networks=0, context="isolated")
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                assert entry.latency_ms == pytest.approx(law.alone_ms(OpSpec.parse(entry.key)), rel=0.005)

    def test_caches_are_cold_only_between_carriers(self, device, mini_space, tmp_path):
        """Where a graph runs right after itself it takes half the time; a network never does."""
        device.noise, device.warm = 0.0, 0.5
        for context, factor in (("carriers", 1.0), ("isolated", 0.5)):
            path = tmp_path / context
            profile(mini_space, TARGET, path, networks=0, context=context)
            found = latencies(path)
            wanted = truth(path) if context == "carriers" else {k: law.alone_ms(OpSpec.parse(k)) for k in found}
            assert found == pytest.approx({key: factor * ms for key, ms in wanted.items()}, rel=0.01)

    def test_intervals_cover_effects_of_memory_addresses(self, device, mini_space, out):
        """Each load is by some percent faster or slower: intervals are as wide as that, and hold the truth."""
        device.noise, device.place = 0.001, 0.03
        profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            inside, widths = [], []
            for subject in table.benchmarks():
                assert len({(visit.session, visit.instance) for visit in table.sample_batches(subject.key)}) >= 6
                wanted = law.workload_ms(Workload(subject.key, (), None))
                inside.append(abs(subject.latency_ms - wanted) <= subject.ci_ms)
                widths.append(subject.ci_ms / wanted)
        assert np.mean(inside) > 0.75
        assert 0.003 < np.median(widths) < 0.03

    def test_latencies_are_corrected_for_two_speeds(self, device, mini_space, out):
        device.speed = lambda now: 0.65 if np.sin(now * 9) + np.sin(now * 5.3) > 0 else 1.0
        device.pace = 3.0
        profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            raw = Measurement(table.sample_batches(), "minima")
            spreads = [np.ptp(np.quantile([min(d) for d in raw.durations(key)], [0.1, 0.9])) for key in raw.benchmarks]
            assert np.median(spreads) > 0.3 * np.median([raw.summary(key).latency_ms for key in raw.benchmarks])
        ratios = relative(latencies(out), truth(out))
        assert all(abs(ratio - 1) < 0.08 for key, ratio in ratios.items() if "argmax" not in key)

    def test_the_correction_is_the_networks_law(self, device, mini_space, out):
        """Overhead and borders are the intercept, less those of operators at the ends; the context is the weight."""
        device.noise = 0.0
        result = profile(mini_space, TARGET, out, networks=12)
        borders = law.border_ms((3, 32, 32)) + law.border_ms((1, 32, 32))
        with LatencyTable.open(out) as table:
            for scope in SCOPES:
                for architecture in mini_space.spread(5, 99):
                    predicted = Predictor(mini_space, table, scope).predict(architecture)
                    assert predicted == pytest.approx(law.network_ms(architecture, scope), rel=1e-3)
            calibrate(table, "affine")  # all forms but one can hold the law: only rounding chooses among them
            for scope in SCOPES:
                correction = table.correction(scope)
                architecture = next(iter(mini_space.spread(1, 99)))
                at_ends = sum(law.exact_ms(spec) - law.true_ms(spec) for spec in architecture.specs(scope))
                wanted = law.OVERHEAD_MS + borders - law.CONTEXT * at_ends
                assert correction.weights == pytest.approx((law.CONTEXT,), rel=0.01)
                assert correction.intercept_ms == pytest.approx(wanted, abs=0.005)
        assert result.verification.mape_pct < 0.1
        assert result.verification.within_5_pct == 100
        assert result.verification.kendall_tau > 0.99

    def test_a_network_of_any_head_is_predicted(self, device, headed_space, out):
        device.noise = 0.0
        profile(headed_space, TARGET, out, networks=12)
        with LatencyTable.open(out) as table:
            for scope in SCOPES:
                predictor = Predictor(headed_space, table, scope)
                for head in range(3):
                    architecture = headed_space.build([*headed_space.sample(5).choices[:-1], head])
                    wanted = law.network_ms(architecture, scope)
                    assert predictor.predict(architecture) == pytest.approx(wanted, rel=1e-3)
                head_ms = predictor.cost.single[-1]
                assert 0.01 < head_ms[2] - head_ms[0] < wanted, "which the head does change"

    def test_networks_are_known_well_with_noise_too(self, device, mini_space, out):
        result = profile(mini_space, TARGET, out, networks=12)
        assert result.verification.mape_pct < 1
        assert result.verification.split_half_mape_pct < 1
        assert result.verification.kendall_tau > 0.9

    def test_energy_is_recorded_if_device_counts_it(self, device, mini_space, out, monkeypatch):
        monkeypatch.setattr("lgc.profiler.table.worker.open_monitor", lambda target: FakeWatcher(device.clock))
        result = profile(mini_space, TARGET, out, **QUICK)
        assert result.remarks == []
        for key, energy, latency in rows(out, "key, energy_mj, latency_ms", "subjects"):
            if key.startswith(NETWORK_PREFIX):
                assert energy == pytest.approx(30 * latency / 1000, rel=0.02)
            else:
                assert energy is None
        samples = rows(out, "session, at_unix_s, sample", "health")
        assert len(samples) > 1
        assert {session for session, _, _ in samples} == {1}

    def test_what_slowed_the_device_down_is_told(self, device, mini_space, out, monkeypatch):
        reasons = ("thermal slowdown", "idle")
        monkeypatch.setattr("lgc.profiler.table.worker.open_monitor", lambda target: FakeWatcher(device.clock, reasons))
        first, second = (profile(mini_space, TARGET, out, networks=count) for count in (0, 4))
        samples = len(rows(out, "session, at_unix_s", "health"))
        assert len(first.remarks) == len(second.remarks) == 1
        assert second.remarks[0] == (f"the GPU was throttled in {samples} of {samples} samples: thermal slowdown")
        assert profile(mini_space, TARGET, out, networks=4).remarks == []

    def test_visits_that_were_left_out_are_told(self, device, mini_space, out):
        """In the last third each run is slowed by a factor of its own."""
        device.speed = lambda now: 1 + 3 * device.random.random() * (2000 < device.runs.total() < 3000)
        device.noise = 0.0
        result = profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            found = table.measurement()
        share = found.num_rejected / len(found.batches) * 100
        assert 5 < share < 50
        assert result.remarks == [
            f"{share:.0f} % of the sample batches were discarded: the machine slowed only some benchmarks"
        ]
        ratios = relative(latencies(out), truth(out))
        assert all(abs(ratio - 1) < 0.05 for key, ratio in ratios.items() if "argmax" not in key)


class FakeWatcher:
    """A machine that uses 30 mJ in each second."""

    def __init__(self, clock, throttle=()):
        self.clock, self.throttle = clock, throttle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def sample(self):
        return HardwareSample(self.clock.now, power_w=0.03, throttle=self.throttle)

    def energy_mj(self):
        return 30 * self.clock.now


class TestStopping:
    def test_each_kind_follows_its_stopping_rule(self, device, mini_space, out):
        profile(mini_space, TARGET, out, networks=4)
        runs = {key: {len(d.split(",")) for (d,) in rows_of(out, key)} for key in statuses(out)}
        for key, each in runs.items():
            assert each == {1} or key.startswith(NETWORK_PREFIX), "one run a visit: the caches are cold"
            visits = len(rows_of(out, key))
            least = CPU_NETWORK.min_batches if key.startswith(NETWORK_PREFIX) else CPU_PROBE.min_batches
            assert least <= visits
        networks = [len(rows_of(out, key)) for key in runs if key.startswith(NETWORK_PREFIX)]
        probes = [len(rows_of(out, key)) for key in runs if not key.startswith(NETWORK_PREFIX)]
        assert max(networks) < min(probes) / 4, "they join in every eighth round"
        assert all(min(runs[key]) >= 3 for key in runs if key.startswith(NETWORK_PREFIX))

    def test_entries_of_noisy_benchmark_say_why(self, device, mini_space, out):
        name = "probe/add/c4-4/8x8/s1/b1/x1"
        device.places = {name: 0.5}
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy) == (result.entries, 1)
        with LatencyTable.open(out) as table:
            (subject,) = (s for s in table.benchmarks() if s.status == "noisy")
            entry = table.entry(OpSpec.parse("add/c4-4/8x8/s1/b1"))
        assert subject.key == name
        assert subject.reason.startswith("confidence interval of ")
        assert (entry.status, entry.reason) == ("noisy", f"{name}: {subject.reason}")
        assert subject.visits >= CPU_PROBE.max_batches
        assert profile(mini_space, TARGET, out, networks=0).noisy == 1
        assert set(rows(out, "id, device", "sessions")) == {(1, "cpu")}, "and is not tried again"

    def test_fewer_rounds_are_enough_where_asked_for(self, device, mini_space, out):
        profile(mini_space, TARGET, out, **QUICK)
        counts = Counter(key for (key, *_) in rows(out))
        assert {counts[key] for key in counts if key.startswith(NETWORK_PREFIX)} <= {6, 7}
        assert all(count <= 6 * CPU_NETWORK.period + 8 for count in counts.values())


def rows_of(path, key):
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT durations_ms FROM visits WHERE subject = ?", (key,)).fetchall()
    connection.close()
    return found


class TestCalibration:
    @pytest.mark.parametrize(("count", "core"), [(4, 4), (15, 5)])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_the_seed_draws_the_networks(self, device, mini_space, out, seed, count, core):
        """Some of them are measured without what `dense` adds, too."""
        assert core == max(count // CORE_SHARE, 4)
        profile(mini_space, TARGET, out, seed=seed, rounds=4, networks=count)
        networks = list(mini_space.spread(count, seed))
        drawn = {network_key(network, "dense") for network in networks}
        drawn |= {network_key(network, "core") for network in networks[:core]}
        assert {key for key in statuses(out) if key.startswith(NETWORK_PREFIX)} == drawn
        with LatencyTable.open(out) as table:
            assert [table.correction(scope).networks for scope in ("dense", "core")] == [count, core]

    def test_no_networks_leave_the_table_uncalibrated(self, device, mini_space, out):
        result = profile(mini_space, TARGET, out, **NO_NETWORKS)
        assert result.verification is None
        with LatencyTable.open(out) as table:
            assert table.networks() == []
            assert table.metadata("calibration") is None
            assert not Predictor(mini_space, table).calibrated
            assert calibrate(table) is None

    def test_networks_differing_only_in_head_are_distinguished(self, device, mini_space, out, monkeypatch):
        """Each is predicted by the fit that has not seen it, in `core` by that of its own place in `dense`."""
        content = {**mini_space.model_dump(mode="json"), "head_widths": [2, 8, 16, 32, 64]}
        space, places = SearchSpace.check(content, "s"), [4, 1, 2, 0, 3, 5]
        networks = [space.build([*space.sample(0).choices[:-1], head]) for head in places]
        monkeypatch.setattr(type(space), "spread", lambda *_: iter(networks))
        device.place = 0.1
        profile(space, TARGET, out, networks=6)
        with LatencyTable.open(out) as table:
            heads = {scope: [a.choices[-1] for _, a, at in table.networks() if at == scope] for scope in SCOPES}
            assert heads == {"dense": places, "core": places[:4]}
            for scope, choice in refitted(table).items():
                assert len({one.weights for one in choice.held_out_corrections}) > 1, (
                    "else it is all one which is left out"
                )
                assert Predictor(space, table, scope).correction == choice.correction

    @pytest.mark.parametrize("form", FORMS)
    def test_a_form_can_be_asked_for(self, device, simulated_table, tmp_path, form):
        path = tmp_path / "t.lut"
        path.write_bytes(simulated_table.read_bytes())
        with LatencyTable.open(path) as table:
            before = list(table.entries())
            found = calibrate(table, form)
            assert {table.correction(scope).form for scope in SCOPES} == {form}
            assert table.metadata("verification")["dense"] == found.as_dict()
            assert table.entries() == before
            assert [table.correction(scope).networks for scope in ("dense", "core")] == [8, 4]
            assert table.correction("core").weights == table.correction("dense").weights


def test_keywords_change_the_settings(device, mini_space, out):
    result = profile(mini_space, TARGET, out, ProfileSettings(networks=4, rounds=6), networks=0)
    assert result.verification is None
    assert {subject for _, subject in rows(out, "key, visits", "subjects")} == {6}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"networks": 3}, "networks 3: a calibration needs at least 4"),
        ({"networks": -1}, "networks -1: a calibration needs"),
        ({"rounds": 3}, "--rounds 3: at least 4 are needed"),
        ({"rounds": 0}, "--rounds 0: at least 4"),
        ({"context": "vacuum"}, "unknown context 'vacuum'; known: carriers, isolated"),
    ],
    ids=str,
)
def test_invalid_options_are_rejected_without_a_file(device, mini_space, out, options, complaint):
    with pytest.raises(UsageError, match=complaint):
        profile(mini_space, TARGET, out, **options)
    assert not out.exists()


def test_too_many_threads_are_rejected(device, mini_space, out):
    with pytest.raises(UsageError, match="--threads 9999: this machine has"):
        profile(mini_space, Target("cpu", "onnxruntime", threads=9999), out)
    assert not out.exists()


def test_a_folder_is_no_output(device, mini_space, tmp_path):
    with pytest.raises(OutputError, match="is a folder; give the table's file name"):
        profile(mini_space, TARGET, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file_is_refused(device, mini_space, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot make the folder"):
        profile(mini_space, TARGET, tmp_path / "file" / "t.lut")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("noun", ["an empty file", "a PNG image", "an SQLite database"])
def test_foreign_file_stays_unchanged(device, mini_space, foreign_files, noun):
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
def test_table_of_another_target_stays_unchanged(device, mini_space, mini_lut, monkeypatch, target, difference):
    monkeypatch.setattr("lgc.profiler.profile.fingerprint", lambda *_: {"device_name": "x"})
    before = mini_lut.read_bytes()
    with pytest.raises(MismatchError, match=f"{difference}.*lgc-profile and another --out"):
        profile(mini_space, target, mini_lut, **QUICK)
    assert mini_lut.read_bytes() == before


def test_no_table_is_made_in_int8(device, mini_space, out):
    with pytest.raises(UsageError, match=r"measured in fp32, fp16, bf16, not in int8: .*lgc-export --precision int8"):
        profile(mini_space, Target("cpu", "onnxruntime", "int8"), out)
    assert not out.exists()


class TestOfAnother:
    """A table of the simulated device that something is changed in: it is refused, and left as it is."""

    @pytest.fixture
    def table(self, device, simulated_table, tmp_path):
        path = tmp_path / "t.lut"
        path.write_bytes(simulated_table.read_bytes())
        return path

    def refused(self, space, path, complaint, change=None, **options):
        if change:
            with sqlite3.connect(path) as connection:
                connection.execute(f"UPDATE meta SET value = json_set(value, {change}) WHERE key = 'environment'")
            connection.close()
        before = path.read_bytes()
        with pytest.raises(MismatchError, match=complaint):
            profile(space, TARGET, path, **QUICK, **options)
        assert path.read_bytes() == before

    def test_space(self, table, mini_space):
        self.refused(mini_space.with_input(64, 64), table, r"space mini 32x32, 3 classes, geometry 1 .* not mini 64x64")

    def test_machine(self, table, mini_space):
        complaint = r"was measured on Z80, this is .*lgc-profile and another --out"
        self.refused(mini_space, table, complaint, "'$.device_name', 'Z80'")

    def test_version(self, table, mini_space):
        complaint = "was measured with simulated 0, installed is simulated 1: install those versions to resume, or"
        self.refused(mini_space, table, complaint, "'$.versions.simulated', '0'")

    def test_context(self, table, mini_space):
        self.refused(mini_space, table, "was measured in context carriers, not isolated", context="isolated")
        assert profile(mini_space, TARGET, table, networks=8, context="carriers").pending == 0
