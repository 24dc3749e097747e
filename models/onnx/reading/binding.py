"""Dynamic axes of the inputs, bound to one image of a given size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ....errors import FileFormatError, UsageError
from ..graphs import RawModel, walk_graphs
from ..signature import IMAGE_CHANNELS, IMAGE_LAYOUTS, LAYOUT_OPTION, NCHW, NHWC, list_layouts

Size = tuple[int, int]
Axis = int | str
"""Length of an axis; the name of a dynamic axis, made up where it has none."""

CHANNEL_AXES, SPATIAL_AXES = {"NCHW": 1, "NHWC": 3}, {"NCHW": (2, 3), "NHWC": (1, 2)}
UNKNOWN_AXES = ("", "?", "-1", "None")
"""Names that exporters give to axes of unknown lengths, which need not be equal."""
_ELEMENTWISE = ("Identity", "Cast", "Sub", "Add", "Mul", "Div")
"""Operators of a normalisation between the input and the first convolution."""


class FixedSizeError(FileFormatError):
    """A model that does not take images of the requested size."""


def bind_inputs(raw: RawModel, size: Size | None, layout: str | None) -> None:
    """Give every input a static shape: batches of one, and images of `size`.

    Args:
        raw: Model to change; the shapes of all other tensors are removed if it is changed.
        size: Height and width in pixels for the image with dynamic axes; None if there is none.
        layout: `NCHW` or `NHWC` of the image; None to infer it.

    Raises:
        FixedSizeError: The image has a fixed size other than `size`, or there is none.
        FileFormatError: An axis stays dynamic, or an input is empty or not a tensor.
        UsageError: The layout is unknown, or contradicts the shape.
    """
    shapes = {value.name: _read_axes(value, raw) for value in raw.model.graph.input}
    lengths: dict[str, int] = {axes[0]: 1 for axes in shapes.values() if len(axes) > 1 and isinstance(axes[0], str)}
    images = [name for name, axes in shapes.items() if len(axes) == 4 and _names(axes[1:], lengths)]
    if size is None or not images:
        _require_size(raw, shapes, lengths, size)
        _require_layout(raw, shapes, layout)
    else:
        _bind_image(raw, images[0], shapes[images[0]], lengths, size, layout)
    if left := [name for name, axes in shapes.items() if _names(axes, lengths)]:
        named = " and ".join(f"{name} {_format(shapes[name])}" for name in left)
        advice = (
            "--input sets the size of one image only"
            if images
            else "only images of four axes can be bound, with --input HxW"
        )
        raise FileFormatError(f"{raw.where}: dynamic shapes of {named}: {advice}; export the model with fixed sizes")
    if lengths:
        _write_axes(raw, shapes, lengths)


def _require_size(
    raw: RawModel, shapes: Mapping[str, list[Axis]], lengths: Mapping[str, int], size: Size | None
) -> None:
    """Check that images without dynamic axes have the size, or that no size is needed."""
    if size is None:
        for name, axes in shapes.items():
            if len(axes) == 4 and _names(axes, lengths):
                shape = json.dumps([axis if _is_named(axis) else "?" for axis in axes])
                raise FileFormatError(
                    f"{raw.where}: {name} has a dynamic shape {shape}: add --input HxW, the height and width of the "
                    "image in pixels"
                )
        return
    fixed = [tuple(axis if isinstance(axis, int) else 1 for axis in axes) for axes in shapes.values()]
    sizes = {tuple(shape[axis] for axis in SPATIAL_AXES[name]) for shape in fixed for name in list_layouts(shape)}
    if not sizes:
        raise FixedSizeError(f"{raw.where}: --input sets the size of an image, but no input is one: {_list(shapes)}")
    if size not in sizes:
        own = " or ".join("x".join(map(str, each)) for each in sorted(sizes))
        raise FixedSizeError(
            f"{raw.where} has a fixed input size of {own}, not {size[0]}x{size[1]}: omit --input, or export it "
            "with that size"
        )


def _require_layout(raw: RawModel, shapes: Mapping[str, list[Axis]], layout: str | None) -> None:
    """Check that an input is an image of this layout.

    Raises:
        UsageError: None is.
    """
    fixed = [tuple(axis if isinstance(axis, int) else 1 for axis in axes) for axes in shapes.values()]
    if layout is not None and not any(layout in list_layouts(shape) for shape in fixed):
        raise UsageError(f"{raw.where}: no input is an image in {layout}: {_list(shapes)}: omit {LAYOUT_OPTION}")


def _bind_image(
    raw: RawModel, name: str, axes: list[Axis], lengths: dict[str, int], size: Size, layout: str | None
) -> None:
    """Add the lengths of the dynamic axes of an image to `lengths`."""
    chosen = _infer_layout(raw, name, axes, layout)
    channels = axes[CHANNEL_AXES[chosen]]
    if isinstance(channels, str):
        count = _find_channels(raw.model.graph, name, chosen)
        lengths[channels] = count or IMAGE_CHANNELS
        raw.remarks.append(f"input {name}: {lengths[channels]} channels {'by its weights' if count else 'assumed'}")
    for axis, pixels in zip((axes[index] for index in SPATIAL_AXES[chosen]), size, strict=True):
        if (axis if isinstance(axis, int) else lengths.setdefault(axis, pixels)) != pixels:
            raise FixedSizeError(
                f"{raw.where}: input {name} {_format(axes)} cannot be {size[0]}x{size[1]}: choose another --input"
            )


def _infer_layout(raw: RawModel, name: str, axes: list[Axis], layout: str | None) -> str:
    """Return the layout of an image with dynamic axes.

    An image that reaches a convolution is NCHW, or NHWC if it is transposed on the way. Else the axis of the channels
    has a length of three, or a fixed one with a dynamic height and width.
    """
    fixed = [each for each in IMAGE_LAYOUTS if _find_channels(raw.model.graph, name, each)]
    if not fixed:
        fixed = [each for each in IMAGE_LAYOUTS if axes[CHANNEL_AXES[each]] == IMAGE_CHANNELS]
        fixed = fixed or [each for each in IMAGE_LAYOUTS if _has_dynamic_size(axes, each)] or [*IMAGE_LAYOUTS]
    if layout is not None and layout not in fixed:
        raise UsageError(f"{raw.where}: input {name} {_format(axes)} is not {layout}: omit {LAYOUT_OPTION}")
    if layout is None and len(fixed) != 1:
        raise UsageError(
            f"{raw.where}: input {name} {_format(axes)} may be NCHW or NHWC: add {LAYOUT_OPTION} nchw or nhwc"
        )
    return layout or fixed[0]


def _has_dynamic_size(axes: list[Axis], layout: str) -> bool:
    """Return True if, in this layout, the number of channels is fixed, and height and width are not."""
    is_fixed = isinstance(axes[CHANNEL_AXES[layout]], int)
    return is_fixed and not any(isinstance(axes[index], int) for index in SPATIAL_AXES[layout])


def _find_channels(graph: Any, name: str, layout: str) -> int | None:
    """Return the channels of the first convolution that an image reaches through a normalisation only.

    An image in NHWC is transposed on the way.
    """
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    reached: dict[str, set[str]] = {NCHW: set(), NHWC: set()} | {layout: {name}}
    for node in graph.node:
        for own, names in reached.items():
            if not names & set(node.input):
                continue
            if node.op_type in _ELEMENTWISE:
                names |= set(node.output)
            elif own == NHWC and node.op_type == "Transpose" and [*_read_order(node)] == [0, 3, 1, 2]:
                reached[NCHW] |= set(node.output)
            elif own == NCHW and node.op_type == "Conv" and node.input[1] in weights:
                groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
                return int(weights[node.input[1]][1] * groups)
    return None


def _read_order(node: Any) -> Iterable[int]:
    """Return the order of axes of a `Transpose`."""
    return next((entry.ints for entry in node.attribute if entry.name == "perm"), ())


def _read_axes(value: Any, raw: RawModel) -> list[Axis]:
    """Return the axes of an input; a dynamic axis without a name gets a unique one.

    So does one with a name that the batch shares with another axis: some exporters give all dynamic axes one name.
    """
    where = raw.where
    if not value.type.HasField("tensor_type"):
        raise FileFormatError(f"{where}: input {value.name} is a {value.type.WhichOneof('value')}, not a tensor")
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        raise FileFormatError(
            f"{where}: input {value.name} has no shape: export the model with the shapes of its inputs"
        )
    entries = kind.shape.dim
    batch = entries[0].dim_param if entries else ""
    is_shared = bool(batch) and any(entry.dim_param == batch for entry in entries[1:])
    if is_shared and batch not in UNKNOWN_AXES:
        raw.remarks.append(f"input {value.name}: its axes named {batch!r}, the batch too, may have different lengths")
    axes: list[Axis] = []
    for index, entry in enumerate(entries):
        if entry.HasField("dim_value") and entry.dim_value == 0:
            raise FileFormatError(f"{where}: input {value.name} is empty: axis {index} has length 0")
        fixed = entry.HasField("dim_value") and entry.dim_value > 0  # some exporters write -1
        is_unknown = entry.dim_param in UNKNOWN_AXES or (is_shared and entry.dim_param == batch)
        axes.append(entry.dim_value if fixed else f"?{value.name}.{index}" if is_unknown else entry.dim_param)
    return axes


def _write_axes(raw: RawModel, shapes: Mapping[str, list[Axis]], lengths: Mapping[str, int]) -> None:
    """Write static shapes to the inputs, remove the shapes of all other tensors, and say what was bound."""
    graph = raw.model.graph
    bound = {name: [axis if isinstance(axis, int) else lengths[axis] for axis in axes] for name, axes in shapes.items()}
    for value in graph.input:
        for entry, length in zip(value.type.tensor_type.shape.dim, bound[value.name], strict=True):
            entry.dim_value = length
    for inner in walk_graphs(graph):
        del inner.value_info[:]
    for value in graph.output:
        for entry in value.type.tensor_type.shape.dim:  # the checker requires the number of axes
            entry.Clear()
    texts = {name: "x".join(map(str, bound[name])) for name, axes in shapes.items() if bound[name] != axes}
    raw.bound = ", ".join(f"{name} {text}" for name, text in texts.items())
    for name, text in texts.items():
        raw.change(f"input {name} {_format(shapes[name])} bound to {text}")


def _names(axes: Iterable[Axis], lengths: Mapping[str, int]) -> list[str]:
    """Return the dynamic axes without a length."""
    return [axis for axis in axes if isinstance(axis, str) and axis not in lengths]


def _is_named(axis: Axis) -> bool:
    return isinstance(axis, int) or not axis.startswith("?")


def _format(axes: Iterable[Axis]) -> str:
    """Return a shape as `[n, 3, h, w]`."""
    return f"[{', '.join(str(axis) if _is_named(axis) else '?' for axis in axes)}]"


def _list(shapes: Mapping[str, list[Axis]]) -> str:
    return ", ".join(f"{name} {_format(axes)}" for name, axes in shapes.items())
