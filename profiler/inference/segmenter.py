"""Segmentation of images with an exported network: pre- and post-processing of every scope.

image    RGB bytes [h, w, 3], of any size
frame    image at the network's size, bilinear
input    normalised frame, float32 [1, 3, H, W]; in scope end-to-end the frame itself, uint8 [1, H, W, 3]
output   logits [1, C, h', w'] (core), or the label map [1, H, W]
classes  largest channel of the logits at [1, C, H, W], bilinear, corners not aligned; or the output
result   classes at the image's size, nearest neighbour: uint8 [h, w]
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...device import CPU
from ...errors import FileFormatError, MeasurementError, UsageError
from ...lut.target import Target
from ...models.images import RGBImage, normalise_image, resize_image
from ...models.onnx.model import OnnxModel
from ...models.onnx.signature import Signature
from ..backends import Backend, Workload, require_backend
from ..backends.base import IMAGE_DTYPE, Runner
from ..machine.devices import check_device

Labels = NDArray[np.uint8]
"""Label map, [h, w]."""

ENGINE_SUFFIX = ".engine"
"""Suffix of serialised TensorRT engines."""
MAX_CLASSES = 256
"""Number of classes that a byte can hold."""


@dataclass(frozen=True)
class SegmentationTime:
    """Time of one image.

    Attributes:
        before_ms: milliseconds of resizing and normalising.
        network_ms: milliseconds of the network.
        after_ms: milliseconds from the output to classes at the image's size.
    """

    before_ms: float
    network_ms: float
    after_ms: float


class Segmenter:
    """Exported network on a device, with its pre- and post-processing. Not thread-safe.

    Attributes:
        network: inputs, outputs and metadata.
        size: height and width of the network's image.
        target: device, backend and precision.
    """

    def __init__(self, network: Signature, runner: Runner, target: Target) -> None:
        """Wrap a compiled runner of a segmentation network; `open` creates it from a file."""
        self.network, self.size, self.target = network, network.image_size, target
        self._runner = runner

    @classmethod
    def open(cls, path: Path, *, device: str | None = None, backend: str | None = None, threads: int = 1) -> Segmenter:
        """Load an exported file in its own precision.

        Args:
            path: ONNX file, from lgc or another program, or an engine that was built on this machine.
            device: `cpu` or `cuda:N`; by default the CPU, for an engine `cuda:0`.
            backend: a name of `BACKENDS`; by default `onnxruntime`, for an engine `tensorrt`.
            threads: CPU threads.

        Raises:
            FileFormatError: the file is damaged or foreign, has dynamic shapes, or does not segment images.
            DeviceError: the device is not present.
            BackendUnavailableError: the backend does not run on the device.
            MismatchError: the engine was built for another device or by another version.
            MeasurementError: the backend rejects the file.
            UsageError: the backend does not support the file or its precision.
        """
        if path.suffix == ENGINE_SUFFIX:
            return cls._open_engine(path, device or "cuda:0", backend or "tensorrt")
        model = OnnxModel.load(path)
        require_segmentation(model)
        place = check_device(device or CPU)
        target = Target(place, backend or "onnxruntime", model.precision, place.num_threads(threads))
        workload = Workload(path.name, (model.inputs[0].shape,), None, model.dtype, model.data)
        return cls(model, _require_file_backend(target, path).compile(workload, target), target)

    @classmethod
    def _open_engine(cls, path: Path, device: str, backend: str) -> Segmenter:
        from ..backends.trt.backend import TensorRTBackend
        from ..backends.trt.engine_files import read_engine_files

        if backend != TensorRTBackend.name:
            raise UsageError(f"{path} is a TensorRT engine, which {backend} cannot run: use the ONNX file instead")
        engine = read_engine_files(path)  # before the device is checked: damage does not depend on it
        network = Signature(str(path), engine.inputs, engine.outputs, engine.metadata)
        require_segmentation(network)
        place = check_device(device)
        return cls(network, TensorRTBackend().open(path, place), Target(place, backend, engine.precision))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks of the backend on loading or building the network."""
        return self._runner.remarks

    def __enter__(self) -> Segmenter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def segment(self, pixels: RGBImage) -> Labels:
        """Return the label map of an image, [h, w, 3] -> [h, w].

        Raises:
            MeasurementError: the outputs are NaN, infinite or not classes.
        """
        return self.segment_timed(pixels)[0]

    def segment_timed(self, pixels: RGBImage) -> tuple[Labels, SegmentationTime]:
        """Return the result of `segment`, and its time."""
        start = time.perf_counter()
        frame = resize_image(pixels, self.size)
        array = np.ascontiguousarray(frame) if self.network.dtype == IMAGE_DTYPE else normalise_image(frame)
        ready = time.perf_counter()
        output = self._runner.infer([array[None]])[0]
        done = time.perf_counter()
        labels = resize_labels(extract_classes(output, self.size), pixels.shape[:2])
        end = time.perf_counter()
        return labels, SegmentationTime(*(1000 * seconds for seconds in (ready - start, done - ready, end - done)))

    def close(self) -> None:
        """Free the device's memory."""
        self._runner.close()


def _require_file_backend(target: Target, path: Path) -> Backend:
    """Return the backend of `target`; errors of precision name the file."""
    try:
        return require_backend(target)
    except UsageError as error:
        raise UsageError(f"{path} has precision {target.precision}: {error}") from error


def require_segmentation(network: Signature) -> None:
    """Check that a network takes an image and returns its logits or classes.

    Raises:
        FileFormatError: it does not; the message describes the output.
    """
    height, width = network.image_size
    shape, dtype = network.outputs[0].shape, network.outputs[0].dtype
    is_float = dtype in ("float32", "float16")
    logits = len(shape) == 4 and shape[0] == 1 and 1 < shape[1] <= MAX_CLASSES and is_float
    classes = shape in ((1, height, width), (1, 1, height, width)) and "int" in dtype
    if not logits and not classes:
        raise FileFormatError(
            f"{network.where} returns {network.outputs[0]}: neither logits (float, 1xCxhxw, at most {MAX_CLASSES} "
            f"classes) nor a label map (integer, 1x{height}x{width})"
        )


def extract_classes(output: NDArray[Any], size: tuple[int, int]) -> Labels:
    """Return classes [H, W] from an output: logits [1, C, h, w], or classes [1, H, W] or [1, 1, H, W].

    Raises:
        MeasurementError: a class is outside a byte's range, or logits are NaN or infinite.
    """
    if np.issubdtype(output.dtype, np.floating):
        return _argmax_upsampled(output[0].astype(np.float32, copy=False), size)
    if output.dtype != np.uint8 and not 0 <= output.min() <= output.max() < MAX_CLASSES:
        raise MeasurementError(
            f"the network returned classes {output.min()} to {output.max()}, outside 0 to {MAX_CLASSES - 1}"
        )
    return output.reshape(size).astype(np.uint8, copy=False)


def _argmax_upsampled(logits: NDArray[np.float32], size: tuple[int, int]) -> Labels:
    """Return the largest channel of every pixel, [C, h, w] -> [*size].

    Channels are upsampled one by one: together they take hundreds of megabytes at Cityscapes' size.
    """
    if not np.isfinite(logits).all():
        raise MeasurementError("the network's logits are not finite")
    labels, best = np.zeros(size, np.uint8), upsample(logits[0], size)
    for index in range(1, len(logits)):
        channel = upsample(logits[index], size)
        larger = channel > best
        labels[larger] = index
        np.maximum(best, channel, out=best)
    return labels


def upsample(channel: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Interpolate bilinearly, corners not aligned, as in training and evaluation: [h, w] -> a new [*size]."""
    if channel.shape == size:
        return channel.copy()
    (top, bottom, down), (left, right, across) = (
        _interpolation_weights(length, source) for length, source in zip(size, channel.shape, strict=True)
    )
    columns = channel[:, left] * (1 - across) + channel[:, right] * across
    return np.asarray(columns[top] * (1 - down)[:, None] + columns[bottom] * down[:, None], np.float32)


def _interpolation_weights(
    length: int, source: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return both source indices of each of `length` positions, and the weight of the second."""
    position = np.clip((np.arange(length) + 0.5) * (source / length) - 0.5, 0, source - 1)
    first = np.floor(position).astype(np.int64)
    return first, np.minimum(first + 1, source - 1), (position - first).astype(np.float32)


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resize classes by nearest neighbour: [H, W] -> [*size]."""
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum(((np.arange(length) + 0.5) * source / length).astype(np.int64), source - 1)
        for length, source in zip(size, labels.shape, strict=True)
    )
    resized_labels: Labels = labels[rows[:, None], columns]
    return resized_labels
