"""Torch modules of the user's as operators: what is counted, and what is refused."""

import random
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from lgc.errors import PluginError, UnknownNameError
from lgc.models import LGCNet, OpSpec, SearchSpace, register_module
from lgc.models.nets.layers import build_module, fold_norms
from lgc.models.onnx.export import to_onnx
from lgc.models.onnx.trace_text import describe_computation
from lgc.models.onnx.tracing import UncountedError, count_products
from lgc.models.space.operators import RESERVED_NAMES, count_macs, count_parameters, find_footprint, recipe_digest
from lgc.models.space.opspec import OPERATOR_NAME
from lgc.profiler.timing.workloads import operator_workload

from ...operators import EXAMPLES, pooled_attention

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


ATTENTION = (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)


def dilated(dilation):
    return nn.Conv2d(4, 4, 3, padding=dilation, dilation=dilation)


def reorder(x, order):
    return x.clone(memory_format=order)


def assign(x, part):
    x = x.clone()
    x[:, part] = x[:, :2] * 2
    return x


def autocast(x, enabled):
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        return (x @ x).float()


def attend(x, kernel):
    with sdpa_kernel([*kernel]):
        return F.scaled_dot_product_attention(x, x, x)


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
        (lambda spec: Forward(torch.Tensor.double), "wrong output of mine: expected torch.float32, got torch.float64"),
        (lambda spec: Forward(lambda x: (x, x)), r"expected \(1, 4, 8, 8\), got tuple"),
        (random_widths(), r"two modules of mine differ: weight 0.bias \(1,\) float32 and weight 0.bias \(2,\)"),
        (lambda spec: Forward(decide_by_value), r"test_modules.py, line \d+: values of a tensor decide"),
        (lambda spec: Forward(lambda x: x[x > 0].sum() + x), "values of a tensor decide"),
        (lambda spec: Forward(lambda x: x if torch.equal(x, x * 2) else x + 1), "values of a tensor decide"),
        (
            lambda spec: Forward(lambda x: torch.from_numpy(x.numpy())),
            r"py, line \d+: NumPy cannot be traced: use oper",
        ),
        (lambda spec: Unmoved(), "a tensor is not moved with the module: register it with register_buffer"),
        (lambda spec: nn.Conv2d(5, 4, 1), "the module of mine fails: RuntimeError: "),
        (
            lambda spec: nn.Sequential(nn.ReLU(), torch.jit.script(nn.Conv2d(4, 4, 1))),
            "the module of mine fails: its module 1 is TorchScript, .*: return the plain module",
        ),
        (
            lambda spec: torch.jit.trace(nn.Conv2d(4, 4, 1), torch.zeros(1, 4, 8, 8)),
            "the module of mine fails: it is TorchScript, .* without torch.jit.script or torch.jit.trace",
        ),
        (
            lambda spec: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)),
            "the module of mine fails: it changes its input in place, .* inplace=False on the input",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_unusable_module_is_refused(define, factory, message):
    spec = define(factory)
    with pytest.raises(PluginError, match=f"mine/c4-4/8x8/s1/b1: .*{message}"):
        build_module(spec)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_computation_of_torchscript_is_unknown():
    """Networks of a table are identified without building an operator."""
    with pytest.raises(PluginError, match="its module 0 is TorchScript"):
        describe_computation(nn.Sequential(torch.jit.script(nn.Conv2d(4, 4, 1))), (1, 4, 8, 8))


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
    for check in (build_module, count_macs):
        with pytest.raises(PluginError, match=message):
            check(spec)


@pytest.mark.parametrize(
    ("factor", "ending"),
    [
        (0.1, ""),
        (1, None),
        (2, "; FLOPs are twice MACs"),
        (3, ", unless other operations, e.g. an FFT, have the rest"),
    ],
)
def test_implausible_macs_are_reported_once(define, caplog, factor, ending):
    macs = int(factor * 9 * 16 * 64)
    spec = define(lambda spec: nn.Conv2d(4, 4, 3, padding=1), macs=lambda spec: macs)
    assert count_macs(spec) == macs
    assert count_macs(replace(spec, height=9)) == macs
    for line in caplog.messages:
        assert f"macs of operator mine returns {macs} for {spec}" in line
        assert "convolutions and matrix products have 9216:" in line
        assert line.endswith(f"part of its networks' costs{ending}")
    assert len(caplog.messages) == (ending is not None)


@torch.library.custom_op("lgc_tests::negate", mutates_args=())
def negate(x: torch.Tensor) -> torch.Tensor:
    return -x


@negate.register_fake
def _(x):
    return torch.empty_like(x)


class ForeignProduct(nn.Conv2d):
    """Convolution with an operation that torch cannot count."""

    def forward(self, x):
        return negate(super().forward(x))


def test_macs_of_foreign_operations_are_not_doubted(define, caplog):
    spec = define(lambda spec: ForeignProduct(4, 4, 3, padding=1), macs=lambda spec: 7)
    with pytest.raises(UncountedError, match="cannot count the products of lgc_tests::negate: register"):
        count_products(ForeignProduct(4, 4, 1), [(1, 4, 8, 8)])
    assert count_macs(spec) == 7
    assert not caplog.messages


def test_registered_counts_are_used(monkeypatch):
    monkeypatch.setitem(flop_registry, torch.ops.lgc_tests.negate, lambda *args, **options: 2 * 5)
    assert count_products(ForeignProduct(4, 4, 1), [(1, 4, 8, 8)]) == 4 * 4 * 64 + 5


@pytest.mark.parametrize(
    ("make", "macs"),
    [
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), 9 * 4 * 64),
        (lambda: nn.ConvTranspose2d(4, 4, 1), 16 * 64),
        (lambda: Forward(lambda x: x @ x), 4 * 8 * 64),
        (lambda: Forward(lambda x: torch.einsum("nchw,nkhw->nck", x, x)[:, :, 0, None, None] + x), 4 * 4 * 64),
        (lambda: Forward(lambda x: F.scaled_dot_product_attention(x, x, x)), 2 * 4 * 8 * 64),
        (lambda: nn.ReLU(), 0),
    ],
    ids=["depthwise", "transposed", "matmul", "einsum", "attention", "none"],
)
def test_products_are_counted(make, macs):
    assert count_products(make(), [(1, 4, 8, 8)]) == macs


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


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (lambda: nn.ReLU(), lambda: nn.ReLU6()),
        (lambda: nn.Conv2d(4, 4, 1), lambda: nn.Conv2d(4, 4, 3, padding=1)),
        (lambda: nn.Conv2d(4, 4, 3, padding=1), lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2)),
        (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.2)),
        (lambda: Forward(lambda x: x * x), lambda: Forward(lambda x: x + x)),
        (lambda: Forward(lambda x: (y := x * 2) + y), lambda: Forward(lambda x: x * 2 + x)),
        (lambda: nn.Softmax(1), lambda: nn.Softmax(2)),
        (lambda: nn.LeakyReLU(np.float32(0.1)), lambda: nn.LeakyReLU(np.float32(0.2))),
        (lambda: dilated(np.int64(1)), lambda: dilated(np.int64(2))),
        (
            lambda: Forward(lambda x: x.roll((np.int64(1),), (2,))),
            lambda: Forward(lambda x: x.roll((np.int64(2),), (2,))),
        ),
        (
            lambda: Forward(lambda x: x[:, np.array([3, 2, 1, 0])]),
            lambda: Forward(lambda x: x[:, np.array([0, 1, 2, 3])]),
        ),
        (
            lambda: Forward(partial(reorder, order=torch.contiguous_format)),
            lambda: Forward(partial(reorder, order=torch.channels_last)),
        ),
        (lambda: nn.Conv2d(4, 4, 1), lambda: nn.Conv2d(4, 4, 1).to(memory_format=torch.channels_last)),
        (lambda: Forward(partial(assign, part=slice(0, 2))), lambda: Forward(partial(assign, part=slice(2, 4)))),
        (lambda: Forward(partial(autocast, enabled=False)), lambda: Forward(partial(autocast, enabled=True))),
        (lambda: Forward(partial(attend, kernel=[*ATTENTION])), lambda: Forward(partial(attend, kernel=ATTENTION[:1]))),
    ],
)
def test_digest_follows_the_computation(define, own_operators, make, changed):
    digests = []
    for build in (make, changed, make):
        own_operators.pop("mine", None)
        digests.append(recipe_digest(define(lambda spec, build=build: build())))
    assert digests[0] == digests[2] != digests[1]


def test_digest_ignores_values_and_object_addresses(define, own_operators):
    """A new process computes it too, so nothing may depend on memory or on random weights."""
    digests = set()
    for seed in range(2):
        own_operators.pop("mine", None)
        torch.manual_seed(seed)
        digests.add(recipe_digest(define(lambda spec: pooled_attention(spec))))
    assert digests == {recipe_digest(OpSpec("pooled_attention", 4, 4, 8, 8))}


class Counter(nn.Module):
    def __init__(self, period):
        super().__init__()
        self.period, self.runs = period, 0

    def forward(self, x):
        self.runs += 1
        return x * 2 if self.runs % self.period else x + 1


class Cached(nn.Module):
    """Positions that the first run computes."""

    positions = None

    def forward(self, x):
        if self.positions is None:
            self.positions = torch.arange(x.shape[3], device=x.device)
        return x + self.positions


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda spec: Counter(2), "runs in evaluation mode differ: torch.Tensor"),
        (lambda spec: Counter(3), "runs in evaluation mode differ"),
        (lambda spec: Forward(lambda x: x * (1 + random.random())), "differ|draws random numbers in evaluation mode"),
        (lambda spec: Forward(lambda x: F.dropout(x, 0.5)), r"test_modules.py, line \d+: aten.* draws random numbers"),
        (lambda spec: Forward(lambda x: x + torch.rand_like(x)), "draws random numbers in evaluation mode"),
        (
            lambda spec: nn.Conv2d(4, 4, 3, padding=(d := random.choice((1, 4))), dilation=d),
            "two modules of mine differ",
        ),
        (lambda spec: random.choice((nn.ReLU, nn.GELU))(), "two modules of mine differ"),
    ],
)
def test_random_module_is_refused(define, factory, message):
    random.seed(0)
    with pytest.raises(PluginError, match=f"mine/c4-4/8x8/s1/b1: .*({message})"):
        build_module(define(factory))


def test_later_module_that_differs_is_refused(define):
    """Also after the digest is known."""
    kinds = [nn.ReLU, nn.ReLU, nn.ReLU, nn.GELU]
    spec = define(lambda spec: kinds.pop(0)())
    build_module(spec)
    with pytest.raises(PluginError, match=r"two modules of mine differ: .*relu.* and .*gelu"):
        build_module(spec)


@pytest.mark.parametrize(
    "make", [Cached, lambda: nn.Dropout(0.5), lambda: Forward(lambda x: F.scaled_dot_product_attention(x, x, x))]
)
def test_repeatable_module_is_built(define, make):
    build_module(define(lambda spec: make()))


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
