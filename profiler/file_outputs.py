"""Outputs of ONNX files, for comparisons: what they are, and how many classes they have."""

from __future__ import annotations

from collections import Counter

from ..models.onnx.model import OnnxModel
from ..models.onnx.reading.pixel_maps import find_channel_axis, find_channels, list_pixel_maps
from ..models.space.protocol import DENSE, END_TO_END
from .backends.base import IMAGE_DTYPE
from .inference.output_values import COLOURS, LABELS, MASK, RANKING, StoredValues, infer_values
from .output_differences import OutputDifferences

PLAIN_LABELS = (StoredValues(LABELS), StoredValues(MASK))
"""Values of a label map: the indices of the classes."""
NO_SCORES = (LABELS, MASK, RANKING, COLOURS)
"""Meanings of several channels that are not the scores of classes."""


def count_classes(model: OnnxModel) -> int | None:
    """Return the number of classes of a file, from its scores, else from its metadata; None if unknown."""
    if model.architecture is not None and model.own_scope is not None:
        return model.architecture.search_space.classes
    channels, names = find_channels(model), model.class_names
    return len(names) if channels is None and names is not None else channels


def start_comparisons(model: OnnxModel) -> list[OutputDifferences]:
    """Return a comparison of each output, as scores of classes, a label map or other values, without images."""
    image, comparisons = model.find_image(), []
    for output in model.outputs:
        values = infer_values(model.skeleton, output.name)
        axis = None if values.meaning in NO_SCORES else find_channel_axis(output, image)
        comparisons.append(OutputDifferences(axis, is_label_map=values in PLAIN_LABELS))
    return comparisons


def name_scope(model: OnnxModel) -> str:
    """Return the scope of a file of lgc, and of a label map of the image's size; of others what they compute."""
    image, outputs = model.find_image(), model.outputs
    if model.own_scope is not None:
        return model.own_scope
    if image is not None and len(outputs) == 1 and not outputs[0].dtype.startswith("float"):
        maps = list_pixel_maps(outputs[0], image)
        is_whole = bool(maps) and (maps[0].channels, maps[0].size) == (1, image.size)
        if is_whole and infer_values(model.skeleton, outputs[0].name) in PLAIN_LABELS:
            return END_TO_END if image.dtype == IMAGE_DTYPE else DENSE
    kinds = ["" if output.dtype.startswith("float") else f"{output.dtype} " for output in outputs]
    shapes = ["x".join(map(str, output.shape)) or "scalar" for output in outputs]
    source = "from bytes " if any(tensor.dtype == IMAGE_DTYPE for tensor in model.inputs) else ""
    counts = Counter(f"{kind}{shape}" for kind, shape in zip(kinds, shapes, strict=True))
    texts = [f"{count} of {text}" if count > 1 else text for text, count in counts.items()]
    return f"as is, {source}to {' and '.join(texts)}"
