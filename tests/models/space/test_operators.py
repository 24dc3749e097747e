"""What every registered operator has to keep: shapes, counts and ONNX agree with its recipe."""

import pytest
import torch
from torch import nn

from lgc.errors import UnknownNameError, UsageError
from lgc.models import OPERATORS, OpSpec, get_operator, register_operator
from lgc.models.nets.layers import build_module, fold_norms
from lgc.models.nets.network import randomise_norms
from lgc.models.onnx.export import to_onnx
from lgc.models.space.operators import ZERO, count_macs, count_parameters, input_shapes, is_free

SIZES = [(16, 24), (17, 33)]
STRUCTURAL = {
    "conv_1x1": lambda h, w: [OpSpec("conv_1x1", 5, 8, h, w, stride) for stride in (1, 2)],
    "classifier": lambda h, w: [OpSpec("classifier", 6, 4, h, w)],
    "add": lambda h, w: [OpSpec("add", 5, 5, h, w)],
    "concat": lambda h, w: [OpSpec("concat", 4, 12, h, w), OpSpec("concat", 4, 4, h, w)],
    "downsample": lambda h, w: [OpSpec("downsample", 4, 4, h, w, factor) for factor in (2, 4)],
    "upsample": lambda h, w: [OpSpec("upsample", 4, 4, h, w, factor) for factor in (2, 8)],
    "argmax": lambda h, w: [OpSpec("argmax", 7, 1, h, w)],
}
"""Operators that no edge may carry, with the specs to try; a searchable one keeps its channels at strides 1 and 2."""


def specs_of(name):
    searched = lambda h, w: [OpSpec(name, 6, 6, h, w, stride) for stride in (1, 2)]  # noqa: E731
    every = searched if OPERATORS[name].searchable else STRUCTURAL[name]
    return [spec for size in SIZES for spec in every(*size)]


SPECS = [spec for name in OPERATORS if name != ZERO for spec in specs_of(name)]
TIMED = [spec for spec in SPECS if not is_free(spec)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)
every_timed_spec = pytest.mark.parametrize("spec", TIMED, ids=str)


def made(spec):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_module(spec)
    randomise_norms(module, 0)
    return fold_norms(module)


def inputs_of(spec):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in input_shapes(spec)]


def counted_macs(module, inputs):
    """Multiply-accumulates of the convolutions that really run, from the shapes that pass through them."""
    total = 0

    def count(conv, _, out):
        nonlocal total
        total += out.numel() * conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]

    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            child.register_forward_hook(count)
    module(*inputs)
    return total


@every_spec
def test_output_has_the_shape_of_the_spec(spec):
    out = made(spec)(*inputs_of(spec))
    size = spec.fine if spec.operator == "upsample" else spec.coarse
    expected = (spec.batch, *size) if spec.operator == "argmax" else (spec.batch, spec.c_out, *size)
    assert tuple(out.shape) == expected


@every_spec
def test_parameters_are_those_of_the_folded_module(spec):
    assert count_parameters(spec) == sum(parameter.numel() for parameter in made(spec).parameters())


@every_spec
def test_macs_are_those_of_the_convolutions_that_run(spec):
    assert count_macs(spec) == counted_macs(made(spec), inputs_of(spec))


@pytest.mark.parametrize("name", ["conv_3x3", "sep_conv_3x3_d2", "skip"])
def test_a_batch_multiplies_macs_and_not_parameters(name):
    one, three = (OpSpec(name, 6, 6, 17, 33, 2, batch) for batch in (1, 3))
    assert count_macs(three) == 3 * count_macs(one) == counted_macs(made(three), inputs_of(three))
    assert count_parameters(three) == count_parameters(one)


@every_timed_spec
def test_onnx_computes_what_torch_computes(spec):
    onnxruntime = pytest.importorskip("onnxruntime")
    module, inputs = made(spec), inputs_of(spec)
    session = onnxruntime.InferenceSession(to_onnx(module, input_shapes(spec)), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {f"input_{index}": tensor.numpy() for index, tensor in enumerate(inputs)})
    torch.testing.assert_close(torch.from_numpy(found), module(*inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in OPERATORS if OPERATORS[name].searchable])
def test_a_dilated_or_strided_operator_sees_what_its_name_says(name):
    """An impulse reaches exactly the pixels that the operator's kernel covers."""
    reach = {"zero": None, "skip": 0, "max_pool_3x3": 1, "sep_conv_3x3": 1, "conv_3x3": 1}
    reach |= {f"sep_conv_3x3_d{dilation}": dilation for dilation in (2, 4, 8)}
    if reach[name] is None:
        assert is_free(OpSpec(name, 1, 1, 41, 41))
        return
    image = torch.zeros(1, 1, 41, 41)
    image[..., 20, 20] = 1
    module = build_module(OpSpec(name, 1, 1, 41, 41)).eval()
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.ones_(conv.weight)
    rows = module(image)[0, 0].amax(dim=1).nonzero().flatten()
    assert int(rows.min()) == 20 - reach[name]
    assert int(rows.max()) == 20 + reach[name]


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


def test_an_unknown_operator_lists_the_known_ones():
    with pytest.raises(UnknownNameError) as caught:
        get_operator("sep_conv_3x3_d3")
    assert all(name in str(caught.value) for name in OPERATORS)
    assert "did you mean" in str(caught.value)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'conv_3x3' is registered twice"):
        register_operator("conv_3x3")(lambda spec: ())


@pytest.mark.parametrize("spec", [OpSpec("skip", 4, 8, 8, 8, 2), OpSpec("max_pool_3x3", 4, 8, 8, 8)], ids=str)
def test_operators_that_keep_their_channels_say_so(spec):
    with pytest.raises(UsageError, match=f"{spec.operator} keeps its channels"):
        build_module(spec)
