"""Preprocessing by metadata and options."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lgc.errors import UsageError
from lgc.models.images import IMAGENET, Normalisation
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.signature import NORMALISATION_KEY, VERSION_KEY, Signature, TensorSpec
from lgc.profiler.inference.pipeline import PipelineOptions
from lgc.profiler.inference.preprocessing import InputOptions, Preprocessing
from lgc.profiler.inference.segmenter import Segmenter

from .graphs import SIZE, list_halves, make_halves, make_value, write_copy, write_graph

H, W = 4, 6
FRAME = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
OWN = {VERSION_KEY: "0.1", NORMALISATION_KEY: json.dumps({"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]})}


def prepare(options: InputOptions, shape=(1, 3, H, W), dtype="float32", metadata=None) -> Preprocessing:
    network = Signature("file", (TensorSpec("x", shape, dtype),), (), metadata or {})
    return Preprocessing.for_network(network, options)


class TestOptions:
    """Range of mean and standard deviation."""

    @pytest.mark.parametrize(
        ("options", "mean", "std"),
        [
            (InputOptions((0.5,) * 3, (0.5,) * 3), 0.5, 0.5),
            (InputOptions((127.5,) * 3, (127.5,) * 3), 0.5, 0.5),
            (InputOptions((0.5, 0, 1), (1.0,) * 3), (0.5, 0, 1), 1),
            (InputOptions(std=(255.0,) * 3), 0, 1),
            (InputOptions((51.0,) * 3), 0.2, 1 / 255),
            (InputOptions(value_range="0..1"), 0, 1),
            (InputOptions(value_range="0..255"), 0, 1 / 255),
            (InputOptions((0.5,) * 3, (51.0,) * 3, "0..255"), 0.5 / 255, 0.2),
        ],
    )
    def test_range_follows_from_values(self, options, mean, std):
        known = options.normalisation
        np.testing.assert_allclose(known.mean, np.broadcast_to(mean, 3))
        np.testing.assert_allclose(known.std, np.broadcast_to(std, 3))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (InputOptions((0.0,) * 3, (1.0,) * 3), "--mean 0 and --std 1 fit both ranges"),
            (InputOptions((0.0,) * 3), "fit both ranges"),
            (InputOptions((0.5,) * 3, (127.5,) * 3), "fit no range"),
            (InputOptions((0.5, 116.0, 123.0)), "--mean 0.5,116,123 and --std 1 fit no range"),
            (InputOptions((104.0,) * 3, value_range="0..1"), "outside --range 0..1"),
            (InputOptions((0.5,) * 3, (0.5, 0.5, 0.0)), "std must be above 0"),
            (InputOptions((float("nan"),) * 3, (0.5,) * 3), "invalid normalisation|fit no range"),
        ],
    )
    def test_ambiguous_values_are_rejected(self, options, message):
        with pytest.raises(UsageError, match=message):
            _ = options.normalisation

    def test_swapped_imagenet_mean_is_reported(self):
        assert "give red first" in InputOptions((103.5, 116.3, 123.7), bgr=True).describe()[1]
        assert len(InputOptions((123.7, 116.3, 103.5), bgr=True).describe()) == 1


class TestInput:
    """Array that the network gets."""

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_layout_order_and_normalisation(self, dtype):
        options = InputOptions((0.1, 0.2, 0.3), (0.5, 0.25, 0.125), bgr=True)
        expected = ((FRAME / 255 - np.array(options.mean)) / np.array(options.std))[..., ::-1][None]
        last = prepare(options, (1, H, W, 3), dtype).apply(FRAME)
        first = prepare(options, (1, 3, H, W), dtype).apply(FRAME)
        assert (last.dtype, last.flags.c_contiguous, first.flags.c_contiguous) == (np.dtype(dtype), True, True)
        tolerance = 1e-5 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(last, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(first, np.moveaxis(last, -1, 1))

    @pytest.mark.parametrize("shape", [(1, 3, H, W), (1, H, W, 3)])
    def test_bytes_are_unchanged(self, shape):
        array = prepare(InputOptions(), shape, "uint8").apply(FRAME)
        expected = np.moveaxis(FRAME, -1, 0) if shape[1] == 3 else FRAME
        assert np.array_equal(array, expected[None])
        swapped = prepare(InputOptions(bgr=True), shape, "uint8").apply(FRAME[..., ::-1])
        assert np.array_equal(swapped, array)

    def test_raw_pixels_are_close_to_bytes(self):
        array = prepare(InputOptions(value_range="0..255"), (1, H, W, 3)).apply(FRAME)
        np.testing.assert_allclose(array[0], FRAME, atol=1e-4)

    def test_layout_is_asked_for(self):
        with pytest.raises(UsageError, match="add --layout"):
            prepare(InputOptions(), (1, 3, 5, 3))
        assert prepare(InputOptions(layout="NHWC"), (1, 3, 5, 3)).image.size == (3, 5)
        with pytest.raises(UsageError, match="omit --layout"):
            prepare(InputOptions(layout="NHWC"))


class TestMetadata:
    """Files of lgc, and of other programs."""

    def test_own_files_specify_it(self):
        known = prepare(InputOptions(), metadata=OWN)
        assert known.normalisation == Normalisation((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
        assert known.remarks == ()
        older = prepare(InputOptions(), metadata={VERSION_KEY: "0.1"})
        assert (older.normalisation, older.remarks) == (IMAGENET, ())

    def test_contradicting_options_are_rejected(self):
        with pytest.raises(UsageError, match=r"trained with mean 0.5,0.4,0.3 and std 0.2,0.2,0.1"):
            prepare(InputOptions((0.5,) * 3), metadata=OWN)
        with pytest.raises(UsageError, match="omit --bgr"):
            prepare(InputOptions(bgr=True), metadata=OWN)
        same = InputOptions((127.5, 102.0, 76.5), (51.0, 51.0, 25.5))
        assert prepare(same, metadata=OWN).normalisation == prepare(InputOptions(), metadata=OWN).normalisation

    def test_bytes_take_no_normalisation(self):
        for options in (InputOptions((0.5,) * 3), InputOptions(value_range="0..255")):
            with pytest.raises(UsageError, match="takes bytes"):
                prepare(options, dtype="uint8")
        assert prepare(InputOptions(), dtype="uint8").remarks == ()

    def test_assumed_statistics_are_reported(self):
        foreign = prepare(InputOptions())
        assert foreign.normalisation == IMAGENET
        assert "ImageNet's mean and std is assumed; change it with --mean" in foreign.remarks[0]
        assert "BGR with ImageNet's" in prepare(InputOptions(bgr=True)).remarks[0]
        chosen = prepare(InputOptions((120.0, 110.0, 100.0)))
        assert chosen.remarks == ("input: RGB, pixels in 0..255, mean red 120, green 110, blue 100, std 1",)

    @pytest.mark.parametrize(("factor", "range_text"), [(1, "0..1"), (255, "0..255")])
    def test_range_of_foreign_metadata(self, factor, range_text):
        mean, std = ([factor * value for value in values] for values in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.1)))
        metadata = {NORMALISATION_KEY: json.dumps({"mean": mean, "std": std})}
        known = prepare(InputOptions(), metadata=metadata)
        np.testing.assert_allclose(known.normalisation.mean, (0.5, 0.4, 0.3))
        np.testing.assert_allclose(known.normalisation.std, (0.2, 0.25, 0.1))
        assert f"normalised as in the file's metadata: pixels in {range_text}, mean red {mean[0]:g}" in known.remarks[0]
        assert prepare(InputOptions((0.9,) * 3), metadata=metadata).normalisation.mean == (0.9,) * 3, "options precede"
        assert prepare(InputOptions(bgr=True), metadata=metadata).bgr

    def test_foreign_metadata_of_no_range_is_ignored(self):
        metadata = {NORMALISATION_KEY: json.dumps({"mean": [0.5, 0.5, 0.5], "std": [58, 58, 58]})}
        assert "ImageNet's mean and std is assumed" in prepare(InputOptions(), metadata=metadata).remarks[0]
        network = Signature("file", (), (), metadata)
        assert "metadata `normalisation` is ignored" in network.metadata_remarks[0]


def write_quantised(path, scale, zero_point):
    """Write `write_copy` with an input of bytes that the network dequantises."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["f"]),
        helper.make_node("Conv", ["f", "weight"], ["y"]),
    ]
    weights = {
        "scale": np.float32(scale),
        "zero": np.uint8(zero_point),
        "weight": np.random.default_rng(3).standard_normal((5, 3, 1, 1), np.float32),
    }
    value = make_value("x", (1, 3, *SIZE), TensorProto.UINT8)
    return write_graph(path, nodes, [value], [make_value("y", (1, 5, *SIZE))], weights)


class TestQuantisedInput:
    """Bytes that hold the normalised image."""

    @pytest.mark.parametrize(
        ("options", "mean", "std"),
        [(InputOptions(), IMAGENET.mean, IMAGENET.std), (InputOptions((0.5,) * 3, (0.25,) * 3), 0.5, 0.25)],
    )
    def test_image_is_normalised_and_quantised(self, tmp_path, options, mean, std):
        path = write_quantised(tmp_path / "q.onnx", 0.0187, 114)
        frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        stored = np.clip(np.round((frame / 255 - np.array(mean)) / np.array(std) / 0.0187) + 114, 0, 255)
        session = onnxruntime.InferenceSession(str(path))
        scores = session.run(None, {"x": np.moveaxis(stored.astype(np.uint8), -1, 0)[None]})[0]
        with Segmenter.open(path, options=PipelineOptions(inputs=options)) as segmenter:
            assert (segmenter.segment(frame) == scores[0].argmax(0)).mean() > 0.999
            assert "the normalised image is stored as 0.0187 * (byte - 114), -2.13 to 2.64" in segmenter.remarks[-1]

    @pytest.mark.parametrize(("scale", "zero_point"), [(1 / 255, 0), (1, 128), (1 / 127.5, 128)])
    def test_range_of_another_normalisation_is_asked_for(self, tmp_path, scale, zero_point):
        path = write_quantised(tmp_path / "q.onnx", scale, zero_point)
        with pytest.raises(
            UsageError, match=r"takes bytes that it converts to .*: add --range 0..1 or 0..255, or --me"
        ):
            Segmenter.open(path)

    def test_pixels_may_be_stored_as_they_are(self, tmp_path):
        path = write_quantised(tmp_path / "q.onnx", 1 / 255, 0)
        known = Preprocessing.for_network(OnnxModel.load(path), InputOptions(value_range="0..1"))
        assert np.array_equal(known.apply(FRAME), np.moveaxis(FRAME, -1, 0)[None])


@pytest.mark.parametrize(
    ("options", "halves"),
    [
        (InputOptions(), (3, 3)),
        (InputOptions(value_range="0..255"), (0, 2)),
        (InputOptions(value_range="0..255", bgr=True), (2, 0)),
        (InputOptions((50.0,) * 3, bgr=True), (2, 0)),
        (InputOptions(value_range="0..1"), (3, 3)),
    ],
)
def test_network_of_raw_pixels(tmp_path, options, halves):
    path = write_copy(tmp_path / "raw.onnx", none_above=100)
    with Segmenter.open(path, options=PipelineOptions(inputs=options)) as segmenter:
        assert list_halves(segmenter.segment(make_halves(40, 70))) == halves
