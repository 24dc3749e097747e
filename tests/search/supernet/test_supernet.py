"""The supernet: paths equal derived networks, and gates pass gradients to the architecture parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lgc.models import LGCNet, SearchSpace
from lgc.models.nets.network import randomise_norms
from lgc.search.supernet.alphas import COMMUNICATIONS, ArchitectureParameters, SampledPath
from lgc.search.supernet.blocks import BlockDecisions
from lgc.search.supernet.supernet import Supernet, use_batch_statistics


def random_path(decisions: BlockDecisions, seed: int = 0) -> SampledPath:
    rng = np.random.default_rng(seed)
    choices = rng.integers(len(decisions.space.operators), size=(1, decisions.num_searched))
    return SampledPath(decisions.repair_searched(choices, np.zeros(decisions.searched_shape))[0])


def gate(path: SampledPath, gates: torch.Tensor) -> SampledPath:
    """Return a path with gates, without rivals."""
    return SampledPath(path.choices, gates, np.full_like(path.choices, -1), torch.zeros_like(gates))


def build_supernet(decisions: BlockDecisions, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(decisions)
    randomise_norms(supernet, seed)
    return supernet


def random_images(space: SearchSpace, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *space.input, generator=torch.Generator().manual_seed(0))


def require_equal_to_derived_network(decisions: BlockDecisions, seed: int) -> None:
    supernet, path = build_supernet(decisions, seed), random_path(decisions, seed)
    architecture = decisions.space.build(decisions.expand(path.choices[None])[0].tolist())
    derived = LGCNet(decisions.space, architecture)
    derived.load_state_dict({name: supernet.state_dict()[name] for name in derived.state_dict()})
    x = random_images(decisions.space)
    with torch.no_grad():
        expected, logits = derived.eval()(x), supernet.eval()(x, path)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_path_equals_derived_network(deep_space, shared, fixed, seed):
    require_equal_to_derived_network(BlockDecisions(deep_space, shared=shared, fixed_fusion=fixed), seed)


def test_tiny_preset_path_equals_derived_network():
    require_equal_to_derived_network(BlockDecisions(SearchSpace.load("tiny")), 3)


@pytest.mark.parametrize("fixed", [False, True])
def test_path_trains_only_its_operators(deep_space, fixed):
    decisions = BlockDecisions(deep_space, fixed_fusion=fixed)
    supernet, path = build_supernet(decisions), random_path(decisions)
    supernet(random_images(deep_space), path).sum().backward()
    architecture = deep_space.build(decisions.expand(path.choices[None])[0].tolist())
    chosen = set(LGCNet(deep_space, architecture).state_dict())
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is not None) == (name in chosen), name
    assert chosen < set(supernet.state_dict())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_gate_gradients_match_finite_differences(deep_space, shared, fixed):
    decisions = BlockDecisions(deep_space, shared=shared, fixed_fusion=fixed)
    supernet, path = build_supernet(decisions).double().eval(), random_path(decisions)
    x = random_images(deep_space).double()
    weights = torch.randn(1, dtype=torch.double) + torch.linspace(-1, 1, 3, dtype=torch.double).view(1, 3, 1, 1)

    def loss(gates: torch.Tensor) -> torch.Tensor:
        return (supernet(x, gate(path, gates)) * weights).mean()

    gates = torch.ones(decisions.num_searched, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(loss(gates), (supernet(x, path) * weights).mean(), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(loss(gates), gates)
    step = 1e-5 * torch.eye(decisions.num_searched, dtype=torch.double)
    with torch.no_grad():
        differences = torch.stack([(loss(1 + row) - loss(1 - row)) / 2e-5 for row in step])
    torch.testing.assert_close(gradient, differences, rtol=1e-3, atol=1e-7)
    live = path.choices != 0
    assert (gradient[torch.from_numpy(live)] != 0).float().mean() > 0.9
    assert (gradient[torch.from_numpy(~live)] == 0).all()


@pytest.mark.parametrize("communication", COMMUNICATIONS)
def test_loss_reaches_all_architecture_parameters(deep_space, communication):
    decisions = BlockDecisions(deep_space)
    supernet, alphas = build_supernet(decisions), ArchitectureParameters(decisions, communication)
    path = alphas.sample_path(1.0, torch.Generator().manual_seed(0))
    supernet(random_images(deep_space), path).square().mean().backward()
    for name, parameter in alphas.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_batch_statistics_keep_running_statistics(deep_space):
    decisions = BlockDecisions(deep_space)
    supernet, path, x = build_supernet(decisions).eval(), random_path(decisions), random_images(deep_space, 4)
    supernet.cells[0].train()
    modes = [module.training for module in supernet.modules()]
    before = {name: value.clone() for name, value in supernet.named_buffers() if "running" in name}
    with use_batch_statistics(supernet):
        logits = supernet(x, path)
        assert not logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in supernet.named_buffers() if name in before)
    assert [module.training for module in supernet.modules()] == modes
    assert all(m.momentum == 0.1 for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d))
    with torch.no_grad():
        running, batch = supernet.eval()(x, path), supernet.train()(x, path)
    assert not torch.allclose(running, logits)
    torch.testing.assert_close(batch, logits)
    assert not all(torch.equal(value, before[name]) for name, value in supernet.named_buffers() if name in before)


def test_batch_statistics_end_after_error(deep_space):
    supernet = build_supernet(BlockDecisions(deep_space)).eval()
    with pytest.raises(ZeroDivisionError), use_batch_statistics(supernet):
        raise ZeroDivisionError
    assert not any(module.training for module in supernet.modules())
    assert torch.is_grad_enabled()
