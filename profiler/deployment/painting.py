"""How classes are shown: their names, their colours, and pictures in these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_atomic
from .video import video_writer

if TYPE_CHECKING:
    from ...models.images import RGBImage
    from ...models.onnx.signature import Signature
    from ...models.palettes import Palette
    from .inputs import MediaFile
    from .segmenter import Labels

COMPRESSION = 1
"""Of PNG files, 0 to 9: the usual 6 takes half as long again, for files a tenth smaller."""


@dataclass(frozen=True)
class Legend:
    """Classes by their numbers.

    Attributes:
        names: what they are called.
        palette: their colours; as many as names, or more.
    """

    names: tuple[str, ...]
    palette: Palette

    @classmethod
    def of(cls, network: Signature, known: Sequence[Legend] = ()) -> Legend:
        """Return the legend of a known data set if the class names match, or their number where a network has none.

        Any other network gets distinct colours.

        Args:
            network: signature of the exported network.
            known: legends of data sets, first match wins.

        Raises:
            FileFormatError: the file's class names are malformed.
        """
        from ...models.palettes import distinct_palette
        from .segmenter import MAX_CLASSES

        names, count = network.class_names, network.classes
        for legend in known:
            if names == legend.names or (names is None and count == len(legend.names)):
                return legend
        names = names or tuple(f"class {index}" for index in range(count or 0))
        return cls(names, distinct_palette(max(len(names), count or MAX_CLASSES)))

    def name(self, index: int) -> str:
        """Name of a class."""
        return self.names[index] if index < len(self.names) else f"class {index}"

    def colour(self, index: int) -> str:
        """Colour of a class as `#rrggbb`; black where it has none."""
        return "#{:02x}{:02x}{:02x}".format(*(self.palette[index] if index < len(self.palette) else (0, 0, 0)))

    def mask(self, labels: Labels) -> RGBImage:
        """Classes in their colours, [h, w] -> [h, w, 3]."""
        from ...models.palettes import colourise_labels

        return colourise_labels(labels, self.palette)


@dataclass(frozen=True)
class Painter:
    """What writes the pictures.

    Attributes:
        legend: colours.
        alpha: their weight in overlays.
        ids: whether the class of every pixel of an image is written too.
    """

    legend: Legend
    alpha: float
    ids: bool

    @contextmanager
    def writing(self, job: MediaFile) -> Iterator[Callable[[RGBImage, Labels], None]]:
        """Context that gives a function which takes an image and its classes, and writes what is wanted of them."""
        paths = job.outputs(self.ids)
        if job.clip is not None:
            with video_writer(paths["overlay"], job.clip.rate) as write:
                yield lambda pixels, labels: write(blended(pixels, self.legend.mask(labels), self.alpha))
            return

        def write_images(pixels: RGBImage, labels: Labels) -> None:
            mask = self.legend.mask(labels)
            pictures = {"mask": mask, "overlay": blended(pixels, mask, self.alpha), "ids": labels}
            for what, path in paths.items():
                write_png(pictures[what], path)

        yield write_images


def blended(pixels: RGBImage, mask: RGBImage, alpha: float) -> RGBImage:
    """The image with a mask over it, of the weight `alpha`; [h, w, 3] each."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.blend(Image.fromarray(pixels), Image.fromarray(mask), alpha))


def write_png(picture: RGBImage, path: Path) -> None:
    """Write [h, w, 3] RGB, or [h, w] bytes.

    Raises:
        OutputError: it cannot be written.
    """
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=COMPRESSION)
    write_atomic(path, buffer.getvalue())
