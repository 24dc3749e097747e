"""Torch modules of the user's as operators: what is counted, and what is refused."""

import re

import pytest
import torch
from torch import nn

from lgc.errors import PluginError, UnknownNameError
from lgc.models import LGCNet, OpSpec, SearchSpace, register_module
from lgc.models.nets.layers import build_module, fold_norms
from lgc.models.onnx.export import to_onnx
from lgc.models.space.operators import RESERVED_NAMES, count_macs, count_parameters, find_footprint, recipe_digest
from lgc.models.space.opspec import OPERATOR_NAME
from lgc.plugins import load_plugin
from lgc.profiler.timing.workloads import operator_workload

from ...operators import EXAMPLES

SPEC = OpSpec("mine", 4, 4, 8, 8)


class Forward(nn.Module):
    """Module that computes a function of its input."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def forward(self, x):
        return self.compute(x)


class Unmoved(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = torch.ones(1)

    def forward(self, x):
        return x + self.offset


def decide_by_value(x):
    return x * 2 if x.mean() > 0 else x


def decide_by_shape(x):
    return x * 2 if x.shape[2] % 2 else x + 1


@pytest.fixture
def define(own_operators):
    """Return a function that registers a factory as `mine`."""

    def register(factory, macs=lambda spec: 7, **options):
        register_module("mine", macs=macs, **options)(factory)
        return SPEC

    return register


def random_widths():
    """Return a factory whose modules differ."""
    widths = iter(range(1, 9))
    return lambda spec: nn.Sequential(nn.Conv2d(4, width := next(widths), 1), nn.Conv2d(width, 4, 1))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda spec: nn.Conv2d(4, 4, 3, groups=3), r"the factory of mine raises ValueError: .*test_modules.py, line"),
        (lambda spec: torch.relu, "the factory of mine returns builtin_function_or_method, not a torch module"),
        (lambda spec: nn.Conv2d(4, 6, 1), r"wrong output of mine: expected \(1, 4, 8, 8\), got \(1, 6, 8, 8\)"),
        (lambda spec: nn.AvgPool2d(2), r"expected \(1, 4, 8, 8\), got \(1, 4, 4, 4\)"),
        (lambda spec: Forward(lambda x: (x, x)), r"expected \(1, 4, 8, 8\), got tuple"),
        (random_widths(), "two modules of mine differ: weight .* has shapes"),
        (lambda spec: Forward(decide_by_value), r"test_modules.py, line \d+: values of a tensor decide"),
        (lambda spec: Forward(lambda x: x[x > 0].sum() + x), "values of a tensor decide"),
        (lambda spec: Unmoved(), "a tensor is not moved with the module: register it with register_buffer"),
        (lambda spec: nn.Conv2d(5, 4, 1), "the module of mine fails: RuntimeError: "),
    ],
)
def test_unusable_module_is_refused(define, factory, message):
    spec = define(factory)
    with pytest.raises(PluginError, match=f"mine/c4-4/8x8/s1/b1: .*{message}"):
        build_module(spec)


@pytest.mark.parametrize(
    ("macs", "message"),
    [
        (lambda spec: -1, "macs of mine returns -1, not an integer of at least 0"),
        (lambda spec: 1.5, "macs of mine returns 1.5, not"),
        (lambda spec: None, "macs of mine returns None, not"),
        (lambda spec: True, "macs of mine returns True, not"),
        (lambda spec: spec.size, r"macs of mine raises AttributeError: .*test_modules.py, line \d+"),
    ],
)
def test_wrong_macs_are_refused(define, macs, message):
    spec = define(lambda spec: nn.Identity(), macs)
    with pytest.raises(PluginError, match=message):
        count_macs(spec)


def test_module_is_counted(define):
    spec = define(lambda spec: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)))
    assert count_macs(spec) == 7
    assert count_macs(OpSpec("mine", 4, 4, 8, 8, batch=3)) == 21
    assert count_parameters(spec) == 4 * 4 + 4
    assert find_footprint(spec) == (256, 0, 256)


def test_parameters_can_be_given(define):
    assert count_parameters(define(lambda spec: nn.Identity(), parameters=lambda spec: 3)) == 3


def test_footprint_follows_operations(define):
    """Three tensors, of which two are alive with the input, then two without it."""
    spec = define(
        lambda spec: Forward(lambda x: torch.cat([x * 2, x * 3], 1).flatten(1).unflatten(1, (8, 8, 8))[:, :4] + 1)
    )
    assert find_footprint(spec) == (512, 1024, 256)


def test_building_leaves_random_state(define):
    spec = define(lambda spec: nn.Conv2d(4, 4, 3, padding=1))
    values = []
    for _ in range(2):  # the first module is checked
        torch.manual_seed(0)
        build_module(spec)
        values.append(torch.rand(1))
    assert values[0] == values[1]


def test_decision_by_shape_is_exported(define):
    module = build_module(define(lambda spec: Forward(decide_by_shape)))
    assert to_onnx(module, [(1, 4, 8, 8)])


def test_digest_follows_the_source_file(own_operators, tmp_path):
    source = "from torch import nn\nfrom lgc.models import register_module\n" + (
        "@register_module('mine', macs=lambda spec: 0, searchable=True)\ndef build(spec):\n    return nn.{}()\n"
    )
    digests = []
    for number, kind in enumerate(("ReLU", "ReLU6", "ReLU")):
        path = tmp_path / f"plugin{number}.py"
        path.write_text(source.format(kind))
        own_operators.pop("mine", None)
        load_plugin(str(path))
        digests.append(recipe_digest(SPEC))
    assert digests[0] == digests[2] != digests[1]


def test_factory_without_source_is_refused(define):
    namespace = {}
    exec("def build(spec):\n    return None\n", namespace)
    with pytest.raises(PluginError, match="the source of operator mine is unknown: define its factory in a file"):
        define(namespace["build"])


def test_taken_name_is_refused():
    with pytest.raises(ValueError, match="operator 'conv_3x3' is already registered"):
        register_module("conv_3x3", macs=lambda spec: 0)(lambda spec: nn.Identity())


def test_attributes_of_modules_are_reserved():
    names = {name for name in dir(nn.ModuleDict()) if re.fullmatch(OPERATOR_NAME, name) and not name.startswith("_")}
    assert names <= RESERVED_NAMES


def test_failed_export_names_the_operator(define):
    spec = define(lambda spec: Forward(torch.special.bessel_j0))
    with pytest.raises(
        PluginError, match=r"alone/mine/c4-4/8x8/s1/b1: cannot export to ONNX: .* no aten::special_bessel"
    ):
        _ = operator_workload(spec).onnx


def test_unsearchable_module_is_no_candidate(define, mini_space):
    define(lambda spec: nn.Identity())
    with pytest.raises(Exception, match="unknown searchable operator 'mine'") as caught:
        SearchSpace.check({**mini_space.to_dict(), "operators": ["zero", "mine"]}, "space")
    assert isinstance(caught.value.__cause__, UnknownNameError)


def test_adjacent_norm_is_folded_once():
    shared = nn.BatchNorm2d(4)
    module = nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), shared, nn.Conv2d(4, 4, 1), shared, nn.ReLU()
    ).eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    folded, x = fold_norms(module), torch.randn(1, 4, 8, 8)
    assert sum(isinstance(child, nn.BatchNorm2d) for child in folded) == 2
    torch.testing.assert_close(folded(x), module(x), atol=1e-5, rtol=1e-5)


def test_mixed_edges_run_modules(mini_space):
    space = SearchSpace.check({**mini_space.to_dict(), "operators": ["zero", *EXAMPLES]}, "space")
    network = LGCNet(space, space.sample(0)).train()
    out = network(torch.randn(2, 3, 32, 32))
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
