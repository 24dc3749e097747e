"""Each setting of a search has the effect that its name promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lgc.errors import OutputError, UsageError
from lgc.lut import Predictor
from lgc.models import Architecture
from lgc.search import engine
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.exploration import draw_paths
from lgc.search.engine import search
from lgc.search.selection.finalize import finalize
from lgc.search.selection.strategies import PASSES_PER_STEP, count_halving_passes
from lgc.search.supernet.alphas import ArchitectureParameters
from lgc.search.supernet.blocks import BlockDecisions, make_fixed_fusion
from lgc.search.supernet.supernet import Supernet
from lgc.search.supernet.supernet_trainer import SupernetTrainer

from .runs import change, find_target, load_checkpoint, read_log, require_equal_tensors


@pytest.fixture
def deep_street(deep_space, predict) -> Predictor:
    content = {**deep_space.model_dump(mode="json"), "name": "deep-street", "classes": 11}
    return predict(deep_space.check(content, "deep street"))


def test_shared_cells_are_equal(deep_street, scenes, short, tmp_path):
    target = find_target(deep_street, 0.5)
    cells_by_setting = {}
    for cells in ("shared", "independent"):
        settings = change(short, cells=cells, targets_ms=((target,),))
        search(deep_street, scenes, tmp_path / cells, settings)
        cells_by_setting[cells] = Architecture.load(tmp_path / cells / "architecture.json").cells
    normal, again, reduction, last = cells_by_setting["shared"]
    assert (normal, reduction) == (again, last)
    first, second, third, fourth = cells_by_setting["independent"]
    assert first != second or third != fourth
    alphas = {name: load_checkpoint(tmp_path / name)["alphas"] for name in cells_by_setting}
    assert [name for name in alphas["shared"] if "guides" in name] == []
    assert len([name for name in alphas["shared"] if name.startswith("alpha.")]) == 3
    assert len([name for name in alphas["independent"] if name.startswith("alpha.")]) == 5


def test_fixed_fusion_is_not_searched(street, scenes, short, tmp_path):
    settings = change(short, fusion="fixed", targets_ms=((find_target(street, 0.5),),))
    result = search(street, scenes, tmp_path / "run", settings)
    architecture = Architecture.load(result.architecture)
    cells = street.space.plan.searched_cells
    assert architecture.choices[-1 - len(cells[-1].edges) : -1] == tuple(make_fixed_fusion(street.space))
    assert {len(record["entropy"]) for record in read_log(tmp_path / "run")} == {len(cells) - 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"communication": "gcn", "embedding": 7}, {"phi1": (7, 3), "project": (3, 7)}),
        ({"communication": "linear"}, {"map": (15, 15)}),
        ({"communication": "none"}, {}),
        ({"gamma": 0.0}, {}),
    ],
)
def test_communication_has_the_requested_kind(street, scenes, short, tmp_path, changes, expected):
    search(street, scenes, tmp_path / "run", change(short, **changes))
    state = load_checkpoint(tmp_path / "run")["alphas"]
    shapes = {name.split(".")[2]: tuple(value.shape) for name, value in state.items() if "guides" in name}
    assert {name: shapes.get(name) for name in expected} == expected
    assert bool(shapes) == bool(expected)


def test_gamma_weights_the_communication(street, scenes, short, tmp_path):
    entropies = []
    for gamma in (0.5, 5.0):
        search(street, scenes, tmp_path / f"{gamma}", change(short, gamma=gamma))
        entropies.append(read_log(tmp_path / f"{gamma}")[-1]["entropy"])
    assert entropies[0][1] != entropies[1][1]


def test_without_latency_term_only_projection_uses_target(street, scenes, short, tmp_path, monkeypatch):
    anywhere = CostConstraint.from_predictors(BlockDecisions(street.space), [street])
    monkeypatch.setattr(engine, "draw_paths", lambda constraints, seed: draw_paths([anywhere], seed))
    targets = ((find_target(street, 0.3),),)
    for name, term in (("with", True), ("without", False)):
        result = search(street, scenes, tmp_path / name, change(short, targets_ms=targets, latency_term=term))
        assert result.predicted_ms <= targets[0][0]
    logs = [read_log(tmp_path / name) for name in ("with", "without")]
    assert [record["multiplier"] for record in logs[1][2:]] == [0.0] * 4
    assert all(record["multiplier"] != 0 for record in logs[0][2:])
    search(street, scenes, tmp_path / "free", change(short, latency_term=False))
    free = load_checkpoint(tmp_path / "free")["alphas"]
    require_equal_tensors(free, load_checkpoint(tmp_path / "without")["alphas"])  # the target has no effect
    assert read_log(tmp_path / "with")[-1]["load"] != read_log(tmp_path / "without")[-1]["load"]


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_other_strategies_have_an_equal_budget(street, scenes, short, tmp_path, strategy):
    target = find_target(street, 0.5)
    settings = change(short, strategy=strategy, targets_ms=((target,),))
    result = search(street, scenes, tmp_path / "run", settings)
    log = read_log(tmp_path / "run")
    assert not any("arch_loss" in record for record in log)
    assert len(log) == short.steps  # as many as in a search by gradients
    search(street, scenes, tmp_path / "shorter", change(settings, steps=3))
    states = [load_checkpoint(tmp_path / name)["alphas"] for name in ("run", "shorter")]
    require_equal_tensors(*states)  # as initialised
    budget = PASSES_PER_STEP * 4 + count_halving_passes(short.finalists, 2)
    assert budget // 2 < result.passes <= budget
    assert result.strategy == strategy
    assert result.predicted_ms <= target


@pytest.mark.usefixtures("eager_checkpoints")
def test_front_by_evolution_shares_the_training(street, scenes, front, tmp_path):
    settings = change(front, strategy="evolution")
    steps = []
    result = search(street, scenes, tmp_path / "run", settings, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(1, front.steps + 1))
    for point, (target,) in zip(result.front, front.targets_ms, strict=True):
        assert point.strategy == "evolution"
        assert point.predicted_ms <= target
        folder = point.architecture.parent
        assert load_checkpoint(folder)["step"] == front.steps  # so that a training can start from it
        assert (read_log(folder), len(read_log(tmp_path / "run"))) == ([], front.steps)


def test_dominated_point_is_marked(street, scenes, front, tmp_path, monkeypatch):
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(engine, "finalize", lambda *arguments: replace(finalize(*arguments), loss_after=next(losses)))
    result = search(street, scenes, tmp_path / "run", front)
    faster, slower = result.front
    assert faster.predicted_ms < slower.predicted_ms
    assert (faster.dominated, slower.dominated) == (False, True)


def test_gradient_search_halves_its_finalists(street, scenes, short, tmp_path):
    result = search(street, scenes, tmp_path / "run", change(short, finalists=5, samples=40))
    assert result.tried == 5
    assert result.passes == PASSES_PER_STEP * 4 + count_halving_passes(5, 2)
    single = search(street, scenes, tmp_path / "single", change(short, finalists=1))
    assert (single.tried, single.passes) == (1, PASSES_PER_STEP * 4 + 2)


@pytest.mark.parametrize("explore", [0.0, 0.999])
def test_exploration_and_warm_up_follow_settings(street, scenes, short, tmp_path, monkeypatch, explore):
    paths = []

    def record(kind, name):
        real = getattr(kind, name)

        def call(self, *arguments):
            paths.append((torch.is_grad_enabled(), name))
            return real(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    record(ArchitectureParameters, "sample_path")
    record(SupernetTrainer, "_draw_path")
    search(street, scenes, tmp_path / "run", change(short, warm_up=0.5, explore=explore))
    later = [(False, "_draw_path" if explore > 0 else "sample_path"), (True, "sample_path")] * 3
    assert paths[:9] == [(False, "_draw_path")] * 3 + later


def test_front_explores_near_all_targets(street, scenes, front, tmp_path, monkeypatch):
    drawn = []

    def record(constraints, seed):
        drawn.append([tuple(constraint.targets) for constraint in constraints])
        return draw_paths(constraints, seed)

    monkeypatch.setattr(engine, "draw_paths", record)
    search(street, scenes, tmp_path / "run", front)
    assert drawn == [[*front.targets_ms], *([point] for point in front.targets_ms)]


def test_supernet_is_trained_on_crops(street, scenes, short, tmp_path, monkeypatch):
    sizes, real = [], Supernet.forward

    def forward(self, x, sample):
        sizes.append((tuple(x.shape[-2:]), sample.gates is not None))
        return real(self, x, sample)

    monkeypatch.setattr(Supernet, "forward", forward)
    search(street, scenes, tmp_path / "run", change(short, crop=(16, 24)))
    assert set(sizes[:10]) == {((16, 24), False), ((16, 24), True)}
    assert sizes[-1] == ((32, 32), False)  # candidates are compared on whole images


def test_precisions_give_different_losses(street, scenes, short, tmp_path):
    for precision in ("fp32", "bf16"):
        search(street, scenes, tmp_path / precision, short, precision=precision)
    losses = [[record["weight_loss"] for record in read_log(tmp_path / name)] for name in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    with pytest.raises(OutputError, match="precision"):
        search(street, scenes, tmp_path / "fp32", short, precision="bf16")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        search(street, scenes, tmp_path / "fp16", short, precision="fp16")
    assert not (tmp_path / "fp16").exists()
