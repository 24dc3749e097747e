"""Classes of a network by the shapes of its input and outputs."""

from __future__ import annotations

import pytest

from lgc.models.onnx.reading.pixel_maps import find_channels, is_resized
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


@pytest.mark.parametrize(
    ("size", "full"),
    [
        ((92, 92), (92, 92)),
        ((12, 12), (92, 92)),
        ((11, 11), (92, 92)),
        ((65, 65), (512, 512)),
        ((46, 61), (91, 121)),
        ((90, 91), (90, 92)),
        ((40, 60), (60, 90)),
    ],
)
def test_strides_are_resized(size, full):
    assert is_resized(size, full)


@pytest.mark.parametrize(
    ("size", "full"),
    [((76, 76), (92, 92)), ((388, 388), (572, 572)), ((100, 100), (284, 284)), ((48, 80), (64, 96))],
)
def test_maps_without_borders_are_not_resized(size, full):
    assert not is_resized(size, full)
