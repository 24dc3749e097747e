"""Detection of layouts, and the conformance of every registered layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lgc.errors import DataError, UnknownNameError
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.labels import IGNORE
from lgc.search.data.layouts import LAYOUTS, load_layout
from lgc.search.data.predictions import PredictionWriter
from lgc.search.data.reading import read_label
from lgc.search.data.synthetic.writers import SCENE_FORMATS, write_scenes

from .pictures import write_image

SIZE = (32, 48)


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_dataset(tmp_path / "nowhere")


def test_file_instead_of_folder_is_rejected(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="is a file, not a folder"):
        read_dataset(path)


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_dataset(tmp_path)


def test_unknown_layout_lists_requirements_and_content(tmp_path: Path) -> None:
    for name in ("leftImg8bit", "b", "c", "d", "e", "f", "g", "h"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(load_layout(name).name in message for name in LAYOUTS)
    assert (
        "cityscapes needs leftImg8bit/ and gtFine/ (or gtCoarse/); known layouts: ade20k, bdd100k, camvid," in message
    )
    assert "the folder has b/, c/, d/, e/, f/, g/ and 2 more" in message


def test_unknown_split_lists_known_splits(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid", {"train": 1}, SIZE)
    with pytest.raises(UnknownNameError, match=r"unknown split 'validation'.*known: test, train, val"):
        read_dataset(tmp_path).pairs("validation")


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("cityscapes", r"leftImg8bit/val/<city>/\*_leftImg8bit.png is missing or empty \(available splits: train\)"),
        ("camvid-segnet", r"val/ with valannot/ is missing or empty \(available splits: train\)"),
        ("camvid", r"the list val.txt is missing or empty \(available splits: train\)"),
        ("camvid-lists", r"the list val.txt is missing or empty \(available splits: train\)"),
    ],
)
def test_missing_split_lists_available_splits(tmp_path: Path, layout: str, says: str) -> None:
    write_scenes(tmp_path, layout, {"train": 1}, SIZE)
    with pytest.raises(DataError, match=f"has no val images: {says}"):
        read_dataset(tmp_path).pairs("val")


@pytest.mark.parametrize("layout", SCENE_FORMATS)
def test_images_without_labels_are_reported(tmp_path: Path, layout: str) -> None:
    write_scenes(tmp_path, layout, {"train": 3}, SIZE)
    pairs = read_dataset(tmp_path).pairs("train")
    for pair in pairs[1:]:
        pair.label.unlink()
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path).pairs("train")
    assert "2 of 3 images have no label" in str(caught.value)
    assert str(pairs[1].image) in str(caught.value)
    assert "no such file" in str(caught.value)


def test_images_alone_have_no_layout(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    shutil.rmtree(tmp_path / "gtFine")
    with pytest.raises(DataError, match="has no known layout"):
        read_dataset(tmp_path)


@pytest.fixture(params=SCENE_FORMATS)
def layout(request: pytest.FixtureRequest) -> str:
    """Return the name of each layout that `lgc-scenes` writes."""
    return str(request.param)


def test_written_layout_is_detected(layout: str, tmp_path: Path) -> None:
    write_scenes(tmp_path, layout, {"train": 3, "val": 2}, SIZE)
    assert read_dataset(tmp_path).name == layout
    for split, count in (("train", 3), ("val", 2)):
        pairs = read_dataset(tmp_path).pairs(split)
        assert len(pairs) == count
        assert all(pair.image.is_file() and pair.label.is_file() for pair in pairs)


def test_labels_are_classes_of_the_layout(layout: str, tmp_path: Path) -> None:
    write_scenes(tmp_path, layout, {"train": 3}, SIZE)
    spec = read_dataset(tmp_path)
    assert len(spec.classes) == len(spec.palette)
    values = {int(v) for p in read_dataset(tmp_path).pairs("train") for v in np.unique(read_label(p.label, p.coding))}
    assert values <= {*range(spec.num_classes), IGNORE}
    assert len(values) > 3


def test_split_without_images_is_reported(layout: str, tmp_path: Path) -> None:
    write_scenes(tmp_path, layout, {"train": 1}, SIZE)
    with pytest.raises(DataError, match="has no val images"):
        read_dataset(tmp_path).pairs("val")


def test_predictions_have_the_labels_coding(layout: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", layout, {"val": 2}, SIZE)
    data = load_dataset(tmp_path / "data", "val")
    writer = PredictionWriter(tmp_path / "predictions", data)
    for index, pair in enumerate(data.pairs):
        classes = np.minimum(read_label(pair.label, pair.coding), data.num_classes - 1)
        writer.write(index, classes)
        assert np.array_equal(read_label(writer.paths[index], pair.coding), classes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_files_are_valid(name: str) -> None:
    assert load_layout(name).needs
