"""Parity of an exported network's outputs with the torch network that was trained and evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, MeasurementError, UnknownNameError
from ...lut.target import Target
from ...models.images import IMAGENET, Normalisation, normalise_image
from ...models.space.protocol import CORE, DENSE, END_TO_END
from ..backends import Backend, Workload
from ..backends.base import IMAGE_DTYPE, generate_inputs
from ..backends.error_translation import translate_ort_errors
from ..backends.ort.loader import CPU_PROVIDER
from ..backends.ort.session import open_session
from ..output_differences import OutputDifferences
from ..timing.workloads import image_input

if TYPE_CHECKING:
    from torch import nn

    from .network import Network

RANDOM, IMAGES = "random", "images"
"""Inputs of a comparison: random values, or images."""
NO_INPUTS = "no images to compare outputs on"

Outputs = list[NDArray[Any]]
"""First output for each input."""


@dataclass(frozen=True)
class Tolerance:
    """Tolerance of a precision.

    Attributes:
        max_abs_diff: largest `Parity.max_abs_diff`, unless torch's own rounding error is larger; None for precisions
            whose error scales with the logits.
        relative_diff: largest `Parity.relative_diff`; None where `max_abs_diff` decides.
        images_pct: smallest `Parity.argmax_agreement_pct` on images.
        random_pct: smallest `Parity.argmax_agreement_pct` on random inputs; None where they are outside the ranges of
            the precision.
        untrained: True if the percentages also apply to random weights. Their logits separate the classes by less
            than the rounding error: with logits 0.02 % (fp16) and 0.3 % (int8) off, 97.5 % and 74 % of the pixels
            kept their class in one such network.
    """

    max_abs_diff: float | None
    relative_diff: float | None
    images_pct: float
    random_pct: float | None
    untrained: bool = False


MAX_ABS_DIFF = 1e-4
"""Largest difference of fp32 logits from torch's that passes."""
ROUNDINGS = 2.0
"""Larger differences pass up to this multiple of torch's own rounding error: two computations in float32 that are each
as far from the exact result. Large logits, e.g. those of a network after its first training steps, need it."""

TOLERANCES = {
    "fp32": Tolerance(MAX_ABS_DIFF, None, 99.9, 99.9, untrained=True),
    "fp16": Tolerance(None, 0.002, 99.9, 99.0),
    "bf16": Tolerance(None, 0.016, 99.0, 99.0),
    "int8": Tolerance(None, 0.1, 98.0, None),  # ranges come from images, so random inputs are clipped
}
"""Precision -> tolerance."""


@dataclass(frozen=True)
class Parity:
    """Differences of outputs from a reference: torch's in float32, or a foreign ONNX file's.

    Attributes:
        max_abs_diff: largest difference of the logits; None where only classes were compared. Of several outputs, that
            of the one that differs most relative to its scale.
        mean_abs_diff: mean difference of the logits; None where only classes were compared.
        relative_diff: mean difference of the logits relative to their standard deviation; None where only classes
            were compared.
        argmax_agreement_pct: share of pixels whose argmax matches, in percent; None without classes.
        images: number of inputs.
        source: `random` or `images`.
        reference: name of the reference in messages.
        scale: largest absolute value of that output in the reference, where `max_abs_diff` is judged relative to it.
        rounding: largest difference of torch's logits in float32 from those in float64; None where not needed.
    """

    max_abs_diff: float | None
    mean_abs_diff: float | None
    relative_diff: float | None
    argmax_agreement_pct: float | None
    images: int
    source: str
    reference: str = "torch"
    scale: float = 1.0
    rounding: float | None = None

    def __str__(self) -> str:
        name = "logits" if self.reference == "torch" else "outputs"
        values = [] if self.max_abs_diff is None else [f"{name} within {self.max_abs_diff:.1e}"]
        if self.argmax_agreement_pct is not None:
            values.insert(0, f"{self.argmax_agreement_pct:.2f} % of pixels have {self.reference}'s class")
        if self.rounding is not None:
            values.append(f"torch's own rounding error is {self.rounding:.1e}")
        return ", ".join(values)


@dataclass(frozen=True)
class Reference:
    """Outputs of the torch network in float32.

    Attributes:
        source: `random` or `images`.
        inputs: inputs as passed; uint8 for a comparison in scope end-to-end.
        tensors: the same inputs for the other scopes, float32 [1, 3, H, W].
        logits: [1, classes, h, w] for each input.
        labels: label maps, [1, H, W] for each input.
    """

    source: str
    inputs: tuple[NDArray[Any], ...] = field(repr=False)
    tensors: tuple[NDArray[np.float32], ...] = field(repr=False)
    logits: tuple[NDArray[np.float32], ...] = field(repr=False)
    labels: tuple[NDArray[np.int64], ...] = field(repr=False)


def compare_backend(network: Network, backend: Backend, target: Target) -> Parity:
    """Compare the program that `backend` times on `target` with torch, on random inputs.

    Raises:
        MeasurementError: the backend rejects the network, or returns outputs of other shapes.
    """
    normalisation = network.definition.normalisation
    reference = compute_reference(network.reference(DENSE), random_inputs(network), RANDOM, normalisation)
    labels, logits = (
        compute_runner_outputs(backend, network.workload(scope, target.precision), target, inputs)
        for scope, inputs in ((_label_scope(network), reference.inputs), (CORE, reference.tensors))
    )
    parity = compare_outputs(reference, labels, logits)
    return _add_rounding(parity, network, reference.inputs) if target.precision == "fp32" else parity


def compare_file(network: Network, precision: str, inputs: Sequence[NDArray[Any]], source: str) -> Parity:
    """Compare the network's ONNX model in a precision with torch, under ONNX Runtime's CPU provider.

    Args:
        network: exported network.
        precision: precision of the model, any but bf16.
        inputs: inputs in the network's scope.
        source: `random` or `images`.

    Raises:
        DataError: `inputs` is empty.
        MeasurementError: ONNX Runtime rejects the model.
    """
    whole, comparison = network.reference(DENSE), _Comparison(source)
    compute_labels, compute_logits = (
        _open_file(network.model(precision, scope), network.stem) for scope in (_label_scope(network), CORE)
    )
    for array in inputs:  # one by one: logits of a whole set may take tens of gigabytes
        reference = compute_reference(whole, [array], source, network.definition.normalisation)
        comparison.add(reference, [compute_labels(array)], [compute_logits(reference.tensors[0])])
    parity = comparison.finish()
    return _add_rounding(parity, network, inputs) if precision == "fp32" else parity


def random_inputs(network: Network) -> list[NDArray[Any]]:
    """Return a random input in the network's scope, the same on every call, in the range of normalised images.

    Code of the user's also gets its negative and zeros: what the exporter took for constant may differ for them.
    """
    shape, dtype = image_input(network.definition.input, network.scope)
    inputs = generate_inputs([shape], dtype)
    varied = vary_input(inputs[0]) if network.definition.source.kind == "factory" else inputs
    return [_renormalise(array, network.definition.normalisation) for array in varied]


def _renormalise(array: NDArray[Any], normalisation: Normalisation) -> NDArray[Any]:
    """Return standard normal values [N, 3, H, W], about the range of ImageNet's normalisation, in another's range.

    Elsewhere an int8 network clips them. Bytes and zeros stay as they are.
    """
    if array.dtype == IMAGE_DTYPE or normalisation == IMAGENET or not array.any():
        return array
    columns = (IMAGENET.mean, IMAGENET.std, normalisation.mean, normalisation.std)
    mean, std, own_mean, own_std = (np.array(values, np.float32).reshape(3, 1, 1) for values in columns)
    return (array * std + mean - own_mean) / own_std


def vary_input(array: NDArray[Any]) -> list[NDArray[Any]]:
    """Return an input, its negative, and zeros."""
    return [array, 255 - array if array.dtype == IMAGE_DTYPE else -array, np.zeros_like(array)]


def _label_scope(network: Network) -> str:
    """Return the scope whose output is the label map, for inputs in the network's scope."""
    return END_TO_END if network.scope == END_TO_END else DENSE


def compute_reference(
    whole: nn.Module, inputs: Sequence[NDArray[Any]], source: str, normalisation: Normalisation = IMAGENET
) -> Reference:
    """Run the torch network.

    Args:
        whole: network in scope dense (`DenseOutput`), in evaluation mode, nothing folded.
        inputs: normalised float32 [1, 3, H, W]; or uint8 [1, H, W, 3], normalised as in training.
        source: `random` or `images`.
        normalisation: statistics of the network's input.

    Raises:
        DataError: `inputs` is empty.
    """
    import torch

    if len(inputs) == 0:
        raise DataError(NO_INPUTS)
    core, dense = whole.get_submodule("network"), whole.get_submodule("dense")
    tensors = tuple(_normalise(array, normalisation) for array in inputs)
    logits, labels = [], []
    with torch.inference_mode():
        for tensor in tensors:
            output = core(torch.from_numpy(tensor))
            logits.append(output.numpy())
            labels.append(dense(output).numpy())
    return Reference(source, tuple(inputs), tensors, tuple(logits), tuple(labels))


def _normalise(array: NDArray[Any], normalisation: Normalisation) -> NDArray[np.float32]:
    """Return an input as the other scopes take it, normalised float32."""
    return normalise_image(array, normalisation) if array.dtype == IMAGE_DTYPE else array


def _add_rounding(parity: Parity, network: Network, inputs: Sequence[NDArray[Any]]) -> Parity:
    """Return a comparison with torch's rounding error, which is only measured for differences above `MAX_ABS_DIFF`.

    It stays unknown for a network that does not run in float64.
    """
    import torch

    if parity.max_abs_diff is None or parity.max_abs_diff <= MAX_ABS_DIFF:
        return parity
    core, exact_core = (network.reference(DENSE).get_submodule("network") for _ in range(2))
    exact_core.double()
    rounding = OutputDifferences()
    for array in inputs:
        tensor = torch.from_numpy(_normalise(array, network.definition.normalisation))
        try:
            with torch.inference_mode():
                exact = exact_core(tensor.double()).numpy()
        except Exception:  # code of the user's may mix in float32 tensors
            return parity
        with torch.inference_mode():
            rounding.add(core(tensor).numpy(), exact)
    return replace(parity, rounding=rounding.max_abs_diff)


def compute_file_outputs(model: bytes, inputs: Sequence[NDArray[Any]], name: str = "the model") -> Outputs:
    """Run an ONNX model under ONNX Runtime's CPU provider, which computes fp16 in float32 and rounds no activations.

    Args:
        model: serialised model in any precision but bf16, which that provider rejects.
        inputs: inputs of the model.
        name: name of the model in messages.

    Raises:
        MeasurementError: ONNX Runtime rejects the model.
    """
    return list(map(_open_file(model, name), inputs))


def _open_file(model: bytes, name: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the function of `compute_file_outputs` for one input."""
    session = open_session(name, model, CPU_PROVIDER, {}, threads=0)  # 0: one per core
    feed = session.get_inputs()[0].name

    def run(array: NDArray[Any]) -> NDArray[Any]:
        with translate_ort_errors(on_gpu=False):
            output: NDArray[Any] = session.run(None, {feed: array})[0]
            return output

    return run


def compute_runner_outputs(
    backend: Backend, workload: Workload, target: Target, inputs: Sequence[NDArray[Any]]
) -> Outputs:
    """Run the same program that `backend` times.

    Raises:
        BackendUnavailableError: the target is not available on this machine.
        MeasurementError: the backend rejects the workload.
    """
    runner = backend.compile(workload, target)
    try:
        return [runner.infer([array])[0] for array in inputs]
    finally:
        runner.close()


def compare_outputs(reference: Reference, labels: Outputs, logits: Outputs | None = None) -> Parity:
    """Compare outputs with torch's.

    Args:
        reference: torch's outputs for the same inputs.
        labels: outputs in scope dense (for `reference.tensors`) or end-to-end (for `reference.inputs`).
        logits: outputs in scope core, for `reference.tensors`; None to compare classes only.

    Raises:
        MeasurementError: number or shapes of the outputs differ from torch's, or logits are NaN or infinite.
    """
    comparison = _Comparison(reference.source)
    comparison.add(reference, labels, logits)
    return comparison.finish()


class _Comparison:
    """Comparison of outputs with torch's, accumulated input by input."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._images = 0
        self._labels, self._logits = OutputDifferences(), OutputDifferences()

    def add(self, reference: Reference, labels: Outputs, logits: Outputs | None) -> None:
        """Add outputs for the inputs of a reference; see `compare_outputs`."""
        self._images += len(labels)
        _require_same_shapes("classes", labels, reference.labels)
        for output, expected in zip(labels, reference.labels, strict=True):
            self._labels.add(output, expected)
        if logits is None:
            return
        _require_same_shapes("logits", logits, reference.logits)
        for values, exact in zip(logits, reference.logits, strict=True):
            if not (np.isfinite(values).all() and np.isfinite(exact).all()):
                raise MeasurementError("the network's logits are not finite")
            self._logits.add(values, exact)

    def finish(self) -> Parity:
        """Return the differences of all inputs.

        Raises:
            DataError: there are none.
        """
        agreement_pct = self._labels.agreement_pct
        if agreement_pct is None:
            raise DataError(NO_INPUTS)
        logits = self._logits
        differences = (logits.max_abs_diff, logits.mean_abs_diff, logits.relative_diff)
        return Parity(*differences, agreement_pct, self._images, self._source)


def is_within_tolerance(precision: str, parity: Parity, *, trained: bool = True) -> bool:
    """Return True if logits (where compared) and classes are within the precision's tolerance.

    Args:
        precision: precision of the computation.
        parity: comparison with torch.
        trained: True for trained weights. Classes of random weights count in fp32 only, or without logits.

    Raises:
        UnknownNameError: unknown precision.
    """
    if precision not in TOLERANCES:
        raise UnknownNameError("precision", precision, TOLERANCES)
    limit = TOLERANCES[precision]
    rounding = ROUNDINGS * (parity.rounding or 0)
    max_abs_diff = None if limit.max_abs_diff is None else max(limit.max_abs_diff * parity.scale, rounding)
    bounds = ((parity.max_abs_diff, max_abs_diff), (parity.relative_diff, limit.relative_diff))
    if any(value is not None and bound is not None and value > bound for value, bound in bounds):
        return False
    min_pct = limit.images_pct if parity.source == IMAGES else limit.random_pct
    applies = trained or limit.untrained or parity.max_abs_diff is None
    agreement_pct = parity.argmax_agreement_pct
    return min_pct is None or not applies or agreement_pct is None or agreement_pct >= min_pct


def _require_same_shapes(name: str, outputs: Outputs, expected: Sequence[NDArray[Any]]) -> None:
    """Raise an error for other shapes than torch's, which numpy would broadcast."""
    shapes, torch_shapes = [array.shape for array in outputs], [array.shape for array in expected]
    if shapes != torch_shapes:
        raise MeasurementError(f"the network's {name} have shapes {shapes}, torch's {torch_shapes}")
