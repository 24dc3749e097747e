"""Objects of a generated street: vehicles, people, cycles, trees, poles with signs and lights."""

from __future__ import annotations

import numpy as np

from ..labels import TrainId
from .canvas import Canvas, Colour
from .street import scale_colour, vary_colour

# Width, height and length in metres.
_VEHICLES: dict[TrainId, tuple[float, float, float]] = {
    TrainId.CAR: (1.8, 1.5, 4.2),
    TrainId.TRUCK: (2.4, 3.2, 7.5),
    TrainId.BUS: (2.5, 3.0, 11.0),
    TrainId.TRAIN: (2.5, 3.5, 22.0),
}

_CLOTHES: tuple[Colour, ...] = (
    (45, 45, 55),
    (90, 40, 40),
    (40, 60, 100),
    (120, 118, 112),
    (170, 165, 155),
    (60, 75, 50),
    (150, 50, 40),
)


def draw_vehicle(canvas: Canvas, rng: np.random.Generator, class_id: TrainId, x: float, z: float) -> None:
    """Draw a vehicle with its rear or front `z` metres ahead: shadow, box, cabin, windows, lamps, wheels."""
    width, height, length = (size * float(rng.uniform(0.92, 1.1)) for size in _VEHICLES[class_id])
    paint = vary_colour(rng, _CLOTHES[int(rng.integers(len(_CLOTHES)))], 35)
    left, right, far = x - width / 2, x + width / 2, z + length
    project = canvas.camera.project
    canvas.darken(
        [
            project(left - 0.2, 0, z - 0.2),
            project(right + 0.2, 0, z - 0.2),
            project(right, 0, far),
            project(left, 0, far),
        ],
        80,
    )
    inner = right if x < 0 else left
    belt = height * (0.58 if class_id is TrainId.CAR else 0.97)
    side = scale_colour(paint, 0.75)
    canvas.upright((inner, z, inner, far), (0.3, belt), side, class_id)
    if class_id is TrainId.CAR:
        canvas.upright((inner, z + 0.2, inner, far - 1.2), (belt, height), (50, 58, 66), class_id)
    elif class_id is not TrainId.TRUCK:
        canvas.upright((inner, z + 0.3, inner, far - 0.3), (height * 0.5, height * 0.85), (60, 68, 78), class_id)
    for axle in (z + 0.18 * length, z + 0.8 * length):
        hub = project(inner, 0.32, axle)
        scale = canvas.camera.scale(axle)
        canvas.ellipse(hub, (scale * 0.12, scale * 0.32), (22, 22, 24), class_id, axle)
    canvas.upright((left, z, right, z), (0.28, belt), paint, class_id)
    if class_id is TrainId.CAR:
        canvas.polygon(
            [
                project(left + 0.05, belt, z),
                project(right - 0.05, belt, z),
                project(right - 0.22, height, z),
                project(left + 0.22, height, z),
            ],
            paint,
            class_id,
            z,
        )
    _rear(canvas, rng, class_id, (left, right), (belt, height), z)


def _rear(
    canvas: Canvas,
    rng: np.random.Generator,
    class_id: TrainId,
    xs: tuple[float, float],
    ys: tuple[float, float],
    z: float,
) -> None:
    """Draw window, lamps, wheels and bumper of a vehicle's visible end."""
    (left, right), (belt, height) = xs, ys
    glass: Colour = (150, 165, 180) if rng.random() < 0.25 else (48, 54, 62)
    if class_id is TrainId.CAR:
        canvas.upright((left + 0.25, z, right - 0.25, z), (belt + 0.04, height - 0.1), glass, class_id)
    elif class_id is not TrainId.TRUCK:
        canvas.upright((left + 0.2, z, right - 0.2, z), (height * 0.5, height * 0.85), glass, class_id)
    lamp: Colour = (190, 40, 35) if rng.random() < 0.6 else (225, 222, 205)
    for start in (left + 0.05, right - 0.33):
        canvas.upright((start, z, start + 0.28, z), (0.68, 0.84), lamp, class_id)
    for start in (left + 0.02, right - 0.26):
        canvas.upright((start, z, start + 0.24, z), (0.0, 0.34), (20, 20, 22), class_id)


def draw_person(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, class_id: TrainId = TrainId.PERSON, lift: float = 0.0
) -> None:
    """Draw a standing or walking person, or a rider, `lift` metres above the ground with bent legs."""
    project, scale = canvas.camera.project, canvas.camera.scale(z)
    tall = float(rng.uniform(1.5, 1.9)) if class_id is TrainId.PERSON else 1.65
    coat = vary_colour(rng, _CLOTHES[int(rng.integers(len(_CLOTHES)))], 14)
    legs = vary_colour(rng, (48, 50, 62), 16)
    stride = float(rng.uniform(0.02, 0.32))
    hip = lift + tall * 0.48
    reach = 0.0 if class_id is TrainId.PERSON else lift + 0.15
    for foot in (-stride, stride):
        canvas.stroke([project(x, hip, z), project(x + foot, reach, z)], scale * 0.17, legs, class_id, z)
    body = [
        project(x - 0.17, hip - 0.05, z),
        project(x + 0.17, hip - 0.05, z),
        project(x + 0.23, lift + tall * 0.82, z),
        project(x - 0.23, lift + tall * 0.82, z),
    ]
    canvas.polygon(body, coat, class_id, z)
    for arm in (-0.26, 0.26):
        swing = arm + float(rng.uniform(-0.1, 0.1))
        canvas.stroke(
            [project(x + arm * 0.9, lift + tall * 0.8, z), project(x + swing, hip, z)],
            scale * 0.1,
            scale_colour(coat, 0.85),
            class_id,
            z,
        )
    canvas.ellipse(
        project(x, lift + tall * 0.92, z),
        (scale * 0.11, scale * 0.14),
        vary_colour(rng, (165, 125, 105), 25),
        class_id,
        z,
    )
    if class_id is TrainId.PERSON:
        canvas.darken(
            [
                project(x - 0.3, 0, z),
                project(x + 0.3, 0, z),
                project(x + 0.3, 0, z + 0.5),
                project(x - 0.3, 0, z + 0.5),
            ],
            120,
        )


def draw_cycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, class_id: TrainId, ridden: bool) -> None:
    """Draw a bicycle or a motorcycle, seen from behind or from the side, with or without its rider."""
    project, scale = canvas.camera.project, canvas.camera.scale(z)
    dark = vary_colour(rng, (42, 42, 46), 14)
    heavy = 1.0 if class_id is TrainId.BICYCLE else 2.6
    canvas.darken(
        [project(x - 0.5, 0, z), project(x + 0.5, 0, z), project(x + 0.5, 0, z + 0.6), project(x - 0.5, 0, z + 0.6)],
        130,
    )
    if rng.random() < 0.5:
        for hub in (x - 0.5, x + 0.5):
            canvas.ellipse(project(hub, 0.33, z), (scale * 0.33, scale * 0.33), dark, class_id, z)
            if class_id is TrainId.BICYCLE:
                canvas.ellipse(project(hub, 0.33, z), (scale * 0.25, scale * 0.25), (118, 116, 112), class_id, z)
        frame = vary_colour(rng, (120, 50, 50), 40)
        canvas.stroke(
            [
                project(x - 0.5, 0.33, z),
                project(x - 0.2, 0.85, z),
                project(x + 0.4, 0.85, z),
                project(x + 0.5, 0.33, z),
            ],
            scale * 0.06 * heavy,
            frame,
            class_id,
            z,
        )
        canvas.stroke(
            [project(x - 0.2, 0.85, z), project(x, 0.3, z), project(x + 0.4, 0.85, z)],
            scale * 0.06 * heavy,
            frame,
            class_id,
            z,
        )
    else:
        canvas.stroke([project(x, 0, z), project(x, 0.85, z)], scale * 0.09 * heavy, dark, class_id, z)
        canvas.stroke([project(x - 0.28, 0.98, z), project(x + 0.28, 0.98, z)], scale * 0.06 * heavy, dark, class_id, z)
    if ridden:
        draw_person(canvas, rng, x, z, TrainId.RIDER, lift=0.28)


def draw_tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a tree: a trunk and a crown of leaf clusters, lit from above, with gaps at its rim."""
    project, scale = canvas.camera.project, canvas.camera.scale(z)
    high, girth = float(rng.uniform(4, 10)), float(rng.uniform(0.15, 0.4))
    crown = high * float(rng.uniform(0.28, 0.42))
    canvas.stroke(
        [project(x, 0, z), project(x, high * 0.75, z)],
        scale * girth,
        vary_colour(rng, (78, 64, 50), 12),
        TrainId.VEGETATION,
        z,
    )
    leaf = vary_colour(rng, (70, 92, 44), 16)
    canvas.ellipse(
        project(x, high * 0.75, z),
        (scale * crown * 0.7, scale * crown * 0.7),
        scale_colour(leaf, 0.8),
        TrainId.VEGETATION,
        z,
    )
    for _ in range(int(rng.integers(12, 22))):
        angle, far = rng.uniform(0, 6.283), crown * float(np.sqrt(rng.uniform(0.1, 1.0)))
        up = float(np.sin(angle)) * far * 0.8
        centre = project(x + float(np.cos(angle)) * far, high * 0.75 + up, z)
        radius = scale * crown * float(rng.uniform(0.16, 0.36))
        light = 1.0 + 0.22 * up / crown
        canvas.ellipse(
            centre, (radius, radius * 0.85), scale_colour(vary_colour(rng, leaf, 8), light), TrainId.VEGETATION, z
        )


def draw_pole(canvas: Canvas, rng: np.random.Generator, x: float, z: float, side: int) -> None:
    """Draw a street lamp, sign post or traffic light; `side` is its kerb, -1 left or 1 right."""
    project, scale = canvas.camera.project, canvas.camera.scale(z)
    kind = rng.choice(3, p=[0.3, 0.42, 0.28])
    high = float((rng.uniform(5, 8), rng.uniform(2.4, 3.2), rng.uniform(3, 3.8))[kind])
    grey = vary_colour(rng, (104, 106, 108), 24)
    canvas.stroke(
        [project(x, 0, z), project(x, high, z)], scale * float(rng.uniform(0.09, 0.17)), grey, TrainId.POLE, z
    )
    if kind == 0:
        arm = x - side * float(rng.uniform(0.8, 2.2))
        canvas.stroke([project(x, high, z), project(arm, high + 0.3, z)], scale * 0.1, grey, TrainId.POLE, z)
    elif kind == 1:
        _sign(canvas, rng, x, high, z)
    else:
        _light(canvas, rng, x, high, z)
        if rng.random() < 0.4:
            arm = x - side * float(rng.uniform(1.5, 3.5))
            canvas.stroke([project(x, high + 1.2, z), project(arm, high + 1.4, z)], scale * 0.1, grey, TrainId.POLE, z)
            canvas.stroke([project(x, high, z), project(x, high + 1.2, z)], scale * 0.12, grey, TrainId.POLE, z)
            _light(canvas, rng, arm, high + 0.9, z)


def _sign(canvas: Canvas, rng: np.random.Generator, x: float, high: float, z: float) -> None:
    """Draw a round, triangular or rectangular traffic sign on a post."""
    project, scale = canvas.camera.project, canvas.camera.scale(z)
    size = float(rng.uniform(0.32, 0.48))
    colours: list[Colour] = [(178, 36, 34), (34, 72, 150), (225, 222, 212), (222, 178, 40)]
    rim = colours[int(rng.integers(len(colours)))]
    face: Colour = (226, 224, 218) if rng.random() < 0.6 else rim
    kind = rng.choice(3)
    for colour, grow in ((rim, 1.0), (face, 0.68)):
        reach = size * grow
        if kind == 0:
            canvas.ellipse(project(x, high, z), (scale * reach, scale * reach), colour, TrainId.TRAFFIC_SIGN, z)
        elif kind == 1:
            corners = [
                project(x - reach, high - reach * 0.7, z),
                project(x + reach, high - reach * 0.7, z),
                project(x, high + reach, z),
            ]
            canvas.polygon(corners, colour, TrainId.TRAFFIC_SIGN, z)
        else:
            canvas.upright(
                (x - reach, z, x + reach, z), (high - reach * 1.2, high + reach * 1.2), colour, TrainId.TRAFFIC_SIGN
            )


def _light(canvas: Canvas, rng: np.random.Generator, x: float, high: float, z: float) -> None:
    """Draw a traffic light with one lamp lit."""
    project, scale = canvas.camera.project, canvas.camera.scale(z)
    canvas.upright((x - 0.18, z, x + 0.18, z), (high - 0.5, high + 0.5), (28, 30, 30), TrainId.TRAFFIC_LIGHT)
    lit = int(rng.integers(3))
    colours: list[Colour] = [(235, 50, 40), (240, 170, 40), (60, 215, 120)]
    for lamp, colour in enumerate(colours):
        glow = colour if lamp == lit else scale_colour(colour, 0.25)
        canvas.ellipse(
            project(x, high + 0.3 - 0.3 * lamp, z), (scale * 0.11, scale * 0.11), glow, TrainId.TRAFFIC_LIGHT, z
        )


def draw_clutter(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a bin, box or bollard, labelled void."""
    wide, high = float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.5, 1.3))
    canvas.upright((x - wide / 2, z, x + wide / 2, z), (0, high), vary_colour(rng, (80, 84, 78), 35), TrainId.VOID)
