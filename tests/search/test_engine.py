"""Whole searches: what they leave behind, how they go on, what every setting changes, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgc.errors import DataError, FileFormatError, OutputError, TrainingError, UsageError
from lgc.lut import Correction, LatencyTable, Predictor
from lgc.models import Architecture
from lgc.search import selection
from lgc.search import trainer as trainer_module
from lgc.search.alphas import ArchitectureParameters
from lgc.search.blocks import plain_fusion
from lgc.search.config import SearchConfig
from lgc.search.data.datasets import load_dataset
from lgc.search.data.writers import write_scenes
from lgc.search.engine import search
from lgc.search.selection import PASSES_OF_A_STEP, passes_of_race
from lgc.search.supernet import Supernet
from lgc.search.train_config import TrainConfig
from lgc.search.training import train

KNOWN = Correction("affine", 0.1, (1.2,), error_pct=4.0, networks=9)


class KilledError(Exception):
    """Stands for a `kill` at a step."""


def killer(at: int):
    def on_step(step: int, steps: int) -> None:
        if step == at:
            raise KilledError

    return on_step


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "search.jsonl").read_text().splitlines()]


def checkpoint_of(run: Path) -> dict:
    return torch.load(run / "search.ckpt", weights_only=True)


def require_equal_runs(one: Path, other: Path) -> None:
    """Show that two runs ended with the same bits."""
    a, b = checkpoint_of(one), checkpoint_of(other)
    for part in ("net", "alphas"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(value, b[part][name]) for name, value in a[part].items()), part
    assert (a["step"], a["multiplier"]) == (b["step"], b["multiplier"])
    assert log_of(one) == log_of(other)
    found = [Architecture.load(run / "architecture.json") for run in (one, other)]
    assert found[0].choices == found[1].choices
    assert found[0].head == found[1].head
    results = [json.loads((run / "search-result.json").read_text()) for run in (one, other)]
    for result in results:
        for name in ("seconds", "supernet_seconds", "architecture"):
            del result[name]
    assert results[0] == results[1]


def target_at(predictor: Predictor, share: float) -> float:
    low, high = predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)
    return low + share * (high - low)


def config(short: SearchConfig, **changes: object) -> SearchConfig:
    return SearchConfig(**(short.model_dump() | changes))


@pytest.fixture
def eager_checkpoints(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(trainer_module, "CHECKPOINT_S", 0.0)


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
        patch.setattr("lgc.search.selection.race", lambda *words: killer(0)(0, 0))
        with pytest.raises(KilledError):
            search(street, scenes, tmp_path / "cut", short)
    search(street, scenes, tmp_path / "cut", short, on_step=lambda *_: pytest.fail("trained again"))
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("eager_checkpoints")
def test_kill_9_of_the_command(street, scenes, tmp_path, call):
    steps, late = 40, 12
    words = ["--lut", street.table_path, "--data", scenes, "--steps", steps, "--batch", 2, "--arch-lr", 0.05]
    words += ["--target-ms", target_at(street, 0.5)]
    code = "import lgc.search.trainer as t; t.CHECKPOINT_S = 0.0; from lgc.tools.search import main; main()"
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


@pytest.fixture
def front(street, short) -> SearchConfig:
    return config(short, targets_ms=tuple((round(target_at(street, share), 3),) for share in (0.2, 0.8)))


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


@pytest.fixture
def deep_street(deep_space, predict) -> Predictor:
    content = {**deep_space.model_dump(mode="json"), "name": "deep-street", "classes": 11}
    return predict(deep_space.check(content, "deep street"))


def test_cells_that_share_are_alike(deep_street, scenes, short, tmp_path):
    target = target_at(deep_street, 0.5)
    found = {}
    for cells in ("shared", "independent"):
        settings = config(short, cells=cells, targets_ms=((target,),))
        search(deep_street, scenes, tmp_path / cells, settings)
        found[cells] = Architecture.load(tmp_path / cells / "architecture.json").cells
    normal, again, reduction, last = found["shared"]
    assert (normal, reduction) == (again, last)
    assert found["independent"][0] != found["independent"][1] or found["independent"][2] != found["independent"][3]
    alphas = {name: checkpoint_of(tmp_path / name)["alphas"] for name in found}
    assert [name for name in alphas["shared"] if "guides" in name] == []
    assert len([name for name in alphas["shared"] if name.startswith("alpha.")]) == 3
    assert len([name for name in alphas["independent"] if name.startswith("alpha.")]) == 5


def test_a_fixed_fusion_stays_plain(street, scenes, short, tmp_path):
    settings = config(short, fusion="fixed", targets_ms=((target_at(street, 0.5),),))
    found = search(street, scenes, tmp_path / "run", settings)
    architecture = Architecture.load(found["architecture"])
    cells = street.space.plan.searched
    assert architecture.choices[-len(cells[-1].edges) :] == tuple(plain_fusion(street.space))
    assert {len(record["entropy"]) for record in log_of(tmp_path / "run")} == {len(cells) - 1}


@pytest.mark.parametrize(
    ("changes", "guides"),
    [
        ({"communication": "gcn", "embedding": 7}, {"phi1": (7, 3), "project": (3, 7)}),
        ({"communication": "linear"}, {"map": (15, 15)}),
        ({"communication": "none"}, {}),
        ({"gamma": 0.0}, {}),
    ],
)
def test_communication_is_as_asked_for(street, scenes, short, tmp_path, changes, guides):
    search(street, scenes, tmp_path / "run", config(short, **changes))
    state = checkpoint_of(tmp_path / "run")["alphas"]
    found = {name.split(".")[2]: tuple(value.shape) for name, value in state.items() if "guides" in name}
    assert {name: found.get(name) for name in guides} == guides
    assert bool(found) == bool(guides)


def test_gamma_weighs_what_is_heard(street, scenes, short, tmp_path):
    entropies = []
    for gamma in (0.5, 5.0):
        search(street, scenes, tmp_path / f"{gamma}", config(short, gamma=gamma))
        entropies.append(log_of(tmp_path / f"{gamma}")[-1]["entropy"])
    assert entropies[0][1] != entropies[1][1]


def test_without_the_latency_term_only_the_last_step_knows_the_target(street, scenes, short, tmp_path):
    targets = ((target_at(street, 0.3),),)
    for name, term in (("with", True), ("without", False)):
        found = search(street, scenes, tmp_path / name, config(short, targets_ms=targets, latency_term=term))
        assert found["predicted_ms"] <= targets[0][0]
    logs = [log_of(tmp_path / name) for name in ("with", "without")]
    assert [record["multiplier"] for record in logs[1][2:]] == [0.0] * 4
    assert all(record["multiplier"] != 0 for record in logs[0][2:])
    search(street, scenes, tmp_path / "free", config(short, latency_term=False))
    free = checkpoint_of(tmp_path / "free")["alphas"]
    blind = checkpoint_of(tmp_path / "without")["alphas"]
    assert all(torch.equal(value, blind[name]) for name, value in free.items())  # the target changes nothing
    assert log_of(tmp_path / "with")[-1]["load"] != log_of(tmp_path / "without")[-1]["load"]


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_strategies_without_gradients_spend_as_much(street, scenes, short, tmp_path, strategy):
    target = target_at(street, 0.5)
    settings = config(short, strategy=strategy, targets_ms=((target,),))
    found = search(street, scenes, tmp_path / "run", settings)
    log = log_of(tmp_path / "run")
    assert not any("arch_loss" in record for record in log)
    assert len(log) == short.steps  # weights are trained as long as in a search by gradients
    state = checkpoint_of(tmp_path / "run")["alphas"]
    assert max(state["alpha.0"].abs().max(), state["alpha.2"].abs().max()) < 0.01  # as they began
    budget = PASSES_OF_A_STEP * 4 + passes_of_race(short.finalists, 2)
    assert budget // 2 < found["passes"] <= budget
    assert found["strategy"] == strategy
    assert found["predicted_ms"] <= target


@pytest.mark.usefixtures("eager_checkpoints")
def test_a_front_by_evolution_shares_all_of_the_training(street, scenes, front, tmp_path):
    settings = config(front, strategy="evolution")
    steps = []
    result = search(street, scenes, tmp_path / "run", settings, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(1, front.steps + 1))
    for one, (target,) in zip(result["front"], front.targets_ms, strict=True):
        assert one["strategy"] == "evolution"
        assert one["predicted_ms"] <= target
        point = Path(one["architecture"]).parent
        assert checkpoint_of(point)["step"] == front.steps  # so that a training may begin from it
        assert (log_of(point), len(log_of(tmp_path / "run"))) == ([], front.steps)


def test_a_point_that_another_one_beats_is_marked(street, scenes, front, tmp_path, monkeypatch):
    losses, real = iter([1.0, 2.0]), selection.gap
    monkeypatch.setattr(selection, "gap", lambda *words: real(*words) | {"loss_after": next(losses)})
    result = search(street, scenes, tmp_path / "run", front)
    faster, slower = result["front"]
    assert faster["predicted_ms"] < slower["predicted_ms"]
    assert (faster["dominated"], slower["dominated"]) == (False, True)


def test_a_search_by_gradients_races_its_finalists(street, scenes, short, tmp_path):
    found = search(street, scenes, tmp_path / "run", config(short, finalists=5, samples=40))
    assert found["tried"] == 5
    assert found["passes"] == PASSES_OF_A_STEP * 4 + passes_of_race(5, 2)
    alone = search(street, scenes, tmp_path / "one", config(short, finalists=1))
    assert (alone["tried"], alone["passes"]) == (1, PASSES_OF_A_STEP * 4 + 2)


def test_exploration_and_warm_up_are_as_asked_for(street, scenes, short, tmp_path, monkeypatch):
    drawn, real = [], ArchitectureParameters.draw

    def draw(self, temperature, generator, explore=0.0):
        drawn.append((torch.is_grad_enabled(), explore))
        return real(self, temperature, generator, explore)

    monkeypatch.setattr(ArchitectureParameters, "draw", draw)
    search(street, scenes, tmp_path / "run", config(short, warm_up=0.5, explore=0.35))
    assert drawn[:9] == [(False, 1.0)] * 3 + [(False, 0.35), (True, 0.0)] * 3


def test_crops_are_what_the_supernet_is_trained_on(street, scenes, short, tmp_path, monkeypatch):
    sizes, real = [], Supernet.forward

    def forward(self, x, draw):
        sizes.append((tuple(x.shape[-2:]), draw.gates is not None))
        return real(self, x, draw)

    monkeypatch.setattr(Supernet, "forward", forward)
    search(street, scenes, tmp_path / "run", config(short, crop=(16, 24)))
    assert set(sizes[:10]) == {((16, 24), False), ((16, 24), True)}
    assert sizes[-1] == ((32, 32), False)  # architectures are compared on whole images


def test_precisions_differ(street, scenes, short, tmp_path):
    for precision in ("fp32", "bf16"):
        search(street, scenes, tmp_path / precision, short, precision=precision)
    losses = [[record["weight_loss"] for record in log_of(tmp_path / name)] for name in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    with pytest.raises(OutputError, match="precision"):
        search(street, scenes, tmp_path / "fp32", short, precision="bf16")
    with pytest.raises(UsageError, match="fp16 trains on a GPU only"):
        search(street, scenes, tmp_path / "fp16", short, precision="fp16")
    assert not (tmp_path / "fp16").exists()


def test_a_finished_search_is_not_repeated(street, scenes, short, tmp_path):
    first = search(street, scenes, tmp_path / "run", short)
    assert search(street, scenes, tmp_path / "run", short, on_step=lambda *_: pytest.fail("searched again")) == first
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = search(street, scenes, tmp_path / "moved", short)
    assert moved == first | {"architecture": str(tmp_path / "moved" / "architecture.json")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seed": 1}, "seed 0, not 1"), ({"fusion": "fixed"}, "fusion 'searched', not 'fixed'"), ({"steps": 7}, "steps")],
)
def test_another_search_is_not_overwritten(street, scenes, short, tmp_path, changes, said):
    search(street, scenes, tmp_path / "run", short)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=said):
        search(street, scenes, tmp_path / "run", config(short, **changes))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_search_with_another_table_is_another(street_space, predict, scenes, short, tmp_path):
    search(predict(street_space, 0), scenes, tmp_path / "run", short)
    with pytest.raises(OutputError, match="latency"):
        search(predict(street_space, 1), scenes, tmp_path / "run", short)


def test_a_folder_of_something_else_is_left_alone(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="something else"):
        search(street, scenes, out, short)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_damaged_checkpoint_is_named(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    search(street, scenes, out, short)
    (out / "search-result.json").unlink()
    whole = (out / "search.ckpt").read_bytes()
    (out / "search.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"search\.ckpt"):
        search(street, scenes, out, short)


def test_data_of_other_classes_are_refused(predictor, scenes, short, tmp_path):
    with pytest.raises(DataError, match="has 11 classes, space mini has 3"):
        search(predictor, scenes, tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_two_halves(street, short, tmp_path):
    write_scenes(tmp_path / "one", "camvid-segnet", {"train": 1, "val": 1, "test": 0}, (32, 32), 0)
    with pytest.raises(DataError, match="at least 2 training images"):
        search(street, tmp_path / "one", tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


def test_an_unreachable_target_is_refused_first(street, tmp_path, short):
    for share, side in ((-0.5, "below the fastest"), (1.5, "above the slowest")):
        settings = config(short, targets_ms=((target_at(street, 0.5),), (target_at(street, share),)))
        with pytest.raises(UsageError, match=side):
            search(street, tmp_path / "nowhere", tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_a_target_that_the_settings_put_out_of_reach_is_refused_first(street, scenes, short, tmp_path):
    """Within the space's reach, but not with a fusion cell that convolves."""
    target = street.predict(street.fastest)
    found = search(street, scenes, tmp_path / "run", config(short, targets_ms=((target,),)))
    assert found["predicted_ms"] == pytest.approx(target)
    with pytest.raises(UsageError, match=f"the nearest needs .* ms for a target of {target:.3f} ms"):
        search(street, scenes, tmp_path / "out", config(short, targets_ms=((target,),), fusion="fixed"))
    assert not (tmp_path / "out").exists()


def test_a_target_that_the_settings_leave_nothing_slow_for(street, scenes, short, tmp_path):
    """The slowest architecture has the dearest fusion cell, not the plain one."""
    target = street.predict(street.slowest)
    found = search(street, scenes, tmp_path / "run", config(short, targets_ms=((target,),)))
    assert found["predicted_ms"] > 0.95 * target
    with pytest.raises(UsageError, match="every architecture is faster than the target with these settings"):
        search(street, scenes, tmp_path / "out", config(short, targets_ms=((target,),), fusion="fixed"))
    assert not (tmp_path / "out").exists()


def test_targets_that_exclude_each_other_are_refused_first(street_space, predict, scenes, short, tmp_path):
    """Each device's fastest architecture is another one, and slow on the other device."""
    content = {**street_space.model_dump(mode="json"), "operators": ["max_pool_3x3", "sep_conv_3x3"]}
    predictors = [predict(street_space.check(content, "street"), seed) for seed in (0, 1)]
    targets = tuple(predictor.predict(predictor.fastest) for predictor in predictors)
    with pytest.raises(UsageError, match="no architecture meets all targets"):
        search(predictors, scenes, tmp_path / "out", config(short, targets_ms=(targets,)))
    assert not (tmp_path / "out").exists()


def test_other_images_are_another_search(street, scenes, short, tmp_path):
    data = copytree(scenes, tmp_path / "data")
    search(street, data, tmp_path / "run", short)
    label = load_dataset(data, "train").pairs[0].label
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(label)
    with pytest.raises(OutputError, match="images"):
        search(street, data, tmp_path / "run", short)


def test_learning_on_crops_counts_for_less(street, scenes, short, tmp_path):
    """The others spend on whole images what gradients spend on crops of half the size."""
    passes = {}
    for strategy in ("gradient", "evolution"):
        settings = config(short, strategy=strategy, crop=(16, 32))
        passes[strategy] = search(street, scenes, tmp_path / strategy, settings)["passes"]
    budget = PASSES_OF_A_STEP * 4 // 2 + passes_of_race(short.finalists, 2)
    assert passes["gradient"] == budget
    assert budget - 2 < passes["evolution"] <= budget


def test_tables_and_targets_have_to_fit(street, street_space, predictor, predict, scenes, short, tmp_path):
    two = [street, predict(street_space, 1)]
    with pytest.raises(UsageError, match="needs a latency table"):
        search([], scenes, tmp_path / "run", short)
    with pytest.raises(UsageError, match="2 tables need a target each"):
        search(two, scenes, tmp_path / "run", short)
    with pytest.raises(UsageError, match="2 tables, but 1 targets"):
        search(two, scenes, tmp_path / "run", config(short, targets_ms=((1.0,),)))
    with pytest.raises(UsageError, match=r"of one space: .*street-0\.lut of street, .* of mini"):
        search([street, predictor], scenes, tmp_path / "run", config(short, targets_ms=((1.0, 1.0),)))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "loss of the weights is nan at step 2"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"Lower --batch or --crop"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), r"Lower --batch or --crop"),
    ],
)
def test_a_search_that_cannot_go_on_keeps_its_checkpoint(street, scenes, short, tmp_path, monkeypatch, error, said):
    real, calls = trainer_module.upsampled_loss, []

    def broken(*words):
        calls.append(words)
        if len(calls) == 3 and error is not None:
            raise error
        return real(*words) * (np.nan if len(calls) == 3 else 1.0)

    search(street, scenes, tmp_path / "whole", short)
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "upsampled_loss", broken)
        with pytest.raises(TrainingError, match=said):
            search(street, scenes, tmp_path / "run", short)
    kept = checkpoint_of(tmp_path / "run")
    assert kept["step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in kept["net"].values())
    assert [record["step"] for record in log_of(tmp_path / "run")] == [0, 1]
    search(street, scenes, tmp_path / "run", short)
    require_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_memory_that_ends_while_choosing_is_explained_too(street, scenes, short, tmp_path, monkeypatch):
    def greedy(*words):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lgc.search.selection.race", greedy)
    with pytest.raises(TrainingError, match="Lower --batch or --crop"):
        search(street, scenes, tmp_path / "run", short)
    assert checkpoint_of(tmp_path / "run")["step"] == short.steps
