"""Latencies of the layers of an ONNX Runtime session, by the runtime's own profiler.

The profiler reports the nodes of the optimised graph; `layer_nodes` maps them to the nodes of the source model. A
node's time contains the profiler's own work at its start and end: about 3 us with one thread, more with several. So the
sum over the layers is above the session's latency, noticeably so where layers take few microseconds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import MeasurementError
from ..base import LayerRuns, RuntimeLayer
from .layer_nodes import REORDER_OPS, TracedNode, name_unnamed, trace_nodes

NUM_LAYER_WARM_UP_RUNS = 3
"""First runs of a profiled session, which do not count."""
OPTIMISED_FILE = "optimised.onnx"
_KERNEL_SUFFIX = "_kernel_time"
_SIZES = ("activation_size", "parameter_size", "output_size")
"""Arguments of an event that together are the bytes that a node moves."""
_ROUNDING_US = 0.5
"""Mean of what the profiler loses: it rounds down to whole microseconds."""


class SessionLayerTimer:
    """Timer of a session with the profiler on. The runtime writes its report when the profiling ends.

    Args:
        model: serialised ONNX model of the session.
        folder: folder of the optimised graph.
        run: function that runs the session a number of times.
        end: function that ends the profiling and returns the path of the report.
    """

    def __init__(self, model: bytes, folder: Path, run: Callable[[int], object], end: Callable[[], str]) -> None:
        self._model, self._folder, self._run, self._end = model, folder, run, end
        self._num_runs = 0
        self.run(NUM_LAYER_WARM_UP_RUNS)

    def run(self, repeats: int) -> None:
        """Run the session `repeats` times."""
        self._run(repeats)
        self._num_runs += repeats

    def finish(self) -> LayerRuns:
        """End the profiling and return the optimised graph's nodes.

        Raises:
            MeasurementError: the report lacks nodes of some runs.
        """
        import onnx

        events = json.loads(Path(self._end()).read_text())
        optimised = onnx.load(str(self._folder / OPTIMISED_FILE), load_external_data=False)
        nodes = trace_nodes(onnx.load_model_from_string(self._model), optimised)
        return read_layer_runs(events, self._num_runs, nodes)


def read_layer_runs(events: list[dict[str, Any]], runs: int, nodes: dict[str, TracedNode]) -> LayerRuns:
    """Return the layers of a profile, without the warm-up runs.

    Args:
        events: events of ONNX Runtime's profile.
        runs: number of runs, warm-up included.
        nodes: optimised node -> its source nodes.

    Raises:
        MeasurementError: the profile lacks nodes of some runs.
    """
    kernels = _select_outermost(
        [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX)]
    )
    count = len(kernels) // runs
    names = [event["name"].removesuffix(_KERNEL_SUFFIX) for event in kernels]
    if not count or names != names[:count] * runs:
        raise MeasurementError("ONNX Runtime's profile lacks layers of some runs")
    durations_us = np.reshape([event["dur"] for event in kernels], (runs, count))
    unnamed: Counter[str] = Counter()
    layers = tuple(
        _make_layer(name, event["args"], nodes, unnamed) for name, event in zip(names, kernels[:count], strict=False)
    )
    return LayerRuns(layers, (durations_us[NUM_LAYER_WARM_UP_RUNS:] + _ROUNDING_US) / 1000)


def _select_outermost(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the nodes in order of time without those inside another one: the bodies of If and Loop."""
    selected: list[dict[str, Any]] = []
    for event in sorted(kernels, key=lambda event: (event["ts"], -event["dur"], int(event["args"]["node_index"]))):
        if not selected or event["ts"] >= selected[-1]["ts"] + selected[-1]["dur"]:
            selected.append(event)
    return selected


def _make_layer(
    name: str, arguments: dict[str, Any], nodes: dict[str, TracedNode], unnamed: Counter[str]
) -> RuntimeLayer:
    """Return the layer of an event; both the profile and the graph have the unnamed nodes in the order of computation.

    A node that the optimised graph lacks is a copy if its operator changes layouts.
    """
    operator = arguments.get("op_name", "")
    traced = nodes.get(name) or nodes.get(name_unnamed(operator, unnamed)) or TracedNode((), operator in REORDER_OPS)
    kind, shape = _read_output(arguments)
    width = np.dtype(kind).itemsize if re.fullmatch(r"u?int\d+", kind) else None
    sizes = [int(arguments[key]) for key in _SIZES if key in arguments]
    moved = sum(sizes) if len(sizes) == len(_SIZES) else None
    return RuntimeLayer(name, traced.names, operator, shape, traced.is_copy, width, moved, traced.is_widened)


def _read_output(arguments: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return type and shape of the first output, e.g. `uint8`; empty where the profile lacks them."""
    for output in arguments.get("output_type_shape") or ():
        for kind, shape in output.items():
            return kind, tuple(shape)
    return "", ()
