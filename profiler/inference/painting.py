"""Names and colours of classes, and pictures in these colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...errors import FileFormatError, UsageError
from ...files import read_text, write_atomic
from ..deployment.network import Log
from .video import open_video_writer

if TYPE_CHECKING:
    from ...models.images import RGBImage
    from ...models.onnx.signature import Signature
    from ...models.palettes import Palette
    from .media import MediaFile
    from .resampling import Labels

PNG_COMPRESSION = 1
"""Compression level, 0 to 9: the usual 6 takes 1.5 times as long, for files a tenth smaller."""
BINARY_NAMES = ("background", "foreground")
"""Names of the classes of a mask."""


@dataclass(frozen=True)
class Legend:
    """Names and colours of classes, by class id.

    Attributes:
        names: names of the classes.
        palette: colours of the classes; at least one per name.
        dataset: dataset that defines them; empty for others.
        background: class that overlays leave transparent; None to colour all.
    """

    names: tuple[str, ...]
    palette: Palette
    dataset: str = ""
    background: int | None = None

    @classmethod
    def for_network(
        cls,
        network: Signature,
        num_classes: int | None,
        known: Sequence[Legend] = (),
        *,
        is_mask: bool = False,
        log: Log = print,
    ) -> Legend:
        """Return names and colours from the network's metadata, else those of a known legend, else distinct colours.

        A known legend has the network's class names, or as many classes if the network has neither names nor colours.
        Names and colours that differ in number from the classes are ignored in files of other programs.

        Args:
            network: signature of the exported network.
            num_classes: number of classes; None if unknown.
            known: legends of datasets; the first match wins.
            is_mask: True if the classes are background and foreground: the background is transparent.
            log: receives a remark on ignored names or colours.

        Raises:
            FileFormatError: the names or colours in a file of lgc are malformed.
        """
        from ...models.onnx.signature import CLASSES_KEY, PALETTE_KEY
        from ...models.palettes import distinct_palette
        from .outputs import MAX_MASK_CLASSES

        names, palette = network.class_names, network.palette
        is_foreign = not network.is_lgc_export
        if is_foreign and names is not None and num_classes not in (None, len(names)):
            log(f"{network.where}: metadata `{CLASSES_KEY}` is ignored: {len(names)} names for {num_classes} classes")
            names = None
        if is_foreign and palette is not None and len(palette) < (num_classes or 0):
            colours = f"{len(palette)} colours for {num_classes} classes"
            log(f"{network.where}: metadata `{PALETTE_KEY}` is ignored: {colours}")
            palette = None
        if palette is None:
            for legend in known:
                if names == legend.names or (names is None and num_classes == len(legend.names)):
                    return legend
        background = 0 if is_mask else None
        if is_mask and names is None and palette is None:
            return cls(BINARY_NAMES, ((0, 0, 0), *distinct_palette(1)), background=background)
        names = names or tuple(f"class {index}" for index in range(num_classes or 0))
        count = max(len(names), num_classes or 0)
        if palette is not None and len(palette) < count:
            raise FileFormatError(
                f"{network.where}: metadata `{PALETTE_KEY}` has {len(palette)} colours for {count} classes"
            )
        return cls(names, palette or distinct_palette(count or MAX_MASK_CLASSES), background=background)

    @classmethod
    def read(cls, path: Path) -> Legend:
        """Read names and colours of classes from a YAML or JSON file.

        The file, or its key `classes` as in a `dataset.yaml`, has an entry per class, `name: [red, green, blue]`, or is
        a list of names.

        Raises:
            FileFormatError: the file has another form.
        """
        from pydantic import Field, TypeAdapter, ValidationError

        from ...models.palettes import distinct_palette
        from ...yaml_text import parse_yaml

        byte = Annotated[int, Field(ge=0, le=255)]
        try:
            content = parse_yaml(read_text(path, "palette"))
            classes = content.get("classes", content) if isinstance(content, dict) else content
            kind: Any = dict[str, tuple[byte, byte, byte]] if isinstance(classes, dict) else list[str]
            sized: Any = Annotated[kind, Field(min_length=1, max_length=256)]
            named: Any = TypeAdapter(sized).validate_python(classes)
        except ValidationError as error:
            raise FileFormatError(
                f"cannot read palette {path}: write a class per line, name: [red, green, blue], with 0 to 255"
            ) from error
        except ValueError as error:
            raise FileFormatError(f"cannot read palette {path}: {error}") from error
        return cls(tuple(named), tuple(named.values()) if isinstance(named, dict) else distinct_palette(len(named)))

    def check_network(self, network: Signature, num_classes: int | None) -> None:
        """Check that the names fit a network.

        Raises:
            UsageError: the network has another number of classes, or other names in its metadata.
        """
        if num_classes not in (None, len(self.names)):
            raise UsageError(f"{network.where} has {num_classes} classes, the palette {len(self.names)}")
        names = network.class_names
        if names not in (None, self.names) and len(names) == (num_classes or len(names)):
            raise UsageError(f"{network.where} has other classes than the palette: {', '.join(names)}")

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

    def overlay(self, pixels: RGBImage, labels: Labels, alpha: float) -> RGBImage:
        """Return an image [h, w, 3] under the colours of its classes [h, w], of opacity `alpha`."""
        import numpy as np

        blended = blend_mask(pixels, self.mask(labels), alpha)
        return blended if self.background is None else np.where((labels == self.background)[..., None], pixels, blended)


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
            with open_video_writer(paths["overlay"], file.clip.rate, file.clip.pixel_aspect) as write:
                yield lambda pixels, labels: write(self.legend.overlay(pixels, labels, self.alpha))
            return

        def write_images(pixels: RGBImage, labels: Labels) -> None:
            overlay = self.legend.overlay(pixels, labels, self.alpha)
            pictures = {"mask": self.legend.mask(labels), "overlay": overlay, "ids": labels}
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
