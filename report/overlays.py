"""Picture of labelled images: a grid of overlays with their names, and a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..profiler.inference.painting import blend_mask

if TYPE_CHECKING:
    from ..models.images import RGBImage
    from ..profiler.inference.painting import Legend
    from ..profiler.inference.segmenter import Labels

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
        """Paint an image [H, W, 3] with its classes [H, W]; ignored pixels stay as they are.

        Images larger than a cell are scaled down to it, small ones are enlarged by a whole number.
        """
        height, width = labels.shape
        scale = min(CELL[0] / width, CELL[1] / height)
        if scale > 1:
            scale = int(scale)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        smooth = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.NEAREST
        image = np.asarray(Image.fromarray(pixels).resize(size, smooth))
        classes = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        painted = blend_mask(image, legend.mask(classes), ALPHA)
        return cls(title, np.where((classes < len(legend.names))[..., None], painted, image))


def draw_overlays(overlays: Sequence[Overlay], legend: Legend, notes: Sequence[str]) -> RGBImage:
    """Return the grid of overlays above the legend, [h, w, 3].

    Args:
        overlays: pictures, row by row.
        legend: names and colours of the classes.
        notes: text behind the name of each class, and behind that of the ignored pixels.
    """
    names = [name if _is_drawable(name) else f"class {index}" for index, name in enumerate(legend.names)]
    items = [*zip(names, legend.palette, strict=False), ("not painted: ignored", PAPER)]
    columns = max(min(COLUMNS, len(overlays)), 2)
    rows = -(-len(overlays) // columns)
    width = columns * (CELL[0] + MARGIN) + MARGIN
    top = rows * (CELL[1] + LINE + MARGIN) + MARGIN
    across = max((width - MARGIN) // LEGEND_WIDTH, 1)
    lines = -(-len(items) // across)
    page = Image.new("RGB", (width, top + lines * LINE + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(FONT_SIZE)
    for index, overlay in enumerate(overlays):
        left = MARGIN + index % columns * (CELL[0] + MARGIN)
        upper = MARGIN + index // columns * (CELL[1] + LINE + MARGIN)
        height, breadth = overlay.picture.shape[:2]
        corner = (left + (CELL[0] - breadth) // 2, upper + (CELL[1] - height) // 2)
        page.paste(Image.fromarray(overlay.picture), corner)
        draw.text((left, upper + CELL[1] + 2), _shorten(overlay.title), INK, font)
    for index, ((name, colour), note) in enumerate(zip(items, notes, strict=True)):
        corner = (MARGIN + index // lines * LEGEND_WIDTH, top + index % lines * LINE)
        _draw_item(draw, corner, colour, f"{_shorten(name, 20)} {note}", font)
    return np.asarray(page)


def _draw_item(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw a square of a class's colour, and its text."""
    left, top = corner
    draw.rectangle((left, top + 2, left + LINE - 6, top + LINE - 4), colour, INK)
    draw.text((left + LINE, top + 2), text, INK, font)


def _is_drawable(text: str) -> bool:
    """Return True if Pillow's own font has all characters."""
    return all(ord(character) < 256 for character in text)


def _shorten(text: str, length: int = MAX_NAME) -> str:
    """Return the end of a long text, with `?` for characters that Pillow's own font lacks."""
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= length else f"...{plain[3 - length :]}"
