"""Images through an exported file: the pre- and post-processing around a network, whatever its scope.

image    RGB bytes [h, w, 3], of any size
frame    the image at the network's size, bilinear
input    the frame normalised, float32 [1, 3, H, W]; in scope end-to-end its bytes, uint8 [1, H, W, 3]
output   logits [1, C, h', w'] (core), or the class of every pixel [1, H, W]
classes  logits brought to [1, C, H, W], bilinear, corners not aligned, then the largest channel; or the output
result   classes at the image's own size, nearest: uint8 [h, w]
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
"""Class of every pixel, [h, w]."""

ENGINE = ".engine"
"""How the names of serialised TensorRT engines end."""
MAX_CLASSES = 256
"""As many as a byte tells apart."""


@dataclass(frozen=True)
class Durations:
    """Milliseconds that one image took: resizing and normalising, the network, and what comes after it."""

    before_ms: float
    network_ms: float
    after_ms: float


class Segmenter:
    """A network made ready on a device, with what comes before and after it. Not for several threads.

    Attributes:
        network: what it takes, gives and says of itself.
        size: height and width of its image.
        target: where it runs, in which precision.
    """

    def __init__(self, network: Signature, runner: Runner, target: Target) -> None:
        """Take a runner that is ready to use, of a network that segments images; `open` makes it from a file."""
        self.network, self.size, self.target = network, network.image_size, target
        self._runner = runner

    @classmethod
    def open(cls, path: Path, *, device: str | None = None, backend: str | None = None, threads: int = 1) -> Segmenter:
        """Load an exported file, in the precision that it was written in.

        Args:
            path: an ONNX file, ours or another, or an engine that was built here.
            device: `cpu` or `cuda:N`; by default the CPU, and for an engine `cuda:0`.
            backend: a name of `BACKENDS`; by default `onnxruntime`, and for an engine `tensorrt`.
            threads: of the CPU.

        Raises:
            FileFormatError: it is damaged, foreign, of dynamic shapes, or does not segment images.
            DeviceError: there is no such device.
            BackendUnavailableError: the backend cannot be used on it.
            MismatchError: the engine was built for another device or by another version.
            MeasurementError: the backend refuses the file.
            UsageError: the backend does not run what is in the file.
        """
        if path.suffix == ENGINE:
            return cls._of_engine(path, device or "cuda:0", backend or "tensorrt")
        model = OnnxModel.load(path)
        require_segmentation(model)
        place = check_device(device or CPU)
        target = Target(place, backend or "onnxruntime", model.precision, place.num_threads(threads))
        workload = Workload(path.name, (model.inputs[0].shape,), None, model.dtype, model.data)
        return cls(model, _backend(target, path).compile(workload, target), target)

    @classmethod
    def _of_engine(cls, path: Path, device: str, backend: str) -> Segmenter:
        from ..backends.trt.backend import TensorRTBackend
        from ..backends.trt.engine_files import read_engine_files

        if backend != TensorRTBackend.name:
            raise UsageError(f"{path} is a TensorRT engine, which {backend} does not run: name its ONNX file instead")
        engine = read_engine_files(path)  # before a device is asked for: a damaged file is damaged everywhere
        network = Signature(str(path), engine.inputs, engine.outputs, engine.metadata)
        require_segmentation(network)
        place = check_device(device)
        return cls(network, TensorRTBackend().open(path, place), Target(place, backend, engine.precision))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader has to know of how it was made ready."""
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
        """Class of every pixel of an image, [h, w, 3] -> [h, w]."""
        return self.timed(pixels)[0]

    def timed(self, pixels: RGBImage) -> tuple[Labels, Durations]:
        """The same, and what it took."""
        start = time.perf_counter()
        frame = resize_image(pixels, self.size)
        given = np.ascontiguousarray(frame) if self.network.dtype == IMAGE_DTYPE else normalise_image(frame)
        ready = time.perf_counter()
        output = self._runner.infer([given[None]])[0]
        done = time.perf_counter()
        labels = at_own_size(classes_of(output, self.size), pixels.shape[:2])
        end = time.perf_counter()
        return labels, Durations(*(1000 * seconds for seconds in (ready - start, done - ready, end - done)))

    def close(self) -> None:
        """Give the device's memory back."""
        self._runner.close()


def _backend(target: Target, path: Path) -> Backend:
    """The backend, after showing that it runs the file's precision."""
    try:
        return require_backend(target)
    except UsageError as error:
        raise UsageError(f"{path} computes in {target.precision}: {error}") from error


def require_segmentation(network: Signature) -> None:
    """Show that a network gives logits or classes of the image that it takes.

    Raises:
        FileFormatError: it does not.
    """
    height, width = network.image_size
    shape, dtype = network.outputs[0].shape, network.outputs[0].dtype
    is_float = dtype in ("float32", "float16")
    logits = len(shape) == 4 and shape[0] == 1 and 1 < shape[1] <= MAX_CLASSES and is_float
    classes = shape in ((1, height, width), (1, 1, height, width)) and "int" in dtype
    if not logits and not classes:
        raise FileFormatError(
            f"{network.where} gives {network.outputs[0]}: neither logits (float, 1xCxhxw, {MAX_CLASSES} classes at "
            f"most) nor the class of every pixel (integers, 1x{height}x{width})"
        )


def classes_of(output: NDArray[Any], size: tuple[int, int]) -> Labels:
    """Classes [H, W] of a network's output: logits [1, C, h, w], or classes [1, H, W] or [1, 1, H, W].

    Raises:
        MeasurementError: a class beyond what a byte holds, or logits that are not finite.
    """
    if np.issubdtype(output.dtype, np.floating):
        return _largest(output[0].astype(np.float32, copy=False), size)
    if output.dtype != np.uint8 and not 0 <= output.min() <= output.max() < MAX_CLASSES:
        raise MeasurementError(f"the network gave classes {output.min()} to {output.max()}, not 0 to {MAX_CLASSES - 1}")
    return output.reshape(size).astype(np.uint8, copy=False)


def _largest(logits: NDArray[np.float32], size: tuple[int, int]) -> Labels:
    """The channel that is largest at every pixel, [C, h, w] -> [*size]; one channel at a time is brought to that size.

    All at once they would take hundreds of megabytes at Cityscapes' size.
    """
    if not np.isfinite(logits).all():
        raise MeasurementError("the network gave logits that are not finite")
    labels, best = np.zeros(size, np.uint8), upsampled(logits[0], size)
    for index in range(1, len(logits)):
        channel = upsampled(logits[index], size)
        larger = channel > best
        labels[larger] = index
        np.maximum(best, channel, out=best)
    return labels


def upsampled(channel: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear interpolation with corners not aligned, as networks are trained and scored: [h, w] -> a new [*size]."""
    if channel.shape == size:
        return channel.copy()
    (top, bottom, down), (left, right, across) = (
        _neighbours(wanted, had) for wanted, had in zip(size, channel.shape, strict=True)
    )
    columns = channel[:, left] * (1 - across) + channel[:, right] * across
    return np.asarray(columns[top] * (1 - down)[:, None] + columns[bottom] * down[:, None], np.float32)


def _neighbours(wanted: int, had: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each place: the two it lies between, and how far it is from the first."""
    place = np.clip((np.arange(wanted) + 0.5) * (had / wanted) - 0.5, 0, had - 1)
    first = np.floor(place).astype(np.int64)
    return first, np.minimum(first + 1, had - 1), (place - first).astype(np.float32)


def at_own_size(labels: Labels, size: tuple[int, int]) -> Labels:
    """Classes at another size, each pixel that of the nearest: [H, W] -> [*size]."""
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum(((np.arange(wanted) + 0.5) * had / wanted).astype(np.int64), had - 1)
        for wanted, had in zip(size, labels.shape, strict=True)
    )
    found: Labels = labels[rows[:, None], columns]
    return found
