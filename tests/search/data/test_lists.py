"""List files of a split."""

from __future__ import annotations

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
