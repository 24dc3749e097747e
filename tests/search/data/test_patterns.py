"""Patterns of file names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lgc.errors import DataError
from lgc.search.data.description import read_dataset
from lgc.search.data.patterns import FilePattern

from .pictures import write_image

FILES = ("a.png", "b.JPG", "deep/c.png", "deep/er/c.x.png", ".hidden.png", ".hidden/d.png", "notes.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (pattern, FILES[:4])
        for pattern in ("images", "./images/", "images/**", "images/**/*", "images/**/*.*", "images//**/**", "**")
    ]
    + [
        ("images/*", FILES[:2]),
        ("images/*.*", FILES[:2]),
        ("images/./*.png", FILES[:1]),
        ("images/a.*", FILES[:1]),
        ("images/*/c.png", FILES[2:3]),
        ("images/*/*/*", FILES[3:4]),
        ("images/**/c*.png", FILES[2:4]),
        ("images/d**/c.png", FILES[2:3]),
        ("images/.hidden/*", FILES[5:6]),
        ("images/*.txt", FILES[6:]),
        ("images/no/*", ()),
        ("images/a.png/*", ()),
    ],
)
def test_pattern_matches_the_files_it_lists(root: Path, pattern: str, names: tuple[str, ...]) -> None:
    files = FilePattern(root, pattern)
    assert [path.relative_to(root / "images").as_posix() for path in files.list_files()] == list(names)
    assert all(files.match(root / "images" / name) is not None for name in names)


def test_lossless_labels_come_before_jpeg(tmp_path: Path) -> None:
    names = [path.name for path in FilePattern(tmp_path, "labels").fill(("", "a"))]
    assert names[0] == "a.png"
    assert max(map(names.index, ("a.bmp", "a.tif", "a.PNG"))) < min(map(names.index, ("a.jpg", "a.webp", "a.JPEG")))


def test_links_are_followed_but_not_in_circles(root: Path) -> None:
    (root / "images/deep/up").symlink_to(root / "images")
    (root / "images/self").symlink_to("self")
    (root / "images/lost.png").symlink_to("nowhere")
    (root / "images/twin").symlink_to("deep/er")
    names = [path.relative_to(root / "images").as_posix() for path in FilePattern(root, "images").list_files()]
    assert names == [*FILES[:4]]


@pytest.mark.parametrize("unreadable", ["images/train", "images/train/b"])
def test_unreadable_folders_are_refused(tmp_path: Path, unreadable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset.yaml").write_text(
        "name: own\nimages: images/{split}\nlabels: labels/{split}\nsplits: [train]\nclasses: [road, sky]\n"
    )
    for name in ("a/1", "b/2"):
        write_image(tmp_path / f"images/train/{name}.png")
        write_image(tmp_path / f"labels/train/{name}.png", "L")
    list_folder: Callable[[Path], object] = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == tmp_path / unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    spec = read_dataset(tmp_path)
    with pytest.raises(DataError, match=rf"cannot read the folder .*/{unreadable}: Permission denied"):
        spec.pairs("train")


def test_folder_of_labels_suits_images_by_suffix(tmp_path: Path) -> None:
    (texts,) = [FilePattern(tmp_path, "images/*.jpg").match(tmp_path / "images/3.jpg")]
    assert texts is not None
    assert tmp_path / "labels/3.png" in FilePattern(tmp_path, "labels").fill(texts)
