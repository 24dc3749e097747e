import numpy as np
import pytest
import torch
from torch import nn

from lgc.errors import PluginError
from lgc.models import LGCNet, OpSpec
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.layers import build_module
from lgc.models.nets.network import randomise_norms
from lgc.models.nets.sources import PeerSource, load_source
from lgc.profiler.deployment.parity import compute_file_outputs
from lgc.profiler.timing.contexts import list_terms
from lgc.profiler.timing.workloads import build_folded, network_workload, operator_workload

from ... import user_networks


def test_operator_workload_is_named_and_reproducible():
    workload = operator_workload(OpSpec("sep_conv_3x3", 6, 6, 17, 9))
    assert workload.name == "alone/sep_conv_3x3/c6-6/17x9/s1/b1"
    assert workload.input_shapes == ((1, 6, 17, 9),)
    one, two = workload.build(), workload.build()
    assert not one.training
    assert not any(isinstance(child, nn.BatchNorm2d) for child in one.modules())
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    assert workload.onnx is workload.onnx


@pytest.mark.parametrize("scope", ["core", "dense"])
def test_random_network_has_ordinary_outputs(mini_space, scope):
    workload = network_workload(mini_space.sample(0), scope)
    out = workload.build()(torch.randn(workload.input_shapes[0], generator=torch.Generator().manual_seed(0)))
    assert tuple(out.shape) == ((1, 32, 32) if scope == "dense" else (1, 3, 8, 8))
    if scope == "core":
        assert 1e-3 < float(out.std()) < 1e3


def test_network_has_the_given_weights(mini_space):
    architecture = mini_space.sample(0)
    torch.manual_seed(7)
    network = LGCNet(mini_space, architecture).eval()
    randomise_norms(network, 7)
    x = torch.randn(1, 3, 32, 32)
    built = network_workload(architecture, "core", network.state_dict()).build()
    torch.testing.assert_close(built(x), network(x), atol=1e-5, rtol=1e-5)


def test_module_is_folded_and_reproducible():
    def make():
        return nn.Sequential(build_module(OpSpec("conv_3x3", 4, 4, 8, 8)), build_module(OpSpec("conv_1x1", 4, 4, 8, 8)))

    one, two = build_folded(make, [(1, 4, 8, 8)]), build_folded(make, [(1, 4, 8, 8)])
    assert not one.training
    assert not any(isinstance(child, nn.BatchNorm2d) for child in one.modules())
    assert not any(parameter.requires_grad for parameter in one.parameters())
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert 0.01 < float(one(x).std()) < 100


def test_building_leaves_the_random_state_alone(mini_space):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    operator_workload(OpSpec("conv_3x3", 4, 4, 8, 8)).build()
    for term in list_terms(OpSpec("conv_3x3", 4, 4, 8, 8), "carriers"):
        term.workload.build()
    network_workload(mini_space.sample(0), "dense").build()
    assert torch.equal(torch.get_rng_state(), before)


def define(name):
    return NetworkDefinition(load_source(f"{user_networks.__file__}:{name}"), (32, 32), 5)


@pytest.mark.parametrize("scope", ["core", "dense", "end-to-end"])
@pytest.mark.parametrize("name", ["build", "Tied", "Lazy", "Asserting", "Attention"])
def test_exported_factory_computes_what_torch_does(name, scope):
    workload = network_workload(define(name), scope)
    array, module = workload.inputs()[0], workload.build()
    with torch.no_grad():
        expected = module(torch.from_numpy(array)).numpy()
    (output,) = compute_file_outputs(workload.onnx, [array])
    assert output.dtype == expected.dtype
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize("stride_size", [(32, 32), (40, 72)])
def test_labels_have_the_input_size(stride_size):
    workload = network_workload(NetworkDefinition(PeerSource("fast-scnn"), stride_size, 5), "dense")
    assert workload.build()(torch.from_numpy(workload.inputs()[0])).shape == (1, *stride_size)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Branch", r"`if y\.mean\(\) > 0:` reads values of the input"),
        ("Unsupported", "Unsupported: cannot export to ONNX: opset 17 has no aten::special_erfcx"),
    ],
)
def test_factory_that_cannot_be_exported_is_refused(name, message, capfd):
    workload = network_workload(define(name), "core")
    with pytest.raises(PluginError, match=message):
        workload.onnx  # noqa: B018
    assert capfd.readouterr().out == ""
