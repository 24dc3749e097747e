"""Positions of logits in the image: a ramp passes every preset's resizes unmoved, in torch and in every runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lgc.errors import MismatchError
from lgc.models.geometry import Geometry, find_ratio, locate_features
from lgc.models.nets.layers import ConvNormAct, build_module
from lgc.models.nets.network import DenseOutput, LGCNet
from lgc.models.nets.resizing import relocate_logits, upsample_logits, upsample_strided
from lgc.models.onnx.export import simplify, to_onnx
from lgc.models.space.lgcnet import LGCNetArchitecture, LGCNetSpace
from lgc.models.space.lgcnet.plan import CellPlan, EdgePlan
from lgc.models.space.operators import ZERO
from lgc.models.space.opspec import OpSpec
from lgc.models.space.presets import PRESETS
from lgc.profiler.inference.resampling import upsample
from lgc.search.training.scores import find_classes

SIZES = {"tiny": (192, 256), "rapid": (360, 480), "lgcnet-camvid": (720, 960), "lgcnet-cityscapes": (769, 1537)}
CROPS = [(256, 320), (257, 321), (360, 480), (250, 311)]
TOLERANCE_PX = 0.5


def carry_channel(space: LGCNetSpace) -> LGCNet:
    """Return a network whose first logit is the first channel of its image, through every cell and level."""
    names = [tuple(carry_edge(cell, edge) for edge in cell.edges) for cell in space.plan.searched_cells]
    for cell, chosen in zip(space.plan.searched_cells, names, strict=True):
        assert cell.find_fault(chosen) is None
    widths = {each.name: each.choices[0] for each in space.widths_searched[:-1]}
    if "fusion" in widths:  # unlike any level's, so that every projection is a convolution
        widths["fusion"] = str(space.fusion.widths[-1])
    architecture = LGCNetArchitecture(space=space, cells=tuple(names[:-1]), fusion=names[-1], widths=widths)
    network = LGCNet(space, architecture).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            centre = [side // 2 for side in module.kernel_size]
            with torch.no_grad():
                module.weight[0, 0, centre[0], centre[1]] = 1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.norm.eps = 0.0
    with torch.no_grad():  # each node is the sum of its inputs: make it their mean
        for cell, plan in zip([*network.cells, network.fusion], space.plan.searched_cells, strict=True):
            for projection in cell.project if len(plan.inputs) > 1 else ():
                projection.conv.weight /= len(plan.inputs)
    return network


def carry_edge(cell: CellPlan, edge: EdgePlan) -> str:
    """Return the operator that carries a channel from an input of a cell to its nodes."""
    if edge.source >= len(cell.inputs):
        return ZERO
    known = [spec.operator for spec in edge.candidates]
    return "sep_conv_3x3" if "sep_conv_3x3" in known else "skip"


def make_ramp(size: tuple[int, int], axis: int) -> torch.Tensor:
    """Return images [1, 3, H, W] whose value is the row, or the column, of a pixel."""
    shape = (-1, 1) if axis == 0 else (1, -1)
    return torch.arange(size[axis], dtype=torch.float32).reshape(shape).expand(1, 3, *size).contiguous()


def find_shift(values: np.ndarray, ratio: int, axis: int) -> float:
    """Return the largest shift of a ramp [H, W] in pixels, but for the last pixels, beyond the coarsest feature."""
    along = np.moveaxis(values, axis, 0)
    length = along.shape[0]
    kept = length - (0 if length % ratio == 1 else ratio - 1)
    return float(np.abs(along[:kept] - np.arange(kept).reshape(-1, *[1] * (along.ndim - 1))).max())


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("preset", PRESETS)
def test_ramp_keeps_its_position(preset, axis):
    space = LGCNetSpace.load(preset)
    assert space.geometry == Geometry.STRIDED
    network = carry_channel(space)
    for size in (SIZES[preset], *CROPS):
        with torch.no_grad():
            logits = network(make_ramp(size, axis))
        full = upsample_logits(logits, size, space.geometry)[0, 0].numpy()
        assert find_shift(full, space.stride, axis) <= TOLERANCE_PX, size


def test_half_pixel_centres_shift_ramp():
    """The test above can fail: the earlier geometry moves the ramp."""
    space = LGCNetSpace.load("tiny")
    space = space.from_dict({**space.to_dict(), "geometry": 1}, "old")
    size = space.input
    with torch.no_grad():
        logits = carry_channel(space)(make_ramp(size, 1))
    full = upsample_logits(logits, size, space.geometry)[0, 0].numpy()
    assert find_shift(full, space.stride, 1) > 3


def pick_class(size: tuple[int, int], axis: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases of linear scores of a ramp whose largest is the class of equal parts of the axis."""
    centres = (np.arange(classes) + 0.5) * size[axis] / classes
    return 2 * centres, -(centres**2)


def run_torch(module: nn.Module, image: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return module(image).numpy()


def run_onnxruntime(module: nn.Module, image: torch.Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(simplify(to_onnx(module, [image.shape])), providers=["CPUExecutionProvider"])
    return session.run(None, {"input_0": image.numpy()})[0]


def run_reference(module: nn.Module, image: torch.Tensor) -> np.ndarray:
    """Run ONNX's reference implementation, which defines what a runtime must compute."""
    from onnx import load_model_from_string
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(load_model_from_string(to_onnx(module, [image.shape]))).run(
        None, {"input_0": image.numpy()}
    )[0]


@pytest.mark.parametrize("run", [run_torch, run_onnxruntime], ids=["torch", "onnxruntime"])
@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("preset", PRESETS)
def test_dense_labels_change_where_image_does(preset: str, axis: int, run: Callable[..., np.ndarray]):
    """The label map of the deployed network has its borders at the right pixels."""
    space = LGCNetSpace.load(preset)
    size, classes = space.input, space.classes
    network = carry_channel(space)
    weights, biases = pick_class(size, axis, classes)
    classifier = network.head[1]
    with torch.no_grad():
        classifier.weight[:, 0, 0, 0] = torch.tensor(weights)
        classifier.bias.copy_(torch.tensor(biases))
    labels = run(DenseOutput(network, space.plan.dense).eval(), make_ramp(size, axis))[0]
    line = np.moveaxis(labels, axis, 0)[:, 0]
    borders = np.flatnonzero(np.diff(line)) + 0.5
    expected = np.arange(1, classes) * size[axis] / classes
    assert np.abs(borders - expected).max() <= TOLERANCE_PX + 0.5  # a border lies between two pixels


@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize("size", [(32, 48), (33, 49), (30, 45), (17, 20)])
def test_runtimes_agree_on_upsampling(size, ratio):
    class Upsample(nn.Module):
        def forward(self, x):
            return upsample_strided(x, ratio, size)

    x = torch.rand(1, 3, *(-(-side // ratio) for side in size), generator=torch.Generator().manual_seed(0))
    expected = run_torch(Upsample(), x)
    assert expected.shape == (1, 3, *size)
    for run in (run_onnxruntime, run_reference):
        np.testing.assert_allclose(run(Upsample(), x), expected, atol=1e-6)
    by_hand = np.stack([upsample(channel, size, Geometry.STRIDED) for channel in x[0].numpy()])
    np.testing.assert_allclose(by_hand, expected[0], atol=1e-6)
    assert np.array_equal(expected[0][:, ::ratio, ::ratio], x[0].numpy())


def test_upsampling_is_one_node_with_integer_scales():
    import onnx

    class Upsample(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, x):
            return upsample_strided(x, 4, self.size)

    for size, operators in (((32, 48), ["Resize"]), ((30, 48), ["Resize", "Slice"])):
        model = onnx.load_from_string(simplify(to_onnx(Upsample(size), [(1, 3, 8, 12)])))
        assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == operators


@pytest.mark.parametrize("size", [(48, 64), (49, 65), (45, 61)])
def test_gradient_is_that_of_interpolation(size):
    x = torch.rand(2, 3, *(-(-side // 4) for side in size), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: upsample_strided(x, 4, size), x)


def test_labels_of_another_size_are_read_as_the_image():
    """Logits of a ramp scored at the labels' own resolution: the image's pixels, resized as images are."""
    logits = torch.arange(16.0).reshape(1, 1, 1, 16).expand(1, 1, 12, 16) * 8
    full = upsample_logits(logits, (192, 256), Geometry.STRIDED, image=(96, 128))[0, 0, 0]
    at_image = (torch.arange(256) + 0.5) / 2 - 0.5
    assert float((full[:-16] - at_image.clamp(min=0)[:-16]).abs().max()) <= TOLERANCE_PX


def test_classes_in_parts_equal_whole(monkeypatch):
    logits = torch.randn(1, 37, 12, 16, generator=torch.Generator().manual_seed(0))
    whole = find_classes(logits, (96, 128), Geometry.STRIDED)
    monkeypatch.setattr("lgc.search.training.scores.MAX_UPSAMPLED", 96 * 128)
    assert torch.equal(find_classes(logits, (96, 128), Geometry.STRIDED), whole)


@pytest.mark.parametrize("source", list(Geometry))
@pytest.mark.parametrize("target", list(Geometry))
def test_relocated_ramp_keeps_its_position(source, target):
    """The teacher's logits of a ramp are its pixels at the positions of the student's."""
    image = (64, 96)
    pixels = {}
    for name, geometry, side in (("teacher", source, 12), ("student", target, 24)):
        axis = locate_features(image, (side * 2 // 3, side), geometry)[1]
        pixels[name] = (torch.arange(side) - axis.offset) / axis.scale
    teacher = pixels["teacher"].expand(1, 1, 8, 12)
    student = torch.empty(1, 1, 16, 24)
    got = relocate_logits(teacher, source, image, student, target)[0, 0, 0]
    inside = (pixels["student"] >= pixels["teacher"][0]) & (pixels["student"] <= pixels["teacher"][-1])
    assert int(inside.sum()) >= 20
    torch.testing.assert_close(got[inside], pixels["student"][inside].float())


@pytest.mark.parametrize("image", [(64, 96), (769, 1537), (720, 960), (100, 33)])
@pytest.mark.parametrize("ratio", [1, 2, 4, 8, 16])
def test_ratio_follows_from_sizes(image, ratio):
    assert find_ratio(image, tuple(-(-side // ratio) for side in image)) == ratio


def test_other_sizes_are_refused():
    with pytest.raises(MismatchError, match="a map of 21x32 is not an image of 64x96 divided by a power of two"):
        find_ratio((64, 96), (21, 32))
    with pytest.raises(MismatchError):
        upsample_logits(torch.zeros(1, 2, 21, 32), (64, 96), Geometry.STRIDED)


def test_half_pixel_rule_is_torch_default():
    rows, columns = locate_features((64, 96), (8, 24), Geometry.HALF_PIXEL)
    x = torch.arange(24.0).expand(1, 1, 8, 24)
    full = F.interpolate(x, (64, 96), mode="bilinear", align_corners=False)[0, 0, 0]
    expected = (torch.arange(96) * columns.scale + columns.offset).clamp(0, 23)
    torch.testing.assert_close(full, expected)
    assert rows == (1 / 8, 1 / 16 - 0.5)


def test_upsampling_of_another_size_is_refused():
    with pytest.raises(MismatchError, match="cannot upsample 2x2 by 8 to 64x64"):
        upsample_strided(torch.zeros(1, 1, 2, 2), 8, (64, 64))


def test_crops_fit_a_fusion_coarser_than_the_backbone():
    content = {**LGCNetSpace.load("tiny").to_dict(), "input": (96, 128), "reductions": [], "cells": 1}
    space = LGCNetSpace.from_dict({**content, "stem": {"strides": [2]}, "fusion": {"level": 5}}, "coarse")
    assert space.stride == 32
    assert not space.accepts_size((24, 24))
    assert space.accepts_size((64, 65))


@pytest.mark.parametrize("training", [False, True])
def test_pyramid_takes_a_single_image(training):
    module = build_module(OpSpec("pool_pyramid", 16, 16, 8, 12)).train(training)
    assert module(torch.rand(1, 16, 8, 12)).shape == (1, 16, 8, 12)
