"""Legends of networks, painting of classes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from lgc.errors import FileFormatError, UsageError
from lgc.models import SearchSpace
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.signature import CLASSES_KEY, PALETTE_KEY, VERSION_KEY, Signature
from lgc.models.palettes import distinct_palette
from lgc.profiler.deployment.network import Network
from lgc.profiler.inference.media import MediaFile
from lgc.profiler.inference.painting import Legend, Painter, blend_mask
from lgc.profiler.inference.video import Clip
from lgc.search.data.layouts import load_layout

CAMVID, CITYSCAPES = (
    Legend(tuple(classes), tuple(classes.values()))
    for classes in (load_layout(name).classes for name in ("camvid", "cityscapes"))
)


@pytest.fixture(scope="module")
def street():
    return SearchSpace.load("tiny").with_input(32, 48)


def test_legend_follows_names_or_number(street):
    def find_legend(names):
        model = Network(street.sample(0), None, "dense", names).model()
        return Legend.for_network(OnnxModel.parse(model, "x"), 11, [CITYSCAPES, CAMVID])

    assert find_legend(None) == CAMVID, "11 classes without names"
    assert find_legend(CITYSCAPES.names) == CITYSCAPES
    own = find_legend(tuple("abcdefghijk"))
    assert own.names == tuple("abcdefghijk")
    assert own.palette == distinct_palette(11) != CAMVID.palette
    assert (own.name(3), own.name(12), own.colour(40)) == ("d", "class 12", "#000000")


def test_palette_of_the_file_is_used():
    palette = ((1, 2, 3), (4, 5, 6))
    network = Signature("x", (), (), {CLASSES_KEY: '["wall", "floor"]', PALETTE_KEY: "[[1, 2, 3], [4, 5, 6]]"})
    assert Legend.for_network(network, 2, [CAMVID]) == Legend(("wall", "floor"), palette)
    unnamed = Signature("x", (), (), {PALETTE_KEY: "[[1, 2, 3], [4, 5, 6]]"})
    assert Legend.for_network(unnamed, 2) == Legend(("class 0", "class 1"), palette)
    own = Signature("x", (), (), {**unnamed.metadata, VERSION_KEY: "0.1"})
    with pytest.raises(FileFormatError, match="`palette` has 2 colours for 3 classes"):
        Legend.for_network(own, 3)


def test_metadata_of_another_number_is_ignored():
    network = Signature("x", (), (), {CLASSES_KEY: '["wall", "floor"]', PALETTE_KEY: "[[1, 2, 3], [4, 5, 6]]"})
    remarks: list[str] = []
    legend = Legend.for_network(network, 11, [CAMVID], log=remarks.append)
    assert legend == CAMVID
    assert remarks == [
        "x: metadata `classes` is ignored: 2 names for 11 classes",
        "x: metadata `palette` is ignored: 2 colours for 11 classes",
    ]
    one = Signature("x", (), (), {CLASSES_KEY: '["person"]'})
    assert Legend.for_network(one, 2, is_mask=True, log=remarks.append).names == ("background", "foreground")


def test_named_mask_has_transparent_background():
    network = Signature("x", (), (), {CLASSES_KEY: '["none", "person"]', PALETTE_KEY: "[[0, 0, 0], [9, 0, 0]]"})
    assert Legend.for_network(network, 2, is_mask=True) == Legend(("none", "person"), ((0, 0, 0), (9, 0, 0)), "", 0)


def test_malformed_metadata_of_others_is_ignored():
    values = {CLASSES_KEY: "19", PALETTE_KEY: "[[1, 2, 300]]", "normalisation": '{"mean": 1}', "architecture": "unet"}
    network = Signature("x", (), (), values)
    assert (network.class_names, network.palette, network.normalisation, network.architecture) == (None,) * 4
    assert [remark.split(":")[0] for remark in network.metadata_remarks] == [
        f"metadata `{key}` is ignored" for key in values
    ]
    own = Signature("x", (), (), {**values, VERSION_KEY: "0.1"})
    assert own.metadata_remarks == ()
    for name in ("class_names", "palette", "normalisation", "architecture"):
        with pytest.raises(FileFormatError, match=r"x[,:] metadata"):
            getattr(own, name)


def test_mask_has_background_and_foreground():
    network = Signature("x", (), (), {})
    legend = Legend.for_network(network, 2, [CAMVID], is_mask=True)
    assert legend == Legend(("background", "foreground"), ((0, 0, 0), *distinct_palette(1)), background=0)
    overlay = legend.overlay(np.full((1, 2, 3), 200, np.uint8), np.array([[0, 1]], np.uint8), 1.0)
    assert overlay[0].tolist() == [[200, 200, 200], [*legend.palette[1]]], "the background is transparent"
    assert Legend.for_network(network, 2).names == ("class 0", "class 1")


class TestPaletteFile:
    """Names and colours from a file of the user's."""

    @pytest.mark.parametrize(
        "text",
        [
            "wall: [1, 2, 3]\nfloor: [4, 5, 6]\n",
            '{"wall": [1, 2, 3], "floor": [4, 5, 6]}',
            "name: own\nsplits: [train]\nclasses:\n  wall: [1, 2, 3]\n  floor: [4, 5, 6]\n",
        ],
    )
    def test_entry_per_class(self, tmp_path, text):
        (tmp_path / "p.yaml").write_text(text)
        legend = Legend.read(tmp_path / "p.yaml")
        assert legend == Legend(("wall", "floor"), ((1, 2, 3), (4, 5, 6)))
        network = Signature("x", (), (), {CLASSES_KEY: '["wall", "floor"]'})
        for num_classes in (2, None):
            legend.check_network(network, num_classes)
        with pytest.raises(UsageError, match="x has 3 classes, the palette 2"):
            legend.check_network(network, 3)
        with pytest.raises(UsageError, match="other classes than the palette: a, b"):
            legend.check_network(Signature("x", (), (), {CLASSES_KEY: '["a", "b"]'}), 2)

    def test_names_alone_get_distinct_colours(self, tmp_path):
        (tmp_path / "p.yaml").write_text("classes: [wall, floor]")
        assert Legend.read(tmp_path / "p.yaml") == Legend(("wall", "floor"), distinct_palette(2))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("wall: [1, 2, 300]", "write a class per line"),
            ("wall: [1, 2]", "write a class per line"),
            ("wall", "write a class per line"),
            ("[]", "write a class per line"),
            ("wall: [1, 2, 3]\nwall: [4, 5, 6]", "line 2: duplicate key 'wall'"),
            ("wall: [010, 2, 3]", "an octal number"),
        ],
    )
    def test_other_content_is_rejected(self, tmp_path, text, message):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(FileFormatError, match=rf"cannot read palette .*p\.yaml: .*{message}"):
            Legend.read(tmp_path / "p.yaml")


def test_overlay_is_blended_by_alpha():
    pixels, mask = (np.full((2, 3, 3), value, np.uint8) for value in (200, 100))
    assert (blend_mask(pixels, mask, 0.25) == 175).all()
    assert (blend_mask(pixels, mask, 0) == pixels).all()


@pytest.mark.parametrize("ids", [True, False])
def test_image_outputs(tmp_path, ids):
    labels = np.array([[0, 1], [2, 10]], np.uint8)
    file = MediaFile(tmp_path / "a.jpg", tmp_path / "out" / "a", None)
    (tmp_path / "out").mkdir()
    with Painter(CAMVID, 1.0, ids).open_writer(file) as write:
        write(np.zeros((2, 2, 3), np.uint8), labels)
    pictures = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "out").iterdir()}
    assert set(pictures) == {"a-mask.png", "a-overlay.png", *(["a-ids.png"] if ids else [])}
    assert (pictures["a-mask.png"] == np.array(CAMVID.palette, np.uint8)[labels]).all()
    assert (pictures["a-overlay.png"] == pictures["a-mask.png"]).all()
    if ids:
        assert (pictures["a-ids.png"] == labels).all()


def test_video_has_an_overlay_only(tmp_path):
    file = MediaFile(tmp_path / "a.avi", tmp_path / "a", Clip(tmp_path / "a.avi", Fraction(25), 1))
    with Painter(CAMVID, 0.5, ids=True).open_writer(file) as write:
        write(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a-overlay.mp4"]
