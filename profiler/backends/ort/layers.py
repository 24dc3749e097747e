"""Times of the layers of an ONNX Runtime session, and the nodes of the given model behind each of them.

The runtime optimises a graph before it runs it: convolutions take up what follows them, tensors are brought into
another layout and back. Its own profiler speaks of the optimised nodes. Of these the runtime keeps the tensors' names,
in the outputs or, where the layout is another, in the node's own name; so the given nodes behind one are found by going
back from its tensor to the tensors that other optimised nodes make.
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
"""Runs that are not counted."""
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
    """Median times of the optimised graph's nodes, in the order of computation.

    Args:
        name: of the model, for messages.
        model: serialised, as the session of the runner got it.
        provider: of `ort_session`, with its settings.
        settings: of the provider.
        threads: CPU threads.
        inputs: one for each input.
        runs: how many are counted.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="lgc-layers-") as folder:
        session = open_session(name, model, provider, settings, threads, profile=Path(folder))
        feed = {argument.name: array for argument, array in zip(session.get_inputs(), inputs, strict=True)}
        for _ in range(NUM_LAYER_WARM_UP_RUNS + runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        optimised = onnx.load(str(Path(folder) / "optimised.onnx"), load_external_data=False)
    behind = trace_nodes(onnx.load_model_from_string(model), optimised)
    durations: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX):
            durations[event["name"].removesuffix(_KERNEL_SUFFIX)].append(event["dur"])
    return [
        LayerTime(layer, behind.get(layer, ()), _median_ms(times[NUM_LAYER_WARM_UP_RUNS:]))
        for layer, times in durations.items()
    ]


def _median_ms(durations_us: Sequence[int]) -> float:
    """The median of whole microseconds, which the profiler rounds down to: the shortest layers take but a few."""
    return (median_grouped(durations_us) + 0.5) / 1000
