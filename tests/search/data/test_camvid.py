"""CamVid in its three layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import DataError
from lgc.search.data.description import read_dataset
from lgc.search.data.layouts.camvid import official_split
from lgc.search.data.synthetic.writers import write_scenes

from .pictures import write_image

SIZE = (32, 48)


def test_camvid_folder_or_its_parent(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid-segnet", {"train": 2}, SIZE)
    inside, around = read_dataset(tmp_path / "CamVid").pairs("train"), read_dataset(tmp_path).pairs("train")
    assert [pair.image for pair in inside] == [pair.image for pair in around]
    assert len(inside) == 2


def test_older_segnet_file_names(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("extends: camvid-segnet\n")
    write_image(tmp_path / "train/train_00001.png")
    label = write_image(tmp_path / "trainannot/trainannot_00001.png", "L")
    write_image(tmp_path / "val/0016E5_07959.png")
    colours = write_image(tmp_path / "val_labels/0016E5_07959_L.png")
    assert [pair.label for pair in read_dataset(tmp_path).pairs("train")] == [label]
    assert [pair.label for pair in read_dataset(tmp_path).pairs("val")] == [colours]


def test_original_frames_are_split_by_sequence(tmp_path: Path) -> None:
    frames = ("0001TP_006690", "0001TP_008550", "0016E5_07959", "0016E5_00390", "Seq05VD_f00000", "0006R0_f00930")
    for frame in frames:
        write_image(tmp_path / f"701_StillsRaw_full/{frame}.png")
        write_image(tmp_path / f"LabeledApproved_full/{frame}_L.png")
    found = {split: [p.image.stem for p in read_dataset(tmp_path).pairs(split)] for split in ("train", "val", "test")}
    assert found == {
        "train": ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }


def test_official_split_sizes() -> None:
    # The frames of the original: 124 of 0001TP, 101 of the 15 Hz part of 0016E5, 171 of Seq05VD.
    frames = [f"0001TP_{n:06d}" for n in range(6690, 10381, 30)] + [f"0016E5_{n:05d}" for n in range(7959, 8160, 2)]
    frames += [f"Seq05VD_f{n:05d}" for n in range(0, 5101, 30)]
    splits = [official_split(frame) for frame in frames]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (62, 101, 233)


@given(st.text(max_size=12))
def test_other_names_have_no_split(stem: str) -> None:
    known = ("0001TP", "0006R0", "0016E5", "Seq05VD")
    assert official_split(stem) is None or stem.startswith(known)
    assert official_split(f"scene_{stem}") is None


def test_other_file_names_require_lists(tmp_path: Path) -> None:
    write_image(tmp_path / "701_StillsRaw_full/holiday.png")
    write_image(tmp_path / "LabeledApproved_full/holiday_L.png")
    with pytest.raises(DataError, match=r"the list train\.txt is missing"):
        read_dataset(tmp_path).pairs("train")
