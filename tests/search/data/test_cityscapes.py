"""Cityscapes with fine, coarse and missing labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from lgc.errors import DataError
from lgc.search.data.description import read_dataset
from lgc.search.data.synthetic.writers import write_scenes

from .pictures import write_image

SIZE = (32, 48)


def test_train_ids_are_the_fallback(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 2}, SIZE)
    first, second = read_dataset(tmp_path).pairs("train")
    other = first.label.with_name(first.label.name.replace("labelIds", "labelTrainIds"))
    first.label.rename(other)
    pairs = read_dataset(tmp_path).pairs("train")
    assert [(pair.label, pair.coding.name) for pair in pairs] == [
        (other, "Cityscapes train ids (0..18)"),
        (second.label, "Cityscapes label ids (0..33)"),
    ]


def test_test_split_may_lack_all_labels(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"test": 2}, SIZE)
    first, second = read_dataset(tmp_path).pairs("test")
    first.label.unlink()
    with pytest.raises(DataError, match="1 of 2 images has no label"):
        read_dataset(tmp_path).pairs("test")
    second.label.unlink()
    pairs = read_dataset(tmp_path).pairs("test")
    assert [(pair.image, pair.label) for pair in pairs] == [(first.image, None), (second.image, None)]


def test_train_extra_has_coarse_labels(tmp_path: Path) -> None:
    image = write_image(tmp_path / "leftImg8bit/train_extra/ulm/ulm_0_0_leftImg8bit.png")
    label = write_image(tmp_path / "gtCoarse/train_extra/ulm/ulm_0_0_gtCoarse_labelIds.png", "L")
    (tmp_path / "gtFine").mkdir()
    pairs = read_dataset(tmp_path).pairs("train_extra")
    assert [(pair.image, pair.label) for pair in pairs] == [(image, label)]
