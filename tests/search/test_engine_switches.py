"""Every setting of a search changes what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgc.errors import OutputError, UsageError
from lgc.lut import Predictor
from lgc.models import Architecture
from lgc.search.decisions import plain_fusion
from lgc.search.engine import search
from lgc.search.selection import strategies as selection
from lgc.search.selection.strategies import PASSES_OF_A_STEP, passes_of_race
from lgc.search.supernet.alphas import ArchitectureParameters
from lgc.search.supernet.supernet import Supernet

from .runs import checkpoint_of, config, log_of, target_at


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
    cells = street.space.plan.searched_cells
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
