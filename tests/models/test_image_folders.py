"""Listing of folders of images, and label maps among them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.models.image_folders import describe_files, find_labels, list_folder, list_images, resolve_files

PHOTO = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, (4, 6), np.uint8).repeat(8, 0).repeat(8, 1)


def write(folder, *names, pixels=PHOTO, palette=None):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        if palette:
            image.putpalette(palette)
        image.save(folder / name)


class TestListing:
    """Files by their extensions."""

    def test_visible_images_are_listed(self, tmp_path):
        names = [
            "b.png",
            "deep/a.JPG",
            "notes.txt",
            "._b.png",
            ".DS_Store",
            "Thumbs.db",
            ".git/c.png",
            "__MACOSX/b.png",
        ]
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "z.png").symlink_to(tmp_path / "missing.png")
        listing = list_folder(tmp_path)
        assert listing.images == [tmp_path / "b.png", tmp_path / "deep/a.JPG", tmp_path / "z.png"]
        assert listing.others == [tmp_path / "notes.txt"]
        assert listing.errors == {}

    def test_links_are_followed_but_no_loops(self, tmp_path):
        photos, camera = tmp_path / "photos", tmp_path / "camera"
        write(photos, "a.png")
        write(camera, "b.png", "roll/c.png")
        (photos / "day1").symlink_to(camera)
        (photos / "day2").symlink_to(camera / "roll")
        (photos / "self").symlink_to(photos)
        (camera / "back").symlink_to(photos)
        names = ["a.png", "day1/b.png", "day1/roll/c.png"]
        assert [str(path.relative_to(photos)) for path in list_images(photos)] == names

    def test_files_behind_links_are_listed_once(self, tmp_path):
        write(tmp_path / "own", "day5/1.png", "day6/1.png")
        write(tmp_path / "store", "x.png", "2.png")
        (tmp_path / "linked").symlink_to("own")
        for name, target in {
            "best": "day5",
            "day7/1.png": "../day6/1.png",
            "a/1.png": "../../store/x.png",
            "b/1.png": "../../store/x.png",
            "a/2.png": "../../store/2.png",
            "b/2.png": "../../store/2.png",
        }.items():
            (tmp_path / "own" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "own" / name).symlink_to(target)
        for root in (tmp_path / "own", tmp_path / "linked"):
            names = [str(path.relative_to(root)) for path in list_images(root)]
            assert names == ["a/1.png", "a/2.png", "b/1.png", "day5/1.png", "day6/1.png"]

    def test_only_links_are_resolved(self, tmp_path, monkeypatch):
        write(tmp_path, "a/1.png", "b/1.png")
        (tmp_path / "b/2.png").symlink_to("1.png")
        resolved, realpath = [], os.path.realpath
        monkeypatch.setattr(os.path, "realpath", lambda path: (resolved.append(Path(path)), realpath(path))[1])
        real = resolve_files(tmp_path / name for name in ("a/1.png", "b/1.png", "b/2.png"))
        root = Path(realpath(tmp_path))
        assert [*real.values()] == [root / "a/1.png", root / "b/1.png", root / "b/1.png"]
        assert resolved == [tmp_path / "a", tmp_path / "b", tmp_path / "b/2.png"]

    def test_unreadable_folders_are_errors(self, tmp_path, monkeypatch):
        write(tmp_path, "a.png", "deep/b.png", "locked/c.png")
        (tmp_path / "gone").symlink_to("/nowhere/photos")
        scandir = os.scandir

        def refuse(folder):
            if Path(folder).name == "locked":
                raise PermissionError(13, "Permission denied")
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", refuse)
        listing = list_folder(tmp_path)
        assert listing.images == [tmp_path / "a.png", tmp_path / "deep/b.png"]
        assert listing.errors == {
            tmp_path / "gone": f"cannot read {tmp_path}/gone: broken link to /nowhere/photos",
            tmp_path / "locked": f"cannot read the folder {tmp_path}/locked: Permission denied",
        }
        with pytest.raises(DataError, match=r"cannot read the folder .*locked: Permission denied"):
            list_images(tmp_path)
        with pytest.raises(DataError, match=r"cannot read the folder .*locked: Permission denied"):
            list_folder(tmp_path / "locked").require_images()

    def test_broken_links_to_no_image_are_remarked(self, tmp_path):
        write(tmp_path, "a.png")
        (tmp_path / "notes.txt").symlink_to("/nowhere/notes.txt")
        remarks: list[str] = []
        assert list_images(tmp_path, remarks.append) == [tmp_path / "a.png"]
        assert remarks == [f"cannot read {tmp_path}/notes.txt: broken link to /nowhere/notes.txt"]

    def test_missing_and_empty_folders(self, tmp_path):
        with pytest.raises(DataError, match="no such file or folder"):
            list_images(tmp_path / "missing")
        with pytest.raises(DataError, match=r"no images in folder .*\.png"):
            list_images(tmp_path)


class TestLabels:
    """Label maps by the names of folders and by content."""

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            (["JPEGImages/1.jpg", "JPEGImages/2.jpg"], ["SegmentationClass/1.png", "SegmentationObject/2.png"]),
            (["x.jpg", "y.jpg"], ["x_mask.png", "y_mask.png"]),
            (["x.png"], ["gt_x.png"]),
            (["x.jpg"], ["x.png"]),
            (["x.jpg"], ["x_mask.jpg"]),
            (["a/x.jpg"], ["b/x_0.png", "b/x_1.png"]),
            (["images/x.png", "z.png"], ["Masks/other.png"]),
        ],
    )
    def test_label_maps_are_recognised(self, tmp_path, images, labels):
        write(tmp_path, *images)
        write(tmp_path, *labels, pixels=LABELS * 100, palette=None)
        paths = list_images(tmp_path)
        assert find_labels(tmp_path, paths) == sorted(tmp_path / name for name in labels)

    def test_palettes_and_colours_are_recognised(self, tmp_path):
        write(tmp_path, "a/1.jpg")
        write(tmp_path, "b/1.png", pixels=LABELS, palette=[0, 0, 0, 200, 0, 0, 0, 200, 0])
        write(tmp_path, "c/1.png", pixels=np.array([[0, 0, 0], [9, 0, 200], [255, 255, 255]], np.uint8)[LABELS])
        write(tmp_path, "d/1.png", pixels=LABELS.astype(np.uint16) * 1000)
        assert find_labels(tmp_path, list_images(tmp_path)) == [tmp_path / f"{name}/1.png" for name in "bcd"]

    @pytest.mark.parametrize(
        "pixels",
        [PHOTO, PHOTO[..., 0], PHOTO // 8 * 8, np.linspace(0, 255, 32 * 48).reshape(48, 32).T.astype(np.uint8)],
    )
    def test_photographs_with_equal_names_stay(self, tmp_path, pixels):
        write(tmp_path, "rgb/1.jpg", "rgb/2.jpg")
        write(tmp_path, "thermal/1.png", "thermal/2_edited.png", "rgb/1-2.png", pixels=pixels)
        assert find_labels(tmp_path, list_images(tmp_path)) == []

    def test_flat_images_alone_stay(self, tmp_path):
        write(tmp_path, "a/1.png", "b/1.png", "b/1_mask.png", pixels=LABELS)
        write(tmp_path, "c/2.png")
        assert find_labels(tmp_path, list_images(tmp_path)) == []

    def test_damaged_files_stay(self, tmp_path):
        write(tmp_path, "a/1.jpg")
        write(tmp_path, "b/2.png", pixels=LABELS)
        for name in ("b/1.png", "a/2.png"):
            (tmp_path / name).write_text("text")
        assert find_labels(tmp_path, list_images(tmp_path)) == []


def test_description_counts_files_and_folders(tmp_path):
    files = [tmp_path / f"{name}/1.png" for name in "abcdef"]
    assert describe_files(tmp_path, files) == "6 in a/, b/, c/, d/ and 2 more, e.g. a/1.png"
    assert describe_files(tmp_path, [tmp_path / "x_mask.png"]) == "1 in ./, e.g. x_mask.png"
