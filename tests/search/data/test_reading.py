"""Valid labels are read, damaged and invalid files reported."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lgc.errors import DataError
from lgc.search.data.codings.coding import Coding
from lgc.search.data.codings.raw import read_raw_label
from lgc.search.data.datasets import load_dataset
from lgc.search.data.reading import read_label
from lgc.search.data.synthetic.writers import write_scenes

SIZE = (32, 48)


@pytest.fixture
def sample(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return folder, image and label of a dataset with one image."""
    write_scenes(tmp_path, "camvid-segnet", {"train": 1}, SIZE)
    pair = load_dataset(tmp_path, "train").pairs[0]
    return tmp_path, pair.image, pair.label


@pytest.mark.parametrize("coded", ["palette", "sixteen bits"])
def test_palette_and_16_bit_labels(sample: tuple[Path, Path, Path], coded: str) -> None:
    root, _, label = sample
    before = load_dataset(root, "train")[0][1]
    values = np.asarray(Image.open(label))
    if coded == "palette":
        file = Image.fromarray(values)
        file.putpalette([i // 3 for i in range(768)])
    else:
        file = Image.fromarray(values.astype(np.uint16))
    file.save(label)
    assert torch.equal(load_dataset(root, "train")[0][1], before)


def test_train_ids_are_classes(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    data = load_dataset(tmp_path, "train")
    expected = data[0][1]
    path = data.pairs[0].label
    Image.fromarray(expected.numpy().astype(np.uint8)).save(path.with_name(path.name.replace("Ids", "TrainIds")))
    path.unlink()
    assert torch.equal(load_dataset(tmp_path, "train")[0][1], expected)


@pytest.mark.parametrize("value", [12, 77, 254])
def test_invalid_camvid_index_is_reported(sample: tuple[Path, Path, Path], value: int) -> None:
    root, _, label = sample
    values = np.array(Image.open(label))
    values[3, 4] = value
    Image.fromarray(values).save(label)
    data = load_dataset(root, "train")
    with pytest.raises(DataError, match=rf"scene_000000\.png contains the value {value}, expected CamVid"):
        data[0]


@pytest.mark.parametrize(("kind", "value"), [("labelIds", 34), ("labelTrainIds", 19)])
def test_invalid_cityscapes_id_is_reported(tmp_path: Path, kind: str, value: int) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    path = load_dataset(tmp_path, "train").pairs[0].label
    path.unlink()
    Image.new("L", SIZE[::-1], value).save(path.with_name(path.name.replace("labelIds", kind)))
    with pytest.raises(DataError, match=f"{kind}.png contains the value {value}"):
        load_dataset(tmp_path, "train")[0]


def test_invalid_camvid_colour_is_reported(sample: tuple[Path, Path, Path]) -> None:
    root, _, label = sample
    Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(label)
    with pytest.raises(DataError, match=r"contains the colour \(1, 2, 3\), expected .* CamVid's 32 colours"):
        load_dataset(root, "train")[0]


def test_rgb_cityscapes_label_is_rejected(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    Image.new("RGB", SIZE[::-1]).save(load_dataset(tmp_path, "train").pairs[0].label)
    with pytest.raises(DataError, match="is an image of mode RGB, expected Cityscapes label ids"):
        load_dataset(tmp_path, "train")[0]


def write_png(path: Path, values: npt.NDArray[np.integer], colour_type: int) -> None:
    """Write a PNG file of 16 bits per channel, [H, W, channels]."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks)
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colours_are_refused(tmp_path: Path, colour_type: int, channels: int) -> None:
    pixels = np.full((1, 4, channels), 65535)
    pixels[..., : channels - (channels % 2 == 0)] = np.array([0, 1, 24001, 24002])[:, None]
    write_png(tmp_path / "a.png", pixels, colour_type)
    with pytest.raises(DataError, match=r"a\.png: its channels have not 8 bits each"):
        read_raw_label(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.gif"])
def test_several_pages_are_refused(tmp_path: Path, name: str) -> None:
    pages = [Image.fromarray(np.array([[0, page]], np.uint8)) for page in (1, 2, 3)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=rf"cannot read label .*{name}: it has 3 pages or frames"):
        read_raw_label(tmp_path / name)


@pytest.mark.parametrize("maximum", [3, 255, 1000, 65535])
def test_grey_maximum_does_not_spread_values(tmp_path: Path, maximum: int) -> None:
    values = np.array([0, 1, 2, 3], np.uint8 if maximum < 256 else ">u2")
    (tmp_path / "a.ppm").write_bytes(b"P5 4 1 %d\n" % maximum + values.tobytes())
    assert read_raw_label(tmp_path / "a.ppm").values.tolist() == [[0, 1, 2, 3]]
    if maximum != 255:
        (tmp_path / "b.ppm").write_bytes(b"P6 1 1 %d\n" % maximum + values[:3].tobytes())
        with pytest.raises(DataError, match="its channels have not 8 bits each"):
            read_raw_label(tmp_path / "b.ppm")


def test_negative_values_are_unknown(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, -1]], np.int32)).save(tmp_path / "a.tif")
    coding = Coding("label values 0-1", {0: 0, 1: 1, 255: 255}, {0: 0, 0xFFFFFF: 1})
    with pytest.raises(DataError, match=r"a\.tif contains the value -1, expected label values 0-1"):
        read_label(tmp_path / "a.tif", coding)


@pytest.mark.parametrize("which", [1, 2])
def test_text_file_is_reported(sample: tuple[Path, Path, Path], which: int) -> None:
    path = sample[which]
    assert isinstance(path, Path)
    path.write_text("no pixels here")
    with pytest.raises(DataError, match="cannot read image") as caught:
        load_dataset(sample[0], "train")[0]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.85])
def test_truncated_file_is_reported(sample: tuple[Path, Path, Path], which: int, keep: float) -> None:
    path = sample[which]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"truncated or damaged|not an image") as caught:
        load_dataset(sample[0], "train")[0]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deleted_file_is_reported(sample: tuple[Path, Path, Path]) -> None:
    root, image, _ = sample
    data = load_dataset(root, "train")
    image.unlink()
    with pytest.raises(DataError, match="no such file"):
        data[0]


@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_flipped_bit_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, where: int, bit: int) -> None:
    root = tmp_path_factory.mktemp("bit")
    write_scenes(root, "camvid-segnet", {"train": 1}, SIZE)
    data = load_dataset(root, "train")
    path = data.pairs[0].label
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= 1 << bit
    path.write_bytes(content)
    problem = ""
    try:
        _, label = data[0]
    except DataError as error:
        problem = str(error)
    if problem:
        assert str(path) in problem
    else:
        assert label.shape == SIZE
        assert set(label.unique().tolist()) <= {*range(11), 255}
