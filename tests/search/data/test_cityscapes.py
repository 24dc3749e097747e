"""Cityscapes with fine, coarse and missing labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from lgc.errors import DataError
from lgc.search.data.layouts import list_pairs
from lgc.search.data.reading import CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS
from lgc.search.data.synthetic.writers import write_scenes

from .pictures import write_image

SIZE = (32, 48)


def test_train_ids_are_the_fallback(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 2}, SIZE)
    first, second = list_pairs(tmp_path, "train")[1]
    other = first.label.with_name(first.label.name.replace("labelIds", "labelTrainIds"))
    first.label.rename(other)
    pairs = list_pairs(tmp_path, "train")[1]
    assert [(pair.label, pair.coding) for pair in pairs] == [
        (other, CITYSCAPES_TRAIN_IDS),
        (second.label, CITYSCAPES_IDS),
    ]


def test_test_split_may_lack_all_labels(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"test": 2}, SIZE)
    first, second = list_pairs(tmp_path, "test")[1]
    first.label.unlink()
    with pytest.raises(DataError, match="1 of 2 images has no label"):
        list_pairs(tmp_path, "test")
    second.label.unlink()
    pairs = list_pairs(tmp_path, "test")[1]
    assert [(pair.image, pair.label) for pair in pairs] == [(first.image, None), (second.image, None)]


def test_train_extra_has_coarse_labels(tmp_path: Path) -> None:
    image = write_image(tmp_path / "leftImg8bit/train_extra/ulm/ulm_0_0_leftImg8bit.png")
    label = write_image(tmp_path / "gtCoarse/train_extra/ulm/ulm_0_0_gtCoarse_labelIds.png", "L")
    (tmp_path / "gtFine").mkdir()
    pairs = list_pairs(tmp_path, "train_extra")[1]
    assert [(pair.image, pair.label) for pair in pairs] == [(image, label)]
