"""Normalisation of the image inside the graph: its mean and standard deviation, measured by running its first nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.onnx.counting.costs import Scope
from ...models.onnx.counting.macs import get_attribute
from ...models.onnx.graphs import keep_outputs
from ...models.onnx.model import OnnxModel
from ...models.onnx.ort_probe import OrtProbe
from ...models.onnx.signature import NCHW, ImageInput
from .output_values import NEUTRAL_OPERATORS

_PASSING = {
    *NEUTRAL_OPERATORS, "BatchNormalization", "Clip", "Concat", "GatherND", "Neg", "Pad", "QuantizeLinear", "Relu",
    "MaxPool", "Split",
}  # fmt: skip
"""Operators of a normalisation whose further inputs, if any, are constants or the image too."""
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Sum")
"""Operators of a normalisation with a constant."""
_CONVOLUTIONS = ([3, 3, 1, 1], [3, 1, 1, 1])
"""Shapes of the weights of a 1x1 convolution of three channels, together and each alone."""
_QUANTISATION = ("QuantizeLinear", "DequantizeLinear")
_STEP = 64.0
"""Value of the probed pixels: the difference to 0 is exact enough in float16."""
_TOLERANCE = 0.02
"""Largest relative difference between values of one channel, and from a linear function: float16's rounding."""
_SMALL = 1e-3
"""Largest difference of means and standard deviations from 0 and 1 without a normalisation, and within a channel."""

MIN_BYTE_STD = 10.0
"""Smallest standard deviation of pixels in 0..255; ImageNet's is 57."""
MAX_UNIT_STD = 0.6
"""Largest standard deviation of pixels in 0..1; ImageNet's is 0.23."""
MAX_NEUTRAL_MEAN, NEUTRAL_STDS = 0.3, (0.6, 1.7)
"""Largest mean and standard deviations that batch normalisation learns of pixels that are normalised already."""


@dataclass(frozen=True)
class GraphNormalisation:
    """Normalisation (pixel - mean) / std that a graph computes of its input before the first layer.

    Attributes:
        means: mean of each channel in the input's order; of a mean image, its mean. Empty if the graph changes the
            pixels by another function than a factor and an offset.
        stds: standard deviation of each channel.
        is_image: True if the mean is an image.
        is_learned: True if batch normalisation computes it.
    """

    means: tuple[float, ...]
    stds: tuple[float, ...]
    is_image: bool = False
    is_learned: bool = False

    @property
    def is_neutral(self) -> bool:
        """True if it is one of images that are normalised already, as batch normalisation learns."""
        low, high = NEUTRAL_STDS
        return bool(self.is_learned and self.means) and all(
            abs(mean) <= MAX_NEUTRAL_MEAN and low <= std <= high
            for mean, std in zip(self.means, self.stds, strict=True)
        )

    @property
    def scale(self) -> float | None:
        """Largest value of the pixels that it is made for, 1 or 255; None if undecidable."""
        scales = {_guess_scale(mean, abs(std)) for mean, std in zip(self.means, self.stds, strict=True)}
        return scales.pop() if len(scales) == 1 else None

    def describe(self) -> str:
        """Return the normalisation as the end of a sentence; empty if it is another function."""
        if not self.means:
            return ""
        means, stds = (",".join(f"{value:.4g}" for value in values) for values in (self.means, self.stds))
        return f", by {'a mean image of about' if self.is_image else 'mean'} {means} and std {stds} per channel"


def _guess_scale(mean: float, std: float) -> float | None:
    """Return the largest value, 1 or 255, of pixels with this mean and standard deviation; None if undecidable."""
    if abs(mean) > 1 or std >= MIN_BYTE_STD:
        return 255.0
    return 1.0 if mean >= 0 and std <= MAX_UNIT_STD else None


def infer_input_normalisation(model: OnnxModel, image: ImageInput) -> GraphNormalisation | None:
    """Return the normalisation of an image between the input and a layer; None without one.

    Batch normalisation counts without its learned scale and shift, and not at all if it is neutral.

    Args:
        model: model of one input.
        image: that input, of floats.

    Raises:
        FileFormatError: ONNX Runtime rejects these nodes.
    """
    import onnx

    prepared = _list_prepared(model.skeleton.graph, image.name)
    if not prepared:
        return None
    cut = onnx.load_model_from_string(model.data)
    keep_outputs(cut.graph, prepared)
    _simplify(cut.graph, image.name)
    del cut.graph.output[:]
    for name in prepared:
        cut.graph.output.add(name=name)
    probe = OrtProbe(cut.SerializeToString(), model.where)
    measured = (_measure(probe, image, name, is_learned) for name, is_learned in prepared.items())
    normalisations = [each for each in measured if each is not None and not each.is_neutral]
    return max(normalisations, key=lambda each: bool(each.means), default=None)  # the first with numbers, if any


def _list_prepared(graph: Any, name: str) -> dict[str, bool]:
    """Return the tensors that layers read: versions of the image, perhaps normalised -> True by batch normalisation."""
    scope, images = Scope(graph), {name: False}
    prepared: dict[str, bool] = {}
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        read = {each: images[each] for each in node.input if each in images}
        if not read:
            if constants.issuperset(filter(None, node.input)):
                constants.update(node.output)
        elif node.op_type in ("Shape", "Size"):
            constants.update(node.output)
        elif constants.union(read).issuperset(filter(None, node.input)) and _passes(node, scope, images):
            images |= dict.fromkeys(node.output, node.op_type == "BatchNormalization" or any(read.values()))
        else:
            prepared |= read
    prepared.pop(name, None)
    return prepared


def _passes(node: Any, scope: Scope, images: Collection[str]) -> bool:
    """Return True if a node that reads the image, and else only constants, may be a part of its normalisation."""
    if node.op_type in _ARITHMETIC:
        return sum(name in images for name in node.input) == 1 and (node.op_type != "Div" or node.input[0] in images)
    if node.op_type == "Cast":
        from onnx import TensorProto

        return get_attribute(node, "to") in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    if node.op_type == "AveragePool":
        return not (get_attribute(node, "count_include_pad", 0) and any(get_attribute(node, "pads", [0])))
    return _scales_channels(node, scope) if node.op_type in ("Conv", "MatMul") else node.op_type in _PASSING


def _scales_channels(node: Any, scope: Scope) -> bool:
    """Return True for a 1x1 convolution or product of three channels that scales or exchanges them, but mixes none."""
    from onnx import numpy_helper

    weight, _ = scope.find_constant(node.input[1])
    if weight is None or list(weight.dims) not in ([[3, 3]] if node.op_type == "MatMul" else _CONVOLUTIONS):
        return False
    has_steps = any(side != 1 for side in get_attribute(node, "strides", [1, 1]))
    values = numpy_helper.to_array(weight).reshape(3, -1)
    is_sparse = (np.count_nonzero(values.T if node.op_type == "MatMul" else values, axis=1) == 1).all()
    return bool(is_sparse) and not has_steps and not any(get_attribute(node, "pads", [0]))


def _simplify(graph: Any, name: str) -> None:
    """Remove rounding of quantised images, and the learned scale and shift of batch normalisation."""
    from onnx import numpy_helper

    scope = Scope(graph)
    for node in graph.node:
        constants = [scope.find_constant(each)[0] for each in node.input]
        if node.op_type in _QUANTISATION and constants[0] is None:
            node.op_type, names = "Identity", node.input[:1]
            del node.input[:], node.attribute[:]
            node.input.extend(names)
        elif node.op_type == "BatchNormalization" and constants[1] is not None:
            scale = numpy_helper.to_array(constants[1])
            for index, values in ((1, np.ones_like(scale)), (2, np.zeros_like(scale))):
                node.input[index] = f"{name}/{node.output[0]}/{index}"
                graph.initializer.append(numpy_helper.from_array(values, node.input[index]))


def _measure(probe: OrtProbe, image: ImageInput, output: str, is_learned: bool) -> GraphNormalisation | None:
    """Return the normalisation that an output is, by its values for images with one channel other than 0."""

    def run(*pixel: float) -> NDArray[np.float64]:
        axis = (1, 3, 1, 1) if image.layout == NCHW else (1, 1, 1, 3)
        array = np.broadcast_to(np.reshape(pixel, axis), image.shape).astype(image.dtype)
        return np.asarray(probe.run({image.name: array}, [output])[0], np.float64)

    base = run(0, 0, 0)
    changes = [run(*pixel) - base for pixel in np.eye(3) * _STEP]
    is_linear = np.allclose(run(*[2 * _STEP] * 3) - base, 2 * sum(changes), rtol=_TOLERANCE, atol=_TOLERANCE)
    if not is_linear:
        return GraphNormalisation((), ())
    channels = [_measure_channel(change, base) for change in changes if change.any()]
    if None in channels:
        return GraphNormalisation((), ())
    means, stds, spreads = np.reshape([each for each in channels if each], (-1, 3)).T.tolist()
    is_image = any(spread > _SMALL * abs(std) for spread, std in zip(spreads, stds, strict=True))
    if not is_image and np.allclose(means, 0, atol=_SMALL) and np.allclose(stds, 1, atol=_SMALL):
        return None
    return GraphNormalisation(tuple(means), tuple(stds), is_image, is_learned)


def _measure_channel(change: NDArray[np.float64], base: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Return mean, standard deviation and range of the mean of a channel; None for several factors.

    Args:
        change: change of the values by `_STEP` in the channel; 0 elsewhere.
        base: values for a black image.
    """
    factors, offsets = change[change != 0] / _STEP, base[change != 0]
    factor = float(factors.mean())
    if not np.allclose(factors, factor, rtol=_TOLERANCE):
        return None
    means = -offsets / factor
    return float(means.mean()), 1 / factor, float(np.ptp(means))
