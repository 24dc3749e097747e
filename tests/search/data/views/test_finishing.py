"""Finished views: an independent computation in float64 gives the same pixels and classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lgc.models.images import IMAGENET, Normalisation
from lgc.search.data.views.finishing import ViewFinisher
from lgc.search.data.views.geometry import View, draw_view
from lgc.search.data.views.packing import make_colours, pack_views

CPU = torch.device("cpu")
OTHER = Normalisation(mean=(0.1, 0.5, 0.9), std=(0.5, 0.25, 1.0))


@pytest.fixture
def picture() -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a label of blocks, 48x80."""
    rows, columns = np.mgrid[:48, :80]
    pixels = np.stack([rows * 5, columns * 3, 128 + 100 * np.sin(rows / 7 + columns / 9)], axis=2).astype(np.uint8)
    return pixels, ((rows // 8 + columns // 8) % 5).astype(np.uint8)


def finish(view: View, picture, normalisation=IMAGENET) -> tuple[np.ndarray, np.ndarray]:
    packed = pack_views([(view, *view.cut(*picture))], normalisation)
    images, labels = ViewFinisher(normalisation, CPU).finish(packed)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.uint8)
    return images[0].numpy(), labels[0].numpy()


def expect(view: View, picture, normalisation=IMAGENET) -> tuple[np.ndarray, np.ndarray]:
    """Return the view, step by step in float64."""
    pixels, classes = view.cut(*picture)
    top, left, height, width = view.place
    scaled = np.stack(
        [
            np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR))
            for channel in np.moveaxis(pixels.astype(np.float32), 2, 0)
        ]
    ).astype(np.float64)
    brightness, contrast, saturation = view.jitter
    weights = np.array([0.299, 0.587, 0.114])
    step = max(1, min(pixels.shape[:2]) // 32)
    mean = (pixels[::step, ::step] @ weights).mean() * brightness
    values = (scaled * brightness - mean) * contrast + mean
    grey = np.tensordot(weights, values, 1)
    values = ((values - grey) * saturation + grey).clip(0, 255) / 255
    values = (values - np.array(normalisation.mean)[:, None, None]) / np.array(normalisation.std)[:, None, None]
    nearest = [
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(classes.shape, (height, width), strict=True)
    ]
    target = classes[np.ix_(*nearest)]
    if view.flip:
        values, target = values[..., ::-1], target[:, ::-1]
    image, label = np.zeros((3, *view.crop)), np.full(view.crop, 255)
    image[:, top : top + height, left : left + width] = values
    label[top : top + height, left : left + width] = target
    return image, label


@pytest.mark.parametrize("normalisation", [IMAGENET, OTHER])
@pytest.mark.parametrize("seed", range(12))
def test_views_equal_an_independent_computation(picture, normalisation, seed):
    view = draw_view(np.random.default_rng(seed), (48, 80), (40, 64), (40, 64))
    image, label = finish(view, picture, normalisation)
    expected, target = expect(view, picture, normalisation)
    # Scaled bytes are rounded twice: two levels, which brightness, contrast and saturation enlarge.
    limit = 2 * 1.3**3 / 255 / np.array(normalisation.std)[:, None, None]
    assert (np.abs(image - expected) <= limit).all()
    assert np.abs(image - expected).mean() < 0.35 * limit.mean()
    np.testing.assert_array_equal(label, target)


def test_padding_is_mean_colour_and_void(picture):
    view = View((60, 100), (0, 0, 48, 80), (5, 7, 48, 80), True, (1.3, 0.7, 1.1))
    image, label = finish(view, picture)
    outside = np.ones((60, 100), bool)
    outside[5:53, 7:87] = False
    assert (image[:, outside] == 0).all()
    assert (label[outside] == 255).all()
    assert (label[~outside] < 5).all()


def test_unchanged_view_is_the_normalised_image(picture):
    image, label = finish(View((48, 80), (0, 0, 48, 80), (0, 0, 48, 80), False, (1.0, 1.0, 1.0)), picture)
    np.testing.assert_array_equal(label, picture[1])
    mean, std = (np.array(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    np.testing.assert_allclose(image * std + mean, np.moveaxis(picture[0], 2, 0) / 255, atol=1e-6)


def test_colours_stay_within_black_and_white(picture):
    image, _ = finish(View((48, 80), (0, 0, 48, 80), (0, 0, 48, 80), False, (1.3, 1.3, 1.3)), picture)
    mean, std = (np.array(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    pixels = image * std + mean
    assert pixels.min() == pytest.approx(0, abs=1e-6)
    assert pixels.max() == pytest.approx(1, abs=1e-6)


def test_jitter_changes_what_it_says():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    identity = Normalisation(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)

    def change(*jitter: float) -> np.ndarray:
        matrix = np.array(make_colours(jitter, pixels, identity))
        return pixels @ matrix[:, :3].T + matrix[:, 3]

    grey = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(change(1.2, 1, 1), 1.2 * pixels, atol=1e-3)
    np.testing.assert_allclose(change(1, 1, 0) @ grey, pixels @ grey, atol=1e-3)  # no colours left, greys kept
    assert np.ptp(change(1, 1, 0), axis=2).max() < 1e-3
    flat = change(1, 0, 1)  # no contrast: the mean grey
    assert np.ptp(flat) < 1e-3
    assert flat.mean() == pytest.approx((pixels[::2, ::2] @ grey).mean(), abs=1e-3)


def test_batch_equals_its_views(picture):
    views = [draw_view(np.random.default_rng(seed), (48, 80), (48, 80), (32, 48)) for seed in range(5)]
    packed = pack_views([(view, *view.cut(*picture)) for view in views], IMAGENET)
    assert packed.data.numel() == sum(4 * view.window[2] * view.window[3] for view in views)
    finisher = ViewFinisher(IMAGENET, CPU)
    for _ in range(2):  # its memory is used again
        images, labels = finisher.finish(packed)
        for image, label, view in zip(images, labels, views, strict=True):
            alone = finish(view, picture)
            np.testing.assert_array_equal(image.numpy(), alone[0])
            np.testing.assert_array_equal(label.numpy(), alone[1])
