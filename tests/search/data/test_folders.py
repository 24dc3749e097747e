"""Folders of images and labels without a description: classes are collected and written as YAML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError, LgcError, OutputError
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset

Values = list[int] | list[tuple[int, int, int]]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the relative path of a folder for data; the current folder is its parent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    return Path("own")


def write_label(path: Path, values: Values, mode: str | None = None, palette: Values | None = None) -> None:
    """Write a label of one row, and its image where `labels` or `masks` is `images`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Image.fromarray(np.array([values], np.uint8 if np.max(values) < 256 else np.uint16))
    if palette is not None:
        file = Image.fromarray(np.array([values], np.uint8))
        file.putpalette(np.array(palette, np.uint8).tobytes())
    (file if mode is None else file.convert(mode)).save(path)
    image = Path(*("images" if part in ("labels", "masks", "annotations") else part for part in path.parts))
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (len(values), 1)).save(image)


@pytest.mark.parametrize(
    ("values", "classes", "remark"),
    [
        ([0, 1, 3], [0, 1, 2], "3 classes of label values 0-1, 3 in 2 labels"),
        ([0, 255, 0], [0, 1, 0], "2 classes of label values 0, 255"),
        ([0, 1, 255], [0, 1, 255], "label value 255 is ignored, 33.3 % of the pixels"),
        ([5, 1000, 70], [0, 2, 1], "3 classes of label values 5, 70, 1000"),
        ([(9, 0, 0), (0, 9, 0), (0, 0, 9)], [2, 1, 0], "3 classes by colour"),
        (
            [(9, 9, 9), (0, 0, 0), (1, 1, 1)],
            [2, 0, 1],
            "all colours are grey: if they are indices",
        ),
        (list(range(100)), list(range(100)), "an unlikely number of classes: were the labels resized"),
    ],
)
def test_values_are_numbered_in_order(own: Path, values: Values, classes: list[int], remark: str) -> None:
    for name in "ab":
        write_label(own / f"labels/{name}.png", values)
    data = load_dataset(own, "train")
    assert data.classes == tuple(f"class {index}" for index in range(len({*classes} - {255})))
    assert data[0][1].tolist() == [classes]
    assert any(remark in line for line in read_dataset(own).remarks)
    again = load_dataset("own.dataset.yaml", "train")
    assert (again.classes, again[0][1].tolist()) == (data.classes, [classes])
    assert read_dataset("own.dataset.yaml").digest == read_dataset(own).digest


def test_images_without_splits_are_shared(own: Path) -> None:
    for name in range(10):
        write_label(own / f"masks/{name}.png", [0, 1])
    spec = read_dataset(own)
    train, val = ({pair.image.name for pair in spec.pairs(split)} for split in ("train", "val"))
    assert (len(train) > len(val) > 0, len(train | val), train & val) == (True, 10, set())
    assert any("train is 80 % of the images, val 20 %, drawn by seed 0" in line for line in spec.remarks)
    described = read_dataset("own.dataset.yaml")
    assert [p.image.name for p in described.pairs("val")] == [p.image.name for p in spec.pairs("val")]


@pytest.mark.parametrize("form", ["labels/{}", "{}/annotations"])
def test_splits_are_sub_folders(own: Path, form: str) -> None:
    for split, name in (("training", "a"), ("valid", "b"), ("test", "c")):
        write_label(own / form.format(split) / f"{name}.png", [0, 1])
    spec = read_dataset(own)
    assert {split: spec.pairs(split)[0].image.stem for split in spec.split_names} == {
        "train": "a",
        "val": "b",
        "test": "c",
    }


def test_splits_are_lists(own: Path) -> None:
    for name in "abc":
        write_label(own / f"labels/{name}.png", [0, 1])
    (own / "train.txt").write_text("a.png\nc.png\n")
    (own / "lists").mkdir()
    (own / "lists/val.txt").write_text("b\n")
    spec = read_dataset(own)
    assert [[p.image.stem for p in spec.pairs(split)] for split in spec.split_names] == [["a", "c"], ["b"]]


def test_description_is_kept_but_never_overwritten(own: Path) -> None:
    write_label(own / "labels/train/a.png", [0, 1])
    before = sorted(own.rglob("*"))
    read_dataset(own)
    path = Path("own.dataset.yaml")
    text = path.read_text()
    assert read_dataset(own).classes == ("class 0", "class 1")
    path.write_text(text.replace("class 1", "car"))
    assert read_dataset(path).classes == ("class 0", "car")
    with pytest.raises(OutputError, match=r"own\.dataset\.yaml differs from the content of own: use --data own\.dat"):
        read_dataset(own)
    assert path.read_text() == text.replace("class 1", "car")
    assert sorted(own.rglob("*")) == before


def test_data_folder_is_never_written_to(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_label(own / "labels/train/a.png", [0, 1])
    before = sorted(own.resolve().rglob("*"))
    monkeypatch.chdir(own / "labels")
    spec = read_dataset(Path(".."))
    assert "run the command outside" in spec.remarks[-1]
    assert sorted(Path("..").resolve().rglob("*")) == before


def test_changed_labels_are_read_again(own: Path) -> None:
    write_label(own / "labels/train/a.png", [0, 1, 1])
    assert read_dataset(own).num_classes == 2
    Path("own.dataset.yaml").unlink()
    write_label(own / "labels/train/b.png", [0, 1, 2])
    assert read_dataset(own).num_classes == 3


def test_label_names_may_have_endings(own: Path) -> None:
    for name in ("a", "a1"):
        write_label(own / f"labels/train/{name}.png", [0, 1])
        (own / f"labels/train/{name}.png").rename(own / f"labels/train/{name}_mask.png")
        write_label(own / f"labels/train/{name}.png", [9, 8])
        (own / f"labels/train/{name}.png").rename(own / f"labels/train/{name}_preview.png")
    spec = read_dataset(own)
    assert [pair.label.name for pair in spec.pairs("train")] == ["a_mask.png", "a1_mask.png"]
    assert any("*_preview.png in labels/train/ are not read" in line for line in spec.remarks)


def test_common_palette_gives_the_colours(own: Path) -> None:
    for name in "ab":
        write_label(own / f"labels/train/{name}.png", [0, 2], palette=[(1, 1, 1), (2, 2, 2), (0, 9, 0)])
    data = load_dataset(own, "train")
    assert data.palette == ((1, 1, 1), (0, 9, 0))
    assert data[0][1].tolist() == [[0, 1]]


def test_different_palettes_are_read_by_colour(own: Path) -> None:
    write_label(own / "labels/train/a.png", [0, 1], palette=[(5, 5, 5), (0, 9, 0)])
    write_label(own / "labels/train/b.png", [0, 1], palette=[(0, 9, 0), (5, 5, 5)])
    data = load_dataset(own, "train")
    assert data.palette == ((0, 9, 0), (5, 5, 5))
    assert [data[index][1].tolist() for index in (0, 1)] == [[[1, 0]], [[0, 1]]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a.png": [1, 1]}, r"all 1 labels in own/labels/train have a single class \(1\)"),
        ({"a.png": [1, 255]}, "have a single class"),
        ({"a.png": list(range(256)), "b.png": [256]}, "labels of 257 values, more than 255 classes"),
        ({"a.png": [0, 1], "b.png": [(0, 0, 0), (1, 1, 1)]}, "b.png holds colours, .*a.png indices"),
        ({"a.jpg": [0, 1]}, "a.jpg is a JPEG file, whose compression alters label values"),
    ],
)
def test_labels_without_classes_are_refused(own: Path, labels: dict[str, Values], message: str) -> None:
    for name, values in labels.items():
        write_label(own / "labels/train" / name, values)
    with pytest.raises(DataError, match=message):
        read_dataset(own)
    assert not Path("own.dataset.yaml").exists()


def test_missing_labels_are_counted(own: Path) -> None:
    for name in "abc":
        write_label(own / f"labels/train/{name}.png", [0, 1])
    (own / "labels/train/b.png").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 images has no label; the first is own/images/train/b\.png: no such file"
    ):
        read_dataset(own)


def test_two_label_folders_are_refused(own: Path) -> None:
    for folder in ("labels", "masks"):
        write_label(own / folder / "a.png", [0, 1])
    with pytest.raises(LgcError, match="has labels/ and masks/: write a dataset"):
        read_dataset(own)


def test_own_classes_are_not_camvid(own: Path) -> None:
    """Lists beside `images/` and `labels/` are CamVid's only with CamVid's file names."""
    for name in "ab":
        write_label(own / f"labels/{name}.png", [0, 1, 2, 3])
    for split, name in (("train", "a"), ("val", "b")):
        (own / f"{split}.txt").write_text(f"{name}.png\n")
    assert read_dataset(own).num_classes == 4


@pytest.mark.parametrize("ending", ["annot", "_labels"])
def test_own_classes_in_segnets_folders(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"own/{split}").mkdir(parents=True)
        (tmp_path / f"own/{split}{ending}").mkdir()
        Image.new("RGB", (4, 1)).save(tmp_path / f"own/{split}/holiday.png")
        Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)).save(tmp_path / f"own/{split}{ending}/holiday.png")
    spec = read_dataset(tmp_path / "own")
    assert spec.num_classes == 4
    assert any(
        "if these are CamVid's classes, write a dataset.yaml with `extends: camvid-segnet`" in r for r in spec.remarks
    )
    (tmp_path / "own/dataset.yaml").write_text("extends: camvid-segnet\n")
    assert read_dataset(tmp_path / "own").num_classes == 11
