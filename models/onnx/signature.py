"""Signature of a network in a file, ONNX model or engine: inputs, outputs, metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import FileFormatError, MissingOperatorError, UsageError
from ..space.protocol import CORE, DENSE, END_TO_END, EXPORT_SCOPES, Architecture

if TYPE_CHECKING:
    from ..images import Normalisation
    from ..palettes import Palette

ARCHITECTURE_KEY, SCOPE_KEY, TABLE_KEY, CLASSES_KEY = "architecture", "scope", "table", "classes"
NORMALISATION_KEY, PALETTE_KEY, VERSION_KEY = "normalisation", "palette", "lgc_version"
SOURCE_KEY, WEIGHTS_KEY, DIGEST_KEY = "network", "weights", "weights_digest"
"""Metadata keys of files that lgc exports.

Classes: JSON list of names. Normalisation: JSON {"mean": [3], "std": [3]}, per RGB channel in 0..1. Palette: JSON list
of the RGB colours of the classes, 0 to 255 each. Network: kind and name of a network other than an architecture,
e.g. `peer:pidnet-s`. Weights: `random` or `trained`; their digest is `files.hash_file` of the run's file.
"""

NCHW, NHWC = "NCHW", "NHWC"
LAYOUTS = (NCHW, NHWC)
"""Orders of the axes of an image: channels first, or channels last."""
IMAGE_TYPES = ("float32", "float16", "uint8")
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
    def scope(self) -> str:
        """Scope in the metadata of our files; for others, inferred from the types of input and output."""
        named = self.metadata.get(SCOPE_KEY)
        if named in EXPORT_SCOPES:
            return str(named)
        if self.outputs[0].dtype.startswith("float"):
            return CORE
        return END_TO_END if all(tensor.dtype == "uint8" for tensor in self.inputs) else DENSE

    @property
    def classes(self) -> int | None:
        """Number of classes from the metadata, else from the output's shape; None if unknown."""
        if self.architecture is not None:
            return self.architecture.search_space.classes
        if self.class_names is not None:
            return len(self.class_names)
        counts = {shape[1] for shape in (tensor.shape for tensor in self.outputs) if len(shape) == 4 and shape[1] > 1}
        return counts.pop() if len(counts) == 1 else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their indices; None if the metadata lacks them.

        Raises:
            FileFormatError: The metadata is damaged.
        """
        names = self._parse_metadata(CLASSES_KEY, tuple[str, ...], "list of names")
        return None if names is None else tuple(names)

    @property
    def palette(self) -> Palette | None:
        """Colours of the classes in the order of their indices; None if the metadata lacks them.

        Raises:
            FileFormatError: The metadata is damaged.
        """
        colours = self._parse_metadata(PALETTE_KEY, tuple[tuple[int, int, int], ...], "list of [red, green, blue]")
        if colours is None:
            return None
        if not all(0 <= value <= 255 for colour in colours for value in colour):
            raise self._metadata_error(PALETTE_KEY, "list of colours with values from 0 to 255")
        return tuple(colours)

    @property
    def is_lgc_export(self) -> bool:
        """True if lgc exported the file."""
        return VERSION_KEY in self.metadata

    @property
    def normalisation(self) -> Normalisation | None:
        """Normalisation of the images that the network was trained with; None if unknown.

        Files that lgc exported before it wrote this key were trained with ImageNet's statistics.

        Raises:
            FileFormatError: The metadata is damaged.
        """
        from ..images import IMAGENET, Normalisation

        values = self._parse_metadata(
            NORMALISATION_KEY, dict[str, tuple[float, float, float]], 'object with "mean" and "std" of three channels'
        )
        if values is None:
            return IMAGENET if self.is_lgc_export else None
        if set(values) != {"mean", "std"}:
            raise self._metadata_error(NORMALISATION_KEY, 'object with "mean" and "std" of three channels')
        try:
            return Normalisation(**values)
        except UsageError as error:
            raise FileFormatError(f"{self.where}: metadata `{NORMALISATION_KEY}`: {error}") from error

    def _parse_metadata(self, key: str, kind: Any, description: str) -> Any:
        """Return the JSON value of a metadata key as `kind`; None without the key."""
        from pydantic import TypeAdapter, ValidationError

        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            value = TypeAdapter(kind).validate_json(text, strict=True)
        except ValidationError as error:
            raise self._metadata_error(key, description) from error
        if not value:
            raise self._metadata_error(key, description)
        return value

    def _metadata_error(self, key: str, description: str) -> FileFormatError:
        return FileFormatError(f"{self.where}: metadata `{key}` must be a JSON {description}: export the file again")

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


def list_layouts(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the layouts in which a shape is a batch of images with three channels."""
    axes = {NCHW: 1, NHWC: 3}
    return tuple(name for name, axis in axes.items() if len(shape) == 4 and shape[axis] == IMAGE_CHANNELS)


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
