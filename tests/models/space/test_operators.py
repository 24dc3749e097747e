"""Conformance of every registered operator: shapes, costs and ONNX agree with its recipe."""

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lgc.errors import UnknownNameError, UsageError
from lgc.models import OPERATORS, OpSpec, get_operator, register_operator
from lgc.models.nets.layers import build_module, fold_norms
from lgc.models.nets.network import randomise_norms
from lgc.models.onnx.export import to_onnx
from lgc.models.space.operators import (
    ZERO,
    count_macs,
    count_parameters,
    input_shapes,
    is_free,
)

from ...operators import EXAMPLES

SIZES = [(16, 24), (17, 33)]
STRUCTURAL = {
    "conv_1x1": lambda h, w: [OpSpec("conv_1x1", 5, 8, h, w, stride) for stride in (1, 2)],
    "classifier": lambda h, w: [OpSpec("classifier", 6, 4, h, w)],
    "add": lambda h, w: [OpSpec("add", 5, 5, h, w)],
    "concat": lambda h, w: [OpSpec("concat", 4, 12, h, w), OpSpec("concat", 4, 4, h, w)],
    "downsample": lambda h, w: [OpSpec("downsample", 4, 4, h, w, factor) for factor in (2, 4)],
    "upsample": lambda h, w: [OpSpec("upsample", 4, 4, h, w, factor) for factor in (2, 8)],
    "upsample_strided": lambda h, w: [OpSpec("upsample_strided", 4, 4, h, w, factor) for factor in (2, 8)],
    "argmax": lambda h, w: [OpSpec("argmax", 7, 1, h, w)],
}
"""Specs of unsearchable operators to test; searchable ones are tested at equal channels, strides 1 and 2."""


def list_specs(name):
    searched = lambda h, w: [OpSpec(name, 6, 6, h, w, stride) for stride in (1, 2)]  # noqa: E731
    every = searched if OPERATORS[name].searchable else STRUCTURAL[name]
    return [spec for size in SIZES for spec in every(*size)]


SPECS = [spec for name in OPERATORS if name != ZERO for spec in list_specs(name)]
TIMED = [spec for spec in SPECS if not is_free(spec)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)
every_timed_spec = pytest.mark.parametrize("spec", TIMED, ids=str)


def make_module(spec):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_module(spec)
    randomise_norms(module, 0)
    return fold_norms(module)


def make_inputs(spec):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in input_shapes(spec)]


def counted_macs(module, inputs):
    """Count the multiply-accumulates of executed convolutions and matrix products, as torch does."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


@every_spec
def test_output_shape_matches_spec(spec):
    out = make_module(spec)(*make_inputs(spec))
    size = spec.fine if get_operator(spec.operator).upsamples else spec.coarse
    expected = (spec.batch, *size) if spec.operator == "argmax" else (spec.batch, spec.c_out, *size)
    assert tuple(out.shape) == expected


@every_spec
def test_parameters_match_folded_module(spec):
    assert count_parameters(spec) == sum(parameter.numel() for parameter in make_module(spec).parameters())


@every_spec
def test_macs_match_executed_convolutions(spec):
    assert count_macs(spec) == counted_macs(make_module(spec), make_inputs(spec))


@pytest.mark.parametrize("name", ["conv_3x3", "sep_conv_3x3_d2", "skip", *EXAMPLES])
def test_batch_multiplies_macs_but_not_parameters(name):
    single, three = (OpSpec(name, 6, 6, 17, 33, 2, batch) for batch in (1, 3))
    assert count_macs(three) == 3 * count_macs(single) == counted_macs(make_module(three), make_inputs(three))
    assert count_parameters(three) == count_parameters(single)


@every_timed_spec
def test_onnx_output_matches_torch(spec):
    onnxruntime = pytest.importorskip("onnxruntime")
    module, inputs = make_module(spec), make_inputs(spec)
    session = onnxruntime.InferenceSession(to_onnx(module, input_shapes(spec)), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {f"input_{index}": tensor.numpy() for index, tensor in enumerate(inputs)})
    torch.testing.assert_close(torch.from_numpy(output), module(*inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in OPERATORS if OPERATORS[name].searchable and name not in EXAMPLES])
def test_receptive_field_matches_name(name):
    """The response to an impulse covers exactly the kernels; names have KxK and, if dilated, _dD."""
    if name == ZERO:
        assert is_free(OpSpec(name, 1, 1, 41, 41))
        return
    kernel, dilation = re.search(r"(?:_(\d+)x\1)?(?:_e\d+)?(?:_d(\d+))?$", name).groups()
    reach = int(kernel or 1) // 2 * int(dilation or 1) * (2 if name.startswith(("res_conv", "res_sep")) else 1)
    if name == "pool_pyramid":
        reach = 20  # all of the image
    image = torch.zeros(1, 1, 41, 41)
    image[..., 20, 20] = 1
    module = build_module(OpSpec(name, 1, 1, 41, 41)).eval()
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.ones_(conv.weight)
    rows = module(image)[0, 0].amax(dim=1).nonzero().flatten()
    assert int(rows.min()) == 20 - reach
    assert int(rows.max()) == 20 + reach


def test_free_operators_cost_nothing():
    free = [
        OpSpec(ZERO, 4, 4, 8, 8),
        OpSpec(ZERO, 4, 4, 8, 8, 2),
        OpSpec("skip", 4, 4, 8, 8),
        OpSpec("concat", 4, 4, 8, 8),
    ]
    for spec in free:
        assert is_free(spec)
        assert count_macs(spec) == count_parameters(spec) == 0
    assert not is_free(OpSpec("skip", 4, 4, 8, 8, 2))


def test_unknown_operator_lists_known_operators():
    with pytest.raises(UnknownNameError) as caught:
        get_operator("sep_conv_3x3_d3")
    assert all(name in str(caught.value) for name in OPERATORS)
    assert "did you mean" in str(caught.value)


def test_duplicate_name_is_rejected():
    with pytest.raises(ValueError, match="'conv_3x3' is already registered"):
        register_operator("conv_3x3")(lambda spec: ())


@pytest.mark.parametrize("spec", [OpSpec("skip", 4, 8, 8, 8, 2), OpSpec("max_pool_3x3", 4, 8, 8, 8)], ids=str)
def test_different_channels_are_rejected(spec):
    with pytest.raises(UsageError, match=f"{spec.operator} needs c_in equal to c_out, got 4 and 8"):
        build_module(spec)
