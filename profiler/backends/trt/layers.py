"""Latencies of an engine's layers, by TensorRT's own profiler, with the ONNX nodes of each layer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..base import LayerTime
from .layer_nodes import Layer, parse_nodes, parse_report
from .loader import Library


class LayerTimer:
    """Collector of the layer times that TensorRT reports, run by run.

    Attributes:
        profiler: profiler for an execution context.
    """

    def __init__(self, module: Any) -> None:
        self._runs: list[dict[str, float]] = []
        runs = self._runs

        class Profiler(module.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                module.IProfiler.__init__(self)  # required by the binding; `super()` does not do it

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                runs[-1][layer_name] = runs[-1].get(layer_name, 0.0) + ms

        self.profiler = Profiler()

    def start_run(self) -> None:
        """Start a new run."""
        self._runs.append({})

    def compute_medians(self, layers: Sequence[Layer]) -> list[LayerTime]:
        """Return the median latency of each layer over the runs, in the order of the first run.

        Args:
            layers: layers of the engine, which give the ONNX nodes.
        """
        nodes = {layer.name: layer.nodes for layer in layers}
        names = list(self._runs[0]) if self._runs else []
        return [
            LayerTime(
                layer=name,
                nodes=nodes[name] if name in nodes else parse_nodes(name),
                ms=statistics.median(run[name] for run in self._runs if name in run),
            )
            for name in names
        ]


def read_layers(library: Library, engine: Any) -> tuple[Layer, ...]:
    """Return the layers of a loaded engine from its inspector."""
    return parse_report(
        engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    )
