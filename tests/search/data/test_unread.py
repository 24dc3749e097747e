"""Files that are left out of a dataset: formats, suffixes, links, masks among images, boxes instead of masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError, FileFormatError, UnknownNameError
from lgc.search.data.check import check_dataset
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0"
SHARES = "splits: {train: {share: 0.5}, val: {share: 0.5}}\nclasses: [road, sky]\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the relative path of a folder with two images and labels; the current folder is its parent."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_pair(Path("own"), f"train/{name}")
    return Path("own")


def write_pair(root: Path, name: str, suffix: str = ".jpg") -> None:
    """Write an image, and its label of two values."""
    image, label = root / f"images/{name}{suffix}", root / f"labels/{name}.png"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(image)
    Image.fromarray(np.array([[0, 1, 1]], np.uint8)).resize((6, 4), Image.Resampling.NEAREST).save(label)


def describe(root: Path, images: str = "images/{split}", labels: str = "labels/{split}", splits: str = "") -> Path:
    """Write a description without a list, and return its path."""
    path = root / "dataset.yaml"
    path.write_text(
        f'name: own\nimages: "{images}"\nlabels: "{labels}"\n{splits or "splits: [train]"}\nclasses: [road, sky]\n'
    )
    return path


def list_remarks(root: Path) -> list[str]:
    """Return the remarks that warn, without their prefix; a check has the same."""
    spec = read_dataset(root)
    assert {*spec.list_left_out()} <= {*check_dataset(spec).remarks}
    return [text.removeprefix("warning: own: ") for text in spec.remarks if text.startswith("warning: ")]


@pytest.mark.parametrize("is_described", [True, False])
def test_unread_formats_are_remarked(own: Path, is_described: bool) -> None:
    if is_described:
        describe(own)
    assert list_remarks(own) == []
    for name in ("IMG_1.heic", "IMG_2.HEIC", "c.raw.dng", "a.heic", "notes.txt"):  # a is an image already
        (own / f"images/train/{name}").write_bytes(HEIC)
    Image.new("RGB", (6, 4)).save(own / "images/train/photo", "JPEG")
    assert list_remarks(own) == [
        "4 files in images/train/ have a suffix that is not read (none: photo, .HEIC: IMG_2.HEIC, .dng: c.raw.dng, "
        ".heic: IMG_1.heic): convert them to JPEG or PNG"
    ]


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jp2", ".pgm"])
def test_other_formats_are_images(own: Path, suffix: str) -> None:
    write_pair(own, "train/c", suffix)
    data = load_dataset(own, "train")
    assert [pair.image.name for pair in data.pairs] == ["a.jpg", "b.jpg", f"c{suffix}"]
    assert data[2][0].shape == (3, 4, 6)


def test_lossy_formats_are_no_labels(own: Path) -> None:
    label = own / "labels/train/a.png"
    Image.open(label).save(label.with_suffix(".jp2"))
    label.unlink()
    with pytest.raises(DataError, match=r"a\.jp2 is a JPEG 2000 file, whose compression alters label values"):
        load_dataset(describe(own), "train")[0]


def test_suffixes_of_another_case_are_remarked(own: Path) -> None:
    describe(own, "images/{split}/*.jpg", "labels/{split}/*.png")
    for name in ("c.JPG", "d.jpeg", "e.png"):
        Image.new("RGB", (6, 4)).save(own / f"images/train/{name}")
    (own / "images/train/f.heic").write_bytes(HEIC)
    assert list_remarks(own) == [
        "1 file in images/train/ has a suffix that is not read (.heic: f.heic): convert them to JPEG or PNG",
        "2 files in images/train/ have another suffix than images/train/*.jpg (.JPG: c.JPG, .jpeg: d.jpeg): rename "
        "them, or write `images/train/*.*`, which matches the suffixes of all images",
    ]
    write_pair(own, "train/c", ".JPG")
    write_pair(own, "train/d", ".jpeg")
    describe(own, "images/{split}/*.*", "labels/{split}/*.png")
    (own / "images/train/e.png").unlink()
    assert [pair.image.name for pair in read_dataset(own).pairs("train")] == ["a.jpg", "b.jpg", "c.JPG", "d.jpeg"]


def test_broken_links_are_remarked(own: Path) -> None:
    for name, target in (("c.jpg", "/gone/c.jpg"), ("city", "/gone/city"), ("notes.txt", "/gone/notes.txt")):
        (own / "images/train" / name).symlink_to(target)
    expected = ["2 links are broken in images/train/, left out, e.g. c.jpg to /gone/c.jpg"]
    assert list_remarks(own) == expected
    describe(own, "images/{split}/*.jpg", "labels/{split}/*.png")
    assert list_remarks(own) == ["1 link is broken in images/train/, left out, e.g. c.jpg to /gone/c.jpg"]


def test_images_of_lists_are_not_remarked(own: Path) -> None:
    (own / "train.txt").write_text("train/a.jpg\n")
    (own / "images/train/c.heic").write_bytes(HEIC)
    text = 'name: own\nimages: images\nlabels: labels\nlist: "{split}.txt"\nsplits: [train]\nclasses: [road, sky]\n'
    (own / "dataset.yaml").write_text(text)
    assert list_remarks(own) == []


@pytest.mark.parametrize("is_described", [True, False])
def test_folder_without_readable_images_says_why(own: Path, is_described: bool) -> None:
    for name in "ab":
        (own / f"images/train/{name}.jpg").rename(own / f"images/train/{name}.heic")
    if is_described:
        describe(own)
    with pytest.raises(DataError, match=r"2 files in images/train/ have a suffix that is not read \(\.heic: a\.heic\)"):
        read_dataset(own).pairs("train")


@pytest.mark.parametrize("images", ["scans", "scans/**/*.png"])
def test_masks_in_the_images_folder_are_labels(own: Path, images: str) -> None:
    (own / "scans").mkdir()
    for name in ("a", "b", "a_L", "b_L"):
        Image.new("L" if "_" in name else "RGB", (6, 4), 1).save(own / f"scans/{name}.png")
    describe(own, images, "scans/*_L.png")
    pairs = [(pair.image.name, pair.label and pair.label.name) for pair in read_dataset(own).pairs("train")]
    assert pairs == [("a.png", "a_L.png"), ("b.png", "b_L.png")]


def test_files_behind_links_are_remarked(own: Path) -> None:
    for folder in ("images", "labels"):
        (own / folder / "train").rename(own / folder / "day5")
        (own / folder / "best").symlink_to("day5")
    describe(own, "images", "labels", SHARES.splitlines()[0])
    spec = read_dataset(own)
    assert {path.parent.name for split in spec.matched.values() for path in [pair.image for pair in split]} == {"day5"}
    assert list_remarks(own) == ["links lead to 2 files in images/ again, left out there, e.g. images/best/a.jpg"]


def test_masks_beside_images_are_no_images(own: Path) -> None:
    names = {f"{place}/{number}" for place in "xy" for number in range(8)}
    for name in names:
        path = own / f"scans/{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(path)
        Image.new("L", (6, 4), 1).save(path.with_name(f"{path.stem}_mask.tif"))
    describe(own, "scans/*/*.tif", "scans/*/*_mask.tif", SHARES.splitlines()[0])
    spec = read_dataset(own)
    pairs = [pair for split in ("train", "val") for pair in spec.pairs(split)]
    assert {pair.image.relative_to(own / "scans").with_suffix("").as_posix() for pair in pairs} == names
    assert all(pair.label == pair.image.with_name(f"{pair.image.stem}_mask.tif") for pair in pairs)
    assert list_remarks(own) == ["labels are among the files of scans/*/*.tif, not read as images: 16, e.g. 0_mask.tif"]


def test_images_and_masks_together_are_explained(tmp_path: Path) -> None:
    for name in ("x.tif", "x_mask.tif"):
        (tmp_path / "scan").mkdir(exist_ok=True)
        Image.new("L", (6, 4)).save(tmp_path / "scan" / name)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert (
        "images and masks are in one folder, e.g. scan/x.tif and x_mask.tif: write a dataset.yaml with "
        '`images: "**/*.tif"` and `labels: "**/*_mask.tif"`' in str(caught.value)
    )
    (tmp_path / "dataset.yaml").write_text(
        'name: own\nimages: "**/*.tif"\nlabels: "**/*_mask.tif"\nsplits: [train]\nclasses: [road, sky]\n'
    )
    assert [pair.image.name for pair in read_dataset(tmp_path).pairs("train")] == ["x.tif"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels/train/a.txt", "boxes or polygons as text (YOLO)"),
        ("images/train/a.json", "boxes or polygons as JSON (COCO, labelme)"),
        ("labels/train/instances.json", "boxes or polygons as JSON (COCO, labelme)"),
        ("labels/train/a.xml", "boxes or polygons as XML (Pascal VOC, CVAT)"),
    ],
)
@pytest.mark.parametrize("is_described", [True, False])
def test_annotations_are_no_masks(own: Path, file: str, content: str, is_described: bool) -> None:
    for name in "ab":
        (own / f"labels/train/{name}.png").unlink()
    (own / file).write_text("0 0.5 0.5 0.1 0.1\n")
    if is_described:
        describe(own)
    text = rf"2 of 2 images have no label.*; own/{file} has {re.escape(content)}, but masks are needed: draw them, one"
    with pytest.raises(DataError, match=text):
        read_dataset(own).pairs("train")


def test_yolo_descriptions_are_named(own: Path) -> None:
    path = own / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnc: 2\nnames: [road, sky]\n")
    with pytest.raises(
        FileFormatError, match=r"data\.yaml: it is YOLO's, whose labels are boxes or polygons: masks are"
    ):
        read_dataset(path)


def test_masks_in_a_subfolder_are_named(own: Path) -> None:
    (own / "labels/train").rename(own / "labels/trimaps")
    with pytest.raises(
        DataError, match=r"labels/trimaps/a\.png exists: write a dataset\.yaml whose `labels` are in tri"
    ):
        read_dataset(own)


@pytest.mark.parametrize("name", ["a.txt", "_annotations.coco.json"])
def test_annotations_beside_images_are_named(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "README.txt").write_text("Photographs\n")
    with pytest.raises(DataError, match=r"no known layout.*: write a dataset\.yaml"):
        read_dataset(tmp_path)
    (tmp_path / name).write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=rf"no known layout.*{name} has boxes or polygons.*masks are needed"):
        read_dataset(tmp_path)


def test_folders_of_labels_have_images(own: Path) -> None:
    (own / "annotations").mkdir()
    (own / "annotations/instances.json").write_text("{}")
    (own / "labels").rename(own / "masks")
    (own / "labels").mkdir()
    assert [pair.label for pair in read_dataset(own).pairs("train")] == [own / f"masks/train/{n}.png" for n in "ab"]


def test_numbers_behind_names_are_remarked(own: Path) -> None:
    (own / "train.txt").write_text("# name id species\na 1 1\nb.jpg,2, 3\n")
    describe(own, "images/train/*.jpg", "labels/train/*.png", 'list: "{split}.txt"\nsplits: [train]')
    spec = read_dataset(own)
    assert [(pair.image.name, pair.label.name) for pair in spec.pairs("train") if pair.label] == [
        ("a.jpg", "a.png"),
        ("b.jpg", "b.png"),
    ]
    assert list_remarks(own) == ["train.txt: numbers behind 2 of 2 images are not read, e.g. 'a 1 1'"]


def test_names_that_end_in_numbers_are_kept(own: Path) -> None:
    write_pair(own, "train/a 1")
    (own / "train.txt").write_text("a 1\n")
    describe(own, "images/train/*", "labels/train/*", 'list: "{split}.txt"\nsplits: [train]')
    assert [pair.image.name for pair in read_dataset(own).pairs("train")] == ["a 1.jpg"]
    assert list_remarks(own) == []


def test_unknown_split_names_a_way_out(own: Path) -> None:
    describe(own)
    with pytest.raises(UnknownNameError, match=r"unknown split 'val': declare it in a dataset\.yaml, .*share: 0\.2"):
        read_dataset(own).pairs("val")


@pytest.mark.parametrize(
    ("values", "classes", "ignored"),
    [([0, 1, 65535], [0, 1], [65535]), ([0, 1, 255, 65535], [0, 1], [255, 65535]), ([0, 65535], [0, 65535], [])],
)
def test_largest_value_of_16_bits_is_void(own: Path, values: list[int], classes: list[int], ignored: list[int]) -> None:
    for name in "ab":
        Image.fromarray(np.array([values], np.uint16)).save(own / f"labels/train/{name}.png")
        Image.new("RGB", (len(values), 1)).save(own / f"images/train/{name}.jpg")
    spec = read_dataset(own)
    assert spec.classes == tuple(f"value {value}" for value in classes)
    notes = [note for note in spec.notes if "is ignored" in note]
    assert notes == [f"own: label value {v} is ignored, {100 / len(values):.1f} % of the pixels" for v in ignored[::-1]]
    assert not any("number objects" in note for note in spec.notes)
    indices = {value: index for index, value in enumerate(classes)}
    assert load_dataset(own, "train", full_labels=True)[0][1][0].tolist() == [
        indices.get(value, 255) for value in values
    ]
