"""From an ONNX model to a TensorRT engine, on the GPU that will run it or ahead of time on a machine without one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...errors import BackendUnavailableError, MeasurementError, UnknownNameError
from .trt_loader import FULL, INSTALL_FULL, Library, load_tensorrt
from .trt_log import Log, get_log, one_line
from .trt_precision import cast_model

DEFAULT_CAPABILITY = "8.9"
"""What an engine is built for where there is neither a GPU nor a wish: the Ada generation (L4, L40, RTX 4090)."""

_timings: dict[str, bytes] = {}
"""Library and device -> what TensorRT has timed there in this process: a table's graphs have many layers in common."""


@dataclass(frozen=True)
class Engine:
    """A network built by TensorRT.

    Attributes:
        data: the serialised engine, as `trtexec --loadEngine` and the TensorRT runtimes read it.
        flavour: `TensorRT` or `TensorRT-RTX`: whose runtime runs it.
        version: that library's version.
        precision: `fp32` (TF32 off), `fp16` or `bf16`; inputs and outputs are float32 in each.
        compute_capability: of the device it was built for, say `8.9`.
        assumed: whether that capability is a default, since no GPU was found and none was asked for.
        layers: names of the engine's layers after fusion, as far as the library tells.
        seconds: how long parsing and building took.
    """

    data: bytes = field(repr=False)
    flavour: str
    version: str
    precision: str
    compute_capability: str
    assumed: bool
    layers: tuple[str, ...] = field(repr=False)
    seconds: float


def build_engine(onnx_model: bytes, *, precision: str = "fp32", compute_capability: str | None = None) -> Engine:
    """Build an engine from the serialised ONNX model `onnx_model`, which is float32 and of static shapes.

    TensorRT networks are strongly typed: for `fp16` and `bf16` the model itself is converted, see `cast_model`.

    Args:
        onnx_model: the model, weights inside.
        precision: `fp32`, `fp16` or `bf16`.
        compute_capability: the device to build for, say `8.9`; by default the current CUDA device, and
            `DEFAULT_CAPABILITY` where there is none. Naming one always takes TensorRT-RTX.

    Raises:
        BackendUnavailableError: no library that can build this here; the message says what to install.
        UnknownNameError: no such compute capability; the message lists the known ones.
        UsageError: no such precision.
        MeasurementError: TensorRT refuses the model; the message names operator and node, in the parser's words.
    """
    here = device_capability()
    library = load_tensorrt(without_gpu=compute_capability is not None or here is None)
    capability = compute_capability or here or DEFAULT_CAPABILITY
    if compute_capability is None:
        reason = refusal(library, capability)
        if reason is not None:
            raise BackendUnavailableError(reason)
    elif capability not in library.capabilities:
        raise UnknownNameError("compute capability", capability, library.capabilities)
    model = cast_model(onnx_model, precision)
    log = get_log(library)
    log.clear()
    started = time.perf_counter()
    data = _build(library, log, model, capability)
    seconds = time.perf_counter() - started
    layers = log.layers or (_inspect(library, data) if here is not None else ())
    assumed = compute_capability is None and here is None
    return Engine(data, library.flavour, library.version, precision, capability, assumed, layers, seconds)


def device_capability() -> str | None:
    """Compute capability of torch's current CUDA device, say `8.9`; None if there is no such device."""
    import torch

    return "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def refusal(library: Library, capability: str) -> str | None:
    """None if `library` serves a device of this compute capability, else the reason and the mend."""
    known = library.capabilities
    if not known or capability in known:
        return None
    return (
        f"{library} serves compute capabilities {', '.join(known)}, not this device's {capability}; "
        f"install full TensorRT: {INSTALL_FULL}"
    )


def _build(library: Library, log: Log, model: bytes, capability: str) -> bytes:
    """The serialised engine of `model`."""
    trt = library.module
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(model):
        raise MeasurementError(_parser_error(library, parser))
    _require_static(library, network)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: else CUDA graphs are not promised to work
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if capability in library.capabilities:
        config.num_compute_capabilities = 1
        config.set_compute_capability(library.capabilities[capability], 0)
    with _shared_timings(library, config):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise MeasurementError(f"{library} could not build the engine: {log.why()}")
    return bytes(plan)


@contextmanager
def _shared_timings(library: Library, config: Any) -> Iterator[None]:
    """Context in which a build finds what earlier ones have timed on the current device, and adds what it times.

    Full TensorRT only: in TensorRT-RTX, which picks its kernels when an engine is loaded, these calls do nothing.
    """
    if library.flavour != FULL:
        yield
        return
    import torch

    place = f"{library}, {torch.cuda.get_device_name()}"
    cache = config.create_timing_cache(_timings.get(place, b""))
    config.set_timing_cache(cache, False)  # False: timings of another device are refused
    yield
    _timings[place] = bytes(cache.serialize())


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


def _inspect(library: Library, data: bytes) -> tuple[str, ...]:
    """Names of the layers, from the engine itself; needs a GPU."""
    engine = library.module.Runtime(get_log(library).logger).deserialize_cuda_engine(data)
    if engine is None:
        return ()
    report = engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    layers = json.loads(report).get("Layers", [])
    return tuple(layer["Name"] if isinstance(layer, dict) else str(layer) for layer in layers)
