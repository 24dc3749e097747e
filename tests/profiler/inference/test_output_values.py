"""Meaning of an output by its operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from lgc.models.onnx.export import to_onnx
from lgc.models.onnx.skeleton import load_skeleton
from lgc.profiler.inference.output_values import StoredValues, infer_values

from ... import onnx_files as files


def infer(model, name):
    return infer_values(load_skeleton(model), name)


class Head(nn.Module):
    """Convolution, then a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.convolution, self.function = nn.Conv2d(3, 1, 1), function

    def forward(self, x):
        return self.function(self.convolution(x))


def enlarge(x):
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x, "logits"),
        (enlarge, "logits"),
        (lambda x: x + nn.functional.avg_pool2d(x, 1) * 0 + x, None),
        (lambda x: x + x, "logits"),
        (lambda x: x.sigmoid(), "probabilities"),
        (lambda x: enlarge(x.sigmoid())[:, 0], "probabilities"),
        (lambda x: 1 - x.sigmoid(), None),
        (lambda x: (x > 0).float(), "mask"),
        (lambda x: torch.cat([x, -x], 1).topk(2, 1)[1], "labels"),
        (lambda x: torch.cat([x, -x], 1).topk(2, 1)[0], "ranking"),
        (lambda x: x * 2, None),
        (lambda x: torch.cat([x, -x], 1).argmax(1).float(), "labels"),
        (lambda x: x.relu(), None),
        (lambda x: x.clamp(0, 1), None),
    ],
)
def test_last_operator_decides(function, expected):
    model = to_onnx(Head(function), [(1, 3, 8, 8)])
    assert infer(model, "output_0") == StoredValues(expected)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: (x.sigmoid() * 255).to(torch.uint8), StoredValues("probabilities", 1 / 255)),
        (lambda x: (255 * x.sigmoid()).round().to(torch.uint8), StoredValues("probabilities", 1 / 255)),
        (lambda x: (x.sigmoid() / 0.5).to(torch.uint8), StoredValues("probabilities", 0.5)),
        (lambda x: (x > 0).to(torch.uint8) * 255, StoredValues("mask", 1 / 255)),
        (lambda x: torch.cat([x, -x], 1).argmax(1) * 20, StoredValues("labels", 1 / 20)),
    ],
)
def test_factor_of_stored_values_is_inferred(function, expected):
    values = infer(to_onnx(Head(function), [(1, 3, 8, 8)]), "output_0")
    assert values.meaning == expected.meaning
    assert values.scale == pytest.approx(expected.scale)


def test_input_as_output_is_unknown():
    assert infer(to_onnx(nn.Flatten(), [(1, 3, 8, 8)]), "output_0") == StoredValues()


@pytest.mark.parametrize(("other", "expected"), [("Identity", "probabilities"), ("Neg", None)])
def test_branches_of_equal_meaning_have_it(other, expected):
    """torch.squeeze becomes a branch on the length of the axis."""
    shape = (1, 1, 8, 12)
    then, otherwise = (
        helper.make_graph([helper.make_node(kind, ["p", *more], ["o"])], kind, [], [files.value("o", size)])
        for kind, more, size in (("Squeeze", ["axis"], (1, 8, 12)), (other, [], shape))
    )
    nodes = [
        *files.net_nodes(y="z"),
        helper.make_node("Sigmoid", ["z"], ["p"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    weights = files.WEIGHTS | {"w2": files.WEIGHTS["w2"][:1], "c": np.array(True), "axis": np.array([1])}
    model = files.make(nodes, outputs=[files.value("y", (1, 8, 12))], weights=weights)
    assert infer_values(model, "y").meaning == expected


@pytest.mark.parametrize("level", ["ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x, "logits"),
        (lambda x: x.sigmoid(), "probabilities"),
        (lambda x: x.relu(), None),
        (lambda x: x + nn.functional.avg_pool2d(x, 1) * 0 + x, None),
    ],
)
def test_optimised_file_keeps_its_meaning(function, expected, level, tmp_path):
    options, path = onnxruntime.SessionOptions(), tmp_path / "optimised.onnx"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    model = to_onnx(Head(function), [(1, 3, 8, 8)])
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    assert infer_values(onnx.load(path), "output_0").meaning == expected


@pytest.mark.parametrize(("addend", "expected"), [("l", "logits"), ("r", None)])
def test_fused_sum_of_logits_is_logits(addend, expected):
    nodes = [
        *files.net_nodes(y="l"),
        helper.make_node("FusedConv", ["r", "w2", "", addend], ["y"], domain="com.microsoft"),
    ]
    assert infer_values(files.make(nodes, domains=["com.microsoft"]), "y").meaning == expected
