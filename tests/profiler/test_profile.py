import sqlite3
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lgc.errors import FileFormatError, MismatchError, MissingEntryError, OutputError, UsageError
from lgc.lut import LatencyTable, Target, recorder
from lgc.lut.calibration import FORMS, choose, shift
from lgc.lut.measurement import Measurement
from lgc.lut.predictor import Predictor
from lgc.lut.recorder import Recorder
from lgc.lut.table import NETWORK, SETTLED, UNFINISHED, network_key
from lgc.models import SCOPES, OpSpec
from lgc.models.operators import is_free
from lgc.profiler import stopping
from lgc.profiler.backends import Workload
from lgc.profiler.backends.ort import OnnxRuntimeBackend
from lgc.profiler.contexts import register
from lgc.profiler.filling import AWAKE_S, SENTINELS
from lgc.profiler.profile import CORE_SHARE, MEDIAN_TO_95, calibrate, profile
from lgc.profiler.rounds import COMMIT_S
from lgc.profiler.stopping import CPU_NETWORK, CPU_PROBE
from lgc.profiler.watch import Health

from . import conftest as law

TARGET = Target("cpu", "onnxruntime")
QUICK = {"rounds": 6, "networks": 4}
NO_NETWORKS = {"rounds": 6, "networks": 0}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "t.lut"


def rows(path, what="*", table="visits"):
    """Rows of a table in the file, times of measurement included."""
    with sqlite3.connect(path) as connection:
        found = connection.execute(f"SELECT {what} FROM {table} ORDER BY 1, 2").fetchall()
    connection.close()
    return found


def everything(path):
    return {table: rows(path, table=table) for table in ("meta", "entries", "subjects", "terms", "visits", "sessions")}


def statuses(path):
    return dict(rows(path, "key, status", "subjects"))


def latencies(path):
    with LatencyTable.open(path) as table:
        return {entry.key: entry.latency_ms for entry in table.entries()}


def relative(found, wanted):
    """Latencies relative to the wanted ones, their common factor divided out."""
    ratios = {key: found[key] / wanted[key] for key in wanted}
    usual = float(np.median(list(ratios.values())))
    return {key: ratio / usual for key, ratio in ratios.items()}


def truth(path):
    return {key: law.true_ms(OpSpec.parse(key)) for key, *_ in rows(path, "key, status", "entries")}


class TestRealDevice:
    """On this machine's CPU, under ONNX Runtime."""

    def test_the_table_is_complete(self, measured_table, mini_space):
        with LatencyTable.open(measured_table) as table:
            assert (table.target, table.space) == (TARGET, mini_space)
            assert {entry.status for entry in table.entries()} <= {"measured", "noisy"}
            assert all(0 < entry.latency_ms < 1000 and entry.ci_ms >= 0 for entry in table.entries())
            for subject in table.subjects():
                assert 0 < subject.min_ms <= subject.median_ms < 1000
                assert subject.visits >= 4
                assert subject.samples >= subject.visits
                assert {visit.session for visit in table.visits(subject.key)} == {1}
            assert [scope for _, _, scope in table.networks()] == ["core", "dense"] * 4
            assert table.environment["versions"]["onnxruntime"]
            assert table.protocol == {"name": "interleaved-rounds", "context": "carriers", "statistic": "minima"}
        (session,) = rows(measured_table, "id, device", "sessions")
        assert session == (1, "cpu")
        assert rows(measured_table, "session, at_unix_s", "health"), "and how the machine was meanwhile"

    def test_the_verification_is_by_fits_that_have_not_seen_the_network(self, measured_table):
        with LatencyTable.open(measured_table) as table:
            of = {scope: [(s, a) for s, a, at in table.networks() if at == scope] for scope in SCOPES}
            parts = {
                scope: [
                    [(spec, table.latency_ms(spec)) for spec in a.specs(scope) if not is_free(spec)] for _, a in rows
                ]
                for scope, rows in of.items()
            }
            measured = {scope: [subject.latency_ms for subject, _ in rows] for scope, rows in of.items()}
            dense = choose(parts["dense"], measured["dense"])
            core = shift(dense, range(4), parts["core"], measured["core"])
            for scope, choice in (("dense", dense), ("core", core)):
                stored = table.note("verification")[scope]
                errors = [abs(p / m - 1) * 100 for p, m in zip(choice.held_out_ms, measured[scope], strict=True)]
                assert stored["networks"] == 4
                assert stored["mape_pct"] == pytest.approx(sum(errors) / 4)
                assert Predictor(table.space, table, scope).correction == choice.correction

    def test_a_second_call_does_nothing(self, mini_lut, mini_space, monkeypatch):
        before = everything(mini_lut)
        monkeypatch.setattr(OnnxRuntimeBackend, "compile", None)
        result = profile(mini_space, TARGET, mini_lut, networks=4)
        assert everything(mini_lut) == before
        assert (result.entries, result.measured, result.failed) == (len(before["entries"]),) * 2 + ({},)
        assert result.verification.networks == 4


class TestTruth:
    """On a device whose true latencies are known."""

    def test_between_carriers_entries_are_the_operators_own_latencies(self, device, mini_space, out):
        """No overhead, no borders, no carriers; half of the noise's range, as of all durations."""
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy, result.pending) == (result.entries, 0, 0)
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                spec = OpSpec.parse(entry.key)
                wanted = law.true_ms(spec)
                if spec.operator == "argmax":
                    wanted += law.OVERHEAD_MS / 2 + law.border_ms((1, 32, 32))
                assert entry.latency_ms == pytest.approx(wanted * 1.005, rel=0.01, abs=3 * entry.ci_ms)
                assert 0 < entry.ci_ms < 0.02 * wanted + 0.001

    def test_alone_overhead_and_borders_are_in_every_entry(self, device, mini_space, out):
        profile(mini_space, TARGET, out, networks=0, context="isolated")
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                assert entry.latency_ms == pytest.approx(law.alone_ms(OpSpec.parse(entry.key)), rel=0.005)

    def test_caches_are_as_cold_between_carriers_as_in_a_network_and_warm_alone(self, device, mini_space, tmp_path):
        """Where a graph runs right after itself it takes half the time; a network never does."""
        device.noise, device.warm = 0.0, 0.5
        for context, factor in (("carriers", 1.0), ("isolated", 0.5)):
            path = tmp_path / context
            profile(mini_space, TARGET, path, networks=0, context=context)
            found = latencies(path)
            wanted = truth(path) if context == "carriers" else {k: law.alone_ms(OpSpec.parse(k)) for k in found}
            close = [found[k] == pytest.approx(factor * wanted[k], rel=0.01) for k in found if "argmax" not in k]
            assert all(close)

    def test_where_graphs_lie_in_memory_is_averaged_out_and_told(self, device, mini_space, out):
        """Each load is by some percent faster or slower: intervals are as wide as that, and hold the truth."""
        device.noise, device.place = 0.001, 0.03
        profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            inside, widths = [], []
            for subject in table.subjects():
                assert len({(visit.session, visit.load) for visit in table.visits(subject.key)}) >= 6
                wanted = law.workload_ms(Workload(subject.key, (), None))
                inside.append(abs(subject.latency_ms - wanted) <= subject.ci_ms)
                widths.append(subject.ci_ms / wanted)
        assert np.mean(inside) > 0.75
        assert 0.003 < np.median(widths) < 0.03

    def test_a_machine_of_two_speeds_is_seen_through(self, device, mini_space, out):
        device.speed = lambda now: 0.65 if np.sin(now * 9) + np.sin(now * 5.3) > 0 else 1.0
        device.pace = 3.0
        profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            raw = Measurement(table.visits(), "minima")
            spreads = [np.ptp(np.quantile([min(d) for d in raw.durations(key)], [0.1, 0.9])) for key in raw.subjects]
            assert np.median(spreads) > 0.3 * np.median([raw.summary(key).latency_ms for key in raw.subjects])
        ratios = relative(latencies(out), truth(out))
        assert all(abs(ratio - 1) < 0.08 for key, ratio in ratios.items() if "argmax" not in key)

    def test_the_correction_is_the_networks_law(self, device, mini_space, out):
        """Overhead and borders are the intercept, less what argmax brings along; the context is the weight."""
        device.noise = 0.0
        result = profile(mini_space, TARGET, out, networks=12)
        borders = law.border_ms((3, 32, 32)) + law.border_ms((1, 32, 32))
        with LatencyTable.open(out) as table:
            for scope in SCOPES:
                correction = table.correction(scope)
                assert correction.form == "affine" or scope == "core"
                surplus = law.CONTEXT * (law.OVERHEAD_MS / 2 + law.border_ms((1, 32, 32))) * (scope == "dense")
                for architecture in mini_space.spread(5, 99):
                    predicted = Predictor(mini_space, table, scope).predict(architecture)
                    assert predicted == pytest.approx(law.network_ms(architecture, scope), rel=1e-3)
                if correction.form == "affine":
                    assert correction.weights == pytest.approx((law.CONTEXT,), rel=0.01)
                    assert correction.intercept_ms == pytest.approx(law.OVERHEAD_MS + borders - surplus, abs=0.005)
        assert result.verification.mape_pct < 0.1
        assert result.verification.within_5_pct == 100
        assert result.verification.kendall_tau > 0.99

    def test_networks_are_known_well_with_noise_too(self, device, mini_space, out):
        result = profile(mini_space, TARGET, out, networks=12)
        assert result.verification.mape_pct < 1
        assert result.verification.ceiling_mape_pct < 1
        assert result.verification.kendall_tau > 0.9

    def test_energy_is_written_down_where_the_device_counts_it(self, device, mini_space, out, monkeypatch):
        monkeypatch.setattr("lgc.profiler.filling.watcher", lambda target: FakeWatcher(device.clock))
        result = profile(mini_space, TARGET, out, **QUICK)
        assert result.remarks == []
        for key, energy, latency in rows(out, "key, energy_mj, latency_ms", "subjects"):
            if key.startswith(NETWORK):
                assert energy == pytest.approx(30 * latency / 1000, rel=0.02)
            else:
                assert energy is None
        samples = rows(out, "session, at_unix_s, sample", "health")
        assert len(samples) > 1
        assert {session for session, _, _ in samples} == {1}

    def test_what_slowed_the_device_down_is_told(self, device, mini_space, out, monkeypatch):
        reasons = ("thermal slowdown", "idle")
        monkeypatch.setattr("lgc.profiler.filling.watcher", lambda target: FakeWatcher(device.clock, reasons))
        first, second = (profile(mini_space, TARGET, out, networks=count) for count in (0, 4))
        samples = len(rows(out, "session, at_unix_s", "health"))
        assert len(first.remarks) == len(second.remarks) == 1
        assert second.remarks[0] == (
            f"the GPU ran slower than it could for {samples} of {samples} samples: thermal slowdown"
        )
        assert profile(mini_space, TARGET, out, networks=4).remarks == []

    def test_visits_that_were_left_out_are_told(self, device, mini_space, out):
        """In the last third each run is slowed by a factor of its own."""
        device.speed = lambda now: 1 + 3 * device.random.random() * (2000 < device.runs.total() < 3000)
        device.noise = 0.0
        result = profile(mini_space, TARGET, out, networks=0)
        with LatencyTable.open(out) as table:
            found = table.measurement()
        share = found.disproved / len(found.visits) * 100
        assert 5 < share < 50
        assert result.remarks == [
            f"{share:.0f} % of the visits were left out: the machine slowed some subjects, not others"
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
        return Health(self.clock.now, power_w=0.03, throttle=self.throttle)

    def energy_mj(self):
        return 30 * self.clock.now


class TestStopping:
    def test_each_kind_of_subject_is_visited_at_its_pace(self, device, mini_space, out):
        profile(mini_space, TARGET, out, networks=4)
        runs = {key: {len(d.split(",")) for (d,) in rows_of(out, key)} for key in statuses(out)}
        for key, each in runs.items():
            assert each == {1} or key.startswith(NETWORK), "one run a visit: the caches are cold"
            visits = len(rows_of(out, key))
            least = CPU_NETWORK.least if key.startswith(NETWORK) else CPU_PROBE.least
            assert least <= visits
        networks = [len(rows_of(out, key)) for key in runs if key.startswith(NETWORK)]
        probes = [len(rows_of(out, key)) for key in runs if not key.startswith(NETWORK)]
        assert max(networks) < min(probes) / 4, "they join in every eighth round"
        assert all(min(runs[key]) >= 3 for key in runs if key.startswith(NETWORK))

    def test_a_noisy_subject_is_given_up_and_its_entries_say_why(self, device, mini_space, out):
        name = "probe/add/c4-4/8x8/s1/b1/x1"
        device.places = {name: 0.5}
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy) == (result.entries, 1)
        with LatencyTable.open(out) as table:
            (subject,) = (s for s in table.subjects() if s.status == "noisy")
            entry = table.entry(OpSpec.parse("add/c4-4/8x8/s1/b1"))
        assert subject.key == name
        assert subject.reason.startswith("known to ")
        assert (entry.status, entry.reason) == ("noisy", f"{name}: {subject.reason}")
        assert subject.visits >= CPU_PROBE.most
        assert profile(mini_space, TARGET, out, networks=0).noisy == 1
        assert set(rows(out, "id, device", "sessions")) == {(1, "cpu")}, "and is not tried again"

    def test_fewer_rounds_are_enough_where_asked_for(self, device, mini_space, out):
        profile(mini_space, TARGET, out, **QUICK)
        counts = Counter(key for (key, *_) in rows(out))
        assert {counts[key] for key in counts if key.startswith(NETWORK)} <= {6, 7}
        assert all(count <= 6 * CPU_NETWORK.period + 8 for count in counts.values())


def rows_of(path, key):
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT durations_ms FROM visits WHERE subject = ?", (key,)).fetchall()
    connection.close()
    return found


def interrupt(*_):
    raise KeyboardInterrupt


class Guess:
    """An interpolator that knows nothing but a number."""

    def __init__(self, latencies_ms, cis_ms):
        assert latencies_ms.keys() == cis_ms.keys()
        self.latency_ms, self.error_pct, self.known = 7.0, 20.0, latencies_ms

    def __call__(self, spec):
        assert spec not in self.known
        if spec.operator == "argmax":
            raise MissingEntryError("no other argmax")
        return self


@pytest.fixture
def company(monkeypatch):
    """Fewer subjects in a round than the mini space has, so that a call need not take all of them along."""
    for module in ("filling", "rounds"):
        monkeypatch.setattr(f"lgc.profiler.{module}.COMPANY", SENTINELS)


class TestGoingOn:
    """What one call left unfinished the next goes on with."""

    @pytest.fixture(autouse=True)
    def _fewer_visits(self, monkeypatch):
        """Nothing here depends on how well things are known."""
        for name in ("CPU_PROBE", "CPU_NETWORK"):
            pace = getattr(stopping, name)
            monkeypatch.setattr(stopping, name, replace(pace, least=pace.least // 2, most=pace.most // 2, reload=8))

    @pytest.mark.parametrize("runs", [50, 700, 1200])
    def test_a_crash_loses_no_more_than_the_last_second(self, device, mini_space, out, runs):
        """And what was committed is not measured again."""
        made = []

        def crash(name):
            made.append(device.clock.now)
            if len(made) > runs:
                raise KeyboardInterrupt

        device.pace, device.on_run = 40.0, crash
        with pytest.raises(KeyboardInterrupt):
            profile(mini_space, TARGET, out, networks=0)
        before = rows(out)
        longest_s = np.diff(made).max()
        assert 0 < len(made) - len(before) <= sum(at > device.clock.now - COMMIT_S - longest_s for at in made)
        assert len(before) > len(made) / 2 or runs == 50
        assert set(statuses(out).values()) == {"pending"}
        assert {session for _, session in rows(out, "key, session", "subjects")} == {None}, "given back"
        device.on_run = lambda name: None
        result = profile(mini_space, TARGET, out, networks=0)
        assert set(before) <= set(rows(out))
        assert result.measured == result.entries
        counts = Counter(key for key, *_ in rows(out))
        assert max(counts.values()) < 1.5 * stopping.CPU_PROBE.least

    @pytest.mark.parametrize("step", ["settle", "_derive", "write_note"])
    def test_a_call_killed_after_the_last_visit_is_gone_on_with(self, device, mini_space, out, monkeypatch, step):
        """Wherever it was between its last visit and its end: nothing has to be measured, or even compiled, again."""
        with monkeypatch.context() as patched:
            patched.setattr(LatencyTable, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=4)
        before, compiled = rows(out), list(device.compiled)
        with LatencyTable.open(out) as table:
            assert table.note(SETTLED) is None
        result = profile(mini_space, TARGET, out, networks=4)
        assert result.measured == result.entries
        assert result.verification.networks == 4
        assert rows(out) == before
        assert device.compiled == compiled
        with LatencyTable.open(out) as table:
            assert table.correction("dense").networks == 4
            assert table.note(SETTLED)

    @pytest.mark.parametrize("step", ["settle", "_derive"])
    def test_a_killed_call_leaves_no_stale_verification(self, device, mini_space, out, monkeypatch, step):
        """It was to measure what the call before had only estimated when it calibrated the table."""
        monkeypatch.setattr("lgc.lut.interpolation.Interpolator", Guess)
        device.refused = []
        profile(mini_space, TARGET, out, networks=4)
        with LatencyTable.open(out) as table, table.store.writing() as connection:
            connection.execute("UPDATE subjects SET status = 'pending', latency_ms = NULL WHERE key LIKE '%add/%'")
            connection.execute("DELETE FROM visits WHERE subject LIKE '%add/%'")
            connection.execute("UPDATE entries SET status = 'interpolated', latency_ms = 9.0 WHERE key LIKE 'add/%'")
        with LatencyTable.open(out) as table:
            stale = calibrate(table)
        with monkeypatch.context() as patched:
            patched.setattr(LatencyTable, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=4)
        result = profile(mini_space, TARGET, out, networks=4)
        assert (result.measured, result.interpolated) == (result.entries, 0)
        assert result.verification != stale
        with LatencyTable.open(out) as table:
            assert calibrate(table) == result.verification

    def test_visits_of_an_earlier_call_allow_verdicts_without_compiling(self, device, mini_space, out, monkeypatch):
        """It was killed when it wanted to write its first verdicts down."""
        with monkeypatch.context() as patched:
            patched.setattr(Recorder, "finish", interrupt)
            with pytest.raises(KeyboardInterrupt):
                profile(mini_space, TARGET, out, networks=0)
        before = rows(out)
        counts = Counter(key for key, *_ in before)
        assert stopping.CPU_PROBE.least <= min(counts.values()) == max(counts.values()) < 1.2 * stopping.CPU_PROBE.least
        assert set(counts) == set(statuses(out))
        assert set(statuses(out).values()) == {"pending"}
        device.compiled.clear()
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy) == (result.entries, 0)
        assert device.compiled == []
        assert rows(out) == before

    def test_a_budget_that_ends_the_measuring_leaves_what_there_is(self, device, mini_space, out):
        device.pace = 200.0
        first = profile(mini_space, TARGET, out, networks=0, budget_s=18.0)
        assert 18.0 < device.clock.now - 1000.0 < 18.4
        assert (first.measured, first.noisy, first.pending) == (first.entries, first.entries, 0)
        with LatencyTable.open(out) as table:
            assert {subject.reason for subject in table.subjects()} == {UNFINISHED}
            assert {subject.status for subject in table.subjects()} == {"noisy"}
        before, built = rows(out), list(device.built)
        second = profile(mini_space, TARGET, out, networks=0)
        assert (second.measured, second.noisy) == (second.entries, 0)
        assert set(before) < set(rows(out))
        assert device.built == built * 2
        assert max(Counter(key for key, *_ in rows(out)).values()) < 1.5 * stopping.CPU_PROBE.least

    def test_a_budget_that_ends_the_compiling_leaves_the_rest_for_another_call(self, device, mini_space, out, company):
        """Carriers come first, then operators: what is measured makes whole entries."""
        device.compile_s = 1.0
        first = profile(mini_space, TARGET, out, networks=4, budget_s=40.0)
        built = list(device.built)
        assert len(built) == 25
        assert Counter(statuses(out).values()) == {"measured": 25, "pending": len(statuses(out)) - 25}
        assert 0 < first.measured < first.entries
        assert first.measured + first.interpolated + first.pending == first.entries
        device.built.clear()
        second = profile(mini_space, TARGET, out, networks=4)
        assert (second.measured, second.pending, second.interpolated) == (second.entries, 0, 0)
        assert second.verification.networks == 4
        again = set(built) & set(device.built)
        assert SENTINELS / 2 <= len(again) <= 2 * SENTINELS, "only what ties the two calls is measured twice"
        assert len(device.built) == len(statuses(out)) - 25 + len(again)

    def test_what_is_left_is_estimated_until_it_is_measured(self, device, mini_space, out, monkeypatch):
        monkeypatch.setattr("lgc.lut.interpolation.Interpolator", Guess)
        device.compile_s = 1.0
        first = profile(mini_space, TARGET, out, networks=0, budget_s=40.0)
        assert min(first.measured, first.interpolated, first.pending) > 0
        assert first.measured + first.interpolated + first.pending == first.entries
        with LatencyTable.open(out) as table:
            for entry in table.entries():
                if entry.status == "interpolated":
                    assert (entry.latency_ms, entry.ci_ms) == (7.0, 7.0 * 20.0 / 100 * MEDIAN_TO_95)
                    assert "20 %" in entry.reason
                elif entry.status == "pending":
                    assert entry.key.startswith("argmax")
        second = profile(mini_space, TARGET, out, networks=0)
        assert (second.measured, second.interpolated) == (second.entries, 0)
        assert all(latency < 7.0 for latency in latencies(out).values())

    def test_many_small_budgets_come_to_an_end(self, device, mini_space, out):
        device.compile_s = 1.0
        for _ in range(20):
            result = profile(mini_space, TARGET, out, networks=4, budget_s=30.0)
            if result.verification is not None and result.interpolated == 0:
                break
        assert (result.measured, result.failed) == (result.entries, {})
        assert set(statuses(out).values()) == {"measured"}

    def test_a_budget_too_small_for_anything_is_refused(self, device, mini_space, out):
        device.compile_s = 3.0
        with pytest.raises(UsageError, match=r"the budget of 2 s was used up by compiling 1 of \d+ graphs") as refused:
            profile(mini_space, TARGET, out, networks=0, budget_s=2.0)
        assert refused.value.exit_code == 2
        assert set(statuses(out).values()) == {"pending"}
        device.compile_s = 0.01
        result = profile(mini_space, TARGET, out, networks=0)
        assert result.measured == result.entries

    def test_a_budget_that_is_over_after_the_share_is_no_refusal(self, device, mini_space, out):
        """A process beside others takes on its own part first; where that took all the time, it is done."""
        device.compile_s = 1.0
        device.pace = 20.0
        result = profile(mini_space, TARGET, out, networks=0, share=0.5, budget_s=36.0)
        assert 0 < result.measured < result.entries

    def test_a_budget_that_is_over_before_anything_began_is_refused(self, device, mini_space, out, monkeypatch):
        """Say while torch was imported."""

        def slow(*arguments):
            device.clock.now += 5.0
            return register(*arguments)

        monkeypatch.setattr("lgc.profiler.profile.register", slow)
        with pytest.raises(UsageError, match=r"the budget of 0 s was used up by compiling 0 of \d+ graphs"):
            profile(mini_space, TARGET, out, networks=0, budget_s=2.0)

    def test_compiling_for_long_is_no_sign_of_death(self, device, mini_space, out):
        """Other processes go by when a session was last seen."""
        silences = []

        def look(progress):
            ((seen, _),) = rows(out, "seen_unix_s, id", "sessions")
            silences.append(device.clock.now - seen)

        device.compile_s = 10.0
        profile(mini_space, TARGET, out, **NO_NETWORKS, on_progress=look)
        assert len(silences) > 30
        assert max(silences) <= AWAKE_S + device.compile_s

    def test_networks_are_added_to_a_table(self, device, mini_space, out, company):
        profile(mini_space, TARGET, out, networks=0)
        before, built = rows(out), list(device.built)
        device.built.clear()
        result = profile(mini_space, TARGET, out, networks=5)
        assert set(before) < set(rows(out))
        assert result.verification.networks == 5
        again = [name for name in device.built if name != "mini network"]
        assert device.built.count("mini network") == 5 + 4, "fewer in scope core"
        assert set(again) < set(built)
        assert SENTINELS <= len(again) <= 2 * SENTINELS

    def test_a_refused_operator_is_reported_and_mended_by_the_next_call(self, device, mini_space, out, company):
        key = "add/c4-4/8x8/s1/b1"
        device.refused = [f"probe/{key}"]
        result = profile(mini_space, TARGET, out, **QUICK)
        assert result.failed == {key: f"refused: probe/{key}/x1"}
        assert (result.measured, result.verification) == (result.entries - 1, None)
        device.refused = []
        device.built.clear()
        result = profile(mini_space, TARGET, out, **QUICK)
        assert (result.failed, result.measured) == ({}, result.entries)
        assert f"probe/{key}/x1" in device.built
        assert len(device.built) <= 1 + 2 * SENTINELS
        assert result.verification.networks == 4

    def test_what_fails_after_all_else_was_settled_is_told(self, device, mini_space, out):
        """The first call had no time for it, the second is refused: nothing but that is new."""
        device.compile_s = 1.0
        profile(mini_space, TARGET, out, networks=0, budget_s=40.0)
        left = [key for key, status in statuses(out).items() if status == "pending"]
        device.refused = left
        result = profile(mini_space, TARGET, out, networks=0)
        assert len(result.failed) == len(left) > 0
        assert result.pending == 0

    def test_a_refused_carrier_fails_all_entries_that_need_it(self, device, mini_space, out):
        device.refused = ["carrier/c4/8x8/x1"]
        result = profile(mini_space, TARGET, out, **NO_NETWORKS)
        with LatencyTable.open(out) as table:
            needing = {str(spec) for spec in mini_space.specs() if "carrier/c4/8x8/x1" in table.terms(spec)}
        assert set(result.failed) == needing != set()
        assert set(result.failed.values()) == {"refused: carrier/c4/8x8/x1"}

    def test_a_refused_network_is_left_out_of_the_verification(self, device, mini_space, out):
        device.refused = ["mini network"]
        result = profile(mini_space, TARGET, out, **QUICK)
        assert (result.measured, result.verification) == (result.entries, None)
        assert set(result.failed.values()) == {"refused: mini network"}
        assert {status for key, status in statuses(out).items() if key.startswith(NETWORK)} == {"failed"}

    def test_everything_refused_is_told_as_that(self, device, mini_space, out):
        device.refused = ["probe", "carrier", "mini"]
        result = profile(mini_space, TARGET, out, networks=0, budget_s=100.0)
        assert len(result.failed) == result.entries


class TestSessions:
    """Several calls, or several processes, at several speeds."""

    @pytest.mark.parametrize(("pace", "budget_s"), [(0.6, None), (0.6, 7.0), (1.5, 34.0)])
    def test_calls_at_different_speeds_are_tied_by_what_both_measured(self, device, mini_space, out, pace, budget_s):
        """An entry is a difference of subjects: measured at two speeds and untied, it would be far off."""
        device.compile_s = 1.0
        profile(mini_space, TARGET, out, networks=0, budget_s=budget_s or 34.0)
        assert "pending" in statuses(out).values()
        device.pace, device.compile_s = pace, 1.0 if budget_s else 0.01
        calls = 0
        while "pending" in statuses(out).values() and calls < 20:
            calls += 1
            profile(mini_space, TARGET, out, networks=0, budget_s=budget_s)
        assert set(statuses(out).values()) == {"measured"}
        assert len(rows(out, "id, device", "sessions")) > 1
        wanted = {key: ms for key, ms in truth(out).items() if "argmax" not in key}
        ratios = relative(latencies(out), wanted)
        assert max(ratios.values()) - min(ratios.values()) < 0.06

    def test_two_processes_fill_a_table_without_measuring_the_same(self, device, mini_space, out, monkeypatch, company):
        """The second one starts in the middle of the first, on a device that is slower."""
        alive = set()
        monkeypatch.setattr(recorder, "_running", lambda pid, seen: pid in alive and pid != recorder.os.getpid())
        built = {}

        def start(pid, share):
            with monkeypatch.context() as patched:
                patched.setattr(recorder.os, "getpid", lambda: pid)
                alive.add(pid)
                device.built = built[pid] = []
                result = profile(mini_space, TARGET, out, networks=0, share=share)
                alive.discard(pid)
            return result

        def interject(name):
            if "second" not in results and device.runs.total() > 500:
                results["second"] = None
                device.pace = 1.5
                results["second"] = start(102, 1.0)
                device.pace, device.built = 1.0, built[101]

        results = {}
        device.compile_s, device.pace, device.on_run = 0.1, 1.0, interject
        results["first"] = start(101, 0.5)
        assert results["first"].measured == results["first"].entries
        shared = set(built[101]) & set(built[102])
        assert 0 < len(shared) <= 2 * SENTINELS
        assert set(built[101]) | set(built[102]) == set(statuses(out))
        assert len(built[101]) + len(built[102]) == len(statuses(out)) + len(shared)
        wanted = {key: ms for key, ms in truth(out).items() if "argmax" not in key}
        ratios = relative(latencies(out), wanted)
        assert max(ratios.values()) - min(ratios.values()) < 0.06

    def test_what_another_process_has_taken_on_is_left_to_it(self, device, mini_space, out, monkeypatch):
        profile(mini_space, TARGET, out, networks=0, budget_s=0.5)
        with LatencyTable.open(out) as table, monkeypatch.context() as patched:
            patched.setattr(recorder.os, "getpid", lambda: 101)
            patched.setattr(recorder, "_running", lambda pid, seen: pid == 101)
            taken = Recorder(table, "cpu", {}).claim(0.5)
            patched.setattr(recorder.os, "getpid", lambda: 102)
            device.compiled.clear()
            profile(mini_space, TARGET, out, networks=0)
        measured = {key for key, status in statuses(out).items() if status == "measured"}
        assert taken
        assert not measured & set(taken)
        assert measured | set(taken) == set(statuses(out))
        monkeypatch.setattr(recorder, "_running", lambda pid, seen: False)
        result = profile(mini_space, TARGET, out, networks=0)
        assert (result.measured, result.noisy) == (result.entries, 0), "and taken over when it is dead"


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
        assert {key for key in statuses(out) if key.startswith(NETWORK)} == drawn
        with LatencyTable.open(out) as table:
            assert [table.correction(scope).networks for scope in ("dense", "core")] == [count, core]

    def test_no_networks_leave_the_table_uncalibrated(self, device, mini_space, out):
        result = profile(mini_space, TARGET, out, **NO_NETWORKS)
        assert result.verification is None
        with LatencyTable.open(out) as table:
            assert table.networks() == []
            assert table.note("calibration") is None
            assert not Predictor(mini_space, table).calibrated
            assert calibrate(table) is None

    @pytest.mark.parametrize("form", FORMS)
    def test_a_form_can_be_asked_for(self, device, simulated_table, tmp_path, form):
        path = tmp_path / "t.lut"
        path.write_bytes(simulated_table.read_bytes())
        with LatencyTable.open(path) as table:
            before = list(table.entries())
            found = calibrate(table, form)
            assert {table.correction(scope).form for scope in SCOPES} == {form}
            assert table.note("verification")["dense"] == found.as_dict()
            assert table.entries() == before
            assert [table.correction(scope).networks for scope in ("dense", "core")] == [8, 4]
            assert table.correction("core").weights == table.correction("dense").weights


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"networks": 3}, "3 networks are too few to calibrate with: at least 4, or 0 for none"),
        ({"networks": -1}, "-1 networks are too few"),
        ({"rounds": 3}, "3 rounds are too few for a statistic: at least 4"),
        ({"rounds": 0}, "0 rounds are too few"),
        ({"context": "vacuum"}, "no context 'vacuum': carriers or isolated"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_a_file_is_made(device, mini_space, out, options, complaint):
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
        self.refused(mini_space.with_input(64, 64), table, r"space mini 32x32 .* not mini 64x64")

    def test_machine(self, table, mini_space):
        complaint = r"was measured on Z80, this is .*lgc-profile and another --out"
        self.refused(mini_space, table, complaint, "'$.device_name', 'Z80'")

    def test_version(self, table, mini_space):
        complaint = r"was measured with simulated 0, here is simulated 1: go on with those versions, or name another"
        self.refused(mini_space, table, complaint, "'$.versions.simulated', '0'")

    def test_context(self, table, mini_space):
        self.refused(mini_space, table, "was measured in context carriers, not isolated", context="isolated")
        assert profile(mini_space, TARGET, table, networks=8, context="carriers").pending == 0
