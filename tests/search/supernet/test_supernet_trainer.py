"""Steps of the supernet's training: parameters that each one changes, and its metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lgc.errors import TrainingError
from lgc.models.space.lgcnet import LGCNetSpace
from lgc.models.space.lgcnet.plan import edge_name
from lgc.search.config import SearchConfig
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.exploration import draw_paths
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime.batches import load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.supernet import supernet_trainer
from lgc.search.supernet.alphas import ArchitectureParameters, SampledPath
from lgc.search.supernet.blocks import BlockDecisions
from lgc.search.supernet.supernet_trainer import SupernetTrainer
from lgc.search.supernet.weight_optimiser import MAX_GRADIENT_NORM
from lgc.search.training.losses import SegmentationLoss
from lgc.search.training.scores import compute_scores

from ...spaces import SLIM
from ..runs import require_equal_tensors


@pytest.fixture
def make(street):
    """Make a trainer: `make(steps=6, ...)`."""

    def build(fabric=None, **settings):
        config = SearchConfig(**({"steps": 6, "batch": 2, "warm_up": 0.3} | settings))
        decisions = BlockDecisions(street.space, fixed_fusion=config.fusion == "fixed")
        targets = config.targets_ms[0] if config.targets_ms else None
        return SupernetTrainer(
            decisions,
            config,
            fabric or open_fabric("cpu"),
            CostConstraint.from_predictors(decisions, [street], targets),
        )

    return build


@pytest.fixture
def pairs(scenes):
    """Batches of 100 steps, for the weights and for the architecture."""
    dataset = load_dataset(scenes, "train", (32, 32), augment=True)
    return list(zip(*(load_batches(dataset, 2, seed, start=0, stop=100) for seed in (0, 1)), strict=True))


def copy_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def list_changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def samples(monkeypatch) -> list[tuple[SampledPath, bool]]:
    """Every path of a step, and whether it is one of the random ones."""
    samples = []

    def record(kind, name, explored):
        real = getattr(kind, name)

        def call(self, *arguments):
            samples.append((real(self, *arguments), explored))
            return samples[-1][0]

        monkeypatch.setattr(kind, name, call)

    record(ArchitectureParameters, "sample_path", False)
    record(SupernetTrainer, "_draw_path", True)
    return samples


def test_warm_up_changes_only_sampled_weights(make, pairs, samples):
    trainer = make()
    net, alphas = copy_state(trainer.net), copy_state(trainer.alphas)
    record = trainer.train_step((pairs[0][0], None))
    assert not list_changed(alphas, trainer.alphas)
    ((sample, explored),) = samples
    assert explored
    assert sample.gates is None
    assert sample.choices.tolist() in draw_paths([trainer.constraint], 0).tolist()
    parameters = dict(trainer.net.named_parameters())
    sampled = {name for name, parameter in parameters.items() if parameter.grad is not None}
    assert list_changed(net, trainer.net) & set(parameters) == {name for name in sampled if parameters[name].grad.any()}
    assert record.keys() == {"step", "weight_loss", "weight_gradient", "weight_lr", "entropy"}
    assert len(record["entropy"]) == len(trainer.alphas.decisions.blocks)


def test_architecture_step_changes_no_weights(make, pairs, samples, monkeypatch):
    trainer = make(warm_up=0.0, explore=0.0)
    states = []
    real = SupernetTrainer._update_architecture

    def update(self, *arguments):
        states.append(copy_state(self.net))
        gradients = {name: p.grad.clone() for name, p in self.net.named_parameters() if p.grad is not None}
        record = real(self, *arguments)
        parameters = {name: p.grad for name, p in self.net.named_parameters() if p.grad is not None}
        assert parameters.keys() == gradients.keys()
        assert all(torch.equal(value, gradients[name]) for name, value in parameters.items())
        return record

    monkeypatch.setattr(SupernetTrainer, "_update_architecture", update)
    alphas = copy_state(trainer.alphas)
    record = trainer.train_step(pairs[0])
    names = {name for name, _ in trainer.net.named_parameters()}
    assert not list_changed(states[0], trainer.net) & names
    assert list_changed(alphas, trainer.alphas) == set(alphas)
    assert not any(explored for _, explored in samples)
    assert (samples[0][0].gates is None, samples[1][0].gates is None) == (True, False)
    new = {"temperature", "arch_loss", "expected_ms", "load", "multiplier"}
    assert record.keys() == {"step", "weight_loss", "weight_gradient", "weight_lr", "entropy"} | new
    assert record["load"] == pytest.approx(record["expected_ms"][0])  # without a target: the latency itself


def test_share_of_steps_explores(make, pairs, samples):
    trainer = make(steps=100, warm_up=0.0, explore=0.3)
    for pair in pairs:
        trainer.train_step(pair)
    explored = [explored for sample, explored in samples if sample.gates is None]
    assert len(explored) == 100
    assert 0.15 < np.mean(explored) < 0.45


def test_learning_rate_and_temperature_follow_schedule(make, pairs):
    trainer = make(steps=10, warm_up=0.2, weight_lr=0.04, weight_lr_end=0.01, temperature_end=0.1)
    records = [
        trainer.train_step((weight, arch if step >= 2 else None)) for step, (weight, arch) in enumerate(pairs[:10])
    ]
    shares = np.arange(10) / 10
    expected = 0.01 + 0.03 * (1 + np.cos(np.pi * shares)) / 2
    assert [record["weight_lr"] for record in records] == pytest.approx(expected.tolist())
    after = np.arange(8) / 8  # of the warm-up, which has no temperature
    assert [record["temperature"] for record in records[2:]] == pytest.approx((0.1**after).tolist())
    assert [record["step"] for record in records] == list(range(10))


def test_weight_gradient_is_clipped(make, pairs, monkeypatch):
    trainer = make(optimiser="sgd", weight_decay=0.0)
    real = SegmentationLoss.__call__
    monkeypatch.setattr(SegmentationLoss, "__call__", lambda *arguments: [1e3 * real(*arguments)[0]])
    before = copy_state(trainer.net)
    trainer.train_step((pairs[0][0], None))
    steps = [value - before[name] for name, value in trainer.net.named_parameters()]
    norm = torch.cat([step.flatten() for step in steps]).norm() / trainer.config.weight_lr
    assert norm.item() == pytest.approx(MAX_GRADIENT_NORM, rel=1e-3)


def test_adamw_steps_by_its_rate_and_decays_convolutions(make, pairs):
    trainer = make(weight_lr=0.002, weight_decay=0.5)
    before = copy_state(trainer.net)
    trainer.train_step((pairs[0][0], None))
    for name, value in trainer.net.named_parameters():
        if value.grad is None:
            assert torch.equal(value, before[name]), name  # also without decay
            continue
        decayed = before[name] * (1 - 0.002 * 0.5 * (value.ndim > 1))
        steps = (value - decayed).abs()[value.grad.abs() > 1e-4]
        torch.testing.assert_close(steps, torch.full_like(steps, 0.002), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_latency_term_drives_architecture_to_target(make, street, pairs, monkeypatch, share):
    low, high = street.predict(street.fastest), street.predict(street.slowest)
    target = low + share * (high - low)
    settings = {"steps": 90, "warm_up": 0.0, "arch_lr": 0.1, "targets_ms": ((target,),)}
    trainer, other = make(**settings), make(**settings, latency_term=False)
    for each in (trainer, other):
        for alpha in each.alphas.alpha:
            torch.nn.init.zeros_(alpha)  # far from the target
    # With a loss without gradient, latency alone determines the result.
    monkeypatch.setattr(SupernetTrainer, "compute_loss", lambda self, sample, batch: sample.gates.sum() * 0 + 1.0)
    for _ in range(90):
        record = trainer._update_architecture(pairs[0][1], 1.0)
        unconstrained = other._update_architecture(pairs[0][1], 1.0)
    assert record["load"] == pytest.approx(1, abs=0.05)
    assert record["expected_ms"][0] == pytest.approx(record["load"] * target, rel=1e-4)
    assert record["multiplier"] != 0
    assert unconstrained["multiplier"] == 0
    assert abs(unconstrained["load"] - 1) > 0.1


@pytest.mark.parametrize(("progress", "low"), [(0.0, 0.5), (0.5, 0.25)])
def test_entropy_stays_above_the_smallest(make, pairs, monkeypatch, progress, low):
    """A loss that always pulls towards the first choices settles no decision early."""
    monkeypatch.setattr(
        SupernetTrainer, "compute_loss", lambda self, sample, batch: -0.01 * self.alphas.logits()[:, 0].mean()
    )
    monkeypatch.setattr(SupernetTrainer, "progress", progress)
    shares = []
    for smallest in (0.5, 0.0):
        monkeypatch.setattr(supernet_trainer, "MIN_ENTROPY", smallest)
        trainer = make(steps=100, warm_up=0.0, arch_lr=0.05, arch_decay=0.0, latency_term=False, communication="none")
        first = trainer.alphas.list_entropies().detach()
        for _ in range(200):
            trainer._update_architecture(pairs[0][1], 1.0)
        shares.append(trainer.alphas.list_entropies().detach() / first)
        assert (trainer.alphas.probabilities().argmax(dim=1) == 0).all()
    torch.testing.assert_close(shares[0], torch.full_like(shares[0], low), rtol=0, atol=0.01)
    assert shares[1].max() < 0.5 * low


def test_without_target_beta_is_the_multiplier(make, pairs):
    trainer = make(beta=0.004, warm_up=0.0)
    records = [trainer.train_step(pair) for pair in pairs[:3]]
    assert {record["multiplier"] for record in records} == {0.004}


def test_architecture_and_communication_have_their_rates(make, pairs):
    trainer = make(warm_up=0.0, arch_lr=0.04, arch_decay=0.0)
    before = copy_state(trainer.alphas)
    trainer.train_step(pairs[0])
    steps = {name: (value - before[name]).abs().max() for name, value in trainer.alphas.state_dict().items()}
    # The first step of Adam has the size of its learning rate.
    assert steps["alpha.0"].item() == pytest.approx(0.04, rel=0.01)
    assert steps["guides.0.project.weight"].item() == pytest.approx(trainer.config.communication_lr, rel=0.05)
    assert trainer.config.communication_lr < 0.04


def test_record_has_miou_and_likeliest_architecture(make, pairs, samples):
    trainer = make(steps=2, warm_up=0.0, weight_lr=1e-9, weight_lr_end=1e-9)
    assert "miou" not in trainer.train_step(pairs[0])
    record = trainer.train_step(pairs[1])
    images, labels = pairs[1][1]
    with torch.no_grad():
        logits = trainer.net(images, SampledPath(samples[2][0].choices))
    full = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear").argmax(dim=1)
    known = labels != 255
    confusion = np.zeros((11, 11))
    np.add.at(confusion, (labels[known].numpy(), full[known].numpy()), 1)
    assert record["miou"] == pytest.approx(
        compute_scores(torch.from_numpy(confusion), tuple("abcdefghijk")).miou, rel=1e-3
    )
    choices = trainer.alphas.probabilities().argmax(dim=1).tolist()
    space = trainer.alphas.decisions.space
    edges = [(cell.name, edge_name(cell, edge)) for cell in space.plan.searched_cells for edge in cell.edges]
    text = [
        (part.split(": ")[0], *entry.split(" "))
        for part in record["most_likely"].split("; ")
        for entry in part.split(": ")[1].split(", ")
    ]
    assert text == [(cell, edge, space.operators[choice]) for (cell, edge), choice in zip(edges, choices, strict=True)]


def train(trainer, pairs, start, stop):
    return [read(trainer.train_step(pairs[step])) for step in range(start, stop)]


def test_snapshot_can_be_restored_repeatedly(make, pairs):
    """The points of a front share a snapshot: training from it must not change it."""
    trainer = make(warm_up=0.0)
    train(trainer, pairs, 0, 2)
    shared = trainer.snapshot()
    runs = []
    for _ in range(3):
        other = make(warm_up=0.0)
        other.restore(shared)
        assert other.step == 2
        runs.append((train(other, pairs, 2, 5), other.snapshot()))
    (records, state), *repeats = runs
    for again, other in repeats:
        assert again == records
        for part in ("net", "alphas"):
            require_equal_tensors(state[part], other[part])


def test_restored_trainer_continues_identically(make, pairs):
    settings = {"targets_ms": ((0.5,),), "warm_up": 0.0}  # any target, so that the multiplier changes
    trainer = make(**settings)
    train(trainer, pairs, 0, 3)
    restored = make(**settings)
    train(restored, pairs, 10, 12)  # another state
    restored.restore(trainer.snapshot())
    assert trainer.objective.multiplier != 0
    assert train(trainer, pairs, 3, 6) == train(restored, pairs, 3, 6)
    require_equal_tensors(trainer.net.state_dict(), restored.net.state_dict())


def read(record):
    return {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in record.items()}


@pytest.mark.parametrize(("call", "name"), [(0, "weights"), (1, "architecture")])
def test_nan_loss_is_named(make, pairs, monkeypatch, call, name):
    trainer = make(warm_up=0.0)
    trainer.train_step(pairs[0])
    net, alphas = copy_state(trainer.net), copy_state(trainer.alphas)
    real, calls = SegmentationLoss.__call__, []

    def broken(*arguments):
        calls.append(arguments)
        return [real(*arguments)[0] * (math.nan if len(calls) == call + 1 else 1.0)]

    monkeypatch.setattr(SegmentationLoss, "__call__", broken)
    record = read(trainer.train_step(pairs[1]))
    with pytest.raises(TrainingError, match=f"loss of the {name} is nan at step 1"):
        trainer.check(record)
    names = {name for name, _ in trainer.net.named_parameters()}
    assert bool(list_changed(net, trainer.net) & names) == (name == "architecture")
    assert bool(list_changed(alphas, trainer.alphas)) == (name == "weights")


def test_infinite_gradient_changes_nothing(make, pairs, monkeypatch):
    trainer = make(warm_up=0.0)
    net = copy_state(trainer.net)
    real = SegmentationLoss.__call__

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    monkeypatch.setattr(SegmentationLoss, "__call__", lambda *arguments: [Overflow.apply(real(*arguments)[0])])
    record = read(trainer.train_step((pairs[0][0], None)))
    with pytest.raises(TrainingError, match=r"gradient of the weights is (nan|inf) at step 0"):
        trainer.check(record)
    assert not list_changed(net, trainer.net) & {name for name, _ in trainer.net.named_parameters()}


def test_bf16_and_fp32_losses_differ_slightly(make, pairs):
    records = []
    for precision in ("fp32", "bf16"):
        trainer = make(open_fabric("cpu", precision), warm_up=0.0)
        records.append(train(trainer, pairs, 0, 3))
        assert all(parameter.dtype == torch.float32 for parameter in trainer.net.parameters())
    losses = np.array([[record["weight_loss"] for record in run] for run in records])
    assert not np.array_equal(losses[0], losses[1])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_width_gradient_is_the_difference_of_losses(predict, pairs, monkeypatch):
    """The term has no value; its gradient is that of the rival's probability, times the losses' difference."""
    slim = predict(LGCNetSpace.check({**SLIM, "classes": 11}, "slim"))
    decisions = BlockDecisions(slim.space)
    constraint = CostConstraint.from_predictors(decisions, [slim])
    trainer = SupernetTrainer(decisions, SearchConfig(steps=6, batch=2), open_fabric("cpu"), constraint)
    losses = {}

    def compute_loss(self, sample, batch):
        losses[sample.choices.tobytes()] = float(np.random.default_rng(len(losses)).uniform(1, 3))
        return torch.tensor(losses[sample.choices.tobytes()])

    monkeypatch.setattr(SupernetTrainer, "compute_loss", compute_loss)
    compared = set()
    for _ in range(30):
        sample = trainer.alphas.sample_path(1.0, trainer._noise)
        losses.clear()
        term = trainer._compare_width(sample, pairs[0][1], torch.tensor(2.0))
        assert term.item() == 0
        ((choices, rival_loss),) = losses.items()
        changed = np.flatnonzero(np.frombuffer(choices, np.int64) != sample.choices)
        (width,) = changed
        assert decisions.are_widths[width]
        compared.add(int(width))
        gradients = torch.autograd.grad(term, list(trainer.alphas.alpha), retain_graph=True, allow_unused=True)
        single = torch.autograd.grad(sample.rival_gates[width], list(trainer.alphas.alpha), allow_unused=True)
        for gradient, own in zip(gradients, single, strict=True):
            if own is not None:
                torch.testing.assert_close(gradient, 5 * (rival_loss - 2.0) * own)
    assert compared == set(np.flatnonzero(decisions.are_widths).tolist())
