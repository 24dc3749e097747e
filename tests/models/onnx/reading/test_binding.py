"""Dynamic axes are bound to a size; what cannot be known is asked for."""

import numpy as np
import pytest
from onnx import helper

from lgc.errors import FileFormatError, UsageError
from lgc.models.onnx.model import OnnxModel

from .... import onnx_files as files


def load(model, folder, **options):
    return OnnxModel.load(files.save(model, folder / "m.onnx"), **options)


def with_mask(shape):
    """Return a network of a dynamic image with a second input."""
    model = files.dynamic()
    model.graph.input.append(files.value("mask", shape))
    return model


def behind_relu(shape):
    """Return a network of a dynamic image that no convolution takes directly."""
    model = files.dynamic(shape)
    model.graph.node.insert(0, helper.make_node("Relu", ["x"], ["x0"]))
    model.graph.node[1].input[0] = "x0"
    return model


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (files.dynamic(), {}, FileFormatError, r'x has a dynamic shape \["n", 3, "h", "w"\]: add --input HxW'),
        (files.make(), {"input_size": (32, 32)}, FileFormatError, "has a fixed input size of 16x24, not 32x32"),
        (files.dynamic((1, 3, 16, "w")), {"input_size": (32, 24)}, FileFormatError, r"\[1, 3, 16, w\] cannot be 32x24"),
        (files.dynamic((1, 3, "s", "s")), {"input_size": (16, 24)}, FileFormatError, "cannot be 16x24"),
        (behind_relu((1, 3, "h", 3)), {"input_size": (9, 3)}, UsageError, "NCHW or NHWC: add --layout nchw or nhwc"),
        (behind_relu((1, "c", 64, 64)), {"input_size": (64, 64)}, UsageError, "add --layout nchw or nhwc"),
        (files.make(), {"layout": "NHWC"}, UsageError, "no input is an image in NHWC: .*: omit --layout"),
        (files.dynamic((1, 3, 0, 24)), {}, FileFormatError, "input x is empty: axis 2 has length 0"),
        (with_mask((1, "k")), {"input_size": (16, 24)}, FileFormatError, r"mask \[1, k\]: --input sets .* one image"),
        (with_mask((1, 3, "h2", "w2")), {"input_size": (16, 24)}, FileFormatError, r"mask \[1, 3, h2, w2\]"),
        (files.tokens(), {"input_size": (16, 24)}, FileFormatError, "no input is one: ids"),
        (files.channels_last(), {"input_size": (16, 3)}, FileFormatError, "has a fixed input size of 16x24"),
        (files.dynamic(), {"input_size": files.SIZE, "layout": "NHWC"}, UsageError, "is not NHWC: omit --layout"),
    ],
)  # fmt: skip
def test_unknown_and_contradicting_sizes_are_refused(model, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        load(model, tmp_path, **options)


def test_equal_symbols_are_bound_together(tmp_path):
    model = load(with_mask(("n", 1, "h", "w")), tmp_path, input_size=files.SIZE)
    assert [tensor.shape for tensor in model.inputs] == [files.IMAGE, (1, 1, *files.SIZE)]
    assert model.remarks[1] == "input mask [n, 1, h, w] bound to 1x1x16x24"


@pytest.mark.parametrize("shape", [("N", 3, "N", "N"), ("?", 3, "?", "?"), ("h", 3, "h", "w"), ("N", "N", "N", "N")])
def test_name_of_the_batch_binds_nothing_else(shape, tmp_path):
    with pytest.raises(FileFormatError, match="add --input HxW"):
        load(files.dynamic(shape), tmp_path)
    model = load(files.dynamic(shape), tmp_path, input_size=files.SIZE)
    assert model.inputs[0].shape == files.IMAGE
    named = f"input x: its axes named {shape[0]!r}, the batch too, may have different lengths"
    assert (named in model.remarks) == (shape[0] != "?")


def test_convolution_decides_on_the_layout(tmp_path):
    model = load(files.dynamic((1, "c", 64, 64)), tmp_path, input_size=(64, 64))
    assert model.inputs[0].shape == (1, 3, 64, 64)
    last = load(files.channels_last(("n", "h", "w", "c")), tmp_path, input_size=files.SIZE)
    assert last.inputs[0].shape == (1, *files.SIZE, 3)
    four = files.channels_last(("n", "h", "w", "c"))
    four.graph.initializer[0].CopyFrom(files.tensor("w1", np.ones((8, 4, 3, 3), np.float32)))
    assert load(four, tmp_path, input_size=files.SIZE).inputs[0].shape == (1, *files.SIZE, 4)


def test_size_unfit_for_the_graph_is_named(tmp_path):
    model = files.dynamic()
    model.graph.node[2].output[0] = "z"
    model.graph.node.append(helper.make_node("Add", ["z", "fixed"], ["y"]))
    model.graph.initializer.append(files.tensor("fixed", np.ones((1, 4, 8, 12), np.float32)))
    assert load(model, tmp_path, input_size=files.SIZE).output.shape == (1, 4, 8, 12)
    with pytest.raises(
        FileFormatError, match="does not work with x 1x3x32x32, perhaps only with the size of its export"
    ):
        load(model, tmp_path, input_size=(32, 32))


def test_channels_come_from_the_weights(tmp_path):
    model = load(files.dynamic(("n", "c", "h", "w")), tmp_path, input_size=files.SIZE)
    assert "input x: 3 channels by its weights" in model.remarks


def test_image_input_has_its_layout(tmp_path):
    image = load(files.channels_last(), tmp_path).image_input()
    assert (image.layout, image.size, image.shape) == ("NHWC", files.SIZE, (1, *files.SIZE, 3))
    assert load(files.pixels(), tmp_path).image_input().layout == "NCHW"
    square = load(
        files.make(inputs=[files.value("x", (1, 3, 9, 3))], outputs=[files.value("y", (1, 4, 5, 2))]), tmp_path
    )
    with pytest.raises(UsageError, match="may be NCHW or NHWC: add --layout nchw or nhwc"):
        square.image_input()
    assert square.image_input("NCHW").size == (9, 3)
    with pytest.raises(FileFormatError, match="input must be one image"):
        load(files.tokens(), tmp_path).image_input()
