"""List files of a split."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.search.data.description import read_dataset

DESCRIPTION = """name: lists
images: images/*
labels: labels/*
list: ["{split}.txt", "lists/{split}.lst"]
splits: [train, val]
classes: [road, sky]
"""


@pytest.fixture(autouse=True)
def description(tmp_path: Path) -> None:
    """Describe the dataset in the test's folder."""
    (tmp_path / "dataset.yaml").write_text(DESCRIPTION)


def _image(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4)).save(path)
    return path


@pytest.mark.parametrize(
    "line",
    [
        "a.png",
        "a",
        "images/a.png labels/a.png",
        "images/a.png,labels/a.png",
        "/SegNet/CamVid/images/a.png /SegNet/CamVid/labels/a.png",
        "# a comment\n\n  a.png  ",
        "\ufeffa.png",
    ],
)
@pytest.mark.parametrize("place", ["train.txt", "lists/train.lst"])
def test_list_entries_in_all_notations(tmp_path: Path, line: str, place: str) -> None:
    image, label = _image(tmp_path / "images/a.png"), _image(tmp_path / "labels/a.png", "L")
    _image(tmp_path / "images/b.png")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(f"{line}\n")
    assert [(pair.image, pair.label) for pair in read_dataset(tmp_path).pairs("train")] == [(image, label)]


def test_names_may_have_spaces(tmp_path: Path) -> None:
    image, label = _image(tmp_path / "images/a b.png"), _image(tmp_path / "labels/a b.png", "L")
    (tmp_path / "train.txt").write_text("a b.png\n")
    assert [(pair.image, pair.label) for pair in read_dataset(tmp_path).pairs("train")] == [(image, label)]


@pytest.mark.parametrize(
    ("line", "image", "label"),
    [
        ("b/a.png", "images/b/a.png", "labels/b/a.png"),
        ("images/b/a.png", "images/b/a.png", "labels/b/a.png"),
        ("images/a.png fixed/a.png", "images/a.png", "fixed/a.png"),
        ("crop/a.png fixed/a.png", "crop/a.png", "fixed/a.png"),
        ("a.png b/a.png", "images/a.png", "labels/b/a.png"),
        ("{root}/crop/a.png {root}/fixed/a.png", "crop/a.png", "fixed/a.png"),
        ("{root}/../other/images/a.png,{root}/../other/labels/a.png", "../other/images/a.png", "../other/labels/a.png"),
        ("1 2.png", "images/1 2.png", "labels/1 2.png"),
        ("1 2", "images/1 2.png", "labels/1 2.png"),
        ("1 2.png labels/1 2.png", "images/1 2.png", "labels/1 2.png"),
        ("1.png 2.png", "images/1.png", "labels/2.png"),
        ("/moved/images/1 2.png /moved/labels/1 2.png", "images/1 2.png", "labels/1 2.png"),
    ],
)
def test_paths_are_taken_as_written(tmp_path: Path, line: str, image: str, label: str) -> None:
    """Every folder has images of the same names."""
    root = tmp_path / "data"
    (root / "labels").mkdir(parents=True)
    (root / "dataset.yaml").write_text(DESCRIPTION.replace("/*", ""))
    for folder in ("images", "crop", "../other/images"):
        for name in ("a", "1", "2", "1 2", "b/a", "b/1"):
            _image(root / folder / f"{name}.png")
    for folder in ("labels", "fixed", "../other/labels"):
        for name in ("a", "1", "2", "1 2", "b/a", "b/1"):
            _image(root / folder / f"{name}.png", "L")
    (root / "val.txt").write_text(line.format(root=root))
    (pair,) = read_dataset(root).pairs("val")
    assert [os.path.relpath(path, root) for path in (pair.image, pair.label)] == [image, label]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("wrong/a.png", r"no image 'wrong/a\.png'"),
        ("{root}/images/b/a.png", r"no image .*/images/b/a\.png'"),
        ("3 a.png", r"no image '3 a\.png'"),
        ("a labels/a.png", r"no image 'a labels/a\.png' in .*images; before a label, an image needs its suffix"),
        ("c", r"'c' may be c\.png or c\.jpg: write the suffix"),
        ("a.png wrong/a.png", r"no such file: .*/wrong/a\.png|no label"),
        ("a" * 300, "no image 'aaa"),
    ],
)
def test_no_other_file_replaces_a_missing_one(tmp_path: Path, line: str, says: str) -> None:
    for name in ("a.png", "c.png", "c.jpg", "3.png"):
        _image(tmp_path / "images" / name)
        _image(tmp_path / "labels" / name, "L")
    (tmp_path / "images/b").mkdir()
    (tmp_path / "val.txt").write_text(line.format(root=tmp_path))
    with pytest.raises(DataError, match=says):
        read_dataset(tmp_path).pairs("val")


def test_relative_root_has_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _image(tmp_path / "images/a.png")
    _image(tmp_path / "labels/a.png", "L")
    (tmp_path / "val.txt").write_text(f"{tmp_path}/images/a.png\n")
    monkeypatch.chdir(tmp_path)
    assert [str(pair.label) for pair in read_dataset(".").pairs("val")] == ["labels/a.png"]


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_list_defines_order_and_labels(tmp_path: Path, separator: str) -> None:
    for name in "ab":
        _image(tmp_path / f"images/{name}.png")
        _image(tmp_path / f"labels/mask_{name}.png", "L")
    (tmp_path / "val.txt").write_text(f"b.png{separator}mask_b.png\na.png{separator}mask_a.png\n")
    assert [p.label.name for p in read_dataset(tmp_path).pairs("val")] == ["mask_b.png", "mask_a.png"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a.png\nghost.png\n", r"train\.txt, line 2: no image 'ghost\.png'"),
        (b"a.png\na.png\n", r"train\.txt, line 2: duplicate image 'a\.png'"),
        (b"\xff\xfe\x00", "cannot read .* as a list"),
        (b"\n# nothing\n", r"the content of train\.txt is missing or empty"),
        (b"a.png nolabel.png\n", r"1 of 1 image has no label.*nolabel\.png"),
    ],
)
def test_list_errors_have_file_and_line(tmp_path: Path, content: bytes, says: str) -> None:
    _image(tmp_path / "images/a.png")
    _image(tmp_path / "labels/a.png", "L")
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_dataset(tmp_path).pairs("train")
