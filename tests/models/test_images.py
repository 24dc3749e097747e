"""Images with EXIF rotation, unusual modes and damage."""

from __future__ import annotations

import struct
import zlib
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lgc.errors import DataError, UsageError
from lgc.models.images import (
    MAX_PIXELS_VARIABLE,
    Normalisation,
    check_image,
    decode_image,
    normalise_image,
    read_header,
    read_pixels,
    read_size,
)

UPRIGHT = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [9, 9, 9], [255, 255, 255]]], np.uint8)


def test_exif_rotation_is_applied(tmp_path):
    turned = Image.fromarray(np.rot90(UPRIGHT, 1))
    exif = turned.getexif()
    exif[0x0112] = 6  # display rotated clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_pixels(tmp_path / "a.png"), UPRIGHT)


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_header_has_the_orientation(tmp_path, suffix, is_late):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(UPRIGHT).save(path, exif=exif)
    if is_late and suffix == "png":  # as some programs write it: behind the pixels
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    header = read_header(path)
    assert (header.size, header.orientation, header.frames, header.bits) == ((3, 2), 6, 1, 8)
    assert read_size(path) == read_pixels(path).shape[:2] == (3, 2)


def test_header_has_frames_and_bits(tmp_path):
    pages = [Image.fromarray(UPRIGHT)] * 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(tmp_path / "b.png")
    headers = [read_header(tmp_path / name) for name in ("a.tif", "b.png")]
    assert [(header.frames, header.channels, header.bits) for header in headers] == [(2, 3, 8), (1, 1, 16)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_byte_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(UPRIGHT).convert(mode).save(path)
    pixels = read_pixels(path)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 3), np.uint8)


def test_16_bit_image_is_rejected(tmp_path):
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "depth.png")
    with pytest.raises(DataError, match=r"depth.png: mode I;16; convert it to 8 bits per channel"):
        read_pixels(tmp_path / "depth.png")


def test_header_check_and_damage(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("hello")
    check_image(tmp_path / "half.png")
    with pytest.raises(DataError, match=r"cannot read image .*half.png: truncated or damaged"):
        read_pixels(tmp_path / "half.png")
    with pytest.raises(DataError, match=r"cannot read image .*text.png: it is text that begins with 'hello'"):
        check_image(tmp_path / "text.png")
    with pytest.raises(DataError, match="no such file"):
        check_image(tmp_path / "missing.png")


def test_errors_name_the_content(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("empty", "it is an empty file"), ("head", "truncated or damaged"), ("folder", "Is a directory"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=rf"cannot read image .*{name}\.png: {reason}"):
            check_image(tmp_path / f"{name}.png")


def test_ending_does_not_matter(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "a.jpg", "PNG")
    assert np.array_equal(read_pixels(tmp_path / "a.jpg"), UPRIGHT)


def read_with_remarks(path) -> tuple[np.ndarray, list[str]]:
    remarks: list[str] = []
    return read_pixels(path, on_remark=remarks.append), remarks


@pytest.mark.parametrize(
    ("bands", "bits", "form", "text"),
    [
        (5, 8, 1, "5 bands of 8-bit samples"),
        (3, 32, 3, "3 bands of 32-bit float"),
        (1, 64, 3, "1 band of 64-bit float"),
    ],
)
@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_unknown_bands_of_tiff_are_named(tmp_path, bands, bits, form, text, order):
    tags = ImageFileDirectory_v2(order + (b"*\0\0\0\0\0" if order == b"II" else b"\0*\0\0\0\0"))
    values = {256: 2, 257: 2, 258: (bits,) * bands, 259: 1, 262: 1, 277: bands, 339: (form,) * bands}
    for tag, value in {**values, 273: 8, 279: bands * bits // 2}.items():
        tags[tag] = value
    with (tmp_path / "a.tif").open("wb") as file:
        tags.save(file)
        file.write(bytes(bands * bits // 2))
    with pytest.raises(DataError, match=rf"a\.tif: it is a TIFF image with {text}.*: save it with 1 or 3 bands of 8"):
        read_pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_first_frame_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    pixels, remarks = read_with_remarks(tmp_path / f"a.{suffix}")
    assert (pixels == (255, 0, 0)).all()
    assert remarks == ["the first of 3 frames or pages is used"]


def test_transparency_is_ignored_with_a_remark(tmp_path):
    colour = Image.fromarray(UPRIGHT)
    for mode in ("RGBA", "LA", "P"):
        image = colour.convert("P" if mode == "P" else mode)
        if mode == "P":
            image.info["transparency"] = bytes([0, 128])
        else:
            image.putalpha(Image.fromarray(np.array([[0, 255, 255]] * 2, np.uint8)))
        image.save(tmp_path / f"{mode}.png")
        pixels, remarks = read_with_remarks(tmp_path / f"{mode}.png")
        assert remarks == ["transparency is ignored"], mode
        assert np.array_equal(pixels, np.asarray(colour.convert("L" if mode == "LA" else mode).convert("RGB")))
    colour.convert("RGBA").save(tmp_path / "opaque.png")
    assert read_with_remarks(tmp_path / "opaque.png")[1] == []


@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
def test_orientation_of_other_formats(tmp_path, suffix):
    image = Image.new("RGB", (8, 16), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    assert decode_image(tmp_path / f"a.{suffix}").size == (16, 8)
    assert read_pixels(tmp_path / f"a.{suffix}").shape == (8, 16, 3)


def test_damaged_exif_keeps_the_pixels(tmp_path):
    Image.new("RGB", (8, 16), "red").save(tmp_path / "a.png", exif=b"Exif\0\0" + b"not a TIFF header")
    pixels, remarks = read_with_remarks(tmp_path / "a.png")
    assert pixels.shape == (16, 8, 3)
    assert remarks == ["damaged EXIF data: the image is not rotated"]


def test_warnings_of_the_decoder_are_silent(tmp_path):
    """Warnings are errors in these tests; Pillow warns of truncated EXIF data."""
    truncated = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0"
    Image.new("RGB", (8, 16), "red").save(tmp_path / "a.jpg", exif=truncated)
    assert read_pixels(tmp_path / "a.jpg").shape == (16, 8, 3)


def test_warning_filters_change_once(tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "a.png")
    read_pixels(tmp_path / "a.png")
    with mock.patch("warnings.filterwarnings") as change:
        read_pixels(tmp_path / "a.png")
    change.assert_not_called()


class TestPixelLimit:
    """Images above Pillow's limits."""

    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    def test_large_image_is_called_large(self, tmp_path):
        Image.new("L", (30, 10)).save(tmp_path / "a.png")
        for function in (check_image, read_pixels):
            with pytest.raises(DataError, match=r"a\.png: too large: 300 pixels \(set LGC_MAX_PIXELS=300"):
                function(tmp_path / "a.png")

    def test_image_below_the_limit_warns_not(self, tmp_path):
        """Pillow warns above half of its limit."""
        Image.new("L", (15, 10)).save(tmp_path / "a.png")
        assert read_pixels(tmp_path / "a.png").shape == (10, 15, 3)

    def test_environment_raises_the_limit(self, tmp_path, monkeypatch):
        Image.new("L", (30, 10)).save(tmp_path / "a.png")
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, "298")
        with pytest.raises(DataError, match="too large"):
            read_pixels(tmp_path / "a.png")
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, "300")
        assert read_pixels(tmp_path / "a.png").shape == (10, 30, 3)
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, "3e8")
        with pytest.raises(UsageError, match="LGC_MAX_PIXELS must be a number of pixels, got '3e8'"):
            read_pixels(tmp_path / "a.png")


class TestNormalisation:
    """Statistics of a dataset of the user's."""

    def test_pixels_are_standardised(self):
        pixels = np.full((2, 2, 3), (255, 0, 51), np.uint8)
        image = normalise_image(pixels, Normalisation((0.5, 0.0, 0.2), (0.5, 1.0, 0.1)))
        np.testing.assert_allclose(image[:, 0, 0], (1, 0, 0), atol=1e-6)

    @pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
    def test_invalid_deviations(self, std):
        with pytest.raises(UsageError, match="std must be above 0"):
            Normalisation((0.5, 0.5, 0.5), std)


def write_deep_png(path, values):
    """Write RGB of 16 bits per channel, which Pillow does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize(("bits", "largest", "is_dark"), [(12, 15, True), (16, 255, False)])
def test_lost_bits_are_remarked(tmp_path, bits, largest, is_dark):
    values = np.zeros((4, 6, 3), np.uint16)
    values[:, 3:] = 2**bits - 1
    remarks: list[str] = []
    pixels = read_pixels(write_deep_png(tmp_path / "deep.png", values), on_remark=remarks.append)
    assert pixels.max() == largest
    assert len(remarks) == 1
    assert f"of 16 bits per channel the upper 8 are used; their largest value is {largest} of 255" in remarks[0]
    assert ("nearly black, scale it to 8 bits" in remarks[0]) == is_dark


def test_further_bands_of_tiff_are_remarked(tmp_path):
    Image.frombytes("RGBX", (6, 4), bytes(range(96))).save(tmp_path / "scene.tif")
    remarks: list[str] = []
    assert read_pixels(tmp_path / "scene.tif", on_remark=remarks.append)[0, 0].tolist() == [0, 1, 2]
    assert remarks == ["the first 3 of 4 bands are used"]


def test_unread_formats_name_the_way_out(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=r"IMG_1\.HEIC: .*; convert it to JPEG or PNG"):
        read_pixels(tmp_path / "IMG_1.HEIC")
