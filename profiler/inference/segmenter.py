"""Segmentation of images with an exported network: pre- and post-processing of every scope.

image    RGB bytes [h, w, 3], of any size
frame    image at the network's size, bilinear
input    preprocessed frame, see `preprocessing`; in scope end-to-end the frame itself, uint8 [1, H, W, 3]
output   of the network
classes  decoded output at [H, W], see `outputs`
result   classes at the image's size, nearest neighbour: uint8 [h, w]
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from ...device import CPU
from ...errors import UsageError
from ...lut.target import Target
from ...models.images import RGBImage, resize_image
from ...models.onnx.model import OnnxModel
from ...models.onnx.signature import Signature
from ..backends import Backend, Workload, require_support
from ..backends.base import Runner
from ..machine.cpu_limits import explain_threads, require_threads
from ..machine.devices import check_device
from .output_values import StoredValues, infer_values
from .pipeline import PIPELINE_DEFAULTS, Pipeline, PipelineOptions
from .resampling import Labels, resize_labels

ENGINE_SUFFIX = ".engine"
"""Suffix of serialised TensorRT engines."""
ONNX_RUNTIME = "onnxruntime"
HALF_ON_CPU = "ONNX Runtime computes it in float32 on a CPU, with weights rounded to float16"
"""Remark on an fp16 file on a CPU."""


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

    def __init__(self, network: Signature, runner: Runner, target: Target, pipeline: Pipeline) -> None:
        """Wrap a compiled runner of a segmentation network; `open` creates it from a file."""
        self.network, self.size, self.target = network, pipeline.preprocessing.image.size, target
        self._runner, self._pipeline = runner, pipeline

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        device: str | None = None,
        backend: str | None = None,
        threads: int = 1,
        options: PipelineOptions = PIPELINE_DEFAULTS,
    ) -> Segmenter:
        """Load an exported file in its own precision; ONNX Runtime computes fp16 files in float32 on a CPU, as it says.

        Args:
            path: ONNX file, from lgc or another program, or an engine that was built on this machine.
            device: `cpu` or `cuda:N`; by default the CPU, for an engine `cuda:0`.
            backend: a name of `BACKENDS`; by default `onnxruntime`, for an engine `tensorrt`.
            threads: CPU threads.
            options: reading of the file where it does not specify it itself.

        Raises:
            FileFormatError: the file is damaged or foreign, or does not segment images.
            DeviceError: the device is not present.
            BackendUnavailableError: the backend does not run on the device.
            MismatchError: the engine was built for another device or by another version.
            MeasurementError: the backend rejects the file.
            UsageError: the backend does not support the file or its precision; an option contradicts the file, or is
                missing.
        """
        if path.suffix == ENGINE_SUFFIX:
            return cls._open_engine(path, device or "cuda:0", backend or "tensorrt", options)
        model = OnnxModel.load(
            path, input_size=options.input_size, output=options.output_name, layout=options.inputs.layout
        )
        pipeline = Pipeline.for_network(model, options, infer_values(model.skeleton, model.output.name))
        place = check_device(device or CPU)
        backend, precision, widened = backend or ONNX_RUNTIME, model.precision, []
        if (backend, precision, place.is_cpu) == (ONNX_RUNTIME, "fp16", True):
            precision, widened = "fp32", [f"{path} has precision fp16: {HALF_ON_CPU}"]
        target = Target(place, backend, precision, place.num_threads(threads))
        if target.threads > 1:
            require_threads(target)
        quota = explain_threads(target)  # one thread waits for its quota, which only slows it down
        workload = Workload.for_model(model, path.name)
        runner = _require_file_backend(target, path).compile(workload, target)
        slowed = [] if quota is None else [f"slowed down: {quota}"]
        remarks = (*model.remarks, *pipeline.remarks, *widened, *slowed)
        return cls(model, runner, target, replace(pipeline, remarks=remarks))

    @classmethod
    def _open_engine(cls, path: Path, device: str, backend: str, options: PipelineOptions) -> Segmenter:
        from ..backends.trt.backend import TensorRTBackend
        from ..backends.trt.engine_files import read_engine_files

        if backend != TensorRTBackend.name:
            raise UsageError(f"{path} is a TensorRT engine, which {backend} cannot run: use the ONNX file instead")
        engine = read_engine_files(path)  # before the device is checked: damage does not depend on it
        network = Signature(str(path), engine.inputs, engine.outputs, engine.metadata)
        pipeline = Pipeline.for_network(network, options, StoredValues())
        if options.input_size not in (None, pipeline.preprocessing.image.size):
            raise UsageError(f"{path} is an engine for images of a fixed size: omit --input")
        place = check_device(device)
        runner = TensorRTBackend().open(path, place)
        return cls(network, runner, Target(place, backend, engine.precision), pipeline)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Assumptions on the file, and remarks of the backend on loading or building the network."""
        return (*self._pipeline.remarks, *self._runner.remarks)

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None if unknown."""
        if self.network.architecture is not None and self.network.own_scope is not None:
            return self.network.architecture.search_space.classes
        return self._pipeline.decoder.num_classes

    @property
    def is_mask(self) -> bool:
        """True if the classes are background and foreground."""
        return self._pipeline.decoder.is_mask

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
            MeasurementError: the outputs are NaN, infinite or outside their range.
        """
        return self.segment_timed(pixels)[0]

    def segment_timed(self, pixels: RGBImage) -> tuple[Labels, SegmentationTime]:
        """Return the result of `segment`, and its time."""
        start = time.perf_counter()
        frame = resize_image(pixels, self.size)
        array = self._pipeline.preprocessing.apply(frame)
        ready = time.perf_counter()
        output = self._runner.infer([array])[self._pipeline.output_index]
        done = time.perf_counter()
        labels = resize_labels(self._pipeline.decoder.decode(output), pixels.shape[:2])
        end = time.perf_counter()
        return labels, SegmentationTime(*(1000 * seconds for seconds in (ready - start, done - ready, end - done)))

    def close(self) -> None:
        """Free the device's memory."""
        self._runner.close()


def _require_file_backend(target: Target, path: Path) -> Backend:
    """Return the backend of `target`; errors of precision name the file."""
    try:
        return require_support(target)
    except UsageError as error:
        is_half = target.device.is_cpu and target.precision in ("fp16", "bf16")
        hint = "; add --device cuda:0, or export the file in fp32" if is_half else ""
        raise UsageError(f"{path} has precision {target.precision}: {error}{hint}") from error
