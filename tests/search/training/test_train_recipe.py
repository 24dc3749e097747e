"""Each setting of the recipe has the effect that its name promises."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from lgc.errors import UsageError
from lgc.models import Architecture, LGCNet, SearchSpace
from lgc.models.nets.peers import PEERS, build_peer
from lgc.models.nets.state.weights import load_weights
from lgc.search.training import losses
from lgc.search.training.auxiliary import TrainingNetwork, find_auxiliary_cells
from lgc.search.training.config import TrainConfig
from lgc.search.training.ema import WeightAverage
from lgc.search.training.train import train

from ..runs import load_checkpoint, read_log


@pytest.fixture
def trained(street_space, scenes, tmp_path):
    """Train with changed settings in a new folder; return the folder, the result and the metrics of the steps."""
    run = tmp_path / "run"
    run.mkdir()
    street_space.sample(0).save(run / "architecture.json")
    number = iter(range(9))

    def run_training(**changed):
        out = tmp_path / str(next(number))
        result = train(run, scenes, TrainConfig(**{"steps": 3, "batch": 2, "lr": 0.1, **changed}), out=out)
        return out, result, read_log(out, "train")

    return run_training


def load_final(out):
    return load_file(out / "weights.safetensors")


def are_equal(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_ohem_loss_exceeds_mean_loss(trained, monkeypatch):
    monkeypatch.setattr(losses, "OHEM_THRESHOLD", 0.09)  # an untrained network gives about 1 / 11
    hard, every = (trained(ohem=ohem)[2] for ohem in (True, False))
    assert hard[0]["loss"] > every[0]["loss"] + 0.01
    assert hard[0]["aux_loss"] > every[0]["aux_loss"] + 0.01


def test_auxiliary_head_trains_but_is_not_saved(trained, street_space):
    outs, results, logs = zip(*(trained(aux=aux) for aux in (0.0, 0.4, 4.0)), strict=True)
    assert ["aux_loss" in log[0] for log in logs] == [False, True, True]
    assert len({log[0]["loss"] for log in logs}) == 1  # equal initial networks
    assert [result.config.aux for result in results] == [0.0, 0.4, 4.0]
    weights = [load_weights(out / "weights.safetensors", Architecture.load(out / "architecture.json")) for out in outs]
    assert not any(are_equal(weights[a], weights[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    saved = [load_checkpoint(out, "train")["trainee"] for out in outs]
    assert [any(name.startswith("auxiliary.") for name in state) for state in saved] == [False, True, True]


@pytest.mark.parametrize(("heads", "cells"), [(None, []), ("single", [0]), ("linear", [0, 1])])
def test_auxiliary_heads_read_the_coarsest_features(street_space, heads, cells):
    plan = street_space.plan
    assert [cell.concat.height for cell in plan.cells] == [8, 4]
    assert find_auxiliary_cells(plan) == [0, 1]
    trainee = TrainingNetwork(LGCNet(street_space, street_space.sample(0)), heads)
    logits, auxiliary = trainee(torch.randn(2, 3, 32, 32))
    assert logits.shape[:2] == (2, 11)
    sizes = {"cell0": (2, 11, 8, 8), "cell1": (2, 11, 4, 4)}
    assert {name: tuple(out.shape) for name, out in auxiliary.items()} == dict(list(sizes.items())[: len(cells)])
    kernels = {parameter.shape[-1] for parameter in trainee.auxiliary.parameters() if parameter.ndim == 4}
    assert kernels == {None: set(), "single": {3, 1}, "linear": {1}}[heads]
    if heads:
        sum(out.sum() for out in auxiliary.values()).backward()
        trained = {name.split(".")[0] for name, p in trainee.network.named_parameters() if p.grad is not None}
        assert trained == {"stem", "cells"}


def test_auxiliary_cells_end_their_resolutions():
    plan = SearchSpace.load("rapid").plan
    heights = [cell.concat.height for cell in plan.cells]
    cells = find_auxiliary_cells(plan)
    assert [heights[cell] for cell in cells] == [45 // 2 + 1, 45 // 4 + 1]
    assert all(heights[cell + 1 :].count(heights[cell]) == 0 for cell in cells)


HEADS = {
    "bisenetv2": {
        4: ("semantic.0.", "semantic.1."),
        8: ("semantic.2.", "semantic.3."),
        16: ("semantic.4.", "semantic.5."),
        32: ("semantic.8.", "semantic.9."),
    },
    "ddrnet-23-slim": {8: ("up3.", "high4.")},
    "fast-scnn": {8: ("downsample.", "extract."), 32: ("extract.", "fuse.")},
    "pidnet-s": {8: ("attend3.", "detail4.")},
    "stdc1-seg": {16: ("conv32.", "refine16."), 8: ("conv16.", "fuse.")},
}
"""Peer -> stride of each auxiliary head, the last module before its feature and the first one behind it."""


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_trained_with_the_heads_of_their_papers(name):
    peer = build_peer(name, 11).train()
    trainee, images = TrainingNetwork(peer, "linear"), torch.randn(2, 3, 64, 96)
    logits, auxiliary = trainee(images)
    assert logits.shape == (2, 11, 8, 12)
    outputs = {64 // out.shape[2]: out for out in auxiliary.values()}
    assert [tuple(out.shape) for out in outputs.values()] == [(2, 11, 64 // s, 96 // s) for s in outputs]
    assert set(outputs) == set(HEADS[name])
    for stride, (last, following) in HEADS[name].items():
        peer.zero_grad()
        outputs[stride].sum().backward(retain_graph=True)
        reached = [key for key, parameter in peer.named_parameters() if parameter.grad is not None]
        assert any(key.startswith(last) for key in reached)
        assert not any(key.startswith((following, "head.", "classify.")) for key in reached)
    assert trainee.eval()(images)[0].equal(peer(images))
    assert TrainingNetwork(peer, "single")(images)[1] == {}


def test_average_weights_are_saved(trained):
    mean, last = trained(ema=0.5), trained(ema=0.0)
    final = [load_checkpoint(out, "train")["trainee"] for out, *_ in (mean, last)]
    final = [{name.removeprefix("network."): value for name, value in state.items()} for state in final]
    assert [record["loss"] for record in mean[2]] == [record["loss"] for record in last[2]]
    assert are_equal(load_final(last[0]), final[1])
    assert not torch.equal(load_final(mean[0])["stem.0.conv.weight"], final[0]["stem.0.conv.weight"])
    assert not torch.equal(load_final(mean[0])["stem.0.norm.running_var"], final[0]["stem.0.norm.running_var"])
    assert (mean[1].config.ema, last[1].config.ema) == (0.5, 0.0)


def test_weight_average_matches_its_definition():
    network = torch.nn.BatchNorm1d(1)
    mean = WeightAverage(network, 0.25)
    for step, value in enumerate((1.0, 2.0, 4.0)):
        network.running_mean.fill_(value)
        network.weight.data.fill_(value)
        network.num_batches_tracked.fill_(step)
        mean.update(step)
    # Decays are 1/10, 2/11 and 1/4 (3/12, the limit); statistics start at 0, weights at 1.
    first = [0.1 * start + 0.9 * 1.0 for start in (0.0, 1.0)]
    third = [0.25 * ((2 / 11) * value + (9 / 11) * 2.0) + 0.75 * 4.0 for value in first]
    assert mean.network.running_mean.item() == pytest.approx(third[0])
    assert mean.network.weight.item() == pytest.approx(third[1])
    assert mean.network.num_batches_tracked.item() == 2
    assert WeightAverage(network, 0.999).decay_at(20_000) == 0.999
    assert not mean.network.training


class Tied(torch.nn.Module):
    """A weight under two names, a mask of -inf, and a buffer that each forward assigns anew."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(2, 2, bias=False)
        self.second = torch.nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def forward(self):
        self.seen = self.seen + 1
        self.scratch = self.scratch + 1
        self.first.weight.data += 1


def test_average_of_tied_and_reassigned_tensors():
    network = Tied()
    mean = WeightAverage(network, 0.5)
    start = network.first.weight.detach().clone()
    for step in range(2):
        network()
        mean.update(step)
    # Decays are 1/10 and 2/11: an average of 0.9, then 2/11 * 0.9 + 9/11 * 2.
    expected = 2 / 11 * 0.9 + 9 / 11 * 2
    assert torch.allclose(mean.network.first.weight, start + expected)
    assert mean.network.second.weight is mean.network.first.weight
    assert mean.network.seen.item() == pytest.approx(expected)
    assert mean.network.mask.tolist() == [0.0, -math.inf]
    assert mean.network.scratch.item() == 0


def test_bf16_gradients_of_equal_images_are_finite():
    """The globally pooled features of Fast-SCNN have no variance then."""
    torch.manual_seed(0)
    network = build_peer("fast-scnn", 4).train()
    images = torch.randn(1, 3, 64, 64).expand(4, -1, -1, -1).contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    losses.SegmentationLoss(True)([logits], torch.randint(0, 4, (4, 64, 64)))[0].backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())


def test_bf16_keeps_float32_weights(trained):
    fine, coarse = trained(precision="fp32"), trained(precision="bf16")
    losses_ = [log[0]["loss"] for _, _, log in (fine, coarse)]
    assert losses_[0] != losses_[1]
    assert losses_[1] == pytest.approx(losses_[0], rel=0.02)
    assert {value.dtype for value in load_final(coarse[0]).values()} == {torch.float32, torch.int64}
    assert coarse[1].config.precision == "bf16"


@pytest.mark.parametrize(("crop", "size"), [(None, (32, 32)), ((16, 32), (16, 32))])
def test_network_is_trained_on_crops(trained, monkeypatch, crop, size):
    sizes = []
    real = TrainingNetwork.forward

    def record(self, x):
        sizes.append(tuple(x.shape))
        return real(self, x)

    monkeypatch.setattr(TrainingNetwork, "forward", record)
    trained(crop=crop)
    assert sizes == [(2, 3, *size)] * 3


@pytest.mark.parametrize(
    ("crop", "message"), [((20, 32), "multiples of the network's stride, 8"), ((32, 64), "larger than")]
)
def test_unsuitable_crops_are_refused(trained, crop, message):
    with pytest.raises(UsageError, match=message):
        trained(crop=crop)


def test_learning_rate_rises_then_decays(trained):
    _, _, log = trained(steps=40, warm_up=1000)
    rates = [record["lr"] for record in log]
    assert rates[:4] == pytest.approx([0.1 * (i + 1) / 4 * (1 - i / 40) ** 0.9 for i in range(4)])
    assert rates[4:] == pytest.approx([0.1 * (1 - i / 40) ** 0.9 for i in range(4, 40)])
    assert [record["lr"] for record in trained(steps=40, warm_up=2)[2]][:3] == pytest.approx(
        [0.05, 0.1 * (39 / 40) ** 0.9, 0.1 * (38 / 40) ** 0.9]
    )
    assert trained(steps=40, warm_up=0)[2][0]["lr"] == pytest.approx(0.1)


def test_weight_decay_shrinks_only_convolutions(trained):
    none, strong = (load_final(trained(weight_decay=decay, ema=0.0, steps=1)[0]) for decay in (0.0, 1.0))
    assert strong["stem.0.conv.weight"].norm() < none["stem.0.conv.weight"].norm()
    assert torch.equal(strong["stem.0.norm.weight"], none["stem.0.norm.weight"])


def test_balanced_loss_differs(trained):
    balanced, alike = (trained(balanced=balanced, ohem=False)[2] for balanced in (True, False))
    assert balanced[0]["loss"] != pytest.approx(alike[0]["loss"], rel=1e-3)
