"""Images and labels are paired by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lgc.errors import DataError
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
