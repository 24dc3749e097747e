"""Picture of labelled images: a grid of overlays with their names, and a legend of the classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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
MAX_NAME, MAX_LEGEND_NAME = 44, 20
"""Characters of an image's and of a class's name; longer ones keep their end."""
MISSING = "\U0010ffff"
"""Character that no font has."""


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


def draw_overlays(
    overlays: Sequence[Overlay], legend: Legend, notes: Sequence[str], ids: Sequence[int] | None = None
) -> RGBImage:
    """Return the grid of overlays above the legend, [h, w, 3].

    A name with characters that the font lacks follows its class's id.

    Args:
        overlays: pictures, row by row.
        legend: names and colours of the classes.
        notes: text behind the name of each class, and behind that of the ignored pixels, to list them.
        ids: class id of each name; None for 0, 1, ...
    """
    numbers = range(len(legend.names)) if ids is None else ids
    names = [_format_name(number, name) for number, name in zip(numbers, legend.names, strict=True)]
    items = [*zip(names, legend.palette, strict=False), ("ignored", None)][: len(notes)]
    columns = max(min(COLUMNS, len(overlays)), 2)
    width = columns * (CELL[0] + MARGIN) + MARGIN
    rows = [overlays[first : first + columns] for first in range(0, len(overlays), columns)]
    heights = [max(overlay.picture.shape[0] for overlay in row) + LINE + MARGIN for row in rows]
    top = sum(heights) + MARGIN
    across = max((width - MARGIN) // LEGEND_WIDTH, 1)
    lines = -(-len(items) // across)
    page = Image.new("RGB", (width, top + lines * LINE + MARGIN), PAPER)
    font = _load_font()
    for index, row in enumerate(rows):
        for column, overlay in enumerate(row):
            corner = (MARGIN + column * (CELL[0] + MARGIN), MARGIN + sum(heights[:index]))
            _draw_overlay(page, corner, overlay, font)
    for index, ((name, colour), note) in enumerate(zip(items, notes, strict=True)):
        corner = (MARGIN + index // lines * LEGEND_WIDTH, top + index % lines * LINE)
        _draw_item(page, corner, colour, f"{name} {note}", font)
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


def _format_name(number: int, name: str) -> str:
    """Return the name of a class, shortened; its id, and what can be drawn of the name, if that is not all of it."""
    plain = _replace_missing(name)
    if plain == name:
        return _shorten(name, MAX_LEGEND_NAME)
    prefix = f"class {number}"
    rest = _shorten(plain, MAX_LEGEND_NAME - len(prefix) - 2)
    return f"{prefix}: {rest}" if any(map(str.isalnum, plain)) else prefix


def _shorten(text: str, length: int = MAX_NAME) -> str:
    """Return the end of a long text, without characters that the font lacks."""
    plain = _replace_missing(text)
    return plain if len(plain) <= length else f"...{plain[3 - length :]}"


def _replace_missing(text: str) -> str:
    """Return a text with characters that the font lacks as their base letters, e.g. e for é, else as `?`."""
    return "".join(
        next(filter(_is_drawable, (character, unicodedata.normalize("NFD", character)[0])), "?")
        for character in unicodedata.normalize("NFC", text)
    )


@cache
def _is_drawable(character: str) -> bool:
    """Return True if the font has a character, by comparison with the box that it draws for missing ones."""
    masks = (_load_font().getmask(text) for text in (character, MISSING))
    return character.isprintable() and len({(mask.size, bytes(mask)) for mask in masks}) == 2


@cache
def _load_font() -> Font:
    """Return Pillow's own font, which has ASCII and some punctuation; no dependency brings a larger one."""
    return ImageFont.load_default(FONT_SIZE)
