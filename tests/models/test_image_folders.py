"""Listing of folders of images, and label maps among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.models.image_folders import describe_files, list_folder, list_images

PHOTO = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


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
        names = ["a.png", "day1/b.png", "day1/roll/c.png", "day2/c.png"]
        assert [str(path.relative_to(photos)) for path in list_images(photos)] == names

    def test_unreadable_folders_are_errors(self, tmp_path, monkeypatch):
        write(tmp_path, "a.png", "deep/b.png", "locked/c.png")
        (tmp_path / "gone").symlink_to("/nowhere/photos")
        iterdir = Path.iterdir

        def refuse(folder):
            if folder.name == "locked":
                raise PermissionError(13, "Permission denied")
            return iterdir(folder)

        monkeypatch.setattr(Path, "iterdir", refuse)
        listing = list_folder(tmp_path)
        assert listing.images == [tmp_path / "a.png", tmp_path / "deep/b.png"]
        assert listing.errors == {
            tmp_path / "gone": f"cannot read {tmp_path}/gone: broken link to /nowhere/photos",
            tmp_path / "locked": f"cannot read folder {tmp_path}/locked: Permission denied",
        }
        with pytest.raises(DataError, match="gone: broken link"):
            list_images(tmp_path)
        with pytest.raises(DataError, match=r"cannot read folder .*locked: Permission denied"):
            list_folder(tmp_path / "locked").require_images()

    def test_missing_and_empty_folders(self, tmp_path):
        with pytest.raises(DataError, match="no such file or folder"):
            list_images(tmp_path / "missing")
        with pytest.raises(DataError, match=r"no images in folder .*\.png"):
            list_images(tmp_path)


def test_description_counts_files_and_folders(tmp_path):
    files = [tmp_path / f"{name}/1.png" for name in "abcdef"]
    assert describe_files(tmp_path, files) == "6 in a/, b/, c/, d/ and 2 more, e.g. a/1.png"
    assert describe_files(tmp_path, [tmp_path / "x_mask.png"]) == "1 in ./, e.g. x_mask.png"
