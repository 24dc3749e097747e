"""Descriptions in YAML: splits, values, normalisation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError, LgcError, OutputError, UnknownNameError
from lgc.models.images import Normalisation
from lgc.search.data.check import check_dataset
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.predictions import PredictionWriter

BASE = """name: street
root: data
images: images/{split}
labels: labels/{split}
splits: [train, val]
classes: [road, car, sky]
"""


def write_pair(root: Path, name: str, value: int = 1, image: str = "images", label: str = "labels") -> None:
    for folder, mode, fill in ((image, "RGB", (90, 90, 90)), (label, "L", value)):
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (6, 4), fill).save(path)


@pytest.fixture
def describe(tmp_path: Path) -> Path:
    """Write a dataset with two splits, and return the path of a `dataset.yaml`."""
    for name in ("train/a", "train/b", "val/c"):
        write_pair(tmp_path / "data", name)
    path = tmp_path / "street.yaml"
    path.write_text(BASE)
    return path


def edit(path: Path, old: str, new: str) -> Path:
    """Change the text of a description."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_splits_classes_and_defaults(describe: Path) -> None:
    spec = read_dataset(describe)
    assert (spec.name, spec.classes, tuple(spec.splits)) == ("street", ("road", "car", "sky"), ("train", "val"))
    assert [pair.image.name for pair in spec.pairs("train")] == ["a.png", "b.png"]
    assert len(set(spec.palette)) == 3
    assert spec.remarks == ()
    with pytest.raises(UnknownNameError, match=r"unknown split 'vall' .*did you mean 'val'"):
        spec.pairs("vall")


def test_folder_may_hold_its_description(describe: Path) -> None:
    edit(describe, "root: data\n", "").rename(describe.parent / "data/dataset.yaml")
    assert read_dataset(describe.parent / "data").name == "street"


def test_unlabelled_test_split_has_no_labels(describe: Path) -> None:
    edit(describe, "[train, val]", "[train, val, test]")
    write_pair(describe.parent / "data", "d", image="images/test", label="unused")
    assert [pair.label for pair in read_dataset(describe).pairs("test")] == [None]
    assert (load_dataset(describe, "test")[0][1] == 255).all()


def draw_splits(describe: Path) -> dict[str, set[str]]:
    spec = read_dataset(describe)
    return {split: {pair.image.stem for pair in spec.pairs(split)} for split in spec.splits}


@pytest.fixture
def shares(describe: Path) -> Path:
    """Describe 200 images in three shares."""
    for index in range(200):
        write_pair(describe.parent / "data", f"all/{index}")
    edit(describe, "{split}", "all")
    return edit(describe, "[train, val]", "{train: {share: 0.7}, val: {share: 0.2}, test: {share: 0.1}}\nseed: 3")


def test_shares_partition_the_images(shares: Path) -> None:
    parts = draw_splits(shares)
    assert sorted(int(name) for part in parts.values() for name in part) == [*range(200)]
    # Five standard deviations of a binomial distribution.
    for part, share in zip(parts.values(), (0.7, 0.2, 0.1), strict=True):
        assert abs(len(part) - 200 * share) < 5 * (200 * share * (1 - share)) ** 0.5
    edit(shares, "seed: 3", "seed: 4")
    assert draw_splits(shares) != parts


def test_further_images_move_none(shares: Path) -> None:
    before = draw_splits(shares)
    for index in range(200, 260):
        write_pair(shares.parent / "data", f"all/{index}")
    (shares.parent / "data/images/all/7.png").unlink()
    (shares.parent / "data/images/all/8.png").rename(shares.parent / "data/images/all/8.jpg")
    after = draw_splits(shares)
    kept = {str(index) for index in range(200)} - {"7"}
    assert {split: part & kept for split, part in after.items()} == {s: part & kept for s, part in before.items()}


def test_empty_share_names_the_seed(shares: Path) -> None:
    for path in sorted((shares.parent / "data/images/all").glob("*.png"))[1:]:
        path.unlink()
    empty = next(split for split, files in read_dataset(shares).splits.items() if not files.entries)
    with pytest.raises(DataError, match=r"its share of images/all/, drawn by seed 3 \(another seed may give some\)"):
        read_dataset(shares).pairs(empty)


def test_labels_follow_from_their_images(describe: Path) -> None:
    root = describe.parent / "data"
    write_pair(root, "ulm/x_left", image="deep/train", label="other")
    (root / "other/ulm/x_left.png").rename(root / "other/x_truth.png")
    edit(describe, "images/{split}", "deep/{split}/*/*_left.png")
    edit(describe, "labels/{split}", "other/*_truth.png")
    assert [pair.label for pair in read_dataset(describe).pairs("train")] == [root / "other/x_truth.png"]


def test_two_images_never_share_a_label(describe: Path) -> None:
    image = describe.parent / "data/images/train/a.png"
    Image.new("RGB", (6, 4)).save(image.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png have the same label .*a\.png: rename one, or use a list"):
        read_dataset(describe).pairs("train")


def test_values_ranges_and_colours_map(describe: Path) -> None:
    label = describe.parent / "data/labels/train/a.png"
    Image.fromarray(np.array([[0, 7, 40, 41, 300, 65535]], np.uint16)).save(label)
    Image.new("RGB", (6, 1)).save(describe.parent / "data/images/train/a.png")
    edit(describe, "classes: [road, car, sky]", "classes: {road: '#010203', car: [4, 5, 6], sky: 7 8 9}")
    describe.write_text(describe.read_text() + "map: {0-7: road, 40: car, 41-300: ignore, 65535: sky, 9 9 9: car}\n")
    assert load_dataset(describe, "train")[0][1].tolist() == [[0, 0, 1, 255, 255, 2]]
    Image.fromarray(np.array([[(1, 2, 3), (4, 5, 6), (7, 8, 9), (9, 9, 9)]], np.uint8)).resize((6, 1), 0).save(label)
    assert set(load_dataset(describe, "train")[0][1].unique().tolist()) == {0, 1, 2}


def test_known_layout_may_be_extended(tmp_path: Path) -> None:
    write_pair(tmp_path / "city", "x", 26, "leftImg8bit/val/ulm", "gtFine/val/ulm")
    for folder, old, new in (("leftImg8bit", "x", "x_leftImg8bit"), ("gtFine", "x", "x_gtFine_labelIds")):
        path = tmp_path / folder.join(("city/", f"/val/ulm/{old}.png"))
        path.rename(path.with_name(f"{new}.png"))
    mean, std = "[123.675, 116.28, 103.53]", "[255, 255, 255]"
    (tmp_path / "d.yaml").write_text(
        f"extends: cityscapes\nroot: city\nnormalisation: {{mean: {mean}, std: {std}, range: 0..255}}\n"
    )
    data = load_dataset(tmp_path / "d.yaml", "val")
    assert data.num_classes == 19
    assert data.normalisation.mean == pytest.approx((0.485, 0.456, 0.406))
    assert set(data[0][1].unique().tolist()) == {13}
    assert data[0][0][:, 0, 0].tolist() == pytest.approx([(90 - m) / 255 for m in (123.675, 116.28, 103.53)], abs=1e-6)


def test_normalisation_pads_with_its_mean(describe: Path) -> None:
    describe.write_text(describe.read_text() + "normalisation: {mean: [0, 0.2, 1], std: [1, 1, 1], range: 0..1}\n")
    data = load_dataset(describe, "train", (4, 6), augment=True, crop=(40, 60))
    assert data.normalisation == Normalisation((0, 0.2, 1), (1, 1, 1))
    image, label = data[0]
    assert image[:, label == 255].abs().max() < 1e-6


def test_mean_alone_may_be_subtracted(describe: Path) -> None:
    describe.write_text(
        describe.read_text() + "normalisation: {mean: [123, 116, 103], std: [1, 1, 1], range: 0..255}\n"
    )
    assert read_dataset(describe).normalisation.std == pytest.approx((1 / 255,) * 3)


@pytest.mark.parametrize("names", [("dataset.yml",), ("dataset.yml", "dataset.yaml")])
def test_description_may_end_in_yml(describe: Path, names: tuple[str, ...]) -> None:
    folder = describe.parent / "data"
    for name in names:
        (folder / name).write_text(describe.read_text().replace("root: data\n", ""))
    if len(names) > 1:
        with pytest.raises(DataError, match=r"has dataset\.yaml and dataset\.yml: remove one"):
            read_dataset(folder)
    else:
        assert read_dataset(folder).classes == ("road", "car", "sky")


def test_other_yaml_files_are_said(describe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(describe.parent)
    write_pair(describe.parent / "data", "train/a", 2)
    (describe.parent / "data/data.yaml").write_text("names: [a, b]\n")
    remark = "data has data.yaml, not read: a description is called dataset.yaml"
    assert remark in read_dataset("data").remarks


def test_summary_names_classes_and_images(describe: Path) -> None:
    assert read_dataset(describe).summary == f"street: 3 classes of {describe} (road, car, sky); images: train 2, val 1"


@pytest.mark.parametrize(
    ("fields", "classes"),
    [
        ("labels: {files: 'labels/{split}', values: 0-2}\nvalues: 1-3\nignore: 0", [0, 1, 2]),
        ("labels: {files: 'labels/{split}', values: 0-2, ignore: 3}\nvalues: 1-3\nignore: 0", [0, 1, 2, 255]),
        ("labels: {files: 'labels/{split}', ignore: 1}\nvalues: 0-2\nignore: 3", [0, 255, 2]),
        ("labels: labels/{split}\nvalues: 1-3\nignore: 0", [255, 0, 1, 2]),
    ],
)
def test_own_values_win_over_an_inherited_ignore(describe: Path, fields: str, classes: list[int]) -> None:
    edit(describe, "labels: labels/{split}", fields)
    label = np.arange(len(classes), dtype=np.uint8)[None]
    Image.fromarray(label).save(describe.parent / "data/labels/train/a.png")
    Image.new("RGB", label.shape[::-1]).save(describe.parent / "data/images/train/a.png")
    assert load_dataset(describe, "train")[0][1].tolist() == [classes]


@pytest.mark.parametrize("fields", ["values: 0-18", "values: 0-18\nignore: 255"])
def test_train_ids_replace_a_layouts_ids(describe: Path, fields: str) -> None:
    describe.write_text(
        "extends: cityscapes\nroot: data\nimages: images/{split}\nlabels: labels/{split}\nsplits: [train]\n" + fields
    )
    for name, value in (("a", 0), ("b", 255)):
        write_pair(describe.parent / "data", f"train/{name}", value)
    assert [label.unique().tolist() for _, label in load_dataset(describe, "train")] == [[0], [255]]
    write_pair(describe.parent / "data", "train/a", 26)
    with pytest.raises(DataError, match="contains the value 26, expected label values 0-18"):
        load_dataset(describe, "train")[0]


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ("labels: {files: 'labels/{split}', values: 1-3, ignore: 0}", (1, 2, 3)),
        ("labels: {files: 'labels/{split}', values: 1-3, ignore: 0}\nvalues: [7, 8, 9]", (7, 8, 9)),
        ("labels: labels/{split}\nvalues: [7, 8, 9]", (7, 8, 9)),
    ],
)
def test_predictions_have_values_of_labels(describe: Path, fields: str, values: tuple[int, ...]) -> None:
    edit(describe, "labels: labels/{split}", fields)
    assert {*read_dataset(describe).values.values()} == {values}


@pytest.mark.parametrize(("fields", "mode"), [("", "RGB"), ("predictions: {kind: indices}\n", "L")])
def test_predictions_are_colours_as_labels_are(describe: Path, fields: str, mode: str) -> None:
    edit(describe, "[road, car, sky]", "{road: [9, 0, 0], car: [0, 9, 0], sky: [0, 0, 9]}")
    describe.write_text(describe.read_text() + fields)
    Image.new("RGB", (6, 4), (0, 9, 0)).save(describe.parent / "data/labels/val/c.png")
    writer = PredictionWriter(describe.parent / "predictions", load_dataset(describe, "val"))
    writer.write(0, np.full((4, 6), 2, np.uint8))
    with Image.open(writer.paths[0]) as file:
        assert (file.mode, file.getpixel((0, 0))) == (mode, (0, 0, 9) if mode == "RGB" else 2)


def test_predictions_are_colours_after_a_black_label(describe: Path) -> None:
    edit(describe, "[road, car, sky]", "{road: [9, 0, 0], car: [0, 9, 0], sky: [0, 0, 0]}")
    write_pair(describe.parent / "data", "val/a", 0)
    Image.new("RGB", (6, 4), (0, 9, 0)).save(describe.parent / "data/labels/val/c.png")
    writer = PredictionWriter(describe.parent / "predictions", load_dataset(describe, "val"))
    writer.write(0, np.full((4, 6), 1, np.uint8))
    with Image.open(writer.paths[0]) as file:
        assert (file.mode, file.getpixel((0, 0))) == ("RGB", (0, 9, 0))


@pytest.mark.parametrize("fields", ["", "predictions: {name: '{stem}.png'}\n"])
def test_predictions_of_equal_names_have_folders(describe: Path, fields: str) -> None:
    describe.write_text(describe.read_text() + fields)
    for name, value in (("seq1/0001", 0), ("seq2/0001", 1), ("seq2/x/0001", 2)):
        write_pair(describe.parent / "data", f"val/{name}", value)
    (describe.parent / "data/images/val/c.png").unlink()
    folder = describe.parent / "predictions"
    writer = PredictionWriter(folder, load_dataset(describe, "val"))
    for index in range(3):
        writer.write(index, np.full((4, 6), index, np.uint8))
    written = {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)).max() for path in writer.paths}
    assert written == {"seq1/0001.png": 0, "seq2/0001.png": 1, "seq2/x/0001.png": 2}


def test_predictions_of_one_name_are_refused(describe: Path) -> None:
    edit(describe, "splits: [train, val]", "list: 'val.txt'\nsplits: [val]")
    lines = [f"images/{image}.png labels/val/c.png" for image in ("train/a", "val/c")]
    (describe.parent / "data/val.txt").write_text("\n".join(lines))
    with pytest.raises(OutputError, match=r"train/a\.png and .*val/c\.png would have the same prediction c\.png: give"):
        PredictionWriter(describe.parent / "predictions", load_dataset(describe, "val"))


def test_other_splits_do_not_stop_predictions(describe: Path) -> None:
    (describe.parent / "data/labels/train/a.png").unlink()
    assert PredictionWriter(describe.parent / "predictions", load_dataset(describe, "val")).paths
    edit(describe, "val]", "val, test]")
    write_pair(describe.parent / "data", "test/d", 0)
    (describe.parent / "data/labels/test/d.png").unlink()
    assert PredictionWriter(describe.parent / "predictions", load_dataset(describe, "test")).paths


@pytest.mark.parametrize(("second", "overlaps"), [("val", True), ("trainval", False)])
def test_images_in_two_splits_are_said(describe: Path, second: str, overlaps: bool) -> None:
    edit(describe, "splits: [train, val]", f"list: '{{split}}.txt'\nsplits: [train, {second}]")
    edit(describe, "{split}\nlabels: labels/{split}", "train\nlabels: labels/train")
    for split, names in (("train", "a\nb\n"), (second, "b\n")):
        (describe.parent / f"data/{split}.txt").write_text(names)
    b = describe.parent / "data/images/train/b.png"
    warning = f"warning: street: images in both train and {second}: 1, e.g. {b}"
    assert read_dataset(describe).remarks == ((warning,) if overlaps else ())
    leaks = [problem for problem in check_dataset(read_dataset(describe)).problems if b in problem.files]
    assert bool(leaks) == overlaps


def test_links_to_one_image_are_said(describe: Path) -> None:
    root = describe.parent / "data"
    for name, target in {"val/d": "../train/a.png", "train/e": "b.png"}.items():
        for folder in ("images", "labels"):
            (root / f"{folder}/{name}.png").symlink_to(target)
    spec = read_dataset(describe)
    assert [pair.label.stem for pair in spec.pairs("train") if pair.label] == ["a", "b", "e"]
    images = root / "images"
    repeat = f"files that are several images, by links: 1, e.g. that of {images}/train/b.png and {images}/train/e.png"
    overlap = f"images in both train and val: 1, e.g. {images}/train/a.png, the file of {images}/val/d.png"
    assert spec.remarks == (f"warning: street: train: {repeat}", f"warning: street: {overlap}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes: [", "classes: [a, b]\nclasses: [", "line 7: duplicate key 'classes', first on line 6"),
        ("name: street", "name: street\nseed: 1e1", "line 2: 1e1 is text"),
        ("name: street", "name: street\nclases: 3", r"unknown field 'clases' \(did you mean 'classes'\?\)"),
        ("[train, val]", "{train: {imges: x}, val: {}}", r"split train: unknown field 'imges'"),
        ("root: data", "root: nowhere", "root: no such folder: .*nowhere"),
        ("car, sky", "car, car", "two classes are called 'car'"),
        ("[road, car, sky]", "[road]", "2 to 255 classes, got 1"),
        ("[road, car, sky]", str([f"c{i}" for i in range(256)]), "2 to 255 classes, got 256"),
        ("[road, car, sky]", "{a: [1, 1, 1], b: [2, 2, 2], c: [1, 1, 1]}", "classes 'a' and 'c' have the same colour"),
        ("[road, car, sky]", "{a: [1, 1, 1], b: }", "class 'b' has no colour"),
        ("[road, car, sky]", "{a: [1, 1], b: [2, 2, 2]}", r"\[1, 1\] is not a colour"),
        ("[road, car, sky]", "[1, 2]", "1 is not a class name"),
        ("[road, car, sky]", "[road, ignore]", "a class cannot be called 'ignore'"),
        ("name: street", "name: street\nmap: {7: lane}", "7 is of the unknown class 'lane'"),
        (
            "name: street",
            "name: street\nmap: {0-4: road, 3-5: car, 9: sky}",
            "label value 3 has two meanings, in 0-4 and",
        ),
        ("name: street", "name: street\nmap: {0: road, 1: car}", "class 'sky' has no label value"),
        ("name: street", "name: street\nmap: {7: road, '7': car, 8: sky}", "label value 7 has two meanings"),
        ("name: street", "name: street\nvalues: [1, 2]", "2 label values for 3 classes"),
        ("name: street", "name: street\nignore: 0", "label value 0 is class 'road'.*write e.g. `values: 1-3`"),
        ("name: street", "name: street\nmap: {0: ignore}", "map: label value 0 is class 'road'.*`values: 1-3`"),
        ("name: street", "name: street\nmap: {2-9: ignore}", "map: label value 2 is class 'sky'"),
        ("name: street", "name: street\nignore: 65536", "not a range of label values from 0 to 65535"),
        ("name: street", "name: street\nignore: 1.5", "1.5 is not a label value"),
        ("[train, val]", "{train: {share: 0.8}, val: {share: 0.3}}", "the shares of train, val are more than 1"),
        ("images/{split}", "images", "splits train and val have the same images"),
        ("labels: labels/{split}\n", "", "split train has no labels"),
        ("labels: labels/{split}\n", "list: '{split}.txt'\n", "split train has no labels"),
        ("splits: [train, val]\n", "", "splits: must be a list of names"),
        ("name: street", "extends: citiscapes", "unknown layout 'citiscapes' .*did you mean 'cityscapes'"),
        (
            "name: street",
            "name: street\nnormalisation: {mean: [124, 116, 104], std: [58, 57, 57], range: 0..1}",
            "mean 124 is not of the range 0..1: write mean and std of one range, perhaps 0..255",
        ),
        *(
            ("name: street", f"name: street\nnormalisation: {{mean: {mean}, std: {std}, range: {span}}}", message)
            for mean, std, span, message in (
                ("[0, 0, 0]", "[255, 255, 255]", "0..1", "std 255 is not of the range 0..1"),
                ("[0.5, 0.5, 0.5]", "[58, 57, 57]", "0..1", "std 58 is not of the range 0..1"),
                ("[123, 116, 103]", "[0.229, 57, 57]", "0..255", "std 0.229 is not of the range 0..255"),
                ("[0.5, 0.5, 0.5]", "[58, 57, 57]", "0..255", "mean 0.5 is not of the range 0..255"),
                ("[123, 116, 0.4]", "[58, 57, 57]", "0..255", "mean 0.4 is not of the range 0..255"),
            )
        ),
        (
            "labels: labels/{split}",
            "labels: {files: 'labels/{split}', values: 253-255, ignore: [0, 255]}",
            "labels.0: label value 255 has two meanings, in 253-255 and 255",
        ),
        ("labels: labels/{split}", "labels: {files: x, values: [0, 1, 1]}", "label value 1 has two meanings"),
        ("name: street", "name: street\nextend: voc", r"unknown field 'extend' \(did you mean 'extends'\?\)"),
        (
            "name: street",
            "name: street\nnormalisation: {mean: [0.5, 0.5, 0.5], std: [0, 1, 1], range: 0..1}",
            "std must be above 0",
        ),
        (
            "name: street",
            "name: street\nnormalisation: {mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}",
            "normalisation.range: is missing",
        ),
    ],
)
def test_invalid_descriptions_are_refused(describe: Path, old: str, new: str, message: str) -> None:
    edit(describe, old, new)
    with pytest.raises(LgcError, match=message) as caught:
        read_dataset(describe)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert describe.name in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[train, val]",
            "[dev, val]",
            r"data has no dev images: images/dev/ is missing or empty \(available splits: val\)",
        ),
        (
            "splits: [train, val]",
            "splits: {train: {list: a.txt}, val: {list: a.txt}}",
            r"no train images: the content of a.txt is missing or empty \(available splits: none\)",
        ),
        (
            "{split}\nlabels: labels/{split}\nsplits: [train, val]",
            "*.tif\nlabels: labels\nsplits: {train: {share: 0.5}, val: {share: 0.5}}",
            r"no train images: images/\*.tif is missing",
        ),
        ("labels/{split}", "masks", "2 of 2 images have no label; the first is .*a.png: no such file: .*masks/a.png"),
        ("labels/{split}", "labels/*/*/*/*.png", "pattern labels/.* has 4 wildcards, its images' only 2"),
    ],
)
def test_missing_files_are_named(describe: Path, old: str, new: str, message: str) -> None:
    edit(describe, old, new)
    (describe.parent / "data/a.txt").touch()
    spec = read_dataset(describe)
    with pytest.raises(DataError, match=message):
        spec.pairs(next(iter(spec.splits)))


@pytest.mark.parametrize("content", [b"", b"\0\1", b"- a\n", b"just text"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    with pytest.raises(LgcError, match="no such file"):
        read_dataset(path)
    path.write_bytes(content)
    with pytest.raises(LgcError, match=r"x\.yaml: it (is|needs)"):
        read_dataset(path)
