"""Classes of a network by the shapes of its input and outputs."""

from __future__ import annotations

import pytest

from lgc.models.onnx.reading.pixel_maps import find_channels
from lgc.models.onnx.signature import Signature, TensorSpec

IMAGES, LAST = (3, 32, 64), (32, 64, 3)


@pytest.mark.parametrize(
    ("image", "outputs", "classes"),
    [
        (IMAGES, [(7, 32, 64)], 7),
        (LAST, [(32, 64, 7)], 7),
        (IMAGES, [(7, 4, 8), (7, 2, 4)], 7),
        (IMAGES, [(7, 32, 64), (5, 32, 64)], None),
        (IMAGES, [(1, 32, 64)], None),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_batch_has_the_classes_of_one_image(image, outputs, classes, batch):
    inputs = (TensorSpec("x", (batch, *image), "float32"),)
    scores = tuple(TensorSpec(f"y{index}", (batch, *shape), "float32") for index, shape in enumerate(outputs))
    assert find_channels(Signature("net", inputs, scores, {})) == classes
