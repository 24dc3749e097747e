"""Decoding of outputs: scores, masks and label maps of every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn import functional as F

from lgc.errors import FileFormatError, MeasurementError, UsageError
from lgc.models.onnx.signature import NCHW, NHWC, ImageInput, TensorSpec
from lgc.profiler.inference.output_values import StoredValues
from lgc.profiler.inference.outputs import OutputDecoder, OutputOptions, find_largest_channel
from lgc.profiler.inference.pipeline import PipelineOptions
from lgc.profiler.inference.preprocessing import InputOptions
from lgc.profiler.inference.segmenter import Segmenter

from .graphs import SIZE, list_halves, make_halves, write_mask

IMAGE = ImageInput("x", NCHW, SIZE, "float32")
UNKNOWN = StoredValues()
H, W = SIZE


def decode(
    array: np.ndarray, values: str | None = None, threshold: float | None = None, image=IMAGE, graph=UNKNOWN
) -> np.ndarray:
    """Return the classes of an output; `values` is the user's option."""
    spec = TensorSpec("y", array.shape, array.dtype.name)
    options = OutputOptions(values, threshold)
    return OutputDecoder.for_output(spec, image, graph, options, "file").decode(array)


def describe(shape: tuple[int, ...], dtype: str = "float32", values: str | None = None, image=IMAGE) -> str:
    """Return the error of an output that is refused; `values` is the graph's meaning."""
    with pytest.raises((FileFormatError, UsageError)) as caught:
        OutputDecoder.for_output(TensorSpec("y", shape, dtype), image, StoredValues(values), OutputOptions(), "file")
    return str(caught.value)


LABELS = np.random.default_rng(0).integers(0, 5, SIZE)


def test_colours_are_refused_with_their_labels():
    with pytest.raises(FileFormatError, match=r"colours of labels, not scores of classes.* --output-name argmax$"):
        decode(np.zeros((1, 3, H, W), np.uint8), graph=StoredValues("colours", source="argmax"))


class TestShapes:
    """Layouts of scores and label maps."""

    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
    @pytest.mark.parametrize("shape", [(1, H, W), (1, 1, H, W), (H, W), (1, H, W, 1)])
    def test_label_maps(self, shape, dtype):
        assert np.array_equal(decode(LABELS.reshape(shape).astype(dtype), graph=StoredValues("labels")), LABELS)

    @pytest.mark.parametrize("shape", [(1, 5, H, W), (5, H, W), (1, H, W, 5), (H, W, 5)])
    def test_scores(self, shape):
        scores = np.eye(5, dtype=np.float32)[LABELS]
        array = scores if shape[-1] == 5 else np.moveaxis(scores, -1, 0)
        assert np.array_equal(decode(array.reshape(shape)), LABELS)

    def test_integer_scores_and_float16(self):
        scores = np.moveaxis(np.eye(5)[LABELS], -1, 0)[None]
        for dtype in (np.uint8, np.int8, np.float16, np.float64):
            assert np.array_equal(decode(scores.astype(dtype)), LABELS)

    def test_small_label_map_is_enlarged(self):
        coarse = LABELS[::4, ::4]
        assert np.array_equal(decode(coarse[None].astype(np.uint8), "labels"), np.kron(coarse, np.ones((4, 4))))

    def test_exact_size_decides_the_layout(self):
        """1x16x32x64 has the proportions of the image in both layouts."""
        scores = np.zeros((1, 16, H, W), np.float32)
        scores[0, 7] = 1
        image = ImageInput("x", NHWC, SIZE, "float32")
        assert (decode(scores, image=image) == 7).all()

    def test_ambiguous_layout_is_remarked(self):
        spec = TensorSpec("y", (1, 8, 16, 32), "float32")
        decoder = OutputDecoder.for_output(spec, IMAGE, UNKNOWN, OutputOptions(), "file")
        assert decoder.channels == 8
        assert decoder.remarks == ("output y float32 1x8x16x32 is read as NCHW (change it with --output-layout)",)
        chosen = OutputDecoder.for_output(spec, IMAGE, UNKNOWN, OutputOptions(layout=NHWC), "file")
        assert (chosen.layout, chosen.channels, chosen.remarks) == (NHWC, 32, ())
        with pytest.raises(UsageError, match="which is not NHWC: omit --output-layout"):
            OutputDecoder.for_output(
                TensorSpec("y", (1, 8, *SIZE), "float32"), IMAGE, UNKNOWN, OutputOptions(layout=NHWC), "file"
            )

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [
            ((1, 5, 1, 1), "float32"),
            ((1, 1000), "float32"),
            ((1, 300, H, W), "float32"),
            ((2, 5, H, W), "float32"),
            ((1, 5, W, H), "float32"),
            ((1, 3, H, W), "bool"),
            ((1, 100, 6), "float32"),
            ((H, W), "complex64"),
        ],
    )
    def test_other_outputs_are_rejected(self, shape, dtype):
        assert "neither scores" in describe(shape, dtype)

    @pytest.mark.parametrize(
        ("shape", "size"), [((1, 2), (64, 64)), ((1, 3), (64, 128)), ((1, 4, 1, 2), (64, 128)), ((1, 2), (32, 64))]
    )
    def test_classifiers_are_rejected(self, shape, size):
        assert "neither scores" in describe(shape, image=ImageInput("x", NCHW, size, "float32"))
        assert "neither scores" in describe(shape, "int64", image=ImageInput("x", NCHW, size, "float32"))

    @pytest.mark.parametrize("shape", [(1, 19, 2 * H, 2 * W), (1, 2 * H, 2 * W, 19), (2 * H, 2 * W)])
    def test_larger_outputs_are_called_so(self, shape):
        assert f"larger than its image, {H}x{W}" in describe(shape)

    @pytest.mark.parametrize("shape", [(1, 4, 76, 76), (1, 76, 76), (1, 76, 76, 4)])
    def test_cut_borders_are_refused(self, shape):
        image = ImageInput("x", NCHW, (92, 92), "float32")
        assert "76x76 is not its image's 92x92 divided by an integer" in describe(shape, image=image)

    @pytest.mark.parametrize("meaning", ["labels", "mask", "ranking"])
    def test_channels_without_scores_are_rejected(self, meaning):
        assert f"its 2 channels are {meaning}, not scores" in describe((1, 2, H, W), "int64", meaning)


class TestMasks:
    """One channel."""

    def test_threshold_of_probabilities_and_logits(self):
        probabilities = np.linspace(0.01, 0.99, H * W, dtype=np.float32).reshape(1, 1, *SIZE)
        logits = np.log(probabilities / (1 - probabilities))
        for threshold in (None, 0.25, 0.9):
            expected = probabilities[0, 0] > (threshold or 0.5)
            assert np.array_equal(decode(probabilities, "probabilities", threshold), expected)
            assert (decode(logits, "logits", threshold) == expected).mean() > 0.999

    def test_booleans_are_background_and_foreground(self):
        array = LABELS[None, None] > 2
        assert np.array_equal(decode(array), LABELS > 2)
        decoder = OutputDecoder.for_output(TensorSpec("y", (H, W), "bool"), IMAGE, UNKNOWN, OutputOptions(), "file")
        assert (decoder.is_mask, decoder.num_classes) == (True, 2)

    def test_unknown_values_are_asked_for(self):
        for dtype in ("float32", "uint8", "int8"):
            assert "add --output-values logits, probabilities or labels" in describe((1, 1, H, W), dtype)
        spec = TensorSpec("y", (1, 1, H, W), "int64")
        (remark,) = OutputDecoder.for_output(spec, IMAGE, UNKNOWN, OutputOptions(), "file").remarks
        assert "taken as a label map in integers (change it with --output-values)" in remark

    @pytest.mark.parametrize(
        ("graph", "option", "foreground"),
        [
            (StoredValues("logits", 0.05, 128), None, range(129, 256)),
            (StoredValues("probabilities", 1 / 255), None, range(128, 256)),
            (StoredValues("mask", 1 / 255), None, [255]),
            (UNKNOWN, "probabilities", range(128, 256)),
            (StoredValues("mask", 1 / 255), "probabilities", range(128, 256)),
        ],
    )
    def test_integers_are_scaled_back(self, graph, option, foreground):
        stored = [0, 255] if graph.meaning == "mask" and option is None else range(256)
        array = np.resize(np.array(stored, np.uint8), (1, 1, *SIZE))
        assert np.array_equal(decode(array, option, graph=graph), np.isin(array[0, 0], foreground))

    def test_integer_logits_need_their_scale(self):
        array = np.zeros((1, 1, *SIZE), np.uint8)
        with pytest.raises(UsageError, match="integers without a scale"):
            decode(array, "logits")
        assert decode(array + 9, "labels", graph=StoredValues("logits", 0.05, 128)).max() == 9

    def test_values_outside_their_range_are_rejected(self):
        array = np.full((1, 1, *SIZE), 1.5, np.float32)
        with pytest.raises(MeasurementError, match=r"1\.5 to 1\.5, which are not probabilities"):
            decode(array, "probabilities")
        with pytest.raises(MeasurementError, match="with fractions, which are not labels"):
            decode(array, "labels")

    def test_options_without_effect_are_rejected(self):
        scores = np.zeros((1, 5, *SIZE), np.float32)
        for options in ((None, 0.3), ("probabilities", None)):
            with pytest.raises(UsageError, match="are for one channel"):
                decode(scores, *options)
        with pytest.raises(UsageError, match="a label map: omit --threshold"):
            decode(LABELS[None].astype(np.uint8), threshold=0.3, graph=StoredValues("labels"))
        with pytest.raises(UsageError, match="a label map: omit --threshold"):
            decode(np.zeros((1, *SIZE), np.float32), "labels", 0.3)


def test_invalid_values_are_rejected():
    ones = np.ones((1, *SIZE))
    assert decode((255 * ones).astype(np.int64)).max() == 255
    with pytest.raises(MeasurementError, match="classes 0 to 256"):
        decode(np.where(np.arange(W) == 3, 256, 0 * ones).astype(np.int64))
    with pytest.raises(MeasurementError, match="classes -1 to 0"):
        decode(np.where(np.arange(W) == 3, -1, 0 * ones).astype(np.int32))
    with pytest.raises(MeasurementError, match="not finite"):
        decode(np.full((1, 2, *SIZE), np.nan, np.float32))
    with pytest.raises(MeasurementError, match="not finite"):
        decode(np.full((1, *SIZE), np.inf, np.float32), "labels")


@pytest.mark.parametrize("size", [(5, 7), (32, 48), (33, 20)])
def test_largest_channel_equals_torch(size):
    logits = np.random.default_rng(1).standard_normal((3, 9, 14), dtype=np.float32)
    reference = F.interpolate(torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    assert (find_largest_channel(logits, size) == reference.argmax(axis=0)).mean() > 0.99


SIGMOID = helper.make_node("Sigmoid", ["l"], ["s"])
GREATER = helper.make_node("Greater", ["l", "zero"], ["g"])
SQUEEZED = (GREATER, helper.make_node("Squeeze", ["g", "axis1"], ["q"]))
FLAT = (GREATER, helper.make_node("Squeeze", ["g", "axes01"], ["q"]))
TO_BYTES = helper.make_node("Cast", ["q"], ["u"], to=TensorProto.UINT8)
TO_FLOATS = helper.make_node("Cast", ["q"], ["u"], to=TensorProto.FLOAT)

BINARY = {
    "logits": ((), TensorProto.FLOAT, (1, 1, H, W)),
    "sigmoid": ((SIGMOID,), TensorProto.FLOAT, (1, 1, H, W)),
    "booleans": ((GREATER,), TensorProto.BOOL, (1, 1, H, W)),
    "booleans of three axes": (SQUEEZED, TensorProto.BOOL, (1, H, W)),
    "bytes": ((*SQUEEZED, TO_BYTES), TensorProto.UINT8, (1, H, W)),
    "bytes of two axes": ((*FLAT, TO_BYTES), TensorProto.UINT8, (H, W)),
    "floats that are labels": ((*SQUEEZED, TO_FLOATS), TensorProto.FLOAT, (1, H, W)),
}
RAW = PipelineOptions(inputs=InputOptions(value_range="0..255"))


@pytest.mark.parametrize("name", BINARY)
def test_binary_file_gives_two_halves(tmp_path, name):
    nodes, kind, shape = BINARY[name]
    path = write_mask(tmp_path / "mask.onnx", *nodes, kind=kind, shape=shape)
    with Segmenter.open(path, options=RAW) as segmenter:
        assert list_halves(segmenter.segment(make_halves(50, 90))) == (1, 0)
        remarks = " ".join(segmenter.remarks)
    expected = {"logits": "sigmoid(output) > 0.5", "sigmoid": "foreground where output > 0.5"}
    assert expected.get(name, "label map in floats" if "labels" in name else "") in remarks
    assert ("is taken as" in remarks) == (name in expected or "labels" in name)


def test_undetermined_operator_needs_an_option(tmp_path):
    path = write_mask(tmp_path / "mask.onnx", helper.make_node("Relu", ["l"], ["r"]))
    with pytest.raises(UsageError, match="one channel whose meaning the file does not specify"):
        Segmenter.open(path, options=RAW)
    options = PipelineOptions(inputs=RAW.inputs, outputs=OutputOptions("logits"))
    with Segmenter.open(path, options=options) as segmenter:
        assert list_halves(segmenter.segment(make_halves())) == (1, 0)
