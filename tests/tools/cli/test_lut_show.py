"""`lgc-lut show` from the command line: filters, orders and errors."""

import json
import sqlite3

import pytest

from lgc.lut import LatencyTable
from lgc.tools.cli.lut_show import format_drift


def test_filters(call, mini_lut):
    def keys(*arguments):
        return [
            entry["key"] for entry in json.loads(call("lgc-lut", "show", mini_lut, *arguments, "--json").out)["entries"]
        ]

    every = keys()
    assert keys("--operator", "conv_3x3") == [key for key in every if key.startswith("conv_3x3/")]
    assert keys("--resolution", "8x8") == [key for key in every if "/8x8/" in key] != []
    assert keys("--status", "pending") == keys("--status", "pending", "--match", "c4-4") == []
    assert keys("--match", "c4-4", "--resolution", "8x8") == [k for k in every if "/c4-4/8x8/" in k]
    assert keys("--sort", "key") == sorted(every)
    assert sorted(keys("--sort", "latency")) == sorted(keys("--sort", "ci")) == sorted(every)


def test_sort_orders(call, mini_lut):
    def rows(sort):
        return json.loads(call("lgc-lut", "show", mini_lut, "--sort", sort, "--json").out)["entries"]

    latencies = [row["latency_ms"] for row in rows("latency")]
    assert latencies == sorted(latencies, reverse=True)
    widths = [row["ci_ms"] / row["latency_ms"] for row in rows("ci")]
    assert widths == sorted(widths, reverse=True)


def test_prints_intervals_and_calibration(call, mini_lut):
    done = call("lgc-lut", "show", mini_lut)
    assert done.code == 0
    with LatencyTable.open(mini_lut) as table:
        entry = table.entries()[0]
        form = table.correction("dense").form
    assert f"{entry.latency_ms:.4f} ± {entry.ci_ms:.4f}" in done.out
    assert f"calibration, dense, form {form}: latency = " in done.out
    assert "90 % interval ±" in done.out


def test_subjects_lists_benchmarks(call, mini_lut):
    def subjects(*arguments):
        return json.loads(call("lgc-lut", "show", mini_lut, "--subjects", *arguments, "--json").out)["subjects"]

    every = subjects()
    assert {subject["kind"] for subject in every} == {"carrier", "operator", "network"}
    assert {"visits", "ci_ms", "spread_pct", "samples", "energy_mj"} <= set(every[0])
    chosen = subjects("--operator", "sep_conv_3x3", "--resolution", "8x8")
    assert {subject["kind"] for subject in chosen} == {"carrier", "operator"}
    assert all("8x8" in s["key"] or "/4x4/" in s["key"] for s in chosen)
    text = call("lgc-lut", "show", mini_lut, "--subjects").out
    assert "probe/" in text
    assert "carrier/" in text
    assert "network/dense/" in text


def test_rejects_bad_input(call, mini_lut):
    for arguments, reason in (
        (("--operator", "conv_3x4"), "unknown operator 'conv_3x4' (did you mean 'conv_3x3'?)"),
        (("--status", "done"), "'done' is not one of 'pending'"),
        (("--sort", "size"), "'size' is not one of 'key'"),
        (("--resolution", "8"), "invalid size '8'"),
        (("--match", "nothing"), "no entry matches --match nothing in"),
        (("--match", "sep_conv", "--resolution", "7x9"), "no entry matches --match sep_conv --resolution 7x9 in"),
        (("--match", "nothing", "--status", "pending"), "no entry matches --match nothing in"),
        (("--match", "nothing", "--subjects"), "no benchmark matches --match nothing in"),
    ):
        assert reason in call("lgc-lut", "show", mini_lut, *arguments).refusal("lgc-lut")


def test_damaged_verification_is_rejected(call, mini_lut):
    for key in ("verification", "calibration"):
        with sqlite3.connect(mini_lut) as connection:
            connection.execute('UPDATE meta SET value = \'{"dense": {"x": 1}}\' WHERE key = ?', (key,))
        connection.close()
        line = call("lgc-lut", "show", mini_lut).refusal("lgc-lut")
        assert f"mini.lut is a damaged latency table: its {key} fails at" in line


@pytest.mark.parametrize(
    ("drift_pct", "text"),
    [(12.3, " 12.3 % slower "), (-12.3, " 12.3 % faster "), (138.6, " 2.4x slower "), (-60.0, " 2.5x faster ")],
)
def test_large_drift_is_a_factor(drift_pct, text):
    assert text in format_drift(drift_pct)
