"""Scenes on disk: contents, resuming, extending and rejected folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.errors import OutputError, UnknownNameError, UsageError
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.labels import IGNORE, TRAIN_ID_TO_CAMVID
from lgc.search.data.synthetic import writers
from lgc.search.data.synthetic.scenes import Scene, generate_scene
from lgc.search.data.synthetic.writers import FOUR_CLASSES, SCENE_FORMATS, write_scenes

SIZE = (32, 48)
COUNTS = {"train": 3, "val": 2, "test": 1}


def _snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(root.rglob("*.png"))
        if p.is_file()
    }


TRAIN_ID_TO_FOUR = np.array([0] * 2 + [1] * 6 + [2] * 3 + [3] * 8 + [IGNORE] * 237)
EXPECTED = {4: TRAIN_ID_TO_FOUR, 11: TRAIN_ID_TO_CAMVID, 19: np.arange(256)}
"""Number of classes -> class of each train id."""


@pytest.mark.parametrize("layout", SCENE_FORMATS)
def test_loader_reads_the_written_scenes(tmp_path: Path, layout: str) -> None:
    done = write_scenes(tmp_path / "d", layout, COUNTS, SIZE, seed=5)
    assert (done.written, done.kept) == (6, 0)
    assert read_dataset(done.directory).name == layout
    for index, (split, count) in enumerate(COUNTS.items()):
        data = load_dataset(done.directory, split)
        assert len(data) == count
        assert data.name == layout
        for number in range(count):
            scene = generate_scene(5, index * 1_000_000 + number, SIZE)
            expected = EXPECTED[data.num_classes][scene.label]
            image, label = data[number]
            assert np.array_equal(label.numpy(), expected)
            assert np.array_equal(np.asarray(Image.open(data.pairs[number].image)), scene.image)
            assert image.shape == (3, *SIZE)


def test_description_gathers_label_values(tmp_path: Path) -> None:
    write_scenes(tmp_path / "d", FOUR_CLASSES, {"train": 2}, SIZE)
    spec = read_dataset(tmp_path / "d")
    assert spec.classes == ("street", "construction", "nature", "traffic")
    with Image.open(spec.pairs("train")[0].label) as label:
        assert np.asarray(label).max() > 3, "train ids"


def test_label_files_match_the_real_ones(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", "camvid-segnet", {"train": 1}, SIZE)
    write_scenes(tmp_path / "o", "camvid", {"train": 1}, SIZE)
    write_scenes(tmp_path / "c", "cityscapes", {"train": 1}, SIZE)
    with (
        Image.open(next((tmp_path / "s/CamVid/trainannot").glob("*.png"))) as segnet,
        Image.open(next((tmp_path / "o/LabeledApproved_full").glob("*_L.png"))) as original,
        Image.open(next((tmp_path / "c/gtFine/train").glob("*/*_gtFine_labelIds.png"))) as city,
    ):
        assert (segnet.mode, original.mode, city.mode) == ("L", "RGB", "L")
        assert np.asarray(segnet).max() <= 11
        assert np.asarray(city).max() <= 33
    assert next((tmp_path / "c/leftImg8bit/train").glob("*/*_leftImg8bit.png")).is_file()


@pytest.mark.parametrize("layout", SCENE_FORMATS)
def test_interrupted_call_resumes(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path / "whole", layout, COUNTS, SIZE)
    calls = 0

    def interrupted(seed: int, index: int, size: tuple[int, int]) -> Scene:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return generate_scene(seed, index, size)

    with monkeypatch.context() as patch:
        patch.setattr(writers, "generate_scene", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path / "cut", layout, COUNTS, SIZE)
    before = _snapshot(tmp_path / "cut")
    assert len(before) == 6
    done = write_scenes(tmp_path / "cut", layout, COUNTS, SIZE)
    after = _snapshot(tmp_path / "cut")
    assert (done.written, done.kept) == (3, 3)
    assert {name: after[name] for name in before} == before
    assert {n: c for n, (c, _) in after.items()} == {n: c for n, (c, _) in _snapshot(tmp_path / "whole").items()}


def test_lost_label_is_written_again(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid-segnet", {"train": 2}, SIZE)
    before = _snapshot(tmp_path)
    lost = sorted((tmp_path / "CamVid/trainannot").glob("*.png"))[1]
    lost.unlink()
    done = write_scenes(tmp_path, "camvid-segnet", {"train": 2}, SIZE)
    after = _snapshot(tmp_path)
    assert (done.written, done.kept) == (1, 1)
    assert after[str(lost.relative_to(tmp_path))][0] == before[str(lost.relative_to(tmp_path))][0]
    unchanged = [name for name in before if name != str(lost.relative_to(tmp_path))]
    assert all(after[name] == before[name] for name in unchanged)


def test_failed_write_leaves_no_final_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"\x89PNG half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", torn)
        with pytest.raises(OutputError, match="No space left on device"):
            write_scenes(tmp_path, "camvid", {"train": 1}, SIZE)
    assert _snapshot(tmp_path) == {}
    write_scenes(tmp_path, "camvid", {"train": 1}, SIZE)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]
    assert len(load_dataset(tmp_path, "train")) == 1


def test_larger_counts_add_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid-lists", {"train": 2, "val": 1}, SIZE)
    before = _snapshot(tmp_path)
    done = write_scenes(tmp_path, "camvid-lists", {"train": 4, "val": 1}, SIZE)
    after = _snapshot(tmp_path)
    assert (done.written, done.kept) == (2, 3)
    assert {name: after[name] for name in before} == before
    assert len(load_dataset(tmp_path, "train")) == 4


@pytest.mark.parametrize(
    ("layout", "counts", "size", "seed"),
    [
        ("camvid", {"train": 2}, SIZE, 0),
        ("camvid-segnet", {"train": 2}, (48, 48), 0),
        ("camvid-segnet", {"train": 2}, SIZE, 1),
        ("camvid-segnet", {"train": 1}, SIZE, 0),
    ],
)
def test_different_settings_are_rejected(
    tmp_path: Path, layout: str, counts: dict[str, int], size: tuple[int, int], seed: int
) -> None:
    write_scenes(tmp_path, "camvid-segnet", {"train": 2}, SIZE)
    before = _snapshot(tmp_path)
    with pytest.raises(OutputError, match="choose another folder"):
        write_scenes(tmp_path, layout, counts, size, seed)
    assert _snapshot(tmp_path) == before


def test_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is not empty"):
        write_scenes(tmp_path, "camvid", COUNTS, SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_file_as_output_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        write_scenes(path, "camvid", COUNTS, SIZE)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"counts": 3}', '{"counts": {"train": "x"}}', "\udcff"])
def test_invalid_marker_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "scenes.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match=r"scenes\.json was not written by lgc-scenes"):
        write_scenes(tmp_path, "camvid", COUNTS, SIZE)


def test_marker_records_the_settings(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid", {"val": 1}, SIZE, seed=9)
    marker = json.loads((tmp_path / "scenes.json").read_text())
    assert marker["layout"] == "camvid"
    assert marker["size"] == list(SIZE)
    assert marker["seed"] == 9
    assert marker["counts"] == {"train": 0, "val": 1, "test": 0}


@pytest.mark.parametrize(
    ("layout", "counts", "size", "error", "says"),
    [
        ("camvid-segnet", {"train": -1}, SIZE, UsageError, "train images"),
        ("camvid-segnet", {"train": 0}, SIZE, UsageError, "no images"),
        ("camvid-segnet", {"train": 1}, (8, 8), UsageError, "too small"),
        ("camvid-segnet", {"trian": 1}, SIZE, UnknownNameError, "did you mean 'train'"),
        ("camvids", {"train": 1}, SIZE, UnknownNameError, "unknown layout 'camvids'"),
    ],
)
def test_invalid_calls_write_nothing(
    tmp_path: Path, layout: str, counts: dict[str, int], size: tuple[int, int], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        write_scenes(tmp_path / "new", layout, counts, size)
    assert not (tmp_path / "new").exists()


def test_progress_is_called_per_image(tmp_path: Path) -> None:
    ticks: list[int] = []
    write_scenes(tmp_path, "camvid", COUNTS, SIZE, progress=lambda: ticks.append(1))
    assert len(ticks) == 6


def test_void_pixels_in_every_layout(tmp_path: Path) -> None:
    index = next(i for i in range(30) if (generate_scene(0, i, SIZE).label == IGNORE).mean() > 0.02)
    void = generate_scene(0, index, SIZE).label == IGNORE
    raw = {"camvid-segnet": 11, "camvid": (0, 0, 0), "camvid-lists": 11, "cityscapes": 0}
    for layout, value in raw.items():
        write_scenes(tmp_path / layout, layout, {"train": index + 1}, SIZE)
        data = load_dataset(tmp_path / layout, "train")
        assert np.array_equal(data[index][1].numpy() == IGNORE, void)
        assert (np.asarray(Image.open(data.pairs[index].label))[void] == value).all()
