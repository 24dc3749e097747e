"""Latencies of the layers of an ONNX Runtime session, by the runtime's own profiler.

The profiler reports the nodes of the optimised graph; `layer_nodes` maps them to the nodes of the source model.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median_grouped
from typing import Any

from numpy.typing import NDArray

from ..base import LayerTime
from .layer_nodes import trace_nodes
from .session import open_session

NUM_LAYER_WARM_UP_RUNS = 5
"""Runs that do not count."""
_KERNEL_SUFFIX = "_kernel_time"


def measure_layers(
    name: str,
    model: bytes,
    provider: str,
    settings: dict[str, str],
    threads: int,
    inputs: Sequence[NDArray[Any]],
    runs: int,
) -> list[LayerTime]:
    """Return the median latencies of the optimised graph's nodes, in the order of computation.

    Args:
        name: name of the model, for messages.
        model: serialised ONNX model of the runner's session.
        provider: execution provider, see `open_session`.
        settings: options of the provider.
        threads: CPU threads inside an operator.
        inputs: array for each input.
        runs: number of runs that count.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="lgc-layers-") as folder:
        session = open_session(name, model, provider, settings, threads, profile=Path(folder))
        feed = {argument.name: array for argument, array in zip(session.get_inputs(), inputs, strict=True)}
        for _ in range(NUM_LAYER_WARM_UP_RUNS + runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        optimised = onnx.load(str(Path(folder) / "optimised.onnx"), load_external_data=False)
    nodes = trace_nodes(onnx.load_model_from_string(model), optimised)
    durations: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
            durations[event["name"].removesuffix(_KERNEL_SUFFIX)].append(event["dur"])
    return [
        LayerTime(layer, nodes.get(layer, ()), _compute_median_ms(times[NUM_LAYER_WARM_UP_RUNS:]))
        for layer, times in durations.items()
    ]


def _compute_median_ms(durations_us: Sequence[int]) -> float:
    """Return the grouped median: the profiler rounds down to whole microseconds, and short layers take only a few."""
    return (median_grouped(durations_us) + 0.5) / 1000
