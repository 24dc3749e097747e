"""Images with EXIF rotation, unusual modes and damage."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError, UsageError
from lgc.models.images import Normalisation, check_image, normalise_image, read_pixels

UPRIGHT = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [9, 9, 9], [255, 255, 255]]], np.uint8)


def test_exif_rotation_is_applied(tmp_path):
    turned = Image.fromarray(np.rot90(UPRIGHT, 1))
    exif = turned.getexif()
    exif[0x0112] = 6  # display rotated clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_pixels(tmp_path / "a.png"), UPRIGHT)


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
