import shutil
import sqlite3

import pytest

from lgc.errors import MismatchError, MissingEntryError, UsageError
from lgc.lut import LatencyTable, Predictor, Target
from lgc.lut.table.table import network_key
from lgc.models import SearchSpace
from lgc.profiler import verification
from lgc.profiler.profile import profile
from lgc.profiler.verification import sample_unseen, verify

from . import conftest as law

TARGET = Target("cpu", "onnxruntime")


@pytest.fixture
def table(device, simulated_table, tmp_path):
    with LatencyTable.open(shutil.copy(simulated_table, tmp_path / "t.lut")) as table:
        yield table


def test_networks_are_new_distinct_and_the_seeds(table):
    known = {entry.key for entry, _, _ in table.networks()}
    fresh = sample_unseen(table, 10, 0)
    assert len(fresh) == 10
    assert not known & set(fresh)
    assert [network_key(network, "dense") for network in fresh.values()] == list(fresh)
    assert sample_unseen(table, 10, 0) == fresh
    assert sample_unseen(table, 10, 1) != fresh


def test_networks_of_the_table_are_skipped(table, mini_space):
    """Even where the verification draws the very series that the table was made of."""
    for network in mini_space.spread(5, 3 + 1_000_003):
        table.add_network(network, "dense")
    registered = {entry.key for entry, _, _ in table.networks()}
    assert not registered & set(sample_unseen(table, 5, 3))


@pytest.mark.parametrize("widths", [[], [2, 8]], ids=str)
def test_too_few_networks_are_counted_in_error(device, mini_space, tmp_path, widths):
    content = {"operators": ["skip", "sep_conv_3x3"], "nodes": 1, "cells": 1, "reductions": [], "fusion": {"nodes": 1}}
    content = {**mini_space.model_dump(mode="json"), **content, "head_widths": widths}
    space = SearchSpace.check(content, "few")
    profile(space, TARGET, tmp_path / "few.lut", rounds=4, networks=4)
    every = 2**space.edges * len(space.heads)
    with LatencyTable.open(tmp_path / "few.lut") as table:
        left = every - len({network.choices for _, network, _ in table.networks()})
        with pytest.raises(UsageError, match=f"space mini has only {left} networks outside the table"):
            sample_unseen(table, every, 0)


def test_a_true_table_predicts_unseen_networks(table):
    found = verify(table, 6, seed=1)
    assert found.report.networks == 6
    assert found.report.mape_pct < 1
    assert found.report.kendall_tau > 0.8
    assert found.report.split_half_mape_pct < 1
    assert found.drift_pct == pytest.approx(0, abs=1)


def test_each_network_is_told_with_its_prediction(table, mini_space):
    found = verify(table, 4, seed=1)
    assert [one.architecture for one in found.networks] == list(sample_unseen(table, 4, 1).values())
    predictor, factor = Predictor(mini_space, table), 1 + found.drift_pct / 100
    for one in found.networks:
        assert one.predicted_ms == pytest.approx(predictor.predict(one.architecture) * factor)
        assert one.measured_ms == pytest.approx(law.network_ms(one.architecture, "dense"), rel=0.02)
    errors = [abs(one.predicted_ms / one.measured_ms - 1) * 100 for one in found.networks]
    assert found.report.mape_pct == pytest.approx(sum(errors) / 4)


@pytest.mark.parametrize(("error_pct", "covered"), [(1e-9, 0.0), (50.0, 100.0)])
def test_coverage_of_the_interval_is_reported(table, error_pct, covered):
    note = table.metadata("calibration")
    table.set_metadata("calibration", {scope: {**note[scope], "error_pct": error_pct} for scope in note})
    assert verify(table, 4, seed=1).covered_pct == covered


def test_an_uncalibrated_table_has_no_intervals(table):
    table.set_metadata("calibration", {})
    found = verify(table, 4, seed=1)
    assert found.covered_pct is None
    assert found.drift_pct == pytest.approx(0, abs=1)


def test_verifying_changes_nothing(table):
    before = table.path.read_bytes()
    verify(table, 4, seed=1, rounds=4)
    assert table.path.read_bytes() == before


def test_slower_device_shows_as_drift_not_bias(table, device):
    device.pace = 1.25
    found = verify(table, 4, seed=1)
    assert found.drift_pct == pytest.approx(25, abs=1)
    assert found.report.bias_pct == pytest.approx(0, abs=1)
    assert found.report.within_5_pct == 100


def test_wrong_table_has_large_errors(table):
    with sqlite3.connect(table.path) as connection:
        connection.execute("UPDATE entries SET latency_ms = latency_ms * 1.5 WHERE key LIKE 'sep_conv%'")
    connection.close()
    found = verify(table, 6, seed=1)
    assert found.report.mape_pct > 2
    assert found.covered_pct < 100


def test_without_networks_there_is_no_drift(device, mini_space, tmp_path):
    profile(mini_space, TARGET, tmp_path / "bare.lut", rounds=4, networks=0)
    with LatencyTable.open(tmp_path / "bare.lut") as table:
        assert verify(table, 2, seed=0, rounds=4).drift_pct is None


@pytest.mark.parametrize("networks", [1, 0, -1])
def test_fewer_than_two_networks_are_refused(table, networks):
    with pytest.raises(UsageError, match=f"^networks {networks}: at least 2"):
        verify(table, networks, seed=0)


def test_unfinished_table_names_command_to_resume(device, mini_space, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "require_machine", lambda *_: None)
    with (
        LatencyTable.create(tmp_path / "new.lut", TARGET, mini_space, {}, {}) as table,
        pytest.raises(MissingEntryError, match="not measured yet; measure it with: lgc-profile --device cpu"),
    ):
        verify(table, 4, seed=0)
    assert device.compiled == []


def test_a_table_of_another_machine_is_refused(device, mini_space, tmp_path):
    environment = {"device_name": "Z80"}
    with (
        LatencyTable.create(tmp_path / "z80.lut", TARGET, mini_space, {}, environment) as table,
        pytest.raises(MismatchError, match="was measured on Z80, this is "),
    ):
        verify(table, 4, seed=0)


def test_on_the_real_cpu(mini_lut):
    with LatencyTable.open(mini_lut) as table:
        found = verify(table, 3, seed=5, rounds=4)
    assert found.report.networks == 3
    assert 0 <= found.report.mape_pct < 1000
    assert -1 <= found.report.kendall_tau <= 1
    assert found.drift_pct > -100
