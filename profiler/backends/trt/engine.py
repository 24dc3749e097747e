"""Building of TensorRT engines from ONNX models, on the target GPU or ahead of time on a machine without a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ....errors import BackendUnavailableError, MeasurementError, UsageError
from ....models.onnx.model import TensorSpec
from ..error_translation import join_lines
from ..int8 import dequantise_biases
from ..precision import cast_model
from .layer_nodes import Layer, select_fusions
from .layers import read_layers
from .loader import FULL, Library, get_install_hint, load_tensorrt
from .log import Log, get_log
from .timing_cache import share_timings

DEFAULT_CAPABILITY = "8.9"
"""Compute capability of an engine where no GPU is available and none is specified: Ada (L4, L40, RTX 4090)."""

DTYPE_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
"""Name of a TensorRT data type -> numpy's name, where that is not the same in lower case."""

Tensors = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Engine:
    """Network built by TensorRT.

    Attributes:
        data: serialised engine, as `trtexec --loadEngine` and the TensorRT runtimes read it.
        flavour: library whose runtime runs the engine, `TensorRT` or `TensorRT-RTX`.
        version: version of that library.
        precision: `fp32` (TF32 off), `fp16`, `bf16` or `int8`; inputs and outputs keep the model's types in each.
        compute_capability: compute capability of the target device, e.g. `8.9`.
        assumed: True if that is the default, as no GPU is available and none was specified.
        layers: layers after fusion, where the library reports them.
        seconds: duration of parsing and building.
        device: name of the GPU, where the engine is bound to that model of GPU, as full TensorRT's engines are.
        inputs: inputs, in the model's order.
        outputs: outputs, in the model's order.
        metadata: properties of the ONNX model.
        cached: True if the engine comes from the cache on disk.
        remarks: notes on how the engine was obtained, as sentences without a full stop.
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
        """Layers with several fused ONNX nodes."""
        return select_fusions(self.layers)

    @property
    def origin(self) -> str:
        """Library and target device, as `TensorRT 10.9 for compute capability 8.9 (NVIDIA L4)`."""
        return describe_origin(self.flavour, self.version, self.compute_capability, self.device)


@dataclass(frozen=True)
class EngineBuilder:
    """Library and target device of a build.

    Attributes:
        library: library that builds.
        capability: compute capability of the target device.
        assumed: True if the capability is the default.
        device: name of the GPU, where engines are bound to its model; else None.
    """

    library: Library
    capability: str
    assumed: bool
    device: str | None

    @classmethod
    def for_device(cls, compute_capability: str | None = None) -> EngineBuilder:
        """Return the builder for a device.

        Args:
            compute_capability: compute capability of the device, e.g. `8.9`; requires TensorRT-RTX. By default that of
                the current CUDA device, or `DEFAULT_CAPABILITY` without a GPU.

        Raises:
            BackendUnavailableError: no library on this machine can build it; the message says what to install.
            UsageError: the library does not support that compute capability; the message lists the supported ones.
        """
        current = get_device_capability()
        library = load_tensorrt(without_gpu=compute_capability is not None or current is None)
        capability = compute_capability or current or DEFAULT_CAPABILITY
        if compute_capability is None:
            reason = diagnose_capability(library, capability)
            if reason is not None:
                raise BackendUnavailableError(reason)
        elif capability not in library.capabilities:
            raise UsageError(
                f"{library} builds for compute capabilities {_list_capabilities(library)}, not for {capability}; "
                f"other GPUs need full TensorRT, which builds on the GPU itself: {get_install_hint()}"
            )
        device = get_device_name() if library.flavour == FULL else None
        return cls(library, capability, compute_capability is None and current is None, device)

    @property
    def description(self) -> str:
        """Library and target device, in the form of `Engine.origin`."""
        return describe_origin(self.library.flavour, self.library.version, self.capability, self.device)

    def build(self, onnx_model: bytes, precision: str) -> Engine:
        """Return the engine of a model; see `build_engine`."""
        model = cast_model(onnx_model, precision)
        if precision == "int8":
            model = dequantise_biases(model)
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
            metadata=_read_metadata(onnx_model),
            remarks=tuple(remarks),
        )

    def _serialise(self, log: Log, model: bytes, remarks: list[str]) -> tuple[bytes, Tensors, Tensors]:
        """Return the serialised engine of `model`, its inputs and its outputs."""
        trt, library = self.library.module, self.library
        builder = trt.Builder(log.logger)
        # TensorRT-RTX, and TensorRT from 11, have no precision flags: a layer computes in the types of its tensors.
        # TensorRT 11 accepts this flag and ignores it, as its networks are always strongly typed.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log.logger)
        if not parser.parse(model):
            raise MeasurementError(_describe_parser_error(library, parser))
        _require_static(library, network)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX; CUDA graphs may fail without it
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if self.capability in library.capabilities:
            config.num_compute_capabilities = 1
            config.set_compute_capability(library.capabilities[self.capability], 0)
        with share_timings(library, self.device, config, remarks):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise log.make_error(f"{library} could not build the engine")
        inputs = _describe_tensors(network.get_input(index) for index in range(network.num_inputs))
        outputs = _describe_tensors(network.get_output(index) for index in range(network.num_outputs))
        return bytes(plan), inputs, outputs

    def _inspect(self, data: bytes) -> tuple[Layer, ...]:
        """Return the layers from the engine itself; none without a GPU, which loading an engine requires."""
        if get_device_capability() is None:
            return ()
        engine = self.library.module.Runtime(get_log(self.library).logger).deserialize_cuda_engine(data)
        return () if engine is None else read_layers(self.library, engine)


def build_engine(onnx_model: bytes, *, precision: str = "fp32", compute_capability: str | None = None) -> Engine:
    """Build an engine from a serialised ONNX model with static shapes, in float32 or quantised for int8.

    TensorRT networks are strongly typed: for `fp16` and `bf16` the model itself is converted, see `cast_model`.

    Args:
        onnx_model: serialised ONNX model with its weights inside.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        compute_capability: target device, see `EngineBuilder.for_device`.

    Raises:
        BackendUnavailableError: no library on this machine can build it; the message says what to install.
        UsageError: unknown compute capability or precision, or int8 of a model that is not quantised.
        MeasurementError: TensorRT rejects the model (the message names operator and node and quotes the parser), or
            the GPU's memory is too small to build it.
    """
    return EngineBuilder.for_device(compute_capability).build(onnx_model, precision)


def describe_origin(flavour: str, version: str, compute_capability: str, device: str | None) -> str:
    """Return library and target device of an engine as text."""
    suffix = f" ({device})" if device else ""
    return f"{flavour} {version} for compute capability {compute_capability}{suffix}"


def get_device_capability() -> str | None:
    """Return the compute capability of torch's current CUDA device, e.g. `8.9`; None without a GPU."""
    import torch

    return "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def get_device_name() -> str:
    """Return the name of torch's current CUDA device."""
    import torch

    return str(torch.cuda.get_device_name())


def diagnose_capability(library: Library, capability: str) -> str | None:
    """Return None if `library` supports a device of this compute capability, else the reason and the fix."""
    known = library.capabilities
    if not known or capability in known:
        return None
    return (
        f"{library} supports compute capabilities {_list_capabilities(library)}, not this device's {capability}; "
        f"install full TensorRT: {get_install_hint()}"
    )


def _list_capabilities(library: Library) -> str:
    return ", ".join(sorted(library.capabilities, key=lambda name: tuple(map(int, name.split(".")))))


def _describe_parser_error(library: Library, parser: Any) -> str:
    """Return the parser's first error: operator, node and message."""
    if parser.num_errors == 0:
        return f"{library} cannot read the ONNX model: no reason given"
    error = parser.get_error(0)
    reason = f"{error.code().name}, {join_lines(error.desc())}"
    if not error.node_operator():
        return f"{library} cannot read the ONNX model: {reason}"
    return f"{library} rejects operator {error.node_operator()}, node {error.node_name()!r}: {reason}"


def _require_static(library: Library, network: Any) -> None:
    """Raise MeasurementError for a network without outputs or with dynamic input shapes."""
    if network.num_outputs == 0:
        raise MeasurementError(f"the ONNX model for {library} is empty: it has no outputs")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [f"{entry.name} {tuple(entry.shape)}" for entry in inputs if -1 in tuple(entry.shape)]
    if dynamic:
        raise MeasurementError(
            f"dynamic input shapes: {', '.join(dynamic)}; engines need static shapes: export the model with every "
            "dimension fixed"
        )


def _describe_tensors(entries: Iterable[Any]) -> Tensors:
    """Return the inputs or outputs of a network."""
    names = ((entry, entry.dtype.name) for entry in entries)
    return tuple(
        TensorSpec(entry.name, tuple(entry.shape), DTYPE_NAMES.get(name, name.lower())) for entry, name in names
    )


def _read_metadata(onnx_model: bytes) -> dict[str, str]:
    """Return the properties of a valid ONNX model."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load_model_from_string(onnx_model).metadata_props}
