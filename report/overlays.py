"""Picture of labelled images: a grid of overlays with their names, and a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..profiler.inference.painting import blend_mask

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..models.images import RGBImage
    from ..profiler.inference.painting import Legend
    from ..profiler.inference.resampling import Labels

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"
COLUMNS = 4
CELL = (320, 240)
"""Width and height that every overlay is fitted into."""
MARGIN, LINE = 10, 20
"""Distances in pixels: between cells, and from one line of text to the next."""
FONT_SIZE = 13
LEGEND_WIDTH = 210
"""Width of an item of the legend."""
ALPHA = 0.6
"""Opacity of the classes."""
PAPER, INK = (255, 255, 255), (30, 30, 30)
HATCH = 8
"""Distance of the lines over ignored pixels, along a row."""
MAX_NAME = 44
"""Characters of a name; longer ones keep their end."""


@dataclass(frozen=True)
class Overlay:
    """An image and its classes, fitted into a cell.

    Attributes:
        title: name under the picture.
        picture: the image under its classes, [h, w, 3].
    """

    title: str
    picture: RGBImage

    @classmethod
    def fit(cls, title: str, pixels: RGBImage, labels: Labels, legend: Legend) -> Overlay:
        """Paint an image [H, W, 3] with its classes [H, W], and a line around them; ignored pixels are hatched.

        The image is scaled until it fills a cell in one direction.
        """
        height, width = labels.shape
        scale = min(CELL[0] / width, CELL[1] / height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        classes = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        painted = blend_mask(image, legend.mask(classes), ALPHA)
        painted = np.where((classes < len(legend.names))[..., None], painted, _hatch(image))
        return cls(title, np.where(_find_borders(classes)[..., None], np.array(INK, np.uint8), painted))


def _hatch(pixels: RGBImage) -> RGBImage:
    """Return an image [h, w, 3] under diagonal lines, white and black so that they show on any colour."""
    rows, columns = map(np.arange, pixels.shape[:2])
    phase = (np.add.outer(rows, columns) % HATCH)[..., None]
    return np.where(phase < 2, np.uint8(255), np.where(phase < 3, np.uint8(0), pixels))


def _find_borders(classes: Labels) -> npt.NDArray[np.bool_]:
    """Return True, [h, w], where the class to the right or below is another."""
    borders = np.zeros(classes.shape, bool)
    borders[:, :-1] = classes[:, :-1] != classes[:, 1:]
    borders[:-1] |= classes[:-1] != classes[1:]
    return borders


def draw_overlays(overlays: Sequence[Overlay], legend: Legend, notes: Sequence[str]) -> RGBImage:
    """Return the grid of overlays above the legend, [h, w, 3].

    Args:
        overlays: pictures, row by row.
        legend: names and colours of the classes.
        notes: text behind the name of each class, and behind that of the ignored pixels, to list them.
    """
    names = [name if _is_drawable(name) else f"class {index}" for index, name in enumerate(legend.names)]
    items = [*zip(names, legend.palette, strict=False), ("ignored", None)][: len(notes)]
    columns = max(min(COLUMNS, len(overlays)), 2)
    width = columns * (CELL[0] + MARGIN) + MARGIN
    rows = [overlays[first : first + columns] for first in range(0, len(overlays), columns)]
    heights = [max(overlay.picture.shape[0] for overlay in row) + LINE + MARGIN for row in rows]
    top = sum(heights) + MARGIN
    across = max((width - MARGIN) // LEGEND_WIDTH, 1)
    lines = -(-len(items) // across)
    page = Image.new("RGB", (width, top + lines * LINE + MARGIN), PAPER)
    font = ImageFont.load_default(FONT_SIZE)
    for index, row in enumerate(rows):
        for column, overlay in enumerate(row):
            corner = (MARGIN + column * (CELL[0] + MARGIN), MARGIN + sum(heights[:index]))
            _draw_overlay(page, corner, overlay, font)
    for index, ((name, colour), note) in enumerate(zip(items, notes, strict=True)):
        corner = (MARGIN + index // lines * LEGEND_WIDTH, top + index % lines * LINE)
        _draw_item(page, corner, colour, f"{_shorten(name, 20)} {note}", font)
    return np.asarray(page)


def _draw_overlay(page: Image.Image, corner: tuple[int, int], overlay: Overlay, font: Font) -> None:
    """Draw an overlay in the middle of its cell's width, and its title below it."""
    height, width = overlay.picture.shape[:2]
    left, upper = corner[0] + (CELL[0] - width) // 2, corner[1]
    page.paste(Image.fromarray(overlay.picture), (left, upper))
    ImageDraw.Draw(page).text((corner[0], upper + height + 2), _shorten(overlay.title), INK, font)


def _draw_item(
    page: Image.Image, corner: tuple[int, int], colour: tuple[int, int, int] | None, text: str, font: Font
) -> None:
    """Draw a square of a class's colour, hatched for ignored pixels, and its text."""
    left, top = corner
    draw = ImageDraw.Draw(page)
    square = (left, top + 2, left + LINE - 6, top + LINE - 4)
    if colour is None:
        size = LINE - 5
        page.paste(Image.fromarray(_hatch(np.full((size, size, 3), 150, np.uint8))), square[:2])
    draw.rectangle(square, colour, INK)
    draw.text((left + LINE, top + 2), text, INK, font)


def _is_drawable(text: str) -> bool:
    """Return True if Pillow's own font has all characters."""
    return all(ord(character) < 256 for character in text)


def _shorten(text: str, length: int = MAX_NAME) -> str:
    """Return the end of a long text, with `?` for characters that Pillow's own font lacks."""
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= length else f"...{plain[3 - length :]}"
