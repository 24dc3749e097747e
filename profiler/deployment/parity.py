"""How far an exported network's outputs are from those of the torch network that was trained and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MeasurementError, UnknownNameError
from ...lut.target import Target
from ...models.images import normalise_image
from ..backends import Backend, Workload
from ..backends.base import IMAGE_DTYPE
from ..backends.error_translation import translate_ort_errors
from ..backends.ort.loader import CPU_PROVIDER
from ..backends.ort.session import open_session

if TYPE_CHECKING:
    from torch import nn

RANDOM, IMAGES = "random", "images"
"""What outputs are compared on: noise, or real images."""

Outputs = list[NDArray[Any]]
"""First output for each input."""


@dataclass(frozen=True)
class Tolerance:
    """Bounds that a precision has to keep.

    Attributes:
        max_abs_diff: largest `Parity.max_abs_diff`; None where the logits' scale decides.
        relative_diff: largest `Parity.relative_diff`; None where `max_abs_diff` is bounded.
        images_pct: smallest `Parity.argmax_agreement_pct` on images.
        random_pct: the same on random inputs; None where they are outside of what the precision is made for.
        untrained: whether the percentages bind networks of random weights too. These tell classes apart by
            differences that rounding exceeds: with logits that are 0.02 % (fp16) and 0.3 % (int8) off, 97.5 % and 74 %
            of the pixels kept their class in one of them.
    """

    max_abs_diff: float | None
    relative_diff: float | None
    images_pct: float
    random_pct: float | None
    untrained: bool = False


MAX_ABS_DIFF = 1e-4
"""Largest difference of fp32 logits from torch's that passes."""

TOLERANCES = {
    "fp32": Tolerance(MAX_ABS_DIFF, None, 99.9, 99.9, untrained=True),
    "fp16": Tolerance(None, 0.002, 99.9, 99.0),
    "bf16": Tolerance(None, 0.016, 99.0, 99.0),
    "int8": Tolerance(None, 0.1, 98.0, None),  # its ranges are those of images: noise is clipped
}
"""Precision -> its bounds."""


@dataclass(frozen=True)
class Parity:
    """Outputs held against torch's in float32.

    Attributes:
        max_abs_diff: largest difference of the logits; None where only classes were compared. Likewise:
        mean_abs_diff: mean difference of the logits.
        relative_diff: mean difference of the logits as a share of their standard deviation.
        argmax_agreement_pct: share of pixels of the same class, in percent.
        images: number of inputs.
        source: `random` or `images`.
    """

    max_abs_diff: float | None
    mean_abs_diff: float | None
    relative_diff: float | None
    argmax_agreement_pct: float
    images: int
    source: str


@dataclass(frozen=True)
class Reference:
    """What torch gives in float32.

    Attributes:
        source: `random` or `images`.
        inputs: as they were given; uint8 where a program of scope end-to-end is to be compared.
        tensors: the same as programs of the other scopes take them, float32 [1, 3, H, W].
        logits: [1, classes, h, w] for each input.
        labels: class of every pixel, [1, H, W] for each input.
    """

    source: str
    inputs: tuple[NDArray[Any], ...] = field(repr=False)
    tensors: tuple[NDArray[np.float32], ...] = field(repr=False)
    logits: tuple[NDArray[np.float32], ...] = field(repr=False)
    labels: tuple[NDArray[np.int64], ...] = field(repr=False)


def reference_outputs(whole: nn.Module, inputs: Sequence[NDArray[Any]], source: str) -> Reference:
    """Run the torch network.

    Args:
        whole: the network in scope dense (`DenseOutput`), in evaluation mode, nothing folded.
        inputs: normalised float32 [1, 3, H, W], or uint8 [1, H, W, 3], which are normalised as for training.
        source: `random` or `images`.

    Raises:
        DataError: there are no inputs.
    """
    import torch

    if len(inputs) == 0:
        raise DataError("there are no images to compare outputs on")
    core, dense = whole.get_submodule("network"), whole.get_submodule("dense")
    tensors = tuple(normalise_image(image) if image.dtype == IMAGE_DTYPE else image for image in inputs)
    logits, labels = [], []
    with torch.inference_mode():
        for tensor in tensors:
            given = core(torch.from_numpy(tensor))
            logits.append(given.numpy())
            labels.append(dense(given).numpy())
    return Reference(source, tuple(inputs), tensors, tuple(logits), tuple(labels))


def file_outputs(model: bytes, inputs: Sequence[NDArray[Any]], name: str = "the model") -> Outputs:
    """Outputs of an ONNX file under ONNX Runtime's CPU provider, for comparing only: it computes fp16 in float32.

    Args:
        model: serialised, in any precision but bf16, which that provider refuses.
        inputs: as the model takes them.
        name: of the model, for messages.

    Raises:
        MeasurementError: ONNX Runtime refuses the model.
    """
    session = open_session(name, model, CPU_PROVIDER, {}, threads=0)  # 0: as many as there are cores
    feed = session.get_inputs()[0].name
    with translate_ort_errors(on_gpu=False):
        return [session.run(None, {feed: array})[0] for array in inputs]


def runner_outputs(backend: Backend, workload: Workload, target: Target, inputs: Sequence[NDArray[Any]]) -> Outputs:
    """Outputs of the very program that `backend` times.

    Raises:
        BackendUnavailableError: `target` cannot be used here.
        MeasurementError: the backend refuses the workload.
    """
    runner = backend.compile(workload, target)
    try:
        return [runner.infer([array])[0] for array in inputs]
    finally:
        runner.close()


def compare_outputs(reference: Reference, labels: Outputs, logits: Outputs | None = None) -> Parity:
    """Hold outputs against torch's.

    Args:
        reference: of the same inputs.
        labels: of the program in scope dense (for `reference.tensors`) or end-to-end (for `reference.inputs`).
        logits: of the program in scope core, for `reference.tensors`; None where there is none.

    Raises:
        MeasurementError: outputs of another number or shape, or logits that are not finite.
    """
    _require_alike("classes", labels, reference.labels)
    equal = [float((given == wanted).mean()) for given, wanted in zip(labels, reference.labels, strict=True)]
    largest, mean, relative = (None, None, None) if logits is None else _differences(logits, reference.logits)
    return Parity(largest, mean, relative, float(np.mean(equal)) * 100, len(labels), reference.source)


def _differences(logits: Outputs, wanted: Sequence[NDArray[np.float32]]) -> tuple[float, float, float]:
    """Largest, mean and relative difference."""
    _require_alike("logits", logits, wanted)
    exact = np.stack(wanted).astype(np.float64)
    differences = np.abs(np.stack(logits) - exact)
    if not np.all(np.isfinite(differences)):
        raise MeasurementError("the network gave logits that are not finite")
    mean, spread = float(differences.mean()), float(exact.std())
    return float(differences.max()), mean, mean / spread if spread else float(mean > 0)


def passes(precision: str, found: Parity, *, trained: bool = True) -> bool:
    """Whether outputs agree as well as the precision allows, by `TOLERANCES`: logits where compared, and classes.

    Args:
        precision: that the program computes in.
        found: how well it agrees.
        trained: whether the weights are. Classes of random weights count in fp32, and where no logits were compared.

    Raises:
        UnknownNameError: no such precision.
    """
    if precision not in TOLERANCES:
        raise UnknownNameError("precision", precision, TOLERANCES)
    limit = TOLERANCES[precision]
    for value, bound in ((found.max_abs_diff, limit.max_abs_diff), (found.relative_diff, limit.relative_diff)):
        if value is not None and bound is not None and value > bound:
            return False
    share = limit.images_pct if found.source == IMAGES else limit.random_pct
    judged = trained or limit.untrained or found.max_abs_diff is None
    return share is None or not judged or found.argmax_agreement_pct >= share


def _require_alike(what: str, given: Outputs, wanted: Sequence[NDArray[Any]]) -> None:
    """Refuse outputs of other shapes than torch's, which numpy would stretch."""
    shapes, expected = [array.shape for array in given], [array.shape for array in wanted]
    if shapes != expected:
        raise MeasurementError(f"the network gave {what} of shapes {shapes}, torch {expected}")
