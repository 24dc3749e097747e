"""Folders of images and labels without a description: classes are collected and written as YAML."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError, LgcError, OutputError
from lgc.search.data.check import check_dataset
from lgc.search.data.codings.raw import read_raw_label
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.folders import classes

Values = list[int] | list[tuple[int, int, int]]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the relative path of a folder for data; the current folder is its parent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    return Path("own")


def name_class(content: int | tuple[int, int, int]) -> str:
    return f"value {content}" if isinstance(content, int) else "colour #{:02x}{:02x}{:02x}".format(*content)


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
    names = {index: name_class(value) for value, index in zip(values, classes, strict=True) if index != 255}
    assert data.classes == tuple(names[index] for index in sorted(names))
    assert data[0][1].tolist() == [classes]
    spec = read_dataset(own)
    assert any(remark in line for line in (spec.summary, *spec.remarks))
    again = load_dataset("own.dataset.yaml", "train")
    assert (again.classes, again[0][1].tolist()) == (data.classes, [classes])
    assert read_dataset("own.dataset.yaml").digest == read_dataset(own).digest


@pytest.mark.parametrize(
    ("other", "value"), [([0, 255, 255], 255), ([0, 1, 0], 1), ([0, 0, 0], 1), ([0, 1, 255], None)]
)
def test_one_bit_masks_equal_8_bits(own: Path, other: Values, value: int | None) -> None:
    write_label(own / "labels/train/a.png", [0, 0, 255], mode="1")
    write_label(own / "labels/train/b.png", other)
    if value is None:
        with pytest.raises(DataError, match=r"a\.png and .*b\.png differ in bits per pixel, and nothing"):
            read_dataset(own)
    else:
        data = load_dataset(own, "train")
        assert data.classes == ("value 0", f"value {value}")
        assert data[0][1].tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(("deep", "names"), [(65535, ["value 0", "value 255"]), (300, ["value 0", "value 300"])])
def test_16_bit_masks_equal_8_bits(own: Path, deep: int, names: list[str]) -> None:
    write_label(own / "labels/train/a.png", [0, 0, deep])
    write_label(own / "labels/train/b.png", [0, 0, 255])
    data = load_dataset(own, "train")
    assert list(data.classes) == names
    assert [data[index][1].tolist() for index in (0, 1)] == [[[0, 0, 1]], [[0, 0, 255 if deep == 300 else 1]]]


def test_images_without_splits_are_shared(own: Path) -> None:
    for name in range(10):
        write_label(own / f"masks/{name}.png", [0, 1])
    spec = read_dataset(own)
    train, val = ({pair.image.name for pair in spec.pairs(split)} for split in ("train", "val"))
    assert (len(train) > len(val) > 0, len(train | val), train & val) == (True, 10, set())
    assert any("train is 80 % of the images, val 20 %, drawn by seed 0" in line for line in spec.remarks)
    described = read_dataset("own.dataset.yaml")
    assert [p.image.name for p in described.pairs("val")] == [p.image.name for p in spec.pairs("val")]


def test_unread_lists_are_named_without_splits(own: Path) -> None:
    for name in range(10):
        write_label(own / f"masks/{name}.png", [0, 1])
    texts = {"f0_train.txt": "3\n4\n", "ImageSets/Main/train.txt": "5.png\n", "split.csv": "image,fold\n7.png,1\n"}
    for name, text in {**texts, "README.txt": "Ten images\n", "masks/1.txt": "1.png\n"}.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    note = "own: f0_train.txt, split.csv, ImageSets/Main/train.txt list images, not read: lists of splits are called"
    assert any(line.startswith(note) for line in read_dataset(own).remarks)
    (own / "train.txt").write_text("3\n")
    (own / "val.txt").write_text("4\n")
    Path("own.dataset.yaml").unlink()
    assert not any("list images" in line for line in read_dataset(own).remarks)


@pytest.mark.parametrize("form", ["labels/{}", "{}/annotations"])
def test_splits_are_sub_folders(own: Path, form: str) -> None:
    for split, name in (("training", "a"), ("valid", "b"), ("test", "c")):
        write_label(own / form.format(split) / f"{name}.png", [0, 1])
    spec = read_dataset(own)
    assert {split: spec.pairs(split)[0].image.stem for split in spec.splits} == {
        "train": "a",
        "val": "b",
        "test": "c",
    }


@pytest.mark.parametrize("suffix", ["txt", "lst"])
@pytest.mark.parametrize("folder", ["lists", "list", "splits"])
def test_splits_are_lists(own: Path, folder: str, suffix: str) -> None:
    for name in "abc":
        write_label(own / f"labels/{name}.png", [0, 1])
    (own / f"train.{suffix}").write_text("a.png\nc.png\n")
    (own / folder).mkdir()
    (own / f"{folder}/val.{suffix}").write_text("b\n")
    spec = read_dataset(own)
    assert [[p.image.stem for p in spec.pairs(split)] for split in spec.splits] == [["a", "c"], ["b"]]


def test_description_is_kept_but_never_overwritten(own: Path) -> None:
    write_label(own / "labels/train/a.png", [0, 1])
    before = sorted(own.rglob("*"))
    read_dataset(own)
    path = Path("own.dataset.yaml")
    text = path.read_text()
    assert read_dataset(own).classes == ("value 0", "value 1")
    path.write_text(text.replace("value 1", "car"))
    assert read_dataset(path).classes == ("value 0", "car")
    with pytest.raises(OutputError, match=r"own\.dataset\.yaml differs from the content of own: use --data own\.dat"):
        read_dataset(own)
    assert path.read_text() == text.replace("value 1", "car")
    assert sorted(own.rglob("*")) == before


def test_further_images_keep_the_description(own: Path) -> None:
    for name in ("a", "b"):
        write_label(own / f"labels/train/{name}.png", [0, 1])
        assert read_dataset(own).num_classes == 2
    path = Path("own.dataset.yaml")
    path.write_text("# Collected from 1 labels.\n" + path.read_text())  # as earlier versions wrote
    assert len(read_dataset(own).pairs("train")) == 2
    write_label(own / "labels/train/c.png", [0, 2])
    with pytest.raises(OutputError, match="differs from the content of own"):
        read_dataset(own)


@pytest.mark.parametrize("text", ["a: [", "{reordered}"])
def test_edited_descriptions_differ(own: Path, text: str) -> None:
    write_label(own / "labels/train/a.png", [(0, 0, 0), (1, 1, 1)])
    read_dataset(own)
    path = Path("own.dataset.yaml")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(text.format(reordered="".join([*lines[:-2], lines[-1], lines[-2]])))
    with pytest.raises(OutputError, match="differs from the content of own"):
        read_dataset(own)


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


def write_labels(own: Path, names: dict[str, tuple[str, ...]], split: str = "train") -> None:
    """Write an image for each name, and its label files with these endings, the first with the values 0 and 1."""
    for name, endings in names.items():
        for number, ending in enumerate(endings):
            write_label(own / f"labels/{split}/{name}{ending}", [number, number + 1])
            (own / f"images/{split}/{name}{ending}").unlink()
        Image.new("RGB", (2, 1)).save(own / f"images/{split}/{name}.png")


@pytest.mark.parametrize("names", [("a", "a1"), ("a", "a_b", "a_b_mask", "c")], ids=["number", "nested"])
def test_label_names_may_have_endings(own: Path, names: tuple[str, ...]) -> None:
    write_labels(own, dict.fromkeys(names, ("_mask.png",)))
    spec = read_dataset(own)
    assert {pair.image.stem: pair.label.name for pair in spec.pairs("train")} == {n: f"{n}_mask.png" for n in names}
    assert not any("not read" in line for line in spec.remarks)


@pytest.mark.parametrize(
    "names",
    [
        {"7": ("_0.png", "_1.png"), "8": ("_0.png",)},
        {"7": ("_0.png",), "8": ("_0.png", "_1.png", "_2.png")},
        {"7": (".png", "_1.png"), "8": (".png",)},
        {"7": ("_mask.png", "_preview.png")},
        {"7": (".png", ".tif")},
    ],
)
def test_several_labels_of_an_image_are_refused(own: Path, names: dict[str, tuple[str, ...]]) -> None:
    write_labels(own, names)
    with pytest.raises(DataError, match=r"has several label files of the image [78], e\.g\. .*join them into one"):
        read_dataset(own)


@pytest.mark.parametrize(
    ("endings", "unread"),
    [((".png", ".jpg"), "*.jpg"), ((".tif", ".jpg"), "*.jpg"), ((".png", "_color.png"), "*_color.png")],
)
def test_unread_copies_are_named(own: Path, endings: tuple[str, ...], unread: str) -> None:
    write_labels(own, dict.fromkeys("ab", endings))
    spec = read_dataset(own)
    assert [pair.label.name for pair in spec.pairs("train")] == [f"a{endings[0]}", f"b{endings[0]}"]
    assert spec.classes == ("value 0", "value 1")
    assert any(line == f"own: train: {unread} in labels/train/ are not read as labels" for line in spec.remarks)


def test_labels_of_other_splits_are_no_copies(own: Path) -> None:
    """In a folder of all labels, `a_b.png` is the label of the validation image `a_b`, not another one of `a`."""
    for split, name in (("train", "a"), ("val", "a_b")):
        write_label(own / f"labels/{name}.png", [0, 1])
        (own / f"images/{split}").mkdir()
        (own / f"images/{name}.png").rename(own / f"images/{split}/{name}.png")
    spec = read_dataset(own)
    assert [pair.label.name for split in spec.splits for pair in spec.pairs(split)] == ["a.png", "a_b.png"]
    assert not any("not read" in line for line in spec.remarks)


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


BLACK, RED, GREEN, BLUE = (0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)


@pytest.mark.parametrize(
    ("palette", "num_classes"),
    [
        ([BLACK, GREEN, BLUE], None),  # background alone is common
        ([GREEN, BLUE, BLACK], 4),
        ([BLACK, BLUE, RED], 3),
        ([RED, BLUE, GREEN], 4),
        (None, None),  # an RGB image of black and green
    ],
)
def test_splits_of_other_palettes_are_refused(own: Path, palette: Values | None, num_classes: int | None) -> None:
    write_label(own / "labels/train/a.png", [0, 1], palette=[BLACK, RED])
    write_label(own / "labels/val/b.png", [0, 1, 2] if palette else [BLACK, GREEN], palette=palette)
    if num_classes is not None:
        assert read_dataset(own).num_classes == num_classes
        return
    message = (
        r"of train and val .* common .*#c80000 in own/labels/train/a\.png and #00.* own/labels/val/b\.png.*`kind: "
    )
    with pytest.raises(DataError, match=message):
        read_dataset(own)


def test_indices_have_no_colours_to_compare(own: Path) -> None:
    for name, palette in {"a": [BLACK, RED], "b": [BLACK, BLUE]}.items():
        write_label(own / f"labels/train/{name}.png", [0, 1], palette=palette)
    write_label(own / "labels/val/c.png", [0, 1])
    with pytest.raises(DataError, match=r"labels/train/.*\.png holds colours, .*labels/val/c\.png indices"):
        read_dataset(own)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a.png": [1, 1]}, r"all 1 labels in own/labels/train have a single class \(1\)"),
        ({"a.png": [1, 255]}, "have a single class"),
        ({"a.png": list(range(256)), "b.png": [256]}, "labels of 257 values, more than 255 classes"),
        ({"a.png": [0, 1], "b.png": [(0, 0, 0), (2, 2, 2)]}, "b.png holds colours, .*a.png indices"),
        ({"a.jpg": [0, 1]}, "a.jpg is a JPEG file, whose compression alters label values"),
    ],
)
def test_labels_without_classes_are_refused(own: Path, labels: dict[str, Values], message: str) -> None:
    for name, values in labels.items():
        write_label(own / "labels/train" / name, values)
    with pytest.raises(DataError, match=message):
        read_dataset(own)
    assert not Path("own.dataset.yaml").exists()


@pytest.mark.parametrize(("colours", "files"), [(256, 1), (10, 26)], ids=["one-file", "all-files"])
def test_too_many_colours_stop_the_reading(
    own: Path, colours: int, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that were saved as JPEG have so many colours that those of all files would fill the memory."""
    for number in range(30):
        write_label(own / f"labels/train/{number:02}.png", [(number, 0, index) for index in range(colours)])
    read = list[Path]()
    monkeypatch.setattr(classes, "read_raw_label", lambda path: (read.append(path), read_raw_label(path))[1])
    monkeypatch.setattr(classes, "ThreadPoolExecutor", lambda: nullcontext(SimpleNamespace(map=map)))
    with pytest.raises(DataError, match=r"own/labels/train has labels of 2\d\d colours, more than 255 classes"):
        read_dataset(own)
    assert len(read) == files


def test_missing_labels_are_counted(own: Path) -> None:
    for name in "abc":
        write_label(own / f"labels/train/{name}.png", [0, 1])
    (own / "labels/train/b.png").unlink()
    write_label(own / "labels/val/d.png", [0, 1])
    (own / "labels/val/d.png").unlink()
    text = (
        "1 of 3 images has no label; the first is own/images/train/b.png: no such file: own/labels/train/b.png; "
        "add masks, of background alone for images without objects, or leave images out by a list"
    )
    spec = read_dataset(own)
    assert f"warning: own: train: {text}" in spec.remarks
    with pytest.raises(DataError, match=re.escape(text)):
        spec.pairs("train")
    assert [problem.files for problem in check_dataset(spec).problems if problem.kind == "missing_labels"] == [
        (own / "images/train/b.png",),
        (own / "images/val/d.png",),
    ]
    for name in "ac":
        (own / f"labels/train/{name}.png").unlink()
    with pytest.raises(DataError, match=r"3 of 3 images have no label; the first is own/images/train/a\.png"):
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


def test_classes_are_named_by_their_values(own: Path) -> None:
    write_label(own / "labels/a.png", [0, 1, 3, 4])
    assert read_dataset(own).classes == ("value 0", "value 1", "value 3", "value 4")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("images/train/a", "images/val/b", "images/validation/c"), "images has val and validation, both for val"),
        (("val/images/a", "valid/images/b"), "own has val and valid, both for val"),
        (("train/images/a", "images/b"), "own has images/ and train/images/"),
    ],
)
def test_two_candidates_for_a_split_are_refused(own: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        write_label(own / f"{name.replace('images', 'labels')}.png", [0, 1])
    with pytest.raises(DataError, match=message):
        read_dataset(own)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (("train.txt", "val.txt", "splits/val.txt"), r"val\.txt and splits/val\.txt, both for val"),
        (("train.lst", "train.txt"), r"train\.txt and train\.lst, both for train"),
        (("test.txt",), r"lists test\.txt, and the folders train in images/"),
    ],
)
def test_contradicting_lists_are_refused(own: Path, lists: tuple[str, ...], message: str) -> None:
    write_label(own / "labels/train/a.png", [0, 1])
    for name in lists:
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text("train/a.png\n")
    with pytest.raises(DataError, match=message):
        read_dataset(own)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("form", ["{}/images", "{}"])
def test_split_without_labels_is_refused(own: Path, split: str, form: str) -> None:
    labels = "train/labels" if "/" in form else "trainannot"
    for folder in (form.format("train"), form.format(split)):
        (own / folder).mkdir(parents=True)
        Image.new("RGB", (2, 1)).save(own / folder / f"{split}.png")
    (own / labels).mkdir()
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(own / labels / f"{split}.png")
    if split == "test":
        assert [pair.label for pair in read_dataset(own).pairs("test")] == [None]
    else:
        with pytest.raises(DataError, match="move it away, or write a dataset"):
            read_dataset(own)


@pytest.mark.parametrize(
    ("form", "other"),
    [("labels/{}", "images/night/x.png"), ("labels/{}", "images/x.png"), ("{}/labels", "night/images/x.png")],
)
def test_images_in_no_split_are_said(own: Path, form: str, other: str) -> None:
    for name in ("train", "val", "night"):
        write_label(own / form.format(name) / "x.png", [0, 1])
    if other == "images/x.png":
        (own / "images/night/x.png").rename(own / other)
    assert f"own: images in no split: 1, e.g. {other}" in read_dataset(own).remarks


@pytest.mark.parametrize(("form", "kind"), [("JPEG", "JPEG"), ("WEBP", "lossy WebP")])
def test_lossy_labels_are_known_by_content(own: Path, form: str, kind: str) -> None:
    write_label(own / "labels/a.png", [0, 255])
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("RGB").save(own / "labels/a.png", form)
    with pytest.raises(DataError, match=rf"a\.png is a {kind} file, whose compression alters"):
        read_dataset(own)


SMOOTH = np.repeat([0, 128, 64, 255, 200, 100], [500, 1, 1, 200, 1, 1]).tolist()
MIXED = [(value, 0, 0) for value in np.repeat([0, 128, 64, 32, 255], [500, 1, 1, 1, 200]).tolist()]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (SMOOTH, "5 label values up to 200 look like greys: if 255 is a class too, add it"),
        (SMOOTH, "4 of 5 classes have less than 0.5 % of the pixels each: if the labels were resized"),
        (MIXED, "3 of 5 classes have less than 0.5 % of the pixels each: if the labels were resized"),
        ([7, 24001, 24002, 26001], "label values up to 26001: if they number objects"),
        ([0, 1, 2, 255], ""),
        ([*range(150), 255], ""),
    ],
)
def test_doubtful_values_are_said(own: Path, values: Values, text: str) -> None:
    write_label(own / "labels/a.png", values)
    doubts = [r for r in read_dataset(own).remarks if any(w in r for w in ("greys: if", "less than", "number objects"))]
    assert any(line.startswith(f"own: {text}") for line in doubts) if text else not doubts
