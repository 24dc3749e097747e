"""Generated scenes are reproducible, cover all classes and are not trivial."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lgc.errors import UsageError
from lgc.search.data.labels import TrainId
from lgc.search.data.synthetic.scenes import Scene, generate_scene

SIZE = (96, 128)


@pytest.fixture(scope="module")
def series() -> list[Scene]:
    return [generate_scene(0, index, SIZE) for index in range(40)]


def test_same_seed_and_index_are_bit_identical() -> None:
    one, other = generate_scene(3, 7, SIZE), generate_scene(3, 7, SIZE)
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.label, other.label)


@pytest.mark.parametrize(("seed", "index"), [(3, 8), (4, 7)])
def test_seed_and_index_change_the_scene(seed: int, index: int) -> None:
    one, other = generate_scene(3, 7, SIZE), generate_scene(seed, index, SIZE)
    assert np.mean(one.label != other.label) > 0.05
    assert not np.array_equal(one.image, other.image)


def test_processes_generate_the_same_scene() -> None:
    code = (
        "import zlib; from lgc.search.data.synthetic.scenes import generate_scene; "
        "s = generate_scene(5, 2, (96, 128)); "
        "print(zlib.crc32(s.image.tobytes()), zlib.crc32(s.label.tobytes()))"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(32, 150), st.integers(32, 150))
def test_image_and_label_for_any_arguments(seed: int, index: int, high: int, wide: int) -> None:
    scene = generate_scene(seed, index, (high, wide))
    assert scene.image.shape == (high, wide, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label.shape == (high, wide)
    assert scene.label.dtype == np.uint8
    assert set(np.unique(scene.label)) <= {int(c) for c in TrainId}


def test_every_class_occurs(series: list[Scene]) -> None:
    seen = set(np.unique(np.stack([scene.label for scene in series])))
    assert seen == {int(c) for c in TrainId}


def test_class_shares_are_balanced(series: list[Scene]) -> None:
    labels = np.stack([scene.label for scene in series])
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert shares.max() < 0.5
    assert shares[TrainId.VOID] < 0.08
    thin = shares[[TrainId.POLE, TrainId.TRAFFIC_SIGN, TrainId.TRAFFIC_LIGHT, TrainId.PERSON]]
    assert (thin > 0.001).all()
    assert (thin < 0.05).all()


def test_colour_alone_does_not_identify_classes(series: list[Scene]) -> None:
    """The most frequent class per colour, from half of the scenes, is hardly better than chance on the rest."""
    kinds = [TrainId.ROAD, TrainId.SIDEWALK, TrainId.BUILDING, TrainId.WALL]
    counts = np.zeros((2, 256, 16**3))
    for number, scene in enumerate(series):
        colour = (scene.image // 16).astype(int) @ np.array([256, 16, 1])
        np.add.at(counts[number % 2], (scene.label, colour), 1)
    learnt, asked = (half[kinds] / half[kinds].sum(axis=1, keepdims=True) for half in counts)
    right = learnt.argmax(axis=0) == np.arange(len(kinds))[:, None]
    assert (asked * right).sum(axis=1).mean() < 0.4


def test_larger_scene_shows_the_same_street() -> None:
    small, large = generate_scene(1, 4, (96, 128)), generate_scene(1, 4, (288, 384))
    shrunk = np.asarray(Image.fromarray(large.label).resize((128, 96), Image.Resampling.NEAREST))
    assert np.mean(shrunk == small.label) > 0.9


def test_scenes_differ_in_brightness(series: list[Scene]) -> None:
    means = [scene.image.mean() for scene in series]
    assert max(means) > 1.6 * min(means)


@pytest.mark.parametrize(
    ("seed", "index", "size", "says"),
    [
        (-1, 0, SIZE, "0 or more"),
        (0, -1, SIZE, "0 or more"),
        (0, 0, (31, 128), "31x128 .* at least 32x32"),
        (0, 0, (128, 0), "128x0 .* at least 32x32"),
    ],
)
def test_invalid_arguments_are_rejected(seed: int, index: int, size: tuple[int, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        generate_scene(seed, index, size)


def test_modules_do_not_import_torch() -> None:
    modules = ", ".join(
        f"lgc.search.data.{name}" for name in ("labels", "layouts", "synthetic.scenes", "synthetic.writers")
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"
