from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lgc.errors import DataError, UnknownNameError
from lgc.search.data.camvid import camvid_split
from lgc.search.data.layouts import LAYOUTS, detect_layout, list_pairs
from lgc.search.data.synthetic.writers import write_scenes

SIZE = (32, 48)


def _image(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4)).save(path)
    return path


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        detect_layout(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = _image(tmp_path / "a.png")
    with pytest.raises(DataError, match="is a file, not a folder"):
        detect_layout(path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        detect_layout(tmp_path)


def test_a_folder_of_no_layout_is_told_what_each_layout_needs_and_what_was_found(tmp_path: Path) -> None:
    for name in ("leftImg8bit", "b", "c", "d", "e", "f", "g", "h"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        detect_layout(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message and layout.needs in message for name, layout in LAYOUTS.items())
    assert "found b/, c/, d/, e/, f/, g/ and 2 more" in message


def test_an_unknown_split_is_told_the_known_ones(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid", {"train": 1}, SIZE)
    with pytest.raises(UnknownNameError, match=r"unknown split 'validation'.*train, train_extra, val"):
        list_pairs(tmp_path, "validation")


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("cityscapes", r"leftImg8bit/val/<city>/\*_leftImg8bit.png is missing or empty \(splits found: train\)"),
        ("camvid-segnet", r"val/ beside valannot/ is missing or empty \(splits found: train\)"),
        ("camvid", r"the list val.txt is missing or empty \(splits found: train\)"),
        ("camvid-lists", r"the list val.txt is missing or empty \(splits found: train\)"),
    ],
)
def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, layout: str, says: str) -> None:
    write_scenes(tmp_path, layout, {"train": 1}, SIZE)
    with pytest.raises(DataError, match=f"has no val images: {says}"):
        list_pairs(tmp_path, "val")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_without_labels_are_counted_and_the_first_is_named(tmp_path: Path, layout: str) -> None:
    write_scenes(tmp_path, layout, {"train": 3}, SIZE)
    pairs = list_pairs(tmp_path, "train")[1]
    for pair in pairs[1:]:
        pair.label.unlink()
    with pytest.raises(DataError) as caught:
        list_pairs(tmp_path, "train")
    assert "2 of 3 images have no label" in str(caught.value)
    assert str(pairs[1].image) in str(caught.value)
    assert "there is no" in str(caught.value)


def test_one_image_without_a_label_is_told_in_the_singular(tmp_path: Path) -> None:
    _image(tmp_path / "train/a.png")
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(DataError, match="1 of 1 image has no label"):
        list_pairs(tmp_path, "train")


def test_segnet_is_found_from_inside_its_folder_and_from_around_it(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid-segnet", {"train": 2}, SIZE)
    inside, around = list_pairs(tmp_path / "CamVid", "train"), list_pairs(tmp_path, "train")
    assert inside == around
    assert len(inside[1]) == 2


def test_segnets_older_label_names_and_the_folder_name_labels_are_known(tmp_path: Path) -> None:
    _image(tmp_path / "train/train_00001.png")
    label = _image(tmp_path / "trainannot/trainannot_00001.png", "L")
    _image(tmp_path / "val/0016E5_07959.png")
    colours = _image(tmp_path / "val_labels/0016E5_07959_L.png")
    assert [pair.label for pair in list_pairs(tmp_path, "train")[1]] == [label]
    assert [pair.label for pair in list_pairs(tmp_path, "val")[1]] == [colours]


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", "camvid-segnet", {"train": 1}, SIZE)
    write_scenes(tmp_path / "c", "cityscapes", {"train": 1}, SIZE)
    for root in (tmp_path / "s", tmp_path / "c"):
        image = list_pairs(root, "train")[1][0].image
        image.with_name(f"._{image.name}").write_bytes(b"macOS")
        assert [pair.image for pair in list_pairs(root, "train")[1]] == [image]


def test_train_ids_are_taken_where_a_user_keeps_only_those(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 2}, SIZE)
    first, second = list_pairs(tmp_path, "train")[1]
    other = first.label.with_name(first.label.name.replace("labelIds", "labelTrainIds"))
    first.label.rename(other)
    pairs = list_pairs(tmp_path, "train")[1]
    assert [(pair.label, pair.coding.name) for pair in pairs] == [
        (other, "CITYSCAPES_TRAIN_IDS"),
        (second.label, "CITYSCAPES_IDS"),
    ]


def test_a_benchmarks_test_images_have_all_labels_or_none(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"test": 2}, SIZE)
    first, second = list_pairs(tmp_path, "test")[1]
    first.label.unlink()
    with pytest.raises(DataError, match="1 of 2 images has no label"):
        list_pairs(tmp_path, "test")
    second.label.unlink()
    pairs = list_pairs(tmp_path, "test")[1]
    assert [(pair.image, pair.label) for pair in pairs] == [(first.image, None), (second.image, None)]


def test_coarse_labels_go_with_train_extra(tmp_path: Path) -> None:
    image = _image(tmp_path / "leftImg8bit/train_extra/ulm/ulm_0_0_leftImg8bit.png")
    label = _image(tmp_path / "gtCoarse/train_extra/ulm/ulm_0_0_gtCoarse_labelIds.png", "L")
    (tmp_path / "gtFine").mkdir()
    pairs = list_pairs(tmp_path, "train_extra")[1]
    assert [(pair.image, pair.label) for pair in pairs] == [(image, label)]


def test_the_original_without_lists_is_split_by_sequence(tmp_path: Path) -> None:
    frames = ("0001TP_006690", "0001TP_008550", "0016E5_07959", "0016E5_00390", "Seq05VD_f00000", "0006R0_f00930")
    for frame in frames:
        _image(tmp_path / f"701_StillsRaw_full/{frame}.png")
        _image(tmp_path / f"LabeledApproved_full/{frame}_L.png")
    found = {split: [p.image.stem for p in list_pairs(tmp_path, split)[1]] for split in ("train", "val", "test")}
    assert found == {
        "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }


def test_the_usual_split_has_its_usual_sizes() -> None:
    # The frames of the original: 124 of 0001TP, 101 of the 15 Hz part of 0016E5, 171 of Seq05VD.
    frames = [f"0001TP_{n:06d}" for n in range(6690, 10381, 30)] + [f"0016E5_{n:05d}" for n in range(7959, 8160, 2)]
    frames += [f"Seq05VD_f{n:05d}" for n in range(0, 5101, 30)]
    splits = [camvid_split(frame) for frame in frames]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (62, 101, 233)


@given(st.text(max_size=12))
def test_no_other_name_has_a_split(stem: str) -> None:
    known = ("0001TP", "0006R0", "0016E5", "Seq05VD")
    assert camvid_split(stem) is None or stem.startswith(known)
    assert camvid_split(f"scene_{stem}") is None


def test_the_original_with_foreign_names_needs_lists(tmp_path: Path) -> None:
    _image(tmp_path / "701_StillsRaw_full/holiday.png")
    _image(tmp_path / "LabeledApproved_full/holiday_L.png")
    with pytest.raises(DataError, match=r"the list train\.txt is missing"):
        list_pairs(tmp_path, "train")


@pytest.mark.parametrize(
    "line",
    [
        "a.png",
        "a",
        "images/a.png labels/a.png",
        "images/a.png,labels/a.png",
        "/SegNet/CamVid/images/a.png /SegNet/CamVid/labels/a.png",
        "# a comment\n\n  a.png  ",
    ],
)
@pytest.mark.parametrize("place", ["train.txt", "lists/train.lst"])
def test_lists_are_read_however_they_name_their_images(tmp_path: Path, line: str, place: str) -> None:
    image, label = _image(tmp_path / "images/a.png"), _image(tmp_path / "labels/a.png", "L")
    _image(tmp_path / "images/b.png")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(f"{line}\n")
    layout, pairs = list_pairs(tmp_path, "train")
    assert layout.name == "camvid-lists"
    assert [(pair.image, pair.label) for pair in pairs] == [(image, label)]


@pytest.mark.parametrize("apart", [" ", ",", "\t"])
def test_a_list_keeps_its_order_and_the_labels_it_names(tmp_path: Path, apart: str) -> None:
    for name in "ab":
        _image(tmp_path / f"images/{name}.png")
        _image(tmp_path / f"labels/mask_{name}.png", "L")
    (tmp_path / "val.txt").write_text(f"b.png{apart}mask_b.png\na.png{apart}mask_a.png\n")
    assert [p.label.name for p in list_pairs(tmp_path, "val")[1]] == ["mask_b.png", "mask_a.png"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a.png\nghost.png\n", r"train\.txt, line 2: there is no image 'ghost\.png'"),
        (b"a.png\na.png\n", r"train\.txt, line 2: the image 'a\.png' is named twice"),
        (b"\xff\xfe\x00", "cannot be read as a list"),
        (b"\n# nothing\n", r"the content of train\.txt is missing or empty"),
        (b"a.png nolabel.png\n", r"1 of 1 image has no label.*nolabel\.png"),
    ],
)
def test_a_bad_list_is_named_with_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    _image(tmp_path / "images/a.png")
    _image(tmp_path / "labels/a.png", "L")
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        list_pairs(tmp_path, "train")


def test_half_of_a_layout_is_none(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    shutil.rmtree(tmp_path / "gtFine")
    with pytest.raises(DataError, match="fits no known layout"):
        detect_layout(tmp_path)
