"""Generated street scenes with exact labels, for tests and demonstrations without a real dataset.

The scenes are difficult enough to rank networks. Road, pavement, walls and blank facades share one grey, so that only
context distinguishes them. Poles, signs and distant people are a few pixels wide. Light, haze, texture, shadows and
noise vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ....errors import UsageError
from ..labels import LabelMap, TrainId
from .actors import draw_clutter, draw_cycle, draw_person, draw_pole, draw_tree, draw_vehicle
from .canvas import Camera, Canvas
from .street import Street, paint_fronts, paint_ground, sample_street
from .weather import Weather, paint_sky, render_photo, sample_weather

MIN_SIDE, MAX_SIDE = 32, 16384
"""Smallest and largest side of an image in pixels; the largest is that of a space's input."""

_Objects = list[tuple[float, Callable[[], None]]]


@dataclass(frozen=True)
class Scene:
    """A generated image and its label.

    Attributes:
        image: RGB image, uint8 [H, W, 3].
        label: Cityscapes train ids, uint8 [H, W]; 255 is void.
    """

    image: npt.NDArray[np.uint8]
    label: LabelMap


def generate_scene(seed: int, index: int, size: tuple[int, int]) -> Scene:
    """Generate scene number `index` of the series `seed`.

    The same arguments give bit-identical scenes (with the same versions of numpy and Pillow). A different size with the
    same aspect ratio shows the same street and objects; only noise and texture differ.

    Args:
        seed: Seed of the series, 0 or more.
        index: Number of the scene, 0 or more.
        size: Height and width in pixels, each at least 32.

    Raises:
        UsageError: Negative seed or index, or a size outside 32x32 to 16384x16384.
    """
    check_scene(seed, size, index)
    height, width = size
    plan, grain = (np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(2))
    weather = sample_weather(plan)
    canvas = Canvas(_camera(plan, height, width), weather.sky_low, weather.visibility)
    street = sample_street(plan)
    paint_sky(canvas, weather, plan)
    paint_ground(canvas, street, plan)
    paint_fronts(canvas, street, plan)
    _cast_shadows(canvas, street, weather, plan)
    for _, draw in sorted(_populate(canvas, street, plan), key=lambda item: -item[0]):
        draw()
    if plan.random() < 0.3:
        _bonnet(canvas, plan)
    image, label = render_photo(canvas, weather, grain)
    return Scene(image, label)


def check_scene(seed: int, size: tuple[int, int], index: int = 0) -> None:
    """Check the arguments of `generate_scene`.

    Raises:
        UsageError: Negative seed or index, or a size outside 32x32 to 16384x16384.
    """
    if seed < 0 or index < 0:
        raise UsageError(f"a scene's seed and index must be 0 or more, got seed {seed} and index {index}")
    if min(size) < MIN_SIDE:
        raise UsageError(f"scenes of {size[0]}x{size[1]} pixels are too small: use at least {MIN_SIDE}x{MIN_SIDE}")
    if max(size) > MAX_SIDE:
        raise UsageError(f"scenes of {size[0]}x{size[1]} pixels are too large: use at most {MAX_SIDE}x{MAX_SIDE}")


def _camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """Sample the camera."""
    return Camera(
        width=width,
        height=height,
        focal=float(rng.uniform(0.75, 1.15)) * float(np.sqrt(width * height)),
        horizon=float(rng.uniform(0.36, 0.5)) * height,
        eye=float(rng.uniform(1.2, 1.9)),
        roll=float(rng.normal(0, 0.008)),
        bend=float(rng.normal(0, 0.0012)),
    )


def _cast_shadows(canvas: Canvas, street: Street, weather: Weather, rng: np.random.Generator) -> None:
    """Cast shadows of the houses on one side: edges in the image that are not in the label."""
    if weather.sun < 0.3 or rng.random() < 0.35:
        return
    side = 1 if rng.random() < 0.5 else -1
    level = int(255 * (1 - 0.55 * weather.sun))
    project = canvas.camera.project
    z = float(rng.uniform(0, 4))
    while z < 80:
        far = z + float(rng.uniform(4, 18))
        reach = street.front(side) - side * float(rng.uniform(2, 8))
        edge = street.front(side)
        canvas.darken([project(edge, 0, z), project(reach, 0, z), project(reach, 0, far), project(edge, 0, far)], level)
        z = far + float(rng.uniform(0, 6))


def _distance(rng: np.random.Generator, near: float, far: float) -> float:
    """Sample a distance in metres, uniform in its logarithm, so that objects of all sizes occur."""
    return float(np.exp(rng.uniform(np.log(near), np.log(far))))


def _populate(canvas: Canvas, street: Street, rng: np.random.Generator) -> _Objects:
    """Return the objects as (distance, function that draws it), each with its own random generator."""
    objects: _Objects = []

    def add(z: float, draw: Callable[..., None], *args: object) -> None:
        objects.append((z, partial(draw, canvas, np.random.default_rng(rng.integers(2**63)), *args)))

    for side in (-1, 1):
        kerb, front = street.kerb(side), street.front(side)
        parked = kerb - side * 1.1
        if rng.random() < 0.6:
            z = float(rng.uniform(5, 14))
            while z < 70:
                if rng.random() < 0.65:
                    add(z, draw_vehicle, TrainId.CAR, parked, z)
                z += float(rng.uniform(5.2, 8))
        for _ in range(int(rng.integers(1, 5))):
            z = _distance(rng, 5, 60)
            add(z, draw_pole, kerb + side * 0.35, z, side)
        for _ in range(int(rng.poisson(1.6))):
            z = _distance(rng, 7, 80)
            add(z, draw_tree, front - side * float(rng.uniform(-2.5, 0.6)), z)
        for _ in range(int(rng.poisson(2.4))):
            z = _distance(rng, 4.5, 60)
            add(z, draw_person, float(rng.uniform(min(kerb, front), max(kerb, front))), z)
        for _ in range(int(rng.poisson(0.8))):
            z = _distance(rng, 5, 40)
            class_id = TrainId.BICYCLE if rng.random() < 0.75 else TrainId.MOTORCYCLE
            add(z, draw_cycle, kerb + side * 0.8, z, class_id, False)
        for _ in range(int(rng.poisson(0.7))):
            z = _distance(rng, 4, 30)
            add(z, draw_clutter, front - side * 0.4, z)
    _traffic(street, rng, add)
    return objects


def _traffic(street: Street, rng: np.random.Generator, add: Callable[..., None]) -> None:
    """Add moving vehicles, riders and crossing people."""
    for _ in range(int(rng.poisson(2.0))):
        z = _distance(rng, 7, 90)
        class_id = (TrainId.CAR, TrainId.TRUCK, TrainId.BUS, TrainId.TRAIN)[rng.choice(4, p=[0.72, 0.12, 0.1, 0.06])]
        add(z, draw_vehicle, class_id, float(rng.uniform(street.left + 1.4, street.right - 1.4)), z)
    for _ in range(int(rng.poisson(1.1))):
        z = _distance(rng, 5, 45)
        class_id = TrainId.BICYCLE if rng.random() < 0.7 else TrainId.MOTORCYCLE
        add(z, draw_cycle, float(rng.uniform(street.left + 0.5, street.right - 0.5)), z, class_id, True)
    for _ in range(int(rng.poisson(0.5))):
        z = _distance(rng, 6, 40)
        add(z, draw_person, float(rng.uniform(street.left, street.right)), z)


def _bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the bonnet of the camera's own car, labelled void."""
    width, height = canvas.image.size
    top = float(rng.uniform(0.03, 0.08)) * height
    dark = float(rng.uniform(25, 90))
    canvas.ellipse((width / 2, height + top), (width * 0.62, top * 2), (dark, dark, dark + 6), TrainId.VOID)
