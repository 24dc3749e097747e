"""Palettes and greys: labels are read by index or by colour only where the other reading is excluded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.search.data.description import read_dataset
from lgc.search.data.reading import read_label

from .test_label_modes import decode, in_palette_mode

FOUR = "{bg: [0, 0, 0], red: [255, 0, 0], green: [0, 255, 0], blue: [0, 0, 255]}"
COLOURS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
BLACK = np.zeros((252, 3), int)
PADDED = np.concatenate([COLOURS, BLACK])
SWAPPED = np.concatenate([COLOURS[[0, 2, 1, 3]], BLACK])
VALUES = np.array([[0, 1, 2], [3, 255, 1]])


@pytest.mark.parametrize(
    "values", [VALUES, np.where(VALUES == 0, 2, VALUES)], ids=["shared black", "black of void only"]
)
def test_void_in_padded_palette_stays_void(tmp_path: Path, values: np.ndarray) -> None:
    assert decode(tmp_path, in_palette_mode(values, PADDED), FOUR) == values.tolist()


def test_void_in_padded_voc_palette(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(tmp_path / "JPEGImages/2008_000001.jpg")
    voc = np.concatenate([[(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], BLACK])
    in_palette_mode(VALUES, voc).save(tmp_path / "SegmentationClass/2008_000001.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2008_000001\n")
    (pair,) = read_dataset(tmp_path).pairs("val")
    assert read_label(pair.label, pair.coding).tolist() == VALUES.tolist()


@pytest.mark.parametrize("palette", [COLOURS[[0, 1, 1, 3]], PADDED[[0, 1, 2, 5]]], ids=["two reds", "two blacks"])
def test_values_of_one_colour_stay_apart(tmp_path: Path, palette: np.ndarray) -> None:
    values = np.array([[0, 1], [2, 3]])
    assert decode(tmp_path, in_palette_mode(values, palette), FOUR) == values.tolist()


@pytest.mark.parametrize(
    ("values", "palette"),
    [
        ([[0, 1, 2, 255]], SWAPPED),  # black like bg, in a palette of another order
        ([[1, 2, 255]], SWAPPED),
        ([[1, 2, 3]], np.concatenate([COLOURS[:3], BLACK])),  # blue, or bg
        ([[0, 1, 255]], np.concatenate([COLOURS[:2], BLACK, BLACK[:1], COLOURS[3:]])),  # void, or blue
    ],
)
def test_doubtful_palettes_are_refused(tmp_path: Path, values: list[list[int]], palette: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"is ambiguous \(mode P\): .*write `kind: indices` or `kind: colours`"):
        decode(tmp_path, in_palette_mode(np.array(values), palette), FOUR)


def test_swapped_colours_without_fillers_are_decoded(tmp_path: Path) -> None:
    assert decode(tmp_path, in_palette_mode(np.array([[0, 1, 2, 3]]), SWAPPED), FOUR) == [[0, 2, 1, 3]]


def test_stated_indices_are_read_by_index(tmp_path: Path) -> None:
    file = in_palette_mode(np.array([[0, 1, 2, 3]]), SWAPPED)
    assert decode(tmp_path, file, FOUR, "kind: indices\n") == [[0, 1, 2, 3]]
    assert decode(tmp_path, file, FOUR, "kind: colours\n") == [[0, 2, 1, 3]]


@pytest.mark.parametrize("where", ["classes", "map"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_colours_of_one_channel_are_refused(tmp_path: Path, where: str, dtype: type) -> None:
    classes = "{road: [1, 1, 1], sky: [0, 0, 0]}" if where == "classes" else "[road, sky]"
    fields = "" if where == "classes" else "map: {1 1 1: road, 0 0 0: sky}\n"
    file = Image.fromarray(np.array([[0, 1]], dtype))
    with pytest.raises(DataError, match=r"is ambiguous .*its values are 0, 1, their colours \(0, 0, 0\), \(1, 1, 1\)"):
        decode(tmp_path, file, classes, fields)
    assert decode(tmp_path, file, classes, f"{fields}kind: colours\n") == [[1, 0]]
    assert decode(tmp_path, file, classes, f"{fields}kind: indices\n") == [[0, 1]]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    file = Image.fromarray(np.array([[False, True]]))
    assert decode(tmp_path, file, "{bare: [0, 0, 0], plant: [255, 255, 255]}") == [[0, 1]]
    with pytest.raises(DataError, match=r"is ambiguous \(mode 1\)"):
        decode(tmp_path, file, "{plant: [255, 255, 255], bare: [0, 0, 0]}")


def test_white_class_beside_void_is_no_doubt(tmp_path: Path) -> None:
    file = Image.fromarray(np.array([[0, 1, 255]], np.uint8))
    assert decode(tmp_path, file, "{road: [9, 0, 0], line: [255, 255, 255]}") == [[0, 1, 255]]


def test_grey_palette_of_the_values_is_trivial(tmp_path: Path) -> None:
    greys = np.concatenate([np.repeat(np.arange(3)[:, None], 3, 1), BLACK])
    assert decode(tmp_path, in_palette_mode(np.array([[0, 1, 2]]), greys), "[a, b, c]") == [[0, 1, 2]]
    with pytest.raises(DataError, match=r"is ambiguous \(mode P\)"):
        decode(tmp_path, in_palette_mode(np.array([[0, 1, 2]]), greys[[2, 1, 0]]), "[a, b, c]")


@pytest.mark.parametrize(
    ("palettes", "message"),
    [
        ([None, [(2, 2, 2), (1, 1, 1), (0, 0, 0)]], "b.png has a palette of greys that are not its values, .*a.png"),
        ([COLOURS[:3], COLOURS[[2, 0, 0]]], "palettes of the labels differ, and that of .*b.png"),
    ],
)
def test_disagreeing_palettes_without_description(
    tmp_path: Path, palettes: list[object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, palette in zip("ab", palettes, strict=True):
        for folder in ("images", "labels"):
            (tmp_path / "own" / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 1)).save(f"own/images/{name}.png")
        values = np.array([[0, 1, 2]], np.uint8)
        file = Image.fromarray(values) if palette is None else in_palette_mode(values, np.array(palette))
        file.save(f"own/labels/{name}.png")
    with pytest.raises(DataError, match=message):
        read_dataset("own")
