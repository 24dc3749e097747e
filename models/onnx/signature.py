"""Signature of a network in a file, ONNX model or engine: inputs, outputs, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ...errors import FileFormatError, LgcError, MissingOperatorError, UsageError
from ..geometry import GEOMETRY_FIELD, Geometry
from ..space.protocol import CORE, END_TO_END, EXPORT_SCOPES, Architecture

if TYPE_CHECKING:
    from ..images import Normalisation
    from ..palettes import Palette

ARCHITECTURE_KEY, SCOPE_KEY, TABLE_KEY, CLASSES_KEY = "architecture", "scope", "table", "classes"
NORMALISATION_KEY, PALETTE_KEY, VERSION_KEY = "normalisation", "palette", "lgc_version"
SOURCE_KEY, WEIGHTS_KEY, DIGEST_KEY, PARITY_KEY = "network", "weights", "weights_digest", "parity"
"""Metadata keys of files that lgc exports.

Classes: JSON list of names. Normalisation: JSON {"mean": [3], "std": [3]}, per RGB channel in 0..1. Palette: JSON list
of the RGB colours of the classes, 0 to 255 each. Network: kind and name of a network other than an architecture,
e.g. `peer:pidnet-s`. Weights: `random` or `trained`; their digest is `files.hash_file` of the run's file. Parity:
`failed` in a file whose outputs differ from torch's by more than its precision allows.
"""

METADATA_FORMS = {
    CLASSES_KEY: "a JSON list of names",
    PALETTE_KEY: "a JSON list of [red, green, blue], 0 to 255",
    NORMALISATION_KEY: 'a JSON object with "mean" and "std" of three channels in 0..1 (or 0..255)',
}
"""Key -> description of its value."""

NCHW, NHWC = "NCHW", "NHWC"
IMAGE_LAYOUTS = (NCHW, NHWC)
"""Orders of the axes of an image: channels first, or channels last."""
IMAGE_BYTES = "uint8"
IMAGE_TYPES = ("float32", "float16", IMAGE_BYTES)
IMAGE_CHANNELS = 3
LAYOUT_OPTION, OUTPUT_OPTION = "--layout", "--output-name"
"""Options of the commands that errors suggest."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and NumPy type name of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


@dataclass(frozen=True)
class ImageInput:
    """Single image that a network takes.

    Attributes:
        name: Name of the input.
        layout: `NCHW` or `NHWC`.
        size: Height and width in pixels.
        dtype: `float32`, `float16` or `uint8`.
    """

    name: str
    layout: str
    size: tuple[int, int]
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the input, with one image."""
        height, width = self.size
        return (1, IMAGE_CHANNELS, height, width) if self.layout == NCHW else (1, height, width, IMAGE_CHANNELS)


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and metadata of a network.

    Attributes:
        where: Path of the file, or another name for messages.
        inputs: Input tensors without weights.
        outputs: Output tensors.
        metadata: Properties of the file.
    """

    where: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]

    @property
    def own_scope(self) -> str | None:
        """Scope of a file that lgc exported; None for others, and where another program changed input or output."""
        named, image = self.metadata.get(SCOPE_KEY), self.find_image()
        if named not in EXPORT_SCOPES or not self.is_lgc_export or image is None or len(self.outputs) > 1:
            return None
        output = self.outputs[0]
        if named == CORE:
            is_own = len(output.shape) == 4 and output.dtype.startswith("float")
        else:
            is_own = output.shape == (1, *image.size) and "int" in output.dtype
        return named if is_own and (image.dtype == IMAGE_BYTES) == (named == END_TO_END) else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their indices; None if the metadata lacks them.

        Raises:
            FileFormatError: The metadata of a file of lgc is damaged. Here and below, that of others is ignored.
        """
        names = self._parse_metadata(CLASSES_KEY)
        return None if names is None else tuple(names)

    @property
    def palette(self) -> Palette | None:
        """Colours of the classes in the order of their indices; None if the metadata lacks them."""
        colours = self._parse_metadata(PALETTE_KEY)
        return None if colours is None else tuple(colours)

    @property
    def is_lgc_export(self) -> bool:
        """True if lgc exported the file."""
        return VERSION_KEY in self.metadata

    @property
    def normalisation(self) -> Normalisation | None:
        """Normalisation of the images that the network was trained with; None if unknown.

        Files that lgc exported before it wrote this key were trained with ImageNet's statistics. Files of other
        programs may have them for pixels in 0..255, which is the case where all means and deviations other than 0 and
        1 are above 1.
        """
        from ..images import IMAGENET, Normalisation

        values = self._parse_metadata(NORMALISATION_KEY)
        if values is None:
            return IMAGENET if self.is_lgc_export else None
        scale = self.normalisation_scale
        return Normalisation(*(tuple(value / scale for value in values[key]) for key in ("mean", "std")))

    @property
    def normalisation_scale(self) -> float:
        """Largest pixel value that the normalisation in the metadata refers to."""
        from ..images import list_pixel_scales

        values = self._parse_metadata(NORMALISATION_KEY)
        return 255.0 if not self.is_lgc_export and list_pixel_scales(values["mean"], values["std"]) == {255.0} else 1.0

    @property
    def geometry(self) -> Geometry:
        """Positions of the logits in the image; half-pixel centres in files of other programs, and in old ones of lgc.

        Raises:
            FileFormatError: The file is of lgc, and its geometry is unknown.
        """
        text = self.metadata.get(GEOMETRY_FIELD) if self.is_lgc_export else None
        if text is None:
            return Geometry.HALF_PIXEL
        if text not in (known := [str(int(each)) for each in Geometry]):
            raise FileFormatError(
                f"{self.where}: metadata `{GEOMETRY_FIELD}` is {text[:20]!r}, known: {', '.join(known)}: update lgc"
            )
        return Geometry(int(text))

    @cached_property
    def metadata_remarks(self) -> tuple[str, ...]:
        """Remarks on metadata of other programs that is ignored, as sentences without a full stop."""
        if self.is_lgc_export:
            return ()
        keys = [key for key in METADATA_FORMS if key in self.metadata and self._parse_metadata(key) is None]
        keys += [ARCHITECTURE_KEY] * (ARCHITECTURE_KEY in self.metadata and self.architecture is None)
        return tuple(f"metadata `{key}` is ignored: it is not {METADATA_FORMS.get(key, 'of lgc')}" for key in keys)

    def _parse_metadata(self, key: str) -> Any:
        """Return the JSON value of a key of `METADATA_FORMS`; None without the key, or if another program's differs."""
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            return _parse_value(key, text, is_foreign=not self.is_lgc_export)
        except ValueError as error:
            if not self.is_lgc_export:
                return None
            raise FileFormatError(
                f"{self.where}: metadata `{key}` must be {METADATA_FORMS[key]}: export the file again"
            ) from error

    @cached_property
    def architecture(self) -> Architecture | None:
        """Architecture embedded in a file that lgc exported; None in others, and with operators not registered here.

        Raises:
            FileFormatError: The embedded architecture is damaged.
        """
        text = self.metadata.get(ARCHITECTURE_KEY)
        if text is None:
            return None
        try:
            return Architecture.parse(text, f"{self.where}, metadata `{ARCHITECTURE_KEY}`")
        except MissingOperatorError:  # a file needs no plugin
            return None
        except FileFormatError:
            if self.is_lgc_export:
                raise
            return None

    @property
    def input_size(self) -> tuple[int, ...]:
        """Height and width of the first image among the inputs; without an image the shape of the first input."""
        images = [(shape, list_layouts(shape)) for shape in (tensor.shape for tensor in self.inputs)]
        for shape, layouts in images:
            if layouts:
                return shape[2:] if layouts[0] == NCHW else shape[1:3]
        return images[0][0]

    def image_input(self, layout: str | None = None) -> ImageInput:
        """Return the network's only input as an RGB or BGR image.

        Args:
            layout: `NCHW` or `NHWC`; None to infer it from the axis with three channels.

        Raises:
            FileFormatError: The input is not a single image.
            UsageError: The shape does not have this layout, or has both and `layout` is None.
        """
        inputs = ", ".join(map(str, self.inputs))
        shape, dtype = self.inputs[0].shape, self.inputs[0].dtype
        layouts = list_layouts(shape)
        if len(self.inputs) > 1 or not layouts or shape[0] != 1 or dtype not in IMAGE_TYPES:
            raise FileFormatError(
                f"{self.where}: input must be one image, 1x3xHxW or 1xHxWx3 of {', '.join(IMAGE_TYPES)}, got {inputs}"
            )
        if layout is None and len(layouts) > 1:
            raise UsageError(
                f"{self.where}: input {inputs} may be {' or '.join(layouts)}: add {LAYOUT_OPTION} nchw or nhwc"
            )
        if layout is not None and layout not in layouts:
            raise UsageError(f"{self.where}: input {inputs} is {layouts[0]}, not {layout}: omit {LAYOUT_OPTION}")
        chosen = layout or layouts[0]
        size = shape[2:] if chosen == NCHW else shape[1:3]
        return ImageInput(self.inputs[0].name, chosen, (size[0], size[1]), dtype)

    def find_image(self) -> ImageInput | None:
        """Return the only input as an image; None for other inputs, and for an unknown layout."""
        try:
            return self.image_input()
        except LgcError:
            return None

    @property
    def output(self) -> TensorSpec:
        """The only output.

        Raises:
            UsageError: There are several outputs; the message lists them.
        """
        if len(self.outputs) > 1:
            raise UsageError(
                f"{self.where} has {len(self.outputs)} outputs: {describe_outputs(self.outputs)}; choose one with "
                f"{OUTPUT_OPTION} NAME"
            )
        return self.outputs[0]


def _parse_value(key: str, text: str, *, is_foreign: bool) -> Any:
    """Return the JSON value of a key of `METADATA_FORMS`.

    Raises:
        ValueError: The text has another form, or a normalisation of another program fits no range of pixel values.
    """
    from pydantic import Field, TypeAdapter

    from ..images import Normalisation, list_pixel_scales

    byte = Annotated[int, Field(ge=0, le=255)]
    kinds: dict[str, Any] = {
        CLASSES_KEY: list[str],
        PALETTE_KEY: list[tuple[byte, byte, byte]],
        NORMALISATION_KEY: dict[Literal["mean", "std"], tuple[float, float, float]],
    }
    length = 2 if key == NORMALISATION_KEY else 1
    sized: Any = Annotated[kinds[key], Field(min_length=length)]
    value: Any = TypeAdapter(sized).validate_json(text, strict=True)
    if key == NORMALISATION_KEY:
        try:
            Normalisation(**value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        if is_foreign and len(list_pixel_scales(**value)) > 1:
            raise ValueError("mean and std fit no range of pixel values")
    return value


def list_layouts(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the layouts in which a shape is a batch of images with three channels."""
    axes = {NCHW: 1, NHWC: 3}
    return tuple(name for name, axis in axes.items() if len(shape) == 4 and shape[axis] == IMAGE_CHANNELS)


def count_images(inputs: Sequence[TensorSpec]) -> int:
    """Return the largest batch of images among the inputs; 1 without images."""
    return max((tensor.shape[0] for tensor in inputs if list_layouts(tensor.shape)), default=1)


def describe_outputs(outputs: Sequence[TensorSpec]) -> str:
    """Return name, type and shape of each output; auxiliary logits of a training are marked."""
    return ", ".join(f"{tensor}{' (auxiliary logits?)' * is_auxiliary(tensor, outputs)}" for tensor in outputs)


def is_auxiliary(tensor: TensorSpec, outputs: Sequence[TensorSpec]) -> bool:
    """Return True if an output seems to be an auxiliary head's: by its name, or logits smaller than another output's.

    Segmentation networks often export the logits of heads that only the training needs, with the same classes.
    """
    if "aux" in tensor.name.lower():
        return len(outputs) > 1
    shape = tensor.shape
    return any(
        len(shape) == len(other.shape) == 4 and shape[:2] == other.shape[:2] and shape[2:] < other.shape[2:]
        for other in outputs
    )
