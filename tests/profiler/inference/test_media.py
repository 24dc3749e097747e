"""Listing of images and videos, and the paths of their outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError, UsageError
from lgc.models.images import ignore_remark as ignore
from lgc.profiler.inference.media import list_media


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("a.png", "deep/a.jpg", "deep/er/b.v2.PNG"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    (tmp_path / "photos/notes.txt").write_text("not an image")
    return tmp_path / "photos"


def test_folder_lists_images_recursively(photos, tmp_path):
    media, errors = list_media([photos], tmp_path / "out", ids=True)
    assert errors == {}
    assert [file.stem.relative_to(tmp_path / "out") for file in media] == [
        Path("a"), Path("deep/a"), Path("deep/er/b.v2")
    ]  # fmt: skip
    assert media[1].outputs(True) == {kind: tmp_path / f"out/deep/a-{kind}.png" for kind in ("mask", "overlay", "ids")}
    assert set(media[1].outputs(False)) == {"mask", "overlay"}
    assert media[1].frames == 1
    (pixels,) = media[1].read(print)
    assert pixels.shape == (8, 8, 3)


def test_outputs_inside_a_source_are_skipped(photos):
    out = photos / "predicted"
    out.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out / "a-mask.png")
    media, _ = list_media([photos], out, ids=False)
    assert len(media) == 3


def test_photos_in_output_folder_are_reported(photos, tmp_path):
    lines = list[str]()
    for name in ("a-mask.png", "legend.png"):
        (photos / "deep" / name).write_bytes((photos / "a.png").read_bytes())
    media, _ = list_media([photos], photos / "deep", ids=False, log=lines.append)
    assert [file.path for file in media] == [photos / "a.png"]
    assert lines[0] == f"skipped in folder {photos}, in the output folder: 2 in deep/, deep/er/, e.g. deep/a.jpg"
    (photos / "a.png").unlink()
    with pytest.raises(DataError, match=r"all images in folder .* are in the output folder"):
        list_media([photos], photos / "deep", ids=False)


def test_linked_folders_are_listed(photos, tmp_path):
    linked, out = tmp_path / "linked", tmp_path / "out"
    (linked / "old").mkdir(parents=True)
    (linked / "day1").symlink_to(photos / "deep")
    (linked / "out").symlink_to(out)
    (linked / "gone").symlink_to(tmp_path / "missing")
    out.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out / "a-mask.png")
    media, errors = list_media([linked], out, ids=False, log=ignore)
    assert [str(file.stem.relative_to(out)) for file in media] == ["day1/a", "day1/er/b.v2"]
    assert errors == {linked / "gone": f"cannot read {linked}/gone: broken link to {tmp_path}/missing"}


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("images/1.png", "Masks/1.png", "labels/x/1.png"), ["images/1.png"]),
        (("a/train/1.png", "a/trainannot/1.png", "a/val_labels/1.png"), ["a/train/1.png", "a/val_labels/1.png"]),
        (("masks/1.png", "annot/1.png"), ["annot/1.png", "masks/1.png"]),
    ],
)
def test_folders_of_labels_are_skipped(tmp_path, names, images):
    folder, lines = tmp_path / "data", list[str]()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    media, _ = list_media([folder], tmp_path / "out", ids=False, log=lines.append)
    assert [str(file.path.relative_to(folder)) for file in media] == images
    assert [f"skipped in folder {folder}, labels: " in line for line in lines] == [True] * (len(names) > len(images))


def test_only_images_of_a_dataset_are_listed(photos, tmp_path):
    lines = list[str]()
    media, _ = list_media(
        [photos], tmp_path / "out", ids=False, datasets={photos: {photos / "deep/a.jpg"}}, log=lines.append
    )
    assert [file.path for file in media] == [photos / "deep/a.jpg"]
    assert f"skipped in folder {photos}, not its images: 2 in ./, deep/er/, e.g. a.png" in lines


def test_outputs_among_a_datasets_images_are_skipped(photos, tmp_path):
    out = photos / "deep/out"
    out.mkdir()
    Image.new("RGB", (4, 4)).save(out / "a-mask.png")
    datasets = {photos: {photos / "deep/a.jpg", out / "a-mask.png"}}
    media, _ = list_media([photos], out, ids=False, datasets=datasets, log=[].append)
    assert [file.path for file in media] == [photos / "deep/a.jpg"]


def test_folder_of_labels_is_segmented_by_name(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "masks/1.png")
    assert len(list_media([tmp_path / "masks"], tmp_path / "out", ids=False)[0]) == 1
    with pytest.raises(DataError, match="has labels only"):
        list_media([tmp_path], tmp_path / "out", ids=False, log=ignore)


def test_shared_and_overwritten_outputs_are_rejected(photos, tmp_path):
    (tmp_path / "a.png").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(UsageError, match="have the same output files"):
        list_media([photos, tmp_path / "a.png"], tmp_path / "out", ids=False)
    nested = tmp_path / "out" / "deep" / "a-mask.png"
    nested.parent.mkdir(parents=True)
    nested.write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(UsageError, match="would overwrite an input"):
        list_media([photos, nested], tmp_path / "out", ids=False)


def test_outputs_beside_inputs_are_rejected(photos):
    for source in (photos, photos / "a.png"):
        with pytest.raises(UsageError, match="holds the input images: choose another folder"):
            list_media([source], photos, ids=False)


def test_neither_image_nor_video_is_rejected(tmp_path):
    (tmp_path / "notes.doc").write_text("text")
    with pytest.raises(DataError, match=r"suffixes of videos: \.mp4"):
        list_media([tmp_path / "notes.doc"], tmp_path / "out", ids=False)
    with pytest.raises(DataError, match="no such file"):
        list_media([tmp_path / "missing"], tmp_path / "out", ids=False)


def test_unreadable_files_are_listed(photos, tmp_path):
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("text")
    media, errors = list_media([photos], tmp_path / "out", ids=False, log=ignore)
    assert len(media) == 3
    assert list(errors) == [photos / "empty.png", photos / "text.jpg"]
    assert errors[photos / "empty.png"].endswith("empty.png: it is an empty file")


def test_only_unreadable_files_are_an_error(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").touch()
    lines: list[str] = []
    with pytest.raises(DataError, match="none of the 2 input files is readable"):
        list_media([tmp_path], tmp_path / "out", ids=False, log=lines.append)
    assert len(lines) == 2
    with pytest.raises(DataError, match=r"a\.png: it is an empty file"):
        list_media([tmp_path / "a.png"], tmp_path / "out", ids=False)


def test_skipped_files_are_reported(photos, tmp_path):
    lines: list[str] = []
    (photos / "b.TXT").touch()
    (photos / "Thumbs.db").touch()
    list_media([photos], tmp_path / "out", ids=False, log=lines.append)
    assert lines == [f"skipped in folder {photos}, not images: 2 x .txt"]
    (photos / "drive.mp4").touch()
    list_media([photos], tmp_path / "out", ids=False, log=lines.append)
    assert lines[1].endswith("1 x .mp4, 2 x .txt; give videos by name")
    (photos / "IMG_1.HEIC").touch()
    list_media([photos], tmp_path / "out", ids=False, log=lines.append)
    assert "not read: 1 x .heic, 1 x .mp4" in lines[2]
    assert lines[2].endswith("; .heic: convert them to JPEG or PNG")


def test_folder_of_videos_advises_naming_them(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.MP4").write_bytes(b"")
    with pytest.raises(DataError, match=r"no images in folder .*, only videos: give them by name"):
        list_media([tmp_path / "clips"], tmp_path / "out", ids=False)
