"""From an ONNX model to a TensorRT engine, on the GPU that will run it or ahead of time on a machine without one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ....errors import BackendUnavailableError, MeasurementError, UsageError
from ....models.onnx.model import TensorSpec
from ..error_translation import one_line
from ..int8 import float_biases
from ..precision import cast_model
from .layer_times import layer_report
from .layers import Layer, fusions
from .loader import FULL, Library, install_hint, load_tensorrt
from .log import Log, get_log
from .timing_cache import shared_timings

DEFAULT_CAPABILITY = "8.9"
"""What an engine is built for where there is neither a GPU nor a wish: the Ada generation (L4, L40, RTX 4090)."""

NUMPY_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
"""TensorRT's data types -> numpy's, by name, where they are not the same in small letters."""

Tensors = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Engine:
    """A network built by TensorRT.

    Attributes:
        data: the serialised engine, as `trtexec --loadEngine` and the TensorRT runtimes read it.
        flavour: `TensorRT` or `TensorRT-RTX`: whose runtime runs it.
        version: that library's version.
        precision: `fp32` (TF32 off), `fp16`, `bf16` or `int8`; inputs and outputs keep the model's types in each.
        compute_capability: of the device it was built for, say `8.9`.
        assumed: whether that capability is a default, since no GPU was found and none was asked for.
        layers: the engine's layers after fusion, as far as the library tells.
        seconds: how long parsing and building took.
        device: name of the GPU that it was built on, where it is bound to that model; full TensorRT's are.
        inputs: what it takes, in the model's order.
        outputs: what it gives.
        metadata: the properties of the ONNX model.
        cached: whether it comes from the disk.
        remarks: what a reader has to know of how it was come by, as sentences without a full stop.
    """

    data: bytes = field(repr=False)
    flavour: str
    version: str
    precision: str
    compute_capability: str
    assumed: bool
    layers: tuple[Layer, ...] = field(repr=False)
    seconds: float
    device: str | None = None
    inputs: Tensors = ()
    outputs: Tensors = ()
    metadata: dict[str, str] = field(default_factory=dict, repr=False)
    cached: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Length of the serialised engine."""
        return len(self.data)

    @property
    def fusions(self) -> tuple[Layer, ...]:
        """Layers that several ONNX nodes were fused into."""
        return fusions(self.layers)

    @property
    def made_for(self) -> str:
        """What it was built by and for, as `TensorRT 10.9 for compute capability 8.9 (NVIDIA L4)`."""
        return made_for(self.flavour, self.version, self.compute_capability, self.device)


@dataclass(frozen=True)
class Builder:
    """What an engine is to be built by, and for."""

    library: Library
    capability: str
    assumed: bool
    device: str | None

    @classmethod
    def find(cls, compute_capability: str | None = None) -> Builder:
        """The builder for a device.

        Args:
            compute_capability: of the device, say `8.9`; by default the current CUDA device's, and
                `DEFAULT_CAPABILITY` where there is none. Naming one always takes TensorRT-RTX.

        Raises:
            BackendUnavailableError: no library that can build this here; the message says what to install.
            UsageError: the library does not know that compute capability; the message lists those it does.
        """
        here = device_capability()
        library = load_tensorrt(without_gpu=compute_capability is not None or here is None)
        capability = compute_capability or here or DEFAULT_CAPABILITY
        if compute_capability is None:
            reason = refusal(library, capability)
            if reason is not None:
                raise BackendUnavailableError(reason)
        elif capability not in library.capabilities:
            raise UsageError(
                f"{library} builds for compute capabilities {_in_order(library)}, not for {capability}; other GPUs "
                f"need full TensorRT, on the GPU itself: {install_hint()}"
            )
        device = device_name() if library.flavour == FULL else None
        return cls(library, capability, compute_capability is None and here is None, device)

    @property
    def words(self) -> str:
        """What it builds by and for, as `Engine.made_for` has it."""
        return made_for(self.library.flavour, self.library.version, self.capability, self.device)

    def build(self, onnx_model: bytes, precision: str) -> Engine:
        """Build an engine; see `build_engine`."""
        model = cast_model(onnx_model, precision)
        if precision == "int8":
            model = float_biases(model)
        log, remarks = get_log(self.library), list[str]()
        log.clear()
        started = time.perf_counter()
        data, inputs, outputs = self._serialise(log, model, remarks)
        seconds = time.perf_counter() - started
        return Engine(
            data=data,
            flavour=self.library.flavour,
            version=self.library.version,
            precision=precision,
            compute_capability=self.capability,
            assumed=self.assumed,
            layers=log.layers or self._inspect(data),
            seconds=seconds,
            device=self.device,
            inputs=inputs,
            outputs=outputs,
            metadata=_metadata(onnx_model),
            remarks=tuple(remarks),
        )

    def _serialise(self, log: Log, model: bytes, remarks: list[str]) -> tuple[bytes, Tensors, Tensors]:
        """The serialised engine of `model`, its inputs and its outputs."""
        trt, library = self.library.module, self.library
        builder = trt.Builder(log.logger)
        # TensorRT 11 takes the flag and ignores it: its networks are strongly typed, always
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log.logger)
        if not parser.parse(model):
            raise MeasurementError(_parser_error(library, parser))
        _require_static(library, network)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: else CUDA graphs may not work
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if self.capability in library.capabilities:
            config.num_compute_capabilities = 1
            config.set_compute_capability(library.capabilities[self.capability], 0)
        with shared_timings(library, self.device, config, remarks):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise log.failure(f"{library} could not build the engine")
        inputs = _tensors(network.get_input(index) for index in range(network.num_inputs))
        outputs = _tensors(network.get_output(index) for index in range(network.num_outputs))
        return bytes(plan), inputs, outputs

    def _inspect(self, data: bytes) -> tuple[Layer, ...]:
        """The layers, from the engine itself; none without a GPU, which that needs."""
        if device_capability() is None:
            return ()
        engine = self.library.module.Runtime(get_log(self.library).logger).deserialize_cuda_engine(data)
        return () if engine is None else layer_report(self.library, engine)


def build_engine(onnx_model: bytes, *, precision: str = "fp32", compute_capability: str | None = None) -> Engine:
    """Build an engine from the serialised ONNX model `onnx_model`, which is of static shapes, and float32 but for int8.

    TensorRT networks are strongly typed: for `fp16` and `bf16` the model itself is converted, see `cast_model`.

    Args:
        onnx_model: the model, weights inside.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        compute_capability: the device to build for, see `Builder.find`.

    Raises:
        BackendUnavailableError: no library that can build this here; the message says what to install.
        UsageError: no such compute capability or precision, or int8 of a model that is not quantised.
        MeasurementError: TensorRT refuses the model (the message names operator and node, in the parser's words), or
            the GPU has too little memory to build it.
    """
    return Builder.find(compute_capability).build(onnx_model, precision)


def made_for(flavour: str, version: str, compute_capability: str, device: str | None) -> str:
    """What an engine is built by and for, in words."""
    named = f" ({device})" if device else ""
    return f"{flavour} {version} for compute capability {compute_capability}{named}"


def device_capability() -> str | None:
    """Compute capability of torch's current CUDA device, say `8.9`; None if there is no such device."""
    import torch

    return "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def device_name() -> str:
    """Name of torch's current CUDA device."""
    import torch

    return str(torch.cuda.get_device_name())


def refusal(library: Library, capability: str) -> str | None:
    """None if `library` serves a device of this compute capability, else the reason and the mend."""
    known = library.capabilities
    if not known or capability in known:
        return None
    return (
        f"{library} serves compute capabilities {_in_order(library)}, not this device's {capability}; "
        f"install full TensorRT: {install_hint()}"
    )


def _in_order(library: Library) -> str:
    return ", ".join(sorted(library.capabilities, key=lambda name: tuple(map(int, name.split(".")))))


def _parser_error(library: Library, parser: Any) -> str:
    """What the parser objects to first: operator, node, and its own words."""
    if parser.num_errors == 0:
        return f"{library} cannot read the ONNX model, and gives no reason"
    error = parser.get_error(0)
    words = f"{error.code().name}, {one_line(error.desc())}"
    if not error.node_operator():
        return f"{library} cannot read the ONNX model: {words}"
    return f"{library} refuses operator {error.node_operator()}, node {error.node_name()!r}: {words}"


def _require_static(library: Library, network: Any) -> None:
    """Refuse networks whose inputs have open dimensions, and those without outputs."""
    if network.num_outputs == 0:
        raise MeasurementError(f"the ONNX model for {library} has no outputs: it is empty")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [f"{entry.name} {tuple(entry.shape)}" for entry in inputs if -1 in tuple(entry.shape)]
    if dynamic:
        raise MeasurementError(
            f"dynamic input shapes: {', '.join(dynamic)} (-1 is open); engines are built for static shapes, "
            "so export the model with every dimension fixed"
        )


def _tensors(entries: Iterable[Any]) -> Tensors:
    """Inputs or outputs of a network."""
    names = ((entry, entry.dtype.name) for entry in entries)
    return tuple(
        TensorSpec(entry.name, tuple(entry.shape), NUMPY_TYPES.get(name, name.lower())) for entry, name in names
    )


def _metadata(onnx_model: bytes) -> dict[str, str]:
    """Properties of a model that TensorRT has read."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load_model_from_string(onnx_model).metadata_props}
