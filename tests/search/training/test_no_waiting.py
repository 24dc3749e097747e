"""Training steps give the host no reason to wait for a GPU: they read no tensor, and their sizes are known."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lgc.models import LGCNet
from lgc.models.nets.network import get_geometry
from lgc.models.nets.peers import build_peer
from lgc.search.config import SearchConfig
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.runtime.fabric import open_fabric
from lgc.search.supernet.blocks import BlockDecisions
from lgc.search.supernet.supernet_trainer import SupernetTrainer
from lgc.search.training import losses
from lgc.search.training.auxiliary import TrainingNetwork
from lgc.search.training.config import TrainConfig
from lgc.search.training.network_trainer import NetworkTrainer

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2"}
"""Operators whose result the host reads, or whose size depends on values."""


class WaitError(Exception):
    pass


class _Guard(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        is_masked = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool for index in arguments[1] if name in ("index", "index_put_")
        )
        if name in WAITING or is_masked:
            raise WaitError(name)
        return function(*arguments, **(options or {}))


@contextmanager
def no_waiting():
    """Refuse everything for which the host would wait for a GPU, in the backward pass too."""

    def refuse(tensor, *_):
        raise WaitError

    with pytest.MonkeyPatch.context() as patch, _Guard():
        for name in ("tolist", "numpy", "cpu"):  # on a CPU these use no operator
            patch.setattr(torch.Tensor, name, refuse)
        yield


@pytest.fixture(autouse=True)
def like_gpu(monkeypatch):
    """Select hard pixels as on a GPU."""
    monkeypatch.setattr(losses, "_may_wait", lambda tensor: False)


def make_batch(void=0.2):
    labels = torch.randint(0, 11, (2, 32, 32))
    return torch.randn(2, 3, 32, 32), labels.masked_fill(torch.rand(labels.shape) < void, 255)


def make_trainer(network, teacher=None, weights=None, **settings):
    config = TrainConfig(steps=9, batch=2, **settings)
    fabric = open_fabric("cpu", config.precision)
    if teacher is not None:
        teacher = SimpleNamespace(network=teacher.eval().requires_grad_(False), geometry=get_geometry(teacher))
    return NetworkTrainer(TrainingNetwork(network, config.heads), config, fabric, weights, teacher)


@pytest.mark.parametrize(
    "settings", [{}, {"ohem": False, "ema": 0.0, "aux": 0.0}, {"precision": "bf16"}, {"weights": torch.rand(11) + 1}]
)
def test_training_step_reads_nothing(street_space, settings):
    trainer = make_trainer(LGCNet(street_space, street_space.sample(0)), **settings)
    for void in (0.2, 0.99, 1.0):
        with no_waiting():
            record = trainer.train_step(make_batch(void))
    assert trainer.step == 3
    assert isinstance(record["loss"], torch.Tensor)
    assert not record["loss"].requires_grad


@pytest.mark.parametrize("student", ["peer", "lgcnet"])
def test_step_with_teacher_reads_nothing(student, street_space):
    network = LGCNet(street_space, street_space.sample(0)) if student == "lgcnet" else build_peer("fast-scnn", 11)
    trainer = make_trainer(network, build_peer("fast-scnn", 11))
    with no_waiting():
        record = trainer.train_step(make_batch())
    assert isinstance(record["teacher_loss"], torch.Tensor)


def test_weight_step_of_supernet_reads_nothing(street):
    decisions = BlockDecisions(street.space)
    trainer = SupernetTrainer(
        decisions,
        SearchConfig(steps=9, batch=2),
        open_fabric("cpu"),
        CostConstraint.from_predictors(decisions, [street], None),
        torch.rand(11) + 1,
    )
    with torch.no_grad():
        sample = trainer.alphas.sample_path(1.0, trainer._noise)
    with no_waiting():
        record = trainer._update_weights(sample, make_batch())
    assert isinstance(record["weight_loss"], torch.Tensor)


def test_guard_notices_a_waiting_step(street_space, monkeypatch):
    monkeypatch.setattr(losses, "_may_wait", lambda tensor: True)
    trainer = make_trainer(LGCNet(street_space, street_space.sample(0)))
    with pytest.raises(WaitError, match="_local_scalar_dense"), no_waiting():
        trainer.train_step(make_batch())
    for read in (lambda x: x[x > 0], torch.nonzero, float, lambda x: x.max().tolist()):
        with pytest.raises(WaitError), no_waiting():
            read(torch.ones(1))
