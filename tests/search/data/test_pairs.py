"""Images and labels are paired by name."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.search.data.check import check_dataset
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.synthetic.writers import write_scenes

from .pictures import write_image

SIZE = (32, 48)


def test_message_for_a_single_image(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a.png")
    (tmp_path / "trainannot").mkdir()
    with pytest.raises(DataError, match="1 of 1 image has no label"):
        read_dataset(tmp_path).pairs("train")


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", "camvid-segnet", {"train": 1}, SIZE)
    write_scenes(tmp_path / "c", "cityscapes", {"train": 1}, SIZE)
    for root in (tmp_path / "s", tmp_path / "c"):
        image = read_dataset(root).pairs("train")[0].image
        image.with_name(f"._{image.name}").write_bytes(b"macOS")
        assert [pair.image for pair in read_dataset(root).pairs("train")] == [image]


@pytest.mark.parametrize("description", [None, "images: images/{split}\nlabels: labels\nsplits: [train, val]\n"])
def test_splits_never_share_a_label(tmp_path: Path, description: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images/train/0", "images/train/1", "images/val/1"):
        write_image(tmp_path / f"own/{name}.png")
    for index in range(2):
        Image.fromarray(np.array([[0, 1, index + 2]], np.uint8)).save(
            write_image(tmp_path / f"own/labels/{index}.png", "L")
        )
    if description:
        (tmp_path / "own/dataset.yaml").write_text(f"name: own\n{description}classes: [a, b, c, d]\n")
    for split, other in (("train", "val"), ("val", "train")):
        message = rf"{split}/1\.png \({split}\) and .*{other}/1\.png \({other}\) have the same label .*labels/1\.png"
        with pytest.raises(DataError, match=message):
            read_dataset("own").pairs(split)
    with pytest.raises(DataError, match="have the same label"):
        check_dataset(read_dataset("own"))


def test_lists_may_share_images_and_named_labels(tmp_path: Path) -> None:
    fields = "images: images\nlabels: labels\nlist: '{split}.txt'\nsplits: [train, val, trainval]\n"
    (tmp_path / "dataset.yaml").write_text(f"name: own\n{fields}classes: [a, b]\n")
    for name in ("images/a.png", "images/b.png"):
        write_image(tmp_path / name)
    write_image(tmp_path / "labels/a.png", "L")
    (tmp_path / "train.txt").write_text("a.png\n")
    (tmp_path / "trainval.txt").write_text("a.png\nb.png labels/a.png\n")
    (tmp_path / "val.txt").write_text("b.png labels/a.png\n")
    spec = read_dataset(tmp_path)
    assert [len(spec.pairs(split)) for split in ("train", "val", "trainval")] == [1, 1, 2]


@pytest.fixture
def accesses(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return the number of status calls for each file, and of listings of each folder."""
    counts = Counter[str]()

    def count(name: str) -> None:
        call = getattr(os, name)

        def counted(path: str | Path, **options: bool) -> object:
            counts[f"{name} {path}"] += 1
            return call(path, **options)

        monkeypatch.setattr(os, name, counted)

    count("stat")
    count("scandir")
    return counts


def test_files_of_common_folders_are_matched_once(tmp_path: Path, accesses: Counter[str]) -> None:
    fields = "images: images/*.png\nlabels: labels/*.png\nlist: '{split}.txt'\nsplits: [train, val, trainval]\n"
    (tmp_path / "dataset.yaml").write_text(f"name: own\n{fields}classes: [a, b]\n")
    for name in "abcd":
        write_image(tmp_path / f"images/{name}.png")
        write_image(tmp_path / f"labels/{name}.png", "L")
    for split, names in (("train", "abc"), ("val", "d"), ("trainval", "abcd")):
        (tmp_path / f"{split}.txt").write_text("\n".join(names))
    accesses.clear()
    spec = read_dataset(tmp_path)
    assert spec.summary.endswith("images: train 3, val 1, trainval 4")
    assert spec.remarks == ()
    assert [len(load_dataset(spec, split)) for split in ("train", "val", "trainval")] == [3, 1, 4]
    assert {accesses[f"stat {tmp_path}/labels/{name}.png"] for name in "abcd"} == {2}  # train or val, and trainval
    assert accesses[f"stat {tmp_path}/labels"] == 0


@pytest.mark.parametrize(("described", "listings"), [(True, 2), (False, 10)])
def test_shares_list_their_folder_rarely(
    tmp_path: Path, described: bool, listings: int, accesses: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in range(10):
        write_image(tmp_path / f"own/images/{name}.png")
        label = write_image(tmp_path / f"own/labels/{name}.png", "L")
        Image.fromarray(np.array([[0, 1]], np.uint8)).resize((6, 4)).save(label)
    if described:
        read_dataset("own")
    accesses.clear()
    spec = read_dataset("own.dataset.yaml" if described else "own")
    assert sum(len(spec.pairs(split)) for split in ("train", "val")) == 10
    assert "images: train " in spec.summary
    assert sum(accesses[f"scandir own/{folder}"] for folder in ("images", "labels")) == listings
