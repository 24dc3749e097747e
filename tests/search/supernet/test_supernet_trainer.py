"""Steps of the supernet's training: what each moves, records and leaves alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lgc.errors import TrainingError
from lgc.models.space.plan import edge_name
from lgc.search.config import SearchConfig
from lgc.search.constraint.latency import Latency
from lgc.search.data.datasets import load_dataset
from lgc.search.decisions import Decisions
from lgc.search.runtime.batches import batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.supernet import supernet_trainer as module
from lgc.search.supernet.alphas import ArchitectureParameters, SampledPath
from lgc.search.supernet.supernet_trainer import CLIP, SupernetTrainer
from lgc.search.training.scores import scores


@pytest.fixture
def make(street):
    """Makes a trainer and the latency of its architectures: `make(steps=6, ...)`."""

    def trainer(fabric=None, **settings):
        config = SearchConfig(**({"steps": 6, "batch": 2, "warm_up": 0.3} | settings))
        blocks = Decisions(street.space, fixed_fusion=config.fusion == "fixed")
        targets = config.targets_ms[0] if config.targets_ms else None
        return SupernetTrainer(blocks, config, fabric or open_fabric("cpu")), Latency(blocks, [street], targets)

    return trainer


@pytest.fixture
def pairs(scenes):
    """Two endless rows of batches, for the weights and for the architecture."""
    dataset = load_dataset(scenes, "train", (32, 32), augment=True)
    return list(zip(*(batches(dataset, 2, seed, start=0, stop=100) for seed in (0, 1)), strict=True))


def copy_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def kept_draws(trainer: SupernetTrainer, monkeypatch) -> list[tuple[SampledPath, float]]:
    """Every draw from now on, with how much it explores."""
    found, real = [], ArchitectureParameters.draw

    def draw(self, temperature, generator, explore=0.0):
        found.append((real(self, temperature, generator, explore), explore))
        return found[-1][0]

    monkeypatch.setattr(ArchitectureParameters, "draw", draw)
    return found


def test_in_the_warm_up_only_weights_of_the_drawn_path_move(make, pairs, monkeypatch):
    trainer, latency = make()
    draws = kept_draws(trainer, monkeypatch)
    net, alphas = copy_of(trainer.net), copy_of(trainer.alphas)
    record = trainer.train_step(pairs[0][0], None, latency)
    assert not moved(alphas, trainer.alphas)
    ((draw, explore),) = draws
    assert explore == 1.0
    assert draw.gates is None
    parameters = dict(trainer.net.named_parameters())
    drawn = {name for name, parameter in parameters.items() if parameter.grad is not None}
    assert moved(net, trainer.net) & set(parameters) == {name for name in drawn if parameters[name].grad.any()}
    assert record.keys() == {"step", "weight_loss", "weight_lr", "entropy"}
    assert len(record["entropy"]) == len(trainer.alphas.blocks.blocks)


def test_after_it_a_batch_moves_the_architecture_and_no_weights(make, pairs, monkeypatch):
    trainer, latency = make(warm_up=0.0, explore=0.3)
    draws = kept_draws(trainer, monkeypatch)
    between = []
    real = SupernetTrainer._architecture_step

    def step(self, *words):
        between.append(copy_of(self.net))
        gradients = {name: p.grad.clone() for name, p in self.net.named_parameters() if p.grad is not None}
        record = real(self, *words)
        parameters = {name: p.grad for name, p in self.net.named_parameters() if p.grad is not None}
        assert parameters.keys() == gradients.keys()
        assert all(torch.equal(value, gradients[name]) for name, value in parameters.items())
        return record

    monkeypatch.setattr(SupernetTrainer, "_architecture_step", step)
    alphas = copy_of(trainer.alphas)
    record = trainer.train_step(*pairs[0], latency)
    names = {name for name, _ in trainer.net.named_parameters()}
    assert not moved(between[0], trainer.net) & names
    assert moved(alphas, trainer.alphas) == set(alphas)
    assert [explore for _, explore in draws] == [0.3, 0.0]
    assert (draws[0][0].gates is None, draws[1][0].gates is None) == (True, False)
    new = {"temperature", "arch_loss", "expected_ms", "load", "multiplier"}
    assert record.keys() == {"step", "weight_loss", "weight_lr", "entropy"} | new
    assert record["load"] == pytest.approx(record["expected_ms"][0])  # no target: the latency itself


def test_rates_and_temperature_fall_as_configured(make, pairs):
    trainer, latency = make(steps=10, warm_up=0.2, weight_lr=0.04, weight_lr_end=0.01, temperature_end=0.1)
    records = [
        trainer.train_step(weight, arch if step >= 2 else None, latency)
        for step, (weight, arch) in enumerate(pairs[:10])
    ]
    shares = np.arange(10) / 10
    wanted = 0.01 + 0.03 * (1 + np.cos(np.pi * shares)) / 2
    assert [record["weight_lr"] for record in records] == pytest.approx(wanted.tolist())
    after = np.arange(8) / 8  # of the warm-up, in which there is none
    assert [record["temperature"] for record in records[2:]] == pytest.approx((0.1**after).tolist())
    assert [record["step"] for record in records] == list(range(10))


def test_the_weights_gradient_is_clipped(make, pairs, monkeypatch):
    trainer, latency = make(weight_decay=0.0)
    real = module.upsampled_loss
    monkeypatch.setattr(module, "upsampled_loss", lambda *words: 1e3 * real(*words))
    before = copy_of(trainer.net)
    trainer.train_step(pairs[0][0], None, latency)
    steps = [value - before[name] for name, value in trainer.net.named_parameters()]
    norm = torch.cat([step.flatten() for step in steps]).norm() / trainer.config.weight_lr
    assert norm.item() == pytest.approx(CLIP, rel=1e-3)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_latency_term_drives_the_architecture_to_the_target(make, street, pairs, monkeypatch, share):
    low, high = street.predict(street.fastest), street.predict(street.slowest)
    target = low + share * (high - low)
    settings = {"steps": 90, "warm_up": 0.0, "arch_lr": 0.1, "targets_ms": ((target,),)}
    (trainer, latency), (other, _) = make(**settings), make(**settings, latency_term=False)
    # A loss without a gradient, so that latency alone decides.
    monkeypatch.setattr(SupernetTrainer, "loss", lambda self, draw, batch: draw.gates.sum() * 0 + 1.0)
    for _ in range(90):
        record = trainer._architecture_step(pairs[0][1], latency, 1.0)
        left = other._architecture_step(pairs[0][1], latency, 1.0)
    assert record["load"] == pytest.approx(1, abs=0.05)
    assert record["expected_ms"][0] == pytest.approx(record["load"] * target, rel=1e-4)
    assert record["multiplier"] != 0
    assert left["multiplier"] == 0
    assert abs(left["load"] - 1) > 0.1


def test_without_a_target_latency_is_traded_by_beta(make, pairs):
    trainer, latency = make(beta=0.004, warm_up=0.0)
    records = [trainer.train_step(*pair, latency) for pair in pairs[:3]]
    assert {record["multiplier"] for record in records} == {0.004}


def test_learning_rates_of_the_architecture_and_of_its_guides(make, pairs):
    trainer, latency = make(warm_up=0.0, arch_lr=0.04, arch_decay=0.0)
    before = copy_of(trainer.alphas)
    trainer.train_step(*pairs[0], latency)
    steps = {name: (value - before[name]).abs().max() for name, value in trainer.alphas.state_dict().items()}
    # The first step of Adam is its learning rate wherever there is a gradient.
    assert steps["alpha.0"].item() == pytest.approx(0.04, rel=0.01)
    assert steps["guides.0.project.weight"].item() == pytest.approx(trainer.config.guide_rate, rel=0.05)
    assert trainer.config.guide_rate < 0.04


def test_the_journals_score_and_architecture(make, pairs, monkeypatch):
    trainer, latency = make(steps=2, warm_up=0.0, weight_lr=1e-9, weight_lr_end=1e-9)
    draws = kept_draws(trainer, monkeypatch)
    assert "miou" not in trainer.train_step(*pairs[0], latency)
    record = trainer.train_step(*pairs[1], latency)
    images, labels = pairs[1][1]
    with torch.no_grad():
        logits = trainer.net(images, SampledPath(draws[2][0].picked))
    full = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear").argmax(dim=1)
    known = labels != 255
    confusion = np.zeros((11, 11))
    np.add.at(confusion, (labels[known].numpy(), full[known].numpy()), 1)
    assert record["miou"] == pytest.approx(scores(torch.from_numpy(confusion), tuple("abcdefghijk")).miou, rel=1e-3)
    picked = trainer.alphas.probabilities().argmax(dim=1).tolist()
    space = trainer.alphas.blocks.space
    edges = [(cell.name, edge_name(cell, edge)) for cell in space.plan.searched_cells for edge in cell.edges]
    said = [
        (part.split(": ")[0], *word.split(" "))
        for part in record["most_likely"].split("; ")
        for word in part.split(": ")[1].split(", ")
    ]
    assert said == [(cell, edge, space.operators[p]) for (cell, edge), p in zip(edges, picked, strict=True)]


def advanced(trainer, latency, pairs, first, stop):
    return [trainer.train_step(*pairs[step], latency) for step in range(first, stop)]


def test_a_snapshot_is_taken_up_as_often_as_one_likes(make, pairs):
    """As the points of a front do: what one point learns must not reach the next."""
    trainer, latency = make(warm_up=0.0)
    advanced(trainer, latency, pairs, 0, 2)
    shared = trainer.snapshot()
    runs = []
    for _ in range(3):
        other, _ = make(warm_up=0.0)
        other.restore(shared)
        assert other.step == 2
        runs.append((advanced(other, latency, pairs, 2, 5), other.snapshot()))
    (records, state), *repeats = runs
    for again, other in repeats:
        assert again == records
        assert all(torch.equal(value, other["net"][name]) for name, value in state["net"].items())
        assert all(torch.equal(value, other["alphas"][name]) for name, value in state["alphas"].items())


def test_a_restored_trainer_goes_on_as_the_other(make, pairs):
    low_and_high = {"targets_ms": ((0.5,),), "warm_up": 0.0}  # any target: the multiplier moves
    trainer, latency = make(**low_and_high)
    advanced(trainer, latency, pairs, 0, 3)
    restored, _ = make(**low_and_high, seed=9)
    restored.restore(trainer.snapshot())
    assert trainer.constraint.multiplier != 0
    assert advanced(trainer, latency, pairs, 3, 6) == advanced(restored, latency, pairs, 3, 6)
    found = restored.net.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in trainer.net.state_dict().items())


@pytest.mark.parametrize(("bad", "what"), [(0, "weights"), (1, "architecture")])
def test_a_loss_that_is_no_number_is_named(make, pairs, monkeypatch, bad, what):
    trainer, latency = make(warm_up=0.0)
    trainer.train_step(*pairs[0], latency)
    net, alphas = copy_of(trainer.net), copy_of(trainer.alphas)
    real, calls = module.upsampled_loss, []

    def broken(*words):
        calls.append(words)
        return real(*words) * (math.nan if len(calls) == bad + 1 else 1.0)

    monkeypatch.setattr(module, "upsampled_loss", broken)
    with pytest.raises(TrainingError, match=f"loss of the {what} is nan at step 1"):
        trainer.train_step(*pairs[1], latency)
    names = {name for name, _ in trainer.net.named_parameters()}
    assert bool(moved(net, trainer.net) & names) == (what == "architecture")
    assert not moved(alphas, trainer.alphas)


def test_a_gradient_that_is_no_number_moves_nothing(make, pairs, monkeypatch):
    trainer, latency = make(warm_up=0.0)
    net = copy_of(trainer.net)
    real = module.upsampled_loss

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    monkeypatch.setattr(module, "upsampled_loss", lambda *words: Overflow.apply(real(*words)))
    with pytest.raises(TrainingError, match=r"gradient of the weights is (nan|inf) at step 0"):
        trainer.train_step(*pairs[0], latency)
    assert not moved(net, trainer.net) & {name for name, _ in trainer.net.named_parameters()}


def test_bf16_computes_otherwise_than_fp32(make, pairs):
    records = []
    for precision in ("fp32", "bf16"):
        trainer, latency = make(open_fabric("cpu", precision), warm_up=0.0)
        records.append(advanced(trainer, latency, pairs, 0, 3))
        assert all(parameter.dtype == torch.float32 for parameter in trainer.net.parameters())
    losses = np.array([[record["weight_loss"] for record in run] for run in records])
    assert not np.array_equal(losses[0], losses[1])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
