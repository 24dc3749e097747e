"""Random views of an image and its label."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lgc.search.data.views import augment_pair

SIZE = (32, 48)


@settings(max_examples=40, deadline=None)
@given(
    own=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 2**32),
)
def test_view_size_and_alignment(own: tuple[int, int], size: tuple[int, int], crop: tuple[int, int], seed: int) -> None:
    label = np.zeros(own, dtype=np.uint8)
    label[:, own[1] // 2 :] = 1
    image = Image.fromarray(np.repeat((label * 200)[..., None], 3, axis=2))
    pixels, classes = augment_pair(image, label, size, crop, np.random.default_rng(seed))
    assert pixels.shape == (*crop, 3)
    assert classes.shape == crop
    assert set(np.unique(classes)) <= {0, 1, 255}
    assert (classes != 255).any()
    assert (pixels[classes == 255] == (124, 116, 104)).all()


def test_image_and_label_share_the_view() -> None:
    high, wide = 64, 96
    label = np.repeat(np.arange(8, dtype=np.uint8), 12)[None].repeat(high, 0)
    image = Image.fromarray(np.repeat((label * 30)[..., None], 3, axis=2))
    flips, padded, zoomed = set(), 0, 0
    for seed in range(60):
        pixels, classes = augment_pair(image, label, (high, wide), (high, wide), np.random.default_rng(seed))
        inside = classes != 255
        row = classes[inside.any(axis=1)][0]
        seen = row[row != 255].astype(int)
        flips.add(bool(seen[0] > seen[-1]))
        padded += not inside.all()
        zoomed += len(np.unique(seen)) < 8
        grey = pixels[inside].mean(axis=1)
        assert np.corrcoef(grey, classes[inside])[0, 1] > 0.97
    assert flips == {True, False}
    assert padded > 10
    assert zoomed > 10
