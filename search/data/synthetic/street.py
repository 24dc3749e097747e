"""Static parts of a generated street: ground, facades, walls, fences and hedges."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..labels import TrainId
from .canvas import Canvas, Colour

GROUND_Z = (1.2, 2.0, 3.0, 4.5, 7.0, 11.0, 17.0, 26.0, 40.0, 62.0, 95.0, 150.0, 400.0)
FAR_M = 130.0


@dataclass(frozen=True)
class Street:
    """Cross-section of a street, in metres to the right of the camera.

    Attributes:
        left: Position of the left kerb.
        right: Position of the right kerb.
        pavement: Widths of the left and the right pavement.
        concrete: Common grey of road, pavement, walls and blank facades, which colour alone cannot separate.
    """

    left: float
    right: float
    pavement: tuple[float, float]
    concrete: Colour

    def kerb(self, side: int) -> float:
        """Return the position of the kerb on a side, -1 left or 1 right."""
        return self.right if side > 0 else self.left

    def front(self, side: int) -> float:
        """Return the position of the facades on a side."""
        return self.kerb(side) + side * self.pavement[side > 0]


def vary_colour(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """Return `colour` with a random change of brightness by about `spread` and of hue by a fifth of it; 0..255."""
    light, *tinge = rng.normal(0, spread, 4).tolist()
    red, green, blue = (max(8.0, min(250.0, c + light + t / 5)) for c, t in zip(colour, tinge, strict=True))
    return red, green, blue


def scale_colour(colour: Colour, factor: float) -> Colour:
    """Return `colour` multiplied by `factor`."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def sample_street(rng: np.random.Generator) -> Street:
    """Sample the cross-section of a street."""
    half = rng.uniform(2.6, 6.5)
    offset = rng.uniform(-0.3, 0.5) * half
    grey = rng.uniform(85, 150)
    warm = rng.normal(0, 5)
    return Street(
        left=float(-half - offset),
        right=float(half - offset),
        pavement=(float(rng.uniform(1.8, 6.0)), float(rng.uniform(1.8, 6.0))),
        concrete=(float(grey + warm), float(grey), float(grey - warm)),
    )


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Draw the ground: terrain, pavements with kerbs, road with patches and markings."""
    grass = vary_colour(rng, (98, 112, 58), 16)
    canvas.ground((-400, 400), GROUND_Z, grass, TrainId.TERRAIN)
    road = vary_colour(rng, street.concrete, 9)
    canvas.ground((street.left, street.right), GROUND_Z, road, TrainId.ROAD)
    for side in (-1, 1):
        inner, outer = sorted((street.kerb(side), street.front(side)))
        tone = vary_colour(rng, street.concrete, 16)
        strip = rng.random() < 0.35
        for lift in (0.0, 0.12):
            canvas.ground((inner, outer), GROUND_Z, tone, TrainId.SIDEWALK, y=lift)
        if strip:
            edge = street.kerb(side) + side * 0.3
            canvas.ground((edge, edge + side * 0.9), GROUND_Z, grass, TrainId.TERRAIN, y=0.13)
        kerb = street.kerb(side)
        canvas.ground((kerb - 0.08, kerb + 0.08), GROUND_Z[:8], scale_colour(tone, 1.18), TrainId.SIDEWALK, y=0.08)
    _patches(canvas, street, rng, road)
    _markings(canvas, street, rng)


def _patches(canvas: Canvas, street: Street, rng: np.random.Generator, road: Colour) -> None:
    """Draw darker and lighter rectangles, labelled road."""
    for _ in range(int(rng.integers(1, 5))):
        x = rng.uniform(street.left, street.right - 1.5)
        z = rng.uniform(3, 25)
        far = z + rng.uniform(1, 8)
        right = min(x + rng.uniform(0.8, 3), street.right)
        canvas.ground((x, right), (z, far), scale_colour(road, rng.uniform(0.78, 1.15)), None)


def _markings(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Draw lane markings, an edge line or a zebra crossing, all labelled road."""
    white = (205.0, 205.0, 200.0)
    middle = (street.left + street.right) / 2
    if rng.random() < 0.75:
        dash, gap = rng.uniform(2, 4), rng.uniform(2, 6)
        z = rng.uniform(1.5, 5)
        while z < 70:
            canvas.ground((middle - 0.07, middle + 0.07), (z, z + dash), white, None)
            z += dash + gap
    if rng.random() < 0.35:
        edge = street.right - 0.4
        canvas.ground((edge - 0.06, edge + 0.06), GROUND_Z[:10], white, None)
    if rng.random() < 0.3:
        z = rng.uniform(6, 22)
        for x in np.arange(street.left + 0.4, street.right - 0.6, 1.0):
            canvas.ground((x, x + 0.5), (z, z + 3), white, None)


def paint_fronts(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Draw the skyline, then buildings, walls, fences, hedges and gaps on both sides, from far to near."""
    town = rng.uniform(0.25, 0.95)
    _skyline(canvas, rng, town)
    for side in (-1, 1):
        cuts = [float(rng.uniform(2.0, 6.0))]
        while cuts[-1] < FAR_M:
            cuts.append(cuts[-1] + float(rng.uniform(5, 22)))
        for near, far in reversed(list(itertools.pairwise(cuts))):
            _front(canvas, street, rng, side, (near, far), town)


def _skyline(canvas: Canvas, rng: np.random.Generator, town: float) -> None:
    """Draw buildings and trees at the far end of the street."""
    x = -170.0
    while x < 170:
        wide = float(rng.uniform(10, 45))
        spot = (x, 220.0, x + wide, 220.0)
        if rng.random() < town:
            canvas.upright(
                spot, (0, float(rng.uniform(6, 30))), vary_colour(rng, (135, 128, 120), 25), TrainId.BUILDING
            )
        else:
            canvas.upright(spot, (0, float(rng.uniform(5, 14))), vary_colour(rng, (72, 88, 52), 12), TrainId.VEGETATION)
        x += wide * 0.9


def _front(
    canvas: Canvas, street: Street, rng: np.random.Generator, side: int, zs: tuple[float, float], town: float
) -> None:
    """Draw one plot on one side between two distances."""
    x = street.front(side)
    open_share = 0.75 * (1 - town)
    kind = rng.choice(5, p=[0.75 * town, 0.13, 0.12, open_share / 2, open_share / 2])
    if kind == 0:
        _building(canvas, street, rng, side, x, zs)
    elif kind == 1:
        _backdrop(canvas, rng, side, x, zs)
        top = float(rng.uniform(1.0, 3.2))
        grey = vary_colour(rng, street.concrete, 14)
        canvas.upright((x, zs[0], x, zs[1]), (0, top), grey, TrainId.WALL)
        canvas.upright((x, zs[0], x, zs[1]), (top - 0.12, top), scale_colour(grey, 0.8), TrainId.WALL)
    elif kind == 2:
        _backdrop(canvas, rng, side, x, zs)
        _fence(canvas, rng, x, zs)
    elif kind == 3:
        _hedge(canvas, rng, x, zs, float(rng.uniform(0.9, 2.6)))
    else:
        _backdrop(canvas, rng, side, x, zs)


def _backdrop(canvas: Canvas, rng: np.random.Generator, side: int, x: float, zs: tuple[float, float]) -> None:
    """Draw a building, a row of bushes or nothing behind a low front."""
    kind = rng.choice(3)
    deep = x + side * float(rng.uniform(6, 14))
    if kind == 0:
        canvas.upright(
            (deep, zs[0], deep, zs[1]),
            (0, float(rng.uniform(4, 9))),
            vary_colour(rng, (150, 130, 112), 28),
            TrainId.BUILDING,
        )
    elif kind == 1:
        _hedge(canvas, rng, deep, zs, float(rng.uniform(3, 8)))


def _hedge(canvas: Canvas, rng: np.random.Generator, x: float, zs: tuple[float, float], top: float) -> None:
    """Draw a row of bushes with an irregular outline."""
    green = vary_colour(rng, (66, 86, 40), 14)
    canvas.upright((x, zs[0], x, zs[1]), (0, top * 0.8), green, TrainId.VEGETATION)
    for z in np.linspace(zs[1], zs[0], 9):
        centre = canvas.camera.project(x, top * 0.72, float(z))
        radius = canvas.camera.scale(float(z)) * top * float(rng.uniform(0.2, 0.36))
        canvas.ellipse(centre, (radius, radius), vary_colour(rng, green, 9), TrainId.VEGETATION, float(z))


def _fence(canvas: Canvas, rng: np.random.Generator, x: float, zs: tuple[float, float]) -> None:
    """Draw bars with gaps; the gaps are labelled fence too, as in Cityscapes."""
    top = float(rng.uniform(0.9, 2.0))
    dark = vary_colour(rng, (70, 70, 68), 22)
    project = canvas.camera.project
    canvas.polygon(
        [project(x, 0, zs[0]), project(x, 0, zs[1]), project(x, top, zs[1]), project(x, top, zs[0])],
        None,
        TrainId.FENCE,
    )
    for z in np.arange(zs[1], zs[0], -0.45):
        distance = float(z)
        ends = [project(x, 0, distance), project(x, top, distance)]
        canvas.stroke(ends, canvas.camera.scale(distance) * 0.05, dark, TrainId.FENCE, distance)
    for rail in (0.15, top):
        ends = [project(x, rail, zs[0]), project(x, rail, zs[1])]
        canvas.stroke(ends, canvas.camera.scale(zs[0]) * 0.04, dark, TrainId.FENCE, zs[0])


def _building(
    canvas: Canvas, street: Street, rng: np.random.Generator, side: int, x: float, zs: tuple[float, float]
) -> None:
    """Draw a house: end wall, front with windows or blank, and sometimes a poster."""
    near, far = zs
    top = float(rng.uniform(4.5, 21))
    paints: list[Colour] = [
        street.concrete,
        street.concrete,
        (168, 120, 92),
        (188, 172, 146),
        (120, 72, 60),
        (200, 198, 190),
    ]
    tone = vary_colour(rng, paints[int(rng.integers(len(paints)))], 14)
    canvas.upright((x, near, x + side * 12, near), (0, top), scale_colour(tone, 0.72), TrainId.BUILDING)
    canvas.upright((x, near, x, far), (0, top), tone, TrainId.BUILDING)
    canvas.upright((x, near, x, far), (top - 0.5, top), scale_colour(tone, 0.7), TrainId.BUILDING)
    if rng.random() < 0.22:
        return
    _windows(canvas, rng, x, zs, top, tone)
    if rng.random() < 0.3:
        low = float(rng.uniform(2.6, 3.4))
        poster: Colour = (float(rng.uniform(30, 220)), float(rng.uniform(20, 180)), float(rng.uniform(20, 200)))
        canvas.upright((x, near + 0.5, x, far - 0.5), (low, low + 0.6), poster, TrainId.BUILDING)


def _windows(
    canvas: Canvas, rng: np.random.Generator, x: float, zs: tuple[float, float], top: float, tone: Colour
) -> None:
    """Draw windows and doors, dark or reflecting the sky, labelled building."""
    near, far = zs
    storey, pitch = float(rng.uniform(2.7, 3.5)), float(rng.uniform(1.8, 3.4))
    if near > 45:
        storey, pitch = storey * 1.5, pitch * 2
    wide, high = pitch * float(rng.uniform(0.4, 0.7)), storey * float(rng.uniform(0.42, 0.65))
    glass: Colour = (150, 165, 185) if rng.random() < 0.3 else scale_colour(tone, float(rng.uniform(0.35, 0.6)))
    for level in np.arange(0.9, top - high - 0.4, storey):
        for z in np.arange(near + 0.5, far - wide, pitch):
            start = float(z)
            low = 0.0 if level < 1 and rng.random() < 0.15 else float(level)
            pane = vary_colour(rng, glass, 8)
            canvas.upright((x, start, x, start + wide), (low, float(level) + high), pane, None)
