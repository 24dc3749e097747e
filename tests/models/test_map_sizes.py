"""Sizes of output maps that cover the whole image."""

import pytest

from lgc.models.map_sizes import covers_image

STREET = (64, 96)


@pytest.mark.parametrize(
    ("size", "image"),
    [
        *((size, STREET) for size in ((64, 96), (32, 48), (8, 12), (65, 97), (9, 13), (22, 32), (21, 32), (1, 1))),
        ((128, 192), STREET),  # upscaled
        ((48, 72), STREET),  # a cut-out has other proportions
        ((384, 768), (512, 1024)),
        ((12, 12), (92, 92)),
        ((11, 11), (92, 92)),
        ((65, 65), (512, 512)),  # aligned corners
        ((148, 148), (518, 518)),  # patches of 14 pixels, upscaled by 4
        ((46, 61), (91, 121)),
    ],
)
def test_resized_maps_cover_the_image(size, image):
    assert covers_image(size, image)


@pytest.mark.parametrize(
    ("size", "image"),
    [
        *((size, STREET) for size in ((48, 80), (62, 94), (32, 32), (16, 16), (96, 64), (24, 16), (128, 96))),
        ((72, 108), STREET),  # padded
        ((76, 76), (92, 92)),
        ((388, 388), (572, 572)),
        ((100, 100), (284, 284)),
        ((96, 96), (92, 92)),
        ((31, 31), (64, 64)),  # no padding
        ((31, 47), STREET),
        ((90, 91), (90, 92)),
    ],
)
def test_other_maps_may_be_cut_or_padded(size, image):
    assert not covers_image(size, image)
