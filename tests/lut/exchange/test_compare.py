"""Comparison of tables: changes, noise and drift."""

import sqlite3
from statistics import NormalDist

import numpy as np
import pytest

from lgc.errors import FileFormatError, MismatchError
from lgc.lut import LatencyTable, Target
from lgc.lut.exchange.compare import compare_tables, median_network_ms
from lgc.models import SearchSpace
from lgc.profiler.timing.contexts import PROTOCOL


def some_entry(table):
    return next(entry.key for entry in table.entries() if entry.key.startswith("sep_conv"))


def test_table_equals_itself(carried):
    table = carried(networks=4)
    found = compare_tables(table, table)
    assert (found.drift_pct, found.scatter, found.moved, found.differences) == (0.0, 0.0, [], ())
    assert (found.only_a, found.only_b) == ((), ())
    assert len(found.changes) == len(table.entries())
    assert {change.change_pct for change in found.changes} == {0.0}


def test_machine_drift_is_no_change(carried):
    found = compare_tables(carried("a.lut"), carried("b.lut", speed=1.3, seed=1))
    assert found.drift_pct == pytest.approx(30, abs=0.5)
    assert found.sentinels.endswith(" carriers")
    assert found.select_beyond(1.0, 0.0) == []
    assert found.quantile_pct(1.0, 0.0) < 5


def test_only_the_changed_entry_is_significant(carried):
    a = carried("a.lut")
    key = some_entry(a)
    found = compare_tables(a, carried("b.lut", changed={key: 1.2}, speed=0.8, seed=1))
    (change,) = found.select_beyond(5.0, 0.0)
    assert change.key == key == found.changes[0].key
    assert change.change_pct == pytest.approx(20, abs=3)
    assert change.low_pct < 20 < change.high_pct
    assert found.select_beyond(25.0, 0.0) == []


def test_differences_between_runs_are_noise(carried):
    """Shift each benchmark by 2 %, and so entries, which are differences, by more: 95 % of pairs show no change."""
    flagged = 0
    for seed in range(12):
        found = compare_tables(
            carried(f"a{seed}.lut", seed=seed, jitter=0.02), carried(f"b{seed}.lut", seed=99 - seed, jitter=0.02)
        )
        assert found.quantile_pct(1.0, 0.0) > 5
        assert 0.01 < found.scatter < 0.06
        flagged += bool(found.select_beyond(5.0, 0.0))
    assert flagged <= 1


def test_change_beyond_noise_is_significant(carried):
    a = carried("a.lut", jitter=0.01)
    key = some_entry(a)
    (change,) = compare_tables(a, carried("b.lut", seed=1, jitter=0.01, changed={key: 2.0})).select_beyond(5.0, 0.0)
    assert change.key == key


def test_interval_matches_the_formula(make_table, mini_space):
    """Isolated tables share no carrier: the entries give the speed, and the scatter is unknown."""
    a, b = make_table(mini_space, "a.lut", seed=0), make_table(mini_space, "b.lut", seed=1)
    found = compare_tables(a, b)
    in_a, in_b = ({entry.key: entry for entry in table.entries()} for table in (a, b))
    speed = np.median([in_b[key].latency_ms / in_a[key].latency_ms for key in in_a])
    assert (found.scatter, found.sentinels) == (None, f"{len(in_a)} entries")
    assert found.speed == pytest.approx(speed)
    z = NormalDist().inv_cdf(1 - 0.025 / len(in_a))
    for change in found.changes:
        one, two = in_a[change.key], in_b[change.key]
        assert (change.a_ms, change.b_ms) == (one.latency_ms, two.latency_ms)
        assert change.change_pct == pytest.approx((two.latency_ms / speed / one.latency_ms - 1) * 100)
        half = z / 1.96 * np.hypot(one.ci_ms, two.ci_ms / speed) / one.latency_ms * 100
        assert change.high_pct - change.change_pct == pytest.approx(half)
        assert change.change_pct - change.low_pct == pytest.approx(half)
        assert change.beyond_noise == (abs(change.change_pct) > half)
    assert [abs(change.change_pct) for change in found.changes] == sorted(
        (abs(change.change_pct) for change in found.changes), reverse=True
    )


def test_shares_refer_to_the_median_network(carried):
    a, b = carried("a.lut", networks=5), carried("b.lut", seed=1)
    dense = [s.latency_ms for s, _, scope in a.networks() if scope == "dense"]
    assert median_network_ms(a) == np.median(dense)
    assert median_network_ms(b) is None
    found = compare_tables(a, b)
    for change in found.changes:
        assert change.share_pct == pytest.approx(change.a_ms / np.median(dense) * 100)
    least = np.median([change.share_pct for change in found.changes])
    assert 0 < sum(change.is_relevant(least) for change in found.changes) < len(found.changes)
    assert all(change.is_relevant(1e9) for change in compare_tables(b, a).changes), "without shares all are relevant"


def test_entries_below_the_minimum_share_are_ignored(carried):
    a = carried("a.lut", networks=5)
    key = some_entry(a)
    found = compare_tables(a, carried("b.lut", changed={key: 1.5}, seed=1))
    share = next(change.share_pct for change in found.changes if change.key == key)
    assert [change.key for change in found.select_beyond(5.0, share * 0.99)] == [key]
    assert found.select_beyond(5.0, share * 1.01) == []
    assert found.quantile_pct(1.0, share * 1e3) is None
    assert found.noise_pct(share * 1e3) is None


def test_only_measured_entries_are_compared(carried):
    a, b = carried("a.lut"), carried("b.lut", seed=1)
    first, second = (entry.key for entry in a.entries()[:2])
    with b.store.transaction() as connection:
        connection.execute("UPDATE entries SET status = 'interpolated' WHERE key = ?", (first,))
        connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL WHERE key = ?", (second,))
    found = compare_tables(a, b)
    assert found.only_a == (first, second)
    assert found.only_b == ()
    assert not {first, second} & {change.key for change in found.changes}
    assert compare_tables(b, a).only_b == (first, second)


def test_match_keeps_all_sentinels(carried):
    a, b = carried("a.lut"), carried("b.lut", speed=2.0, seed=1)
    whole, narrow = compare_tables(a, b), compare_tables(a, b, "sep_conv")
    assert narrow.speed == whole.speed
    assert {change.key for change in narrow.changes} == {c.key for c in whole.changes if "sep_conv" in c.key}
    assert compare_tables(a, b, "nothing").changes == ()
    assert compare_tables(a, b, "nothing").quantile_pct(0.5, 0.0) is None


def test_other_devices_and_versions_are_listed(carried):
    a = carried("a.lut")
    other = {"device_name": "another machine", "versions": {"onnxruntime": "2.0"}}
    b = carried("b.lut", target=Target("cuda:0", "torch", "fp16"), environment=other)
    differences = compare_tables(a, b).differences
    assert "device cpu, not cuda:0" in differences
    assert "precision fp32, not fp16" in differences
    assert "device test machine, not another machine" in differences
    assert "versions onnxruntime 1.0, not onnxruntime 2.0" in differences


@pytest.mark.parametrize(("context", "differs"), [("carriers", True), ("isolated", False)])
def test_protocols_differ_where_entries_depend_on_them(carried, context, differs):
    """Without carriers, entries are the same in both."""
    a, b = carried("a.lut"), carried("b.lut")
    a.protocol, b.protocol = ({"name": name, "context": context} for name in ("interleaved-rounds", PROTOCOL))
    text = "context carriers of interleaved-rounds, not carriers of interleaved-rounds-2"
    assert (text in compare_tables(a, b).differences) == differs


def test_other_spaces_compare_their_common_entries(carried, micro_space):
    a, b = carried("a.lut"), carried("b.lut", space=micro_space)
    found = compare_tables(a, b)
    assert found.changes
    assert any(
        text.startswith("space mini 32x32, 3 classes, geometry 1 (") and "not micro 32x32" in text
        for text in found.differences
    )


def test_disjoint_tables_are_rejected(carried, tmp_path):
    tiny = SearchSpace.load("tiny")
    b = LatencyTable.create(tmp_path / "b.lut", Target("cpu", "torch"), tiny, {}, {})
    with pytest.raises(MismatchError, match=r"t\.lut and .*b\.lut have no measured entry in common"):
        compare_tables(carried(), b)


def test_unknown_interval_is_not_significant(carried):
    a, b = carried("a.lut"), carried("b.lut")
    with b.store.transaction() as connection:
        connection.execute("UPDATE entries SET ci_ms = NULL, latency_ms = 2 * latency_ms")
    found = compare_tables(a, b)
    assert found.moved == []
    assert {(change.low_pct, change.high_pct) for change in found.changes} == {(None, None)}
    assert found.noise_pct(0.0) is None
    assert found.quantile_pct(0.5, 0.0) == pytest.approx(100)


def test_reverse_comparison_is_consistent(carried):
    a, b = carried("a.lut"), carried("b.lut", seed=1, speed=1.5)
    there, back = compare_tables(a, b), compare_tables(b, a)
    assert there.speed * back.speed == pytest.approx(1)
    assert there.scatter == pytest.approx(back.scatter)


@pytest.mark.parametrize("latency", ["-1.0", "0.0", "9e999", "-9e999"])
def test_invalid_latency_is_rejected(carried, tmp_path, latency):
    """The schema forbids such values; a table without its checks is rejected too."""
    path = carried().path
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(f"UPDATE entries SET latency_ms = {latency} WHERE rowid = 1")
    connection.close()
    with pytest.raises(FileFormatError, match="is a damaged latency table"):
        LatencyTable.open(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (latency_ms > 0 AND latency_ms < 1e9)', '')"
        )
    connection.close()
    with (
        LatencyTable.open(path) as a,
        LatencyTable.open(path) as b,
        pytest.raises(FileFormatError, match="has latency"),
    ):
        compare_tables(a, b)
