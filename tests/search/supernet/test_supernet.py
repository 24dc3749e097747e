"""The supernet: its paths are the derived networks, and gates carry gradients to the architecture parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lgc.models import Architecture, LGCNet, SearchSpace
from lgc.models.nets.network import randomise_norms
from lgc.search.decisions import Decisions
from lgc.search.supernet.alphas import COMMUNICATIONS, ArchitectureParameters, SampledPath
from lgc.search.supernet.supernet import Supernet, batch_statistics


def random_draw(blocks: Decisions, seed: int = 0) -> SampledPath:
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(blocks.space.operators), size=(1, blocks.decisions))
    return SampledPath(blocks.repaired(picked, np.zeros((blocks.decisions, len(blocks.space.operators))))[0])


def supernet_of(blocks: Decisions, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(blocks)
    randomise_norms(supernet, seed)
    return supernet


def images(space: SearchSpace, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *space.input, generator=torch.Generator().manual_seed(0))


def require_equal_to_the_derived_network(blocks: Decisions, seed: int) -> None:
    supernet, draw = supernet_of(blocks, seed), random_draw(blocks, seed)
    architecture = Architecture.from_choices(blocks.space, blocks.expand(draw.picked[None])[0].tolist())
    derived = LGCNet(blocks.space, architecture)
    derived.load_state_dict({name: supernet.state_dict()[name] for name in derived.state_dict()})
    x = images(blocks.space)
    with torch.no_grad():
        wanted, found = derived.eval()(x), supernet.eval()(x, draw)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_path_is_the_derived_network(deep_space, shared, fixed, seed):
    require_equal_to_the_derived_network(Decisions(deep_space, shared=shared, fixed_fusion=fixed), seed)


def test_a_path_of_the_tiny_preset_is_its_derived_network():
    require_equal_to_the_derived_network(Decisions(SearchSpace.load("tiny")), 3)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_path_trains_only_its_own_operators(deep_space, fixed):
    blocks = Decisions(deep_space, fixed_fusion=fixed)
    supernet, draw = supernet_of(blocks), random_draw(blocks)
    supernet(images(deep_space), draw).sum().backward()
    architecture = Architecture.from_choices(deep_space, blocks.expand(draw.picked[None])[0].tolist())
    chosen = set(LGCNet(deep_space, architecture).state_dict())
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is not None) == (name in chosen), name
    assert chosen < set(supernet.state_dict())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_gates_have_the_gradient_of_what_they_scale(deep_space, shared, fixed):
    blocks = Decisions(deep_space, shared=shared, fixed_fusion=fixed)
    supernet, draw = supernet_of(blocks).double().eval(), random_draw(blocks)
    x = images(deep_space).double()
    weights = torch.randn(1, dtype=torch.double) + torch.linspace(-1, 1, 3, dtype=torch.double).view(1, 3, 1, 1)

    def loss(gates: torch.Tensor) -> torch.Tensor:
        return (supernet(x, SampledPath(draw.picked, gates)) * weights).mean()

    gates = torch.ones(blocks.decisions, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(loss(gates), (supernet(x, draw) * weights).mean(), rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(loss(gates), gates)
    step = 1e-5 * torch.eye(blocks.decisions, dtype=torch.double)
    with torch.no_grad():
        wanted = torch.stack([(loss(1 + row) - loss(1 - row)) / 2e-5 for row in step])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-7)
    live = blocks.live(draw.picked[None])[0]
    assert (found[torch.from_numpy(live)] != 0).float().mean() > 0.9
    assert (found[torch.from_numpy(~live)] == 0).all()


@pytest.mark.parametrize("communication", COMMUNICATIONS)
def test_the_loss_reaches_the_architecture_and_its_guides(deep_space, communication):
    blocks = Decisions(deep_space)
    supernet, alphas = supernet_of(blocks), ArchitectureParameters(blocks, communication)
    draw = alphas.draw(1.0, torch.Generator().manual_seed(0))
    supernet(images(deep_space), draw).square().mean().backward()
    for name, parameter in alphas.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_batch_statistics_leave_the_running_ones_alone(deep_space):
    blocks = Decisions(deep_space)
    supernet, draw, x = supernet_of(blocks).eval(), random_draw(blocks), images(deep_space, 4)
    supernet.cells[0].train()
    modes = [module.training for module in supernet.modules()]
    before = {name: value.clone() for name, value in supernet.named_buffers() if "running" in name}
    with batch_statistics(supernet):
        found = supernet(x, draw)
        assert not found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in supernet.named_buffers() if name in before)
    assert [module.training for module in supernet.modules()] == modes
    assert all(m.momentum == 0.1 for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with torch.no_grad():
        running, batch = supernet.eval()(x, draw), supernet.train()(x, draw)
    assert not torch.allclose(running, found)
    torch.testing.assert_close(batch, found)
    assert not all(torch.equal(value, before[name]) for name, value in supernet.named_buffers() if name in before)


def test_batch_statistics_end_after_an_error(deep_space):
    supernet = supernet_of(Decisions(deep_space)).eval()
    with pytest.raises(ZeroDivisionError), batch_statistics(supernet):
        raise ZeroDivisionError
    assert not any(module.training for module in supernet.modules())
    assert torch.is_grad_enabled()
