"""Names and colours of classes, and pictures in these colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_atomic
from .video import open_video_writer

if TYPE_CHECKING:
    from ...models.images import RGBImage
    from ...models.onnx.signature import Signature
    from ...models.palettes import Palette
    from .media import MediaFile
    from .segmenter import Labels

PNG_COMPRESSION = 1
"""Compression level, 0 to 9: the usual 6 takes 1.5 times as long, for files a tenth smaller."""


@dataclass(frozen=True)
class Legend:
    """Names and colours of classes, by class id.

    Attributes:
        names: names of the classes.
        palette: colours of the classes; at least one per name.
    """

    names: tuple[str, ...]
    palette: Palette

    @classmethod
    def for_network(cls, network: Signature, known: Sequence[Legend] = ()) -> Legend:
        """Return the known legend with the network's class names, or with as many classes if it has no names.

        Any other network gets distinct colours.

        Args:
            network: signature of the exported network.
            known: legends of datasets; the first match wins.

        Raises:
            FileFormatError: the class names in the file are malformed.
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
        """Return the name of a class."""
        return self.names[index] if index < len(self.names) else f"class {index}"

    def colour(self, index: int) -> str:
        """Return the colour of a class as `#rrggbb`; black for a class without one."""
        return "#{:02x}{:02x}{:02x}".format(*(self.palette[index] if index < len(self.palette) else (0, 0, 0)))

    def mask(self, labels: Labels) -> RGBImage:
        """Return classes in their colours, [h, w] -> [h, w, 3]."""
        from ...models.palettes import colourise_labels

        return colourise_labels(labels, self.palette)


@dataclass(frozen=True)
class Painter:
    """Writer of masks, overlays and class ids.

    Attributes:
        legend: colours of the classes.
        alpha: opacity of the colours in overlays, 0 to 1.
        ids: True to write the class ids of images too.
    """

    legend: Legend
    alpha: float
    ids: bool

    @contextmanager
    def open_writer(self, file: MediaFile) -> Iterator[Callable[[RGBImage, Labels], None]]:
        """Yield a function that writes the outputs of `file` for an image and its classes."""
        paths = file.outputs(self.ids)
        if file.clip is not None:
            with open_video_writer(paths["overlay"], file.clip.rate) as write:
                yield lambda pixels, labels: write(blend_mask(pixels, self.legend.mask(labels), self.alpha))
            return

        def write_images(pixels: RGBImage, labels: Labels) -> None:
            mask = self.legend.mask(labels)
            pictures = {"mask": mask, "overlay": blend_mask(pixels, mask, self.alpha), "ids": labels}
            for kind, path in paths.items():
                write_png(pictures[kind], path)

        yield write_images


def blend_mask(pixels: RGBImage, mask: RGBImage, alpha: float) -> RGBImage:
    """Return the image under a mask of opacity `alpha`; [h, w, 3] each."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.blend(Image.fromarray(pixels), Image.fromarray(mask), alpha))


def write_png(picture: RGBImage, path: Path) -> None:
    """Write [h, w, 3] RGB, or [h, w] bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=PNG_COMPRESSION)
    write_atomic(path, buffer.getvalue())
