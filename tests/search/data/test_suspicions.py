"""Labels with other values than a known layout expects are said, split by split and file by file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.search.data.check import check_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.labels import TRAIN_ID_TO_ID

TRAIN_IDS = np.array([[0, 0, 2, 10], [13, 1, 2, 255]], np.uint8)
IDS = np.where(TRAIN_IDS == 255, 0, TRAIN_ID_TO_ID[TRAIN_IDS]).astype(np.uint8)


def write(image: Path, label: Path, values: np.ndarray, seed: int) -> None:
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*values.shape, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(image)
    Image.fromarray(values).save(label)


def write_cityscapes(root: Path, holds_train_ids: Callable[[str, int], bool]) -> None:
    """Write 8 training and 4 validation images, whose labels hold ids, or train ids in their place."""
    for split, count in (("train", 8), ("val", 4)):
        for number in range(count):
            stem = f"ulm_{number:06}_000019"
            write(
                root / f"leftImg8bit/{split}/ulm/{stem}_leftImg8bit.png",
                root / f"gtFine/{split}/ulm/{stem}_gtFine_labelIds.png",
                TRAIN_IDS if holds_train_ids(split, number) else IDS,
                number + (100 if split == "val" else 0),
            )


@pytest.mark.parametrize(
    ("holds_train_ids", "texts"),
    [
        (lambda split, number: False, []),
        (lambda split, number: split == "val", ["val: its labels hold 0-18"]),
        (lambda split, number: number % 2 == 1, ["train: 4 of 8 labels, e.g.", "val: 2 of 4 labels, e.g."]),
        (lambda split, number: split == "train" and number < 3, ["train: 3 of 8 labels, e.g."]),
    ],
    ids=["none", "val", "half", "some of train"],
)
def test_train_ids_in_a_part_are_said(
    tmp_path: Path, holds_train_ids: Callable[[str, int], bool], texts: list[str]
) -> None:
    write_cityscapes(tmp_path, holds_train_ids)
    warnings = read_dataset(tmp_path).remarks
    assert len(warnings) == len(texts)
    for warning, text in zip(warnings, texts, strict=True):
        assert warning.startswith(f"warning: cityscapes: {text}")
        assert "as train ids do" in warning
    remarks = check_dataset(read_dataset(tmp_path)).remarks
    ignored = [remark for remark in remarks if "more than 50 % ignored pixels" in remark]
    assert len(ignored) == len(texts)
    assert {*warnings} <= {*remarks}


def test_check_counts_mostly_ignored_labels(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, lambda split, number: split == "val" and number == 0)
    text = f"labels of val with more than 50 % ignored pixels: 1 of 4, up to {700 / 8:.1f} %"
    assert (np.isin(TRAIN_IDS, [13]).sum(), TRAIN_IDS.size) == (1, 8)  # 13 alone is an id of a class, fence
    assert text in check_dataset(read_dataset(tmp_path)).remarks


@pytest.mark.parametrize(
    ("values", "is_said"), [([0, 1], True), ([0, 1, 2, 3], True), ([0, 3, 56, 120], False), ([*range(90, 182)], False)]
)
def test_own_classes_in_a_layout_are_said(tmp_path: Path, values: list[int], is_said: bool) -> None:
    for split in ("train", "val"):
        path = f"{split}2017/000000000001"
        label = np.array([values], np.uint8)
        label[label == 90] = 89
        write(tmp_path / f"images/{path}.jpg", tmp_path / f"annotations/{path}.png", label, split == "val")
    spec = read_dataset(tmp_path)
    assert spec.summary.startswith(
        "coco-stuff: 171 classes of the known layout coco-stuff, recognised by its files (per"
    )
    text = f"warning: coco-stuff: only {len(values)} of 171 classes occur in the 2 labels read (person, bicycle"
    assert [remark.startswith(text) for remark in spec.remarks] == [True] * is_said
    (tmp_path / "dataset.yaml").write_text("extends: coco-stuff\n")
    assert read_dataset(tmp_path).remarks == ()
