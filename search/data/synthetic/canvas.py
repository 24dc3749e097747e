"""Drawing surface for an image and its label, seen through a pinhole camera.

World coordinates are in metres: x to the right of the camera, y above the ground, z ahead. Image positions are pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from PIL import Image, ImageDraw

from ..labels import TrainId

Point = tuple[float, float]
Colour = tuple[float, float, float]

NEAR_M = 1.2


@dataclass(frozen=True)
class Camera:
    """Pinhole camera.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        focal: Focal length in pixels.
        horizon: Row of the horizon at the image centre, in pixels.
        eye: Height of the camera above the ground in metres.
        roll: Slope of the horizon.
        bend: Curvature of the street in 1/metres: it moves sideways by `bend * z * z`.
    """

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    roll: float
    bend: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Return (column, row) in pixels; `z` is at least `NEAR_M`."""
        z = max(z, NEAR_M)
        offset = self.focal * (x / z + self.bend * z)
        offset = max(-6.0 * self.width, min(6.0 * self.width, offset))
        row = self.horizon + self.focal * (self.eye - y) / z + self.roll * offset
        return self.width / 2 + offset, max(-6.0 * self.height, min(6.0 * self.height, row))

    def scale(self, z: float) -> float:
        """Return pixels per metre at distance `z`."""
        return self.focal / max(z, NEAR_M)


class Canvas:
    """RGB image, label of train ids and shadow map (255 lit, 0 black), drawn at the same time."""

    def __init__(self, camera: Camera, haze: Colour, visibility: float) -> None:
        """Create an empty canvas.

        Args:
            camera: Camera of the scene.
            haze: Colour that distant colours fade to.
            visibility: Distance in metres at which the haze replaces two thirds of a colour.
        """
        self.camera = camera
        size = (camera.width, camera.height)
        self.image = Image.new("RGB", size)
        self.label = Image.new("L", size, int(TrainId.VOID))
        self.shade = Image.new("L", size, 255)
        self._paint = ImageDraw.Draw(self.image)
        self._mark = ImageDraw.Draw(self.label)
        self._dim = ImageDraw.Draw(self.shade)
        self._haze = haze
        self._visibility = visibility

    def tint(self, colour: Colour, z: float) -> tuple[int, int, int]:
        """Return `colour` with the haze of `z` metres, 0..255."""
        lost = 1.0 - exp(-max(z, 0.0) / self._visibility)
        (red, green, blue), (haze_red, haze_green, haze_blue) = colour, self._haze
        return (
            min(255, int(red + (haze_red - red) * lost)),
            min(255, int(green + (haze_green - green) * lost)),
            min(255, int(blue + (haze_blue - blue) * lost)),
        )

    def polygon(self, points: Sequence[Point], colour: Colour | None, class_id: TrainId | None, z: float = 0.0) -> None:
        """Fill a polygon given in pixels; with None as `colour` or `class_id`, image or label stays unchanged."""
        shape = list(points)
        if colour is not None:
            self._paint.polygon(shape, fill=self.tint(colour, z))
        if class_id is not None:
            self._mark.polygon(shape, fill=int(class_id))

    def ellipse(
        self, centre: Point, radii: Point, colour: Colour | None, class_id: TrainId | None, z: float = 0.0
    ) -> None:
        """Fill an ellipse given by its centre and two radii in pixels."""
        (cx, cy), (rx, ry) = centre, radii
        box = (cx - rx, cy - ry, cx + rx, cy + ry)
        if colour is not None:
            self._paint.ellipse(box, fill=self.tint(colour, z))
        if class_id is not None:
            self._mark.ellipse(box, fill=int(class_id))

    def stroke(
        self, ends: Sequence[Point], width: float, colour: Colour, class_id: TrainId | None, z: float = 0.0
    ) -> None:
        """Draw a polyline through `ends`, at least one pixel wide."""
        pixels = max(1, round(width))
        line = list(ends)
        self._paint.line(line, fill=self.tint(colour, z), width=pixels)
        if class_id is not None:
            self._mark.line(line, fill=int(class_id), width=pixels)

    def darken(self, points: Sequence[Point], level: int) -> None:
        """Cast a shadow over a polygon given in pixels; `level` is the remaining light, 0..255."""
        self._dim.polygon(list(points), fill=level)

    def upright(
        self,
        corners: tuple[float, float, float, float],
        y: tuple[float, float],
        colour: Colour,
        class_id: TrainId | None,
    ) -> list[Point]:
        """Fill a vertical rectangle above the ground line (x0, z0)-(x1, z1) and return its corners in pixels."""
        x0, z0, x1, z1 = corners
        low, high = y
        project = self.camera.project
        shape = [project(x0, low, z0), project(x1, low, z1), project(x1, high, z1), project(x0, high, z0)]
        self.polygon(shape, colour, class_id, (z0 + z1) / 2)
        return shape

    def ground(
        self, xs: tuple[float, float], zs: Sequence[float], colour: Colour, class_id: TrainId | None, y: float = 0.0
    ) -> None:
        """Fill the strip of ground between x0 and x1 along the distances `zs`, following the street's bend."""
        project = self.camera.project
        for near, far in itertools.pairwise(zs):
            shape = [project(xs[0], y, near), project(xs[1], y, near), project(xs[1], y, far), project(xs[0], y, far)]
            self.polygon(shape, colour, class_id, near)
