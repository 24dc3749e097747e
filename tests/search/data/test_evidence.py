"""Evidence of a coding: labels of all splits that share it decide on doubtful ones."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.search.data.check import check_dataset
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.predictions import PredictionWriter
from lgc.search.data.reading import read_label
from lgc.tools.data import _list_codes

CLASSES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
COLOURS = np.array([(128, 64, 128), (0, 0, 142), (70, 130, 180)], np.uint8)
COLOURED = "classes: {road: [128, 64, 128], car: [0, 0, 142], sky: [70, 130, 180]}\n"
TWO = "classes: [bare, plant]\n"
MASK = (CLASSES > 0).astype(np.uint8)


def make_palette(values: np.ndarray, palette: np.ndarray) -> Image.Image:
    file = Image.fromarray(values.astype(np.uint8))
    file.putpalette(palette.astype(np.uint8).tobytes())
    return file


def write_files(root: Path, labels: Mapping[str, Image.Image]) -> None:
    for name, label in labels.items():
        for kind, image in (("images", Image.new("RGB", label.size)), ("labels", label)):
            path = root / f"{kind}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def describe(root: Path, fields: str, splits: str = "splits: [train, val]\n") -> Path:
    path = root / "dataset.yaml"
    path.write_text(f"name: d\nimages: images/{{split}}\nlabels: labels/{{split}}\n{splits}{fields}")
    return path


def read_first(data: Path, split: str) -> list[list[int]]:
    pair = read_dataset(data).pairs(split)[0]
    assert pair.label is not None
    return read_label(pair.label, pair.coding).tolist()


RGB, VALUES = Image.fromarray(COLOURS[CLASSES]), Image.fromarray(CLASSES)


def test_splits_of_two_kinds_are_told_apart(tmp_path: Path) -> None:
    """Labels of train hold colours, those of val values of the same classes, both with black ones."""
    black, colours = Image.new("L", (3, 2)), COLOURED.replace("128, 64, 128", "0, 0, 0")
    rgb = Image.fromarray(np.where((CLASSES == 0)[..., None], 0, COLOURS[CLASSES]).astype(np.uint8))
    write_files(tmp_path, {"train/a": rgb, "train/b": black, "val/a": VALUES, "val/b": black})
    data = describe(tmp_path, colours)
    assert [bool(any(values)) for _, values, _ in _list_codes(read_dataset(data))] == [False, True]
    modes = {"train": "RGB", "val": "L"}
    for split, mode in modes.items():
        writer = PredictionWriter(tmp_path / f"out-{split}", load_dataset(data, split))
        writer.write(0, CLASSES)
        with Image.open(writer.paths[0]) as file:
            assert file.mode == mode
        assert read_first(data, split) == CLASSES.tolist()


def test_predictions_have_values_of_their_split(tmp_path: Path) -> None:
    """Labels of train hold colours, those of val ids; the data set's values are not theirs."""
    write_files(tmp_path, {"train/a": RGB, "val/a": Image.fromarray(CLASSES * 9 + 7)})
    labels = {"train": "labels: labels/train", "val": "labels: {files: labels/val, values: [7, 16, 25]}"}
    splits = "".join(f"  {split}: {{{text}}}\n" for split, text in labels.items())
    data = describe(tmp_path, f"{COLOURED}values: [3, 4, 5]\n", f"splits:\n{splits}")
    for split, pixels in (("train", COLOURS[CLASSES]), ("val", CLASSES * 9 + 7)):
        writer = PredictionWriter(tmp_path / split, load_dataset(data, split))
        writer.write(0, CLASSES)
        with Image.open(writer.paths[0]) as file:
            assert np.asarray(file).tolist() == pixels.tolist()


def test_other_split_decides_on_doubtful_labels(tmp_path: Path) -> None:
    """Black is the first class by index, the second by colour; all labels of val are black."""
    write_files(tmp_path, {"train/a": RGB, "val/b": Image.new("L", (3, 2))})
    data = describe(
        tmp_path, "classes: {car: [0, 0, 142], bare: [0, 0, 0], road: [128, 64, 128]}\nignore: 70 130 180\n"
    )
    assert read_first(data, "val") == [[1] * 3] * 2


@pytest.mark.parametrize("kind", ["colours", "palette"])
def test_stated_colours_keep_the_labels_palette(tmp_path: Path, kind: str) -> None:
    label = make_palette(2 - CLASSES, COLOURS[::-1])
    write_files(tmp_path, {"train/a": label, "val/a": label})
    data = describe(tmp_path, f"{COLOURED}kind: {kind}\n")
    writer = PredictionWriter(tmp_path / "out", load_dataset(data, "val"))
    writer.write(0, CLASSES)
    with Image.open(writer.paths[0]) as file:
        assert (file.mode, np.asarray(file).tolist()) == ("P", (2 - CLASSES).tolist())
    data.write_text(data.read_text() + "predictions: {kind: colours}\n")
    writer = PredictionWriter(tmp_path / "out", load_dataset(data, "val"))
    writer.write(0, CLASSES)
    with Image.open(writer.paths[0]) as file:
        assert (file.mode, np.asarray(file).tolist()) == ("RGB", COLOURS[CLASSES].tolist())


def test_bits_differ_between_splits(tmp_path: Path) -> None:
    """Masks of 0 and 255 in train, of one bit in val: nothing shows what the latter's 1 is."""
    write_files(tmp_path, {"train/a": Image.fromarray(MASK * 255), "val/a": Image.fromarray(MASK > 0)})
    data = describe(tmp_path, TWO)
    with pytest.raises(DataError, match=r"val/a\.png and .*train/a\.png differ in bits per pixel"):
        read_first(data, "val")
    assert {problem.kind for problem in check_dataset(read_dataset(data)).problems} == {"damaged_labels", "leaks"}
    assert read_first(describe(tmp_path, f"{TWO}values: [0, 255]\nignore: []\n"), "val") == MASK.tolist()


def test_bits_of_colours_are_no_doubt(tmp_path: Path) -> None:
    """Black and white are classes, in one bit, 8 bits and three channels."""
    mask = Image.fromarray(MASK * 255)
    write_files(tmp_path, {"train/a": mask.convert("RGB"), "train/b": mask, "val/a": mask.convert("1")})
    data = describe(tmp_path, "classes: {bare: [0, 0, 0], plant: [255, 255, 255]}\n")
    pairs = [pair for split in ("train", "val") for pair in read_dataset(data).pairs(split)]
    assert [read_label(pair.label, pair.coding).tolist() for pair in pairs] == [MASK.tolist()] * 3


def test_palettes_differ_between_splits(tmp_path: Path) -> None:
    orders = {"train/a": COLOURS, "val/a": COLOURS[::-1]}
    write_files(tmp_path, {name: make_palette(CLASSES, palette) for name, palette in orders.items()})
    data = describe(tmp_path, "classes: [road, car, sky]\n")
    with pytest.raises(DataError, match=r"val/a\.png has the colour .* for the value 0, other labels have"):
        read_first(data, "val")
    assert read_first(describe(tmp_path, COLOURED), "val") == (2 - CLASSES).tolist()


def test_evidence_outlives_its_files(tmp_path: Path) -> None:
    """It is read once, before threads or processes read labels."""
    classes = "classes: {car: [0, 0, 142], bare: [0, 0, 0]}\nignore: [128 64 128, 70 130 180]\n"
    write_files(tmp_path, {"train/a": RGB, "train/b": Image.new("L", (3, 2))})
    data = load_dataset(describe(tmp_path, classes, "splits: [train]\n"), "train")
    (tmp_path / "labels/train/a.png").unlink()
    copy = pickle.loads(pickle.dumps(data))
    assert copy[1][1].tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("white", [1, 255])
def test_grey_channels_are_joined(tmp_path: Path, described: bool, white: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks with one channel, with one bit, and with three equal channels."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "own"
    mask = Image.fromarray(MASK * white)
    files = {"train/a": mask, "train/b": mask.convert("RGB"), "val/a": mask.convert("RGBA")}
    if white == 255:
        files["val/b"] = Image.fromarray(MASK > 0)
    write_files(root, files)
    if described:
        describe(root, f"{TWO}values: [0, {white}]\nignore: []\n")
    spec = read_dataset(root)
    assert spec.num_classes == 2
    labels = [pair for split in ("train", "val") for pair in spec.pairs(split)]
    assert [read_label(pair.label, pair.coding).tolist() for pair in labels] == [MASK.tolist()] * len(files)
    notes = [remark for remark in spec.remarks if remark.endswith("its three channels are equal, and read as one")]
    assert [note.split(": ")[-2].split(" labels")[0] for note in notes] == ["1 of 2", f"1 of {len(files) - 2}"]


def test_unequal_channels_are_refused(tmp_path: Path) -> None:
    """Of 40 labels, the sample has every second."""
    mask = Image.fromarray(MASK).convert("RGB")
    write_files(tmp_path, {f"train/{number:02}": mask for number in range(40)})
    unequal = np.asarray(mask).copy()
    unequal[0, 0] = (0, 1, 0)
    write_files(tmp_path, {"train/01": Image.fromarray(unequal)})
    spec = read_dataset(describe(tmp_path, TWO, "splits: [train]\n"))
    (problem,) = check_dataset(spec).problems
    assert "train/01.png is an image of mode RGB, expected label values 0-1, 255" in problem.text
    write_files(tmp_path, {"train/00": Image.fromarray(unequal)})
    assert len(check_dataset(read_dataset(tmp_path)).problems) == 40


def test_black_channels_alone_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/a": Image.new("RGB", (3, 2))})
    with pytest.raises(DataError, match="is an image of mode RGB"):
        read_first(describe(tmp_path, TWO, "splits: [train]\n"), "train")


def test_grey_jpeg_is_not_of_colours(tmp_path: Path) -> None:
    write_files(tmp_path, {"train/a": Image.fromarray(MASK * 255).convert("RGB")})
    (tmp_path / "labels/train/a.png").unlink()
    Image.fromarray(np.kron(MASK * 255, np.ones((8, 8), np.uint8))).convert("RGB").save(
        tmp_path / "labels/train/a.jpg", quality=95
    )
    Image.new("RGB", (24, 16)).save(tmp_path / "images/train/a.png")
    data = describe(tmp_path, f"{TWO}map: {{0-127: bare, 128-255: plant}}\nignore: []\n", "splits: [train]\n")
    assert [values[0] for _, values, _ in _list_codes(read_dataset(data))] == [[*range(128)]]
    writer = PredictionWriter(tmp_path / "out", load_dataset(data, "train"))
    writer.write(0, MASK)
    with Image.open(writer.paths[0]) as file:
        assert np.asarray(file).tolist() == (MASK * 128).tolist()


SOURCES = {
    "0/255 and 0/1": (1, 255, "", "", "hold 0 and 255, the others 0 and 1, and 255 is ignored"),
    "0/2 and 0/1": (1, 2, "ignore: 2\n", "", "hold 0 and 2, the others 0 and 1, and 2 is ignored"),
    "0/2 unknown": (1, 2, "", "contains the value 2", ""),
    "0/255 unknown": (1, 255, "ignore: []\n", "contains the value 255", ""),
}


@pytest.mark.parametrize(("first", "second", "fields", "error", "text"), SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("where", ["train/b", "val/b"])
def test_foregrounds_of_two_sources(
    tmp_path: Path, where: str, first: int, second: int, fields: str, error: str, text: str
) -> None:
    mask = Image.fromarray(MASK * first)
    write_files(tmp_path, {"train/a": mask, "val/c": mask, where: Image.fromarray(MASK * second)})
    data = describe(tmp_path, f"{TWO}{fields}")
    if error:
        pair = read_dataset(data).pairs(where[: where.index("/")])[where[0] == "t"]
        with pytest.raises(DataError, match=error):
            read_label(pair.label, pair.coding)
    else:
        assert [text in remark for remark in read_dataset(data).remarks] == [True]
        assert [text in remark for remark in check_dataset(read_dataset(data)).remarks if "hold" in remark] == [True]


@pytest.mark.parametrize("where", ["train/b", "val/b"])
def test_shifted_masks_are_said(tmp_path: Path, where: str) -> None:
    """Masks of 1 and 2, and of 0 and 1 in a data set whose 0 is ignored."""
    write_files(tmp_path, {"train/a": Image.fromarray(MASK + 1), where: Image.fromarray(MASK)})
    data = describe(tmp_path, f"{TWO}values: [1, 2]\nignore: 0\n")
    text = "hold 0 and 1, the others 1 and 2, and 0 is ignored"
    assert [text in remark for remark in read_dataset(data).remarks if "others" in remark] == [True]
    void = MASK + 1
    void[0, 0] = 0
    write_files(tmp_path, {"train/c": Image.fromarray(void)})
    assert not any("others" in remark for remark in read_dataset(data).remarks)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (MASK, MASK * 2, "no label holds both 1 and 2: if these are one class"),
        (MASK, MASK + 1, "no label holds both 0 and 2: if these are one class"),
        (MASK, CLASSES, ""),
        (MASK, MASK + 2, ""),
    ],
)
def test_folders_of_two_sources_are_said(
    tmp_path: Path, first: np.ndarray, second: np.ndarray, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "own"
    write_files(root, {"train/a": Image.fromarray(first), "val/a": Image.fromarray(second)})
    assert [text in remark for remark in read_dataset(root).remarks if "both" in remark] == [True] * bool(text)


def test_train_ids_are_judged_by_coding(tmp_path: Path) -> None:
    """Some labels of train have train ids under another coding, in which they are right; the others are wrong."""
    wrong = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    write_files(tmp_path, {"train/a": Image.fromarray(wrong), "train/b": Image.fromarray(wrong)})
    (tmp_path / "ids/train").mkdir(parents=True)
    (tmp_path / "labels/train/b.png").rename(tmp_path / "ids/train/b.png")
    labels = "labels: [{files: ids/train, values: [7, 8, 11], ignore: 0-6}, {files: labels/train}]"
    data = describe(tmp_path, "classes: [road, path, house]\n", "splits: [train]\n")
    data.write_text(data.read_text().replace("labels: labels/{split}", labels))
    (remark,) = read_dataset(data).remarks
    assert "train: its labels hold 0-2 and 255 only, as train ids do" in remark
    assert "100 % of the pixels are ignored" in remark
