"""Meaning of an output by its operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lgc.models.onnx.export import to_onnx
from lgc.models.onnx.skeleton import load_skeleton
from lgc.profiler.inference.output_values import StoredValues, infer_values


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
