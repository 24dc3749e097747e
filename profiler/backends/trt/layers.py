"""How long each layer of an engine takes, by TensorRT's own profiler, joined with the ONNX nodes in it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..base import LayerTime
from .layer_nodes import Layer, parse_nodes, parse_report
from .loader import Library


class LayerTimer:
    """Collects what TensorRT reports of each layer, run by run.

    Attributes:
        profiler: what an execution context takes.
    """

    def __init__(self, module: Any) -> None:
        self._runs: list[dict[str, float]] = []
        runs = self._runs

        class Profiler(module.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                module.IProfiler.__init__(self)  # its binding wants that, `super()` will not do

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                runs[-1][layer_name] = runs[-1].get(layer_name, 0.0) + ms

        self.profiler = Profiler()

    def start_run(self) -> None:
        """A run begins."""
        self._runs.append({})

    def compute_medians(self, layers: Sequence[Layer]) -> list[LayerTime]:
        """The median of each layer over the runs, as the first run has them; `layers` tell the nodes."""
        known = {layer.name: layer.nodes for layer in layers}
        names = list(self._runs[0]) if self._runs else []
        return [
            LayerTime(
                layer=name,
                nodes=known[name] if name in known else parse_nodes(name),
                ms=statistics.median(run[name] for run in self._runs if name in run),
            )
            for name in names
        ]


def read_layers(library: Library, engine: Any) -> tuple[Layer, ...]:
    """The layers of a loaded engine, as its inspector tells them."""
    return parse_report(
        engine.create_engine_inspector().get_engine_information(library.module.LayerInformationFormat.JSON)
    )
