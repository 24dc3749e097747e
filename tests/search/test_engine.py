"""Whole searches: what they leave behind, how they land, how they go on, fronts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgc.lut import Correction, LatencyTable, Predictor
from lgc.models import Architecture
from lgc.search.config import SearchConfig
from lgc.search.engine import search
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from .runs import KilledError, checkpoint_of, config, killer, log_of, require_equal_runs, target_at

KNOWN = Correction("affine", 0.1, (1.2,), error_pct=4.0, networks=9)


def test_a_search_leaves_a_run_folder(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    found = search(street, scenes, out, short)
    architecture, log = Architecture.load(out / "architecture.json"), log_of(out)
    names = {"architecture.json", "provenance.json", "search-result.json", "search.ckpt", "search.json", "search.jsonl"}
    assert {path.name for path in out.iterdir()} == names | {"tables", "tensorboard"}
    assert found["architecture"] == str(out / "architecture.json")
    assert found["predicted_ms"] == pytest.approx(street.predict(architecture)) == found["predicted_ms"]
    assert (found["target_ms"], found["steps"]) == (None, 6)
    assert (found["fastest_ms"], found["slowest_ms"]) == (target_at(street, 0), target_at(street, 1))
    assert (found["predicted_low_ms"], found["predicted_high_ms"]) == (None, None)
    assert found["head_channels"] == street.space.heads[architecture.head]
    assert found["operators"] == {
        name: [street.space.operators[choice] for choice in architecture.choices].count(name)
        for name in street.space.operators
    }
    assert found["gap"] == pytest.approx(found["loss_likeliest"] - found["loss_before"])
    assert found["loss_after"] <= found["loss_likeliest"]
    assert 0.5 < found["loss_after"] < 10
    assert found["tried"] <= short.finalists
    assert architecture.provenance["predicted_ms"] == found["predicted_ms"]
    assert architecture.provenance["table"] == str(street.table_path)
    assert json.loads((out / "search-result.json").read_text()) == found
    assert [record["step"] for record in log] == list(range(short.steps))
    assert ["arch_loss" in record for record in log] == [False, False, True, True, True, True]


def test_tensorboard_shows_the_search(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "run", short)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "search"))
    events.Reload()
    log = log_of(tmp_path / "run")
    blocks = len(street.space.plan.searched)
    wanted = {"weight_loss": "weight_loss", "arch_loss": "arch_loss", "temperature": "temperature", "miou": "miou"}
    for tag, name in wanted.items():
        rows = [(event.step, event.value) for event in events.Scalars(tag)]
        assert rows == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in log if name in r], tag
        assert rows
    for index in range(blocks):
        rows = [event.value for event in events.Scalars(f"entropy/{index:02d}")]
        assert rows == pytest.approx([record["entropy"][index] for record in log], rel=1e-6)
    rows = [event.value for event in events.Scalars("expected_ms/00")]
    assert rows == pytest.approx([record["expected_ms"][0] for record in log[2:]], rel=1e-6)
    (text,) = events.Tensors("most_likely/text_summary")
    assert text.tensor_proto.string_val[0].decode() == log[-1]["most_likely"]


def test_what_is_needed_to_repeat_it_is_kept(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "run", short)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    with LatencyTable.open(tmp_path / "run" / provenance["tables"][0]["file"]) as table:
        copied = Predictor(table.space, table)
    assert copied.fingerprint == street.fingerprint
    settings = json.loads((tmp_path / "run" / "search.json").read_text())
    assert settings["latency"] == [copied.fingerprint]
    names = {"space", "data", "images", "latency", "precision", "processes"}
    again = SearchConfig(**{name: value for name, value in settings.items() if name not in names})
    search(copied, scenes, tmp_path / "again", again)
    require_equal_runs(tmp_path / "run", tmp_path / "again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_target_is_met(street, scenes, short, tmp_path, share):
    target = target_at(street, share)
    found = search(street, scenes, tmp_path / "run", config(short, targets_ms=((target,),)))
    assert 0.8 * target <= found["predicted_ms"] <= target
    assert found["target_ms"] == target


def test_a_calibrated_table_gives_an_interval_and_a_bound(street_space, predict, scenes, short, tmp_path):
    predictor = predict(street_space, correction=KNOWN)
    target = target_at(predictor, 0.5)
    found = search(predictor, scenes, tmp_path / "run", config(short, targets_ms=((target,),), quantile=0.95))
    (row,) = found["tables"]
    assert row["bound_ms"] == pytest.approx(found["predicted_ms"] * predictor.margin(0.95))
    assert 0.8 * target <= row["bound_ms"] <= target
    interval = predictor.interval(Architecture.load(found["architecture"]))
    assert (found["predicted_low_ms"], found["predicted_high_ms"]) == (interval.low_ms, interval.high_ms)
    assert found["predicted_high_ms"] > found["predicted_ms"] > found["predicted_low_ms"]


def test_two_tables_meet_a_target_each(street_space, predict, scenes, short, tmp_path):
    predictors = [predict(street_space, seed) for seed in (0, 1)]
    middle = street_space.sample(3)
    targets = tuple(predictor.predict(middle) for predictor in predictors)
    found = search(predictors, scenes, tmp_path / "run", config(short, targets_ms=(targets,)))
    architecture = Architecture.load(found["architecture"])
    for row, predictor, target in zip(found["tables"], predictors, targets, strict=True):
        assert row["lut"] == str(predictor.table_path)
        assert row["predicted_ms"] == row["bound_ms"] == pytest.approx(predictor.predict(architecture))
        assert row["predicted_ms"] <= row["target_ms"] == target
    assert len(list((tmp_path / "run" / "tables").iterdir())) == 2
    assert [len(record["expected_ms"]) for record in log_of(tmp_path / "run")[2:]] == [2] * 4


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize("step", [1, 2, 5])
def test_killed_and_resumed_gives_the_same_bits(street, scenes, short, tmp_path, step):
    settings = config(short, targets_ms=((target_at(street, 0.4),),))
    search(street, scenes, tmp_path / "whole", settings)
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", settings, on_step=killer(step))
    assert not (tmp_path / "cut" / "architecture.json").exists()
    steps = []
    search(street, scenes, tmp_path / "cut", settings, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(step + 1, short.steps + 1))
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_killed_before_the_first_checkpoint_it_begins_again(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "whole", short)
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", short, on_step=killer(4))
    assert not (tmp_path / "cut" / "search.ckpt").exists()
    search(street, scenes, tmp_path / "cut", short)
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")
    events = EventAccumulator(str(tmp_path / "cut" / "tensorboard" / "search"))
    events.Reload()
    assert [event.step for event in events.Scalars("weight_loss")] == list(range(short.steps))


def test_killed_while_choosing_it_trains_no_more(street, scenes, short, tmp_path, monkeypatch):
    search(street, scenes, tmp_path / "whole", short)
    with monkeypatch.context() as patch:
        patch.setattr("lgc.search.selection.strategies.race", lambda *words: killer(0)(0, 0))
        with pytest.raises(KilledError):
            search(street, scenes, tmp_path / "cut", short)
    search(street, scenes, tmp_path / "cut", short, on_step=lambda *_: pytest.fail("trained again"))
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("eager_checkpoints")
def test_kill_9_of_the_command(street, scenes, tmp_path, call):
    steps, late = 24, 8
    words = ["--lut", street.table_path, "--data", scenes, "--steps", steps, "--batch", 2, "--arch-lr", 0.05]
    words += ["--trials", 1]
    words += ["--target-ms", target_at(street, 0.5)]
    code = (
        "import lgc.search.supernet.supernet_trainer as t; t.CHECKPOINT_S = 0.0; "
        "from lgc.tools.search import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, words), "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    log = tmp_path / "cut" / "search.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < late):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert late - 1 <= checkpoint_of(tmp_path / "cut")["step"] < steps
    for name in ("cut", "whole"):
        done = call("lgc-search", *words, "--out", tmp_path / name)
        assert done.code == 0, done.err
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_front_killed_in_any_part_goes_on(street, scenes, front, tmp_path, step):
    """Of 2 steps of warm-up and 4 for each of two points; the second point begins after step 6."""
    whole = search(street, scenes, tmp_path / "whole", front)
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", front, on_step=killer(step))
    steps = []
    cut = search(street, scenes, tmp_path / "cut", front, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(step + 1, 11))
    assert len(whole["front"]) == len(cut["front"]) == 2
    for one, other in zip(whole["front"], cut["front"], strict=True):
        require_equal_runs(Path(one["architecture"]).parent, Path(other["architecture"]).parent)


def test_a_front_has_a_run_folder_a_point(street, scenes, front, tmp_path):
    told = []
    result = search(street, scenes, tmp_path / "run", front, on_step=lambda step, steps: told.append((step, steps)))
    assert told == [(step, 10) for step in range(1, 11)]
    assert [record["step"] for record in log_of(tmp_path / "run")] == [0, 1]
    for one, (target,) in zip(result["front"], front.targets_ms, strict=True):
        run = tmp_path / "run" / f"target-{target:g}ms"
        assert one["architecture"] == str(run / "architecture.json")
        assert one["target_ms"] == target
        assert 0.7 * target <= one["predicted_ms"] <= target
        assert [record["step"] for record in log_of(run)] == [2, 3, 4, 5]
        assert all("arch_loss" in record for record in log_of(run))
        trained = train(run, scenes, TrainConfig(steps=2, batch=2, init="supernet"))
        assert Path(trained["weights"]).parent == run
    assert not (tmp_path / "run" / "architecture.json").exists()
    again = search(street, scenes, tmp_path / "run", front, on_step=lambda *_: pytest.fail("searched again"))
    assert again == result
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = search(street, scenes, tmp_path / "moved", front)
    assert all(Path(one["architecture"]).exists() for one in moved["front"])


def test_a_point_of_a_front_is_the_search_for_it_alone(street, scenes, front, tmp_path):
    """No point learns of another: the front's second one is what a search with only that target finds."""
    search(street, scenes, tmp_path / "front", front)
    ((target,),) = front.targets_ms[1:]
    search(street, scenes, tmp_path / "alone", config(front, targets_ms=((target,),)))
    point = tmp_path / "front" / f"target-{target:g}ms"
    one, other = checkpoint_of(tmp_path / "alone"), checkpoint_of(point)
    assert all(torch.equal(value, other["net"][name]) for name, value in one["net"].items())
    assert all(torch.equal(value, other["alphas"][name]) for name, value in one["alphas"].items())
    assert log_of(tmp_path / "alone")[2:] == log_of(point)


def test_the_seed_decides(street, scenes, short, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search(street, scenes, tmp_path / name, config(short, seed=seed))
    require_equal_runs(tmp_path / "a", tmp_path / "b")
    assert log_of(tmp_path / "a")[0]["weight_loss"] != log_of(tmp_path / "c")[0]["weight_loss"]


def test_loading_processes_change_nothing(street, scenes, short, tmp_path):
    search(street, scenes, tmp_path / "a", short)
    search(street, scenes, tmp_path / "b", config(short, workers=1))
    require_equal_runs(tmp_path / "a", tmp_path / "b")
