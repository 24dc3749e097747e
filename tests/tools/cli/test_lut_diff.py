"""`lgc-lut diff` from the command line."""

import json
import sqlite3

import pytest

from lgc.lut import LatencyTable, Target


def test_prints_json(call, two):
    a, b, key = two
    done = call("lgc-lut", "diff", a, b, "--json")
    assert done.code == 1
    assert done.err == ""
    result = json.loads(done.out)
    assert (result["a"], result["b"]) == (str(a), str(b))
    with LatencyTable.open(a) as table:
        assert result["common"] == len(table.entries())
    assert (result["moved"], result["beyond_threshold"], result["drift_pct"]) == (1, 1, 0.0)
    assert (result["median_change_pct"], result["only_a"], result["only_b"]) == (0.0, [], [])
    assert result["p95_change_pct"] < 50
    first, second = result["entries"][:2]
    assert (first["key"], first["beyond_noise"], first["beyond_threshold"]) == (key, True, True)
    assert first["change_pct"] == pytest.approx(50)
    assert first["low_pct"] < 50 < first["high_pct"]
    assert (second["change_pct"], second["beyond_noise"]) == (0.0, False)


def test_prints_lines(call, two):
    a, b, key = two
    done = call("lgc-lut", "diff", a, b)
    assert done.code == 1
    (line,) = (line for line in done.out.splitlines() if line.startswith(key))
    assert "+50.0 %" in line
    assert "1 changed by more than 5 %, 0 by less" in done.out
    assert "corrected; " in done.out


@pytest.mark.parametrize(("threshold", "code"), [("49%", 1), ("51", 0), ("51%", 0)])
def test_threshold_decides_the_exit_code(call, two, threshold, code):
    a, b, _ = two
    assert call("lgc-lut", "diff", a, b, "--threshold", threshold, "--json").code == code


def test_match_limits_the_threshold(call, two):
    a, b, key = two
    assert call("lgc-lut", "diff", a, b, "--match", key).code == 1
    with LatencyTable.open(a) as table:
        other = table.entries()[0].key
    done = call("lgc-lut", "diff", a, b, "--match", other, "--json")
    assert (done.code, [entry["key"] for entry in json.loads(done.out)["entries"]]) == (0, [other])


def test_table_equals_itself(call, mini_lut):
    done = call("lgc-lut", "diff", mini_lut, mini_lut)
    assert (done.code, done.err) == (0, "")
    assert "0 changed by more than 5 %" in done.out


def test_different_targets_give_a_warning(call, make_table, mini_space):
    a = make_table(mini_space, "a.lut")
    b = make_table(mini_space, "b.lut", target=Target("cuda:0", "torch", "fp16"))
    done = call("lgc-lut", "diff", a.path, b.path, "--json")
    assert done.code == 0
    assert "warning: the tables differ in more than latencies: device cpu, not cuda:0; backend" in done.err
    assert "precision fp32, not fp16" in json.loads(done.out)["differences"]


def test_entries_of_one_table_are_listed(call, two):
    a, b, key = two
    with sqlite3.connect(b) as connection:
        connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL WHERE key = ?", (key,))
    connection.close()
    assert f"only in A: {key}" in call("lgc-lut", "diff", a, b).out
    assert json.loads(call("lgc-lut", "diff", b, a, "--json").out)["only_b"] == [key]


def test_unknown_interval_gives_a_warning(call, two):
    a, b, _ = two
    with sqlite3.connect(b) as connection:
        connection.execute("UPDATE entries SET ci_ms = NULL WHERE rowid = 1")
    connection.close()
    assert "warning: 1 entries have no confidence interval" in call("lgc-lut", "diff", a, b).err


def test_rejects_bad_input(call, two, npy, tmp_path):
    a, b, _ = two
    assert "invalid percentage 'much'" in call("lgc-lut", "diff", a, b, "--threshold", "much").refusal("lgc-lut")
    line = call("lgc-lut", "diff", a, b, "--match", "nothing").refusal("lgc-lut")
    assert line == f"no entry matches --match nothing in {a} and {b}"
    assert "Missing argument 'B.lut'" in call("lgc-lut", "diff", a).refusal("lgc-lut")
    arguments = ("--space", "tiny", "--device", "cuda:0", "--backend", "torch", "--out", tmp_path / "c.lut")
    done = call("lgc-lut", "import", npy, *arguments)
    assert (done.code, "no entry of" in done.err) == (0, True)
    line = call("lgc-lut", "diff", a, tmp_path / "c.lut").refusal("lgc-lut")
    assert "have no measured entry in common" in line
