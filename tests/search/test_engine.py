"""Whole searches: their files, targets, resumption and fronts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgc.lut import Correction, LatencyTable, Predictor
from lgc.models import Architecture
from lgc.search import engine
from lgc.search.config import SearchConfig
from lgc.search.constraint.exploration import draw_paths
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from .runs import (
    KilledError,
    change,
    find_target,
    kill_at,
    load_checkpoint,
    read_log,
    require_equal_runs,
    require_equal_tensors,
)

CALIBRATED = Correction("affine", 0.1, (1.2,), error_pct=4.0, networks=9)


def test_search_writes_a_run_folder(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    result = search(street, scenes, out, short)
    architecture, log = Architecture.load(out / "architecture.json"), read_log(out)
    names = {"architecture.json", "provenance.json", "search-result.json", "search.ckpt", "search.json", "search.jsonl"}
    assert {path.name for path in out.iterdir()} == names | {"tables", "tensorboard"}
    assert result.architecture == out / "architecture.json"
    assert result.predicted_ms == pytest.approx(street.predict(architecture)) == result.predicted_ms
    assert (result.target_ms, result.steps) == (None, 6)
    assert (result.fastest_ms, result.slowest_ms) == (find_target(street, 0), find_target(street, 1))
    assert (result.predicted_low_ms, result.predicted_high_ms) == (None, None)
    assert result.head_channels == street.space.heads[architecture.choices[-1]]
    assert result.operators == {
        name: [street.space.operators[choice] for choice in architecture.choices[:-1]].count(name)
        for name in street.space.operators
    }
    assert result.gap == pytest.approx(result.loss_likeliest - result.loss_before)
    assert result.loss_after <= result.loss_likeliest
    assert 0.5 < result.loss_after < 10
    assert result.tried <= short.finalists
    assert architecture.provenance["predicted_ms"] == result.predicted_ms
    assert architecture.provenance["table"] == str(street.table_path)
    assert json.loads((out / "search-result.json").read_text()) == result.as_dict()
    assert [record["step"] for record in log] == list(range(short.steps))
    assert ["arch_loss" in record for record in log] == [False, False, True, True, True, True]


def test_tensorboard_shows_the_search(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "run", short)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "search"))
    events.Reload()
    log = read_log(tmp_path / "run")
    blocks = len(street.space.plan.searched_cells)
    for name in ("weight_loss", "arch_loss", "temperature", "miou"):
        rows = [(event.step, event.value) for event in events.Scalars(name)]
        assert rows == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in log if name in r], name
        assert rows
    for index in range(blocks):
        rows = [event.value for event in events.Scalars(f"entropy/{index:02d}")]
        assert rows == pytest.approx([record["entropy"][index] for record in log], rel=1e-6)
    rows = [event.value for event in events.Scalars("expected_ms/00")]
    assert rows == pytest.approx([record["expected_ms"][0] for record in log[2:]], rel=1e-6)
    (text,) = events.Tensors("most_likely/text_summary")
    assert text.tensor_proto.string_val[0].decode() == log[-1]["most_likely"]


def test_run_folder_suffices_to_repeat_search(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "run", short)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    with LatencyTable.open(tmp_path / "run" / provenance["tables"][0]["file"]) as table:
        copied = Predictor(table.space, table)
    assert copied.fingerprint == street.fingerprint
    settings = json.loads((tmp_path / "run" / "search.json").read_text())
    assert settings["latency"] == [copied.fingerprint]
    names = {"space", "data", "images", "latency", "precision", "processes", "batch_per_process"}
    again = SearchConfig(**{name: value for name, value in settings.items() if name not in names})
    search(copied, scenes, tmp_path / "again", again)
    require_equal_runs(tmp_path / "run", tmp_path / "again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_target_is_met(street, scenes, short, tmp_path, share):
    target = find_target(street, share)
    result = search(street, scenes, tmp_path / "run", change(short, targets_ms=((target,),)))
    assert 0.8 * target <= result.predicted_ms <= target
    assert result.target_ms == target


def test_calibrated_table_gives_interval_and_bound(street_space, predict, scenes, short, tmp_path):
    predictor = predict(street_space, correction=CALIBRATED)
    target = find_target(predictor, 0.5)
    result = search(predictor, scenes, tmp_path / "run", change(short, targets_ms=((target,),), quantile=0.95))
    (row,) = result.tables
    assert row.bound_ms == pytest.approx(result.predicted_ms * predictor.margin(0.95))
    assert 0.8 * target <= row.bound_ms <= target
    interval = predictor.interval(Architecture.load(result.architecture))
    assert (result.predicted_low_ms, result.predicted_high_ms) == (interval.low_ms, interval.high_ms)
    assert result.predicted_high_ms > result.predicted_ms > result.predicted_low_ms


def test_two_tables_each_meet_a_target(street_space, predict, scenes, short, tmp_path):
    predictors = [predict(street_space, seed) for seed in (0, 1)]
    middle = street_space.sample(3)
    targets = tuple(predictor.predict(middle) for predictor in predictors)
    result = search(predictors, scenes, tmp_path / "run", change(short, targets_ms=(targets,)))
    architecture = Architecture.load(result.architecture)
    for row, predictor, target in zip(result.tables, predictors, targets, strict=True):
        assert row.lut == str(predictor.table_path)
        assert row.predicted_ms == row.bound_ms == pytest.approx(predictor.predict(architecture))
        assert row.predicted_ms <= row.target_ms == target
    assert len(list((tmp_path / "run" / "tables").iterdir())) == 2
    assert [len(record["expected_ms"]) for record in read_log(tmp_path / "run")[2:]] == [2] * 4


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize("step", [1, 2, 5])
def test_resumed_search_is_bit_identical(street, scenes, short, tmp_path, step):
    settings = change(short, targets_ms=((find_target(street, 0.4),),))
    search(street, scenes, tmp_path / "whole", settings)
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", settings, on_step=kill_at(step))
    assert not (tmp_path / "cut" / "architecture.json").exists()
    steps = []
    search(street, scenes, tmp_path / "cut", settings, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(step + 1, short.steps + 1))
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_search_without_checkpoint_restarts(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "whole", short)
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", short, on_step=kill_at(4))
    assert not (tmp_path / "cut" / "search.ckpt").exists()
    search(street, scenes, tmp_path / "cut", short)
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")
    events = EventAccumulator(str(tmp_path / "cut" / "tensorboard" / "search"))
    events.Reload()
    assert [event.step for event in events.Scalars("weight_loss")] == list(range(short.steps))


def test_resumed_finalization_does_not_retrain(street, scenes, short, tmp_path, monkeypatch):
    search(street, scenes, tmp_path / "whole", short)
    with monkeypatch.context() as patch:
        patch.setattr("lgc.search.selection.strategies.halve", lambda *_: kill_at(0)(0, 0))
        with pytest.raises(KilledError):
            search(street, scenes, tmp_path / "cut", short)
    search(street, scenes, tmp_path / "cut", short, on_step=lambda *_: pytest.fail("trained again"))
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("eager_checkpoints")
def test_killed_command_resumes_bit_identically(street, scenes, tmp_path, call):
    steps, killed_step = 24, 8
    options = ["--lut", street.table_path, "--data", scenes, "--steps", steps, "--batch", 2, "--arch-lr", 0.05]
    options += ["--target-ms", find_target(street, 0.5), "--trials", 1]
    code = (
        "import lgc.search.runtime.training_loop as t; t.CHECKPOINT_S = 0.0; from lgc.tools.search import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, options), "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = tmp_path / "cut" / "search.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < killed_step):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert killed_step - 1 <= load_checkpoint(tmp_path / "cut")["step"] < steps
    for name in ("cut", "whole"):
        done = call("lgc-search", *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
        assert ("resumed at step " in done.err) == (name == "cut")
    done = call("lgc-search", *options, "--out", tmp_path / "cut")
    assert f"{tmp_path}/cut is finished: nothing was searched; for a longer search, choose another --out" in done.err
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize("step", [1, 3, 8])
def test_front_resumes_from_any_part(street, scenes, front, tmp_path, step):
    """The warm-up has 2 steps and each of two points has 4; the second point starts after step 6."""
    whole = search(street, scenes, tmp_path / "whole", front)
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", front, on_step=kill_at(step))
    steps = []
    cut = search(street, scenes, tmp_path / "cut", front, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(step + 1, 11))
    assert len(whole.front) == len(cut.front) == 2
    for point, other in zip(whole.front, cut.front, strict=True):
        require_equal_runs(point.architecture.parent, other.architecture.parent)


def test_front_has_one_run_folder_per_point(street, scenes, front, tmp_path):
    reported = []
    result = search(street, scenes, tmp_path / "run", front, on_step=lambda *step: reported.append(step))
    assert reported == [(step, 10) for step in range(1, 11)]
    assert [record["step"] for record in read_log(tmp_path / "run")] == [0, 1]
    for point, (target,) in zip(result.front, front.targets_ms, strict=True):
        run = tmp_path / "run" / f"target-{target:g}ms"
        assert point.architecture == run / "architecture.json"
        assert point.target_ms == target
        assert 0.7 * target <= point.predicted_ms <= target
        assert [record["step"] for record in read_log(run)] == [2, 3, 4, 5]
        assert all("arch_loss" in record for record in read_log(run))
        trained = train(run, scenes, TrainConfig(steps=2, batch=2, init="supernet"))
        assert trained.weights.parent == run
    assert not (tmp_path / "run" / "architecture.json").exists()
    again = search(street, scenes, tmp_path / "run", front, on_step=lambda *_: pytest.fail("searched again"))
    assert again == result
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = search(street, scenes, tmp_path / "moved", front)
    assert all(point.architecture.exists() for point in moved.front)


def test_front_point_equals_single_search(street, scenes, front, tmp_path, monkeypatch):
    """Points are independent but for a warm-up near all targets: the second one equals a search with its target."""
    monkeypatch.setattr(engine, "draw_paths", lambda constraints, seed: draw_paths(constraints[-1:], seed))
    search(street, scenes, tmp_path / "front", front)
    ((target,),) = front.targets_ms[1:]
    search(street, scenes, tmp_path / "alone", change(front, targets_ms=((target,),)))
    point = tmp_path / "front" / f"target-{target:g}ms"
    state, other = load_checkpoint(tmp_path / "alone"), load_checkpoint(point)
    for part in ("net", "alphas"):
        require_equal_tensors(state[part], other[part])
    assert read_log(tmp_path / "alone")[2:] == read_log(point)


def test_seed_determines_the_search(street, scenes, short, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search(street, scenes, tmp_path / name, change(short, seed=seed))
    require_equal_runs(tmp_path / "a", tmp_path / "b")
    assert read_log(tmp_path / "a")[0]["weight_loss"] != read_log(tmp_path / "c")[0]["weight_loss"]


def test_data_loading_processes_change_nothing(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "a", short)
    search(street, scenes, tmp_path / "b", change(short, workers=1))
    require_equal_runs(tmp_path / "a", tmp_path / "b")
