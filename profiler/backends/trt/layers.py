"""Latencies of an engine's layers, by TensorRT's own profiler, with the ONNX nodes of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....errors import MeasurementError
from ..base import LayerRuns, RuntimeLayer
from .layer_nodes import Layer, parse_nodes, parse_report
from .loader import Library


class EngineLayerTimer:
    """Collector of the layer times that TensorRT reports, run by run.

    Attributes:
        profiler: profiler for an execution context.
    """

    def __init__(self, module: Any, execute: Callable[[], None], read: Callable[[], Sequence[Layer]]) -> None:
        """Create the profiler.

        Args:
            module: TensorRT's Python module.
            execute: runs the context once, up to the end of the device's work.
            read: returns the layers of the engine, which give the ONNX nodes.
        """
        self._execute, self._read = execute, read
        self._runs: list[dict[str, float]] = []
        runs = self._runs

        class Profiler(module.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                module.IProfiler.__init__(self)  # required by the binding; `super()` does not do it

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                runs[-1][layer_name] = runs[-1].get(layer_name, 0.0) + ms

        self.profiler = Profiler()

    def run(self, repeats: int) -> None:
        """Run the context `repeats` times."""
        for _ in range(repeats):
            self._runs.append({})
            self._execute()

    def finish(self) -> LayerRuns:
        """Return the layers in the order of the first run.

        Raises:
            MeasurementError: TensorRT reported no layers, or others from run to run.
        """
        names = list(self._runs[0]) if self._runs else []
        if not names or any(run.keys() != set(names) for run in self._runs):
            raise MeasurementError("TensorRT did not report the same layers in every run")
        layers = {layer.name: layer for layer in self._read()}
        known = (layers.get(name) or Layer(name, nodes=parse_nodes(name)) for name in names)
        return LayerRuns(
            tuple(RuntimeLayer(layer.name, layer.nodes, layer.kind, layer.shape, layer.is_copy) for layer in known),
            np.array([[run[name] for name in names] for run in self._runs], float),
        )

    def close(self) -> None:
        """Let go of the execution context, which is freed with its last reference."""
        self._execute = _refuse


def _refuse() -> None:
    raise MeasurementError("the layer timer is closed")


def read_layers(library: Library, engine: Any) -> tuple[Layer, ...]:
    """Return the layers of a loaded engine from its inspector."""
    return parse_report(
        engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    )
