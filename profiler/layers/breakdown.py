"""Breakdown of a network's latency by layer: time, costs, and percent of the device's peak (roofline).

    intensity    MACs / bytes
    roof         min(MACs per second of the peak, intensity * bytes per second of the peak): the attainable speed
    peak_pct     100 * speed / roof = 100 * max(time of the arithmetic, time of the bytes, both at the peak) / time

Source: Williams, Waterman, Patterson: Roofline: an insightful visual performance model for multicore architectures,
CACM 52 (2009). Bandwidth is that of as many bytes as the layer moves, since most layers fit a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ...lut.target import Target
from ...models.onnx import graphs
from ...models.onnx.counting.macs import count_operator_macs
from ...models.onnx.counting.node_costs import VIEWS, GraphCosts, NodeCosts, with_node_names
from ..backends import Workload, require_backend
from ..backends.base import RuntimeLayer
from ..comparison import Candidate
from ..timing.observer import OnProgress, quiet
from .peak import DevicePeak, load_peak
from .timing import LayerMeasurement, time_layers

if TYPE_CHECKING:
    from pydantic import JsonValue

COMPUTE, MEMORY = "compute", "memory"
"""Resource that bounds a layer's time from below."""


@dataclass(frozen=True)
class LayerRow:
    """One layer; None where its nodes or their shapes are unknown.

    Attributes:
        name: name of the ONNX node that stands for the layer, else the runtime's name.
        operator: types of the fused ONNX nodes, e.g. `Conv+Relu`, else the runtime's type.
        kernel: kernel of the convolution, see `NodeCosts`.
        shape: shape of the output.
        ms: latency in ms.
        share_pct: share of the sum over all layers, in percent.
        macs: multiply-accumulates; 0 for operators without, e.g. additions.
        bytes: bytes of weights, inputs and outputs.
        intensity: multiply-accumulates per byte.
        peak_pct: speed relative to the roof, in percent.
        limit: `compute` or `memory`: the larger of the two times at the peak.
        is_copy: True if the layer only copies a tensor to another layout.
        is_traced: False if the runtime does not report the layer's nodes.
    """

    name: str
    operator: str
    kernel: str
    shape: tuple[int, ...]
    ms: float
    share_pct: float
    macs: int | None
    bytes: int | None
    intensity: float | None
    peak_pct: float | None
    limit: str | None
    is_copy: bool
    is_traced: bool = True


@dataclass(frozen=True)
class LayerBreakdown:
    """Layers of a network on one target.

    Attributes:
        network: name of the network.
        size: height and width of the input in pixels.
        target: target of the measurement.
        layers: layers by latency, longest first.
        sum_ms: sum of the layers' latencies, with the profiler on and before any scaling.
        network_ms: latency of the network without the profiler, measured in the same rounds.
        spread_pct: half the interquartile range of the network's batches, in percent.
        runs: number of runs of each kind.
        peak: peak of the device.
        remarks: remarks on the measurement.
    """

    network: str
    size: tuple[int, ...]
    target: Target
    layers: tuple[LayerRow, ...]
    sum_ms: float
    network_ms: float
    spread_pct: float
    runs: int
    peak: DevicePeak
    remarks: tuple[str, ...] = ()

    @property
    def excess_pct(self) -> float:
        """Difference of the sum from the network's latency, in percent."""
        return (self.sum_ms / self.network_ms - 1) * 100

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the layers, their sum, the network's latency, and the peak, as a JSON object."""
        return {
            "layers": [vars(row) for row in self.layers],
            "sum_ms": self.sum_ms,
            "network_ms": self.network_ms,
            "spread_pct": self.spread_pct,
            "layer_runs": self.runs,
            "peak": asdict(self.peak),
        }


def measure_breakdown(
    candidate: Candidate,
    target: Target,
    seconds: float,
    *,
    refresh_peak: bool = False,
    on_progress: OnProgress = quiet,
) -> LayerBreakdown:
    """Measure a network layer by layer, and the device's peak unless it is known.

    Args:
        candidate: network.
        target: target to run it on.
        seconds: duration, see `time_layers`.
        refresh_peak: measure the peak again.
        on_progress: receives the progress.

    Raises:
        BackendUnavailableError: the target is unavailable on this machine.
        MeasurementError: the backend rejects the workload, or does not report layer times.
    """
    workload, graph = name_layers(candidate, target.precision)
    peak, remarks = load_peak(target, refresh=refresh_peak, on_progress=on_progress)
    measurement = time_layers(require_backend(target), target, workload, seconds, on_progress)
    rows = make_rows(measurement, graph, peak)
    return LayerBreakdown(
        candidate.name,
        candidate.size,
        target,
        rows,
        sum_ms=measurement.sum_ms,
        network_ms=measurement.network_ms,
        spread_pct=measurement.spread_pct,
        runs=measurement.runs,
        peak=peak,
        remarks=remarks,
    )


def name_layers(candidate: Candidate, precision: str) -> tuple[Workload, GraphCosts]:
    """Return a network whose nodes have different names, as a workload and with the costs of its nodes."""
    from onnx import ModelProto

    model, workload = candidate.model, candidate.workload
    skeleton = ModelProto()
    skeleton.CopyFrom(model.skeleton)
    if graphs.name_nodes(skeleton.graph):
        workload = replace(workload, file=with_node_names(model.data))
    return workload, GraphCosts(workload.onnx, precision, skeleton)


def make_rows(measurement: LayerMeasurement, graph: GraphCosts, peak: DevicePeak) -> tuple[LayerRow, ...]:
    """Return the layers with their costs, longest first."""
    nodes = assign_nodes(measurement.layers, measurement.latencies_ms, graph)
    rows = []
    for layer, own, ms in zip(measurement.layers, nodes, measurement.latencies_ms, strict=True):
        costs = _count_costs(layer, own, graph)
        compute_ms = None if costs.macs is None else peak.compute_ms(costs.macs)
        memory_ms = None if costs.bytes is None else peak.memory_ms(costs.bytes)
        bound_ms = None if compute_ms is None or memory_ms is None else max(compute_ms, memory_ms)
        rows.append(
            LayerRow(
                name=costs.node,
                operator=costs.operator,
                kernel=costs.kernel,
                shape=costs.shape,
                ms=ms,
                share_pct=100 * ms / measurement.sum_ms,
                macs=costs.macs,
                bytes=costs.bytes,
                intensity=costs.macs / costs.bytes if costs.bytes and costs.macs is not None else None,
                peak_pct=100 * bound_ms / ms if bound_ms else None,
                limit=(COMPUTE if bound_ms == compute_ms else MEMORY) if bound_ms else None,
                is_copy=layer.is_copy,
                is_traced=bool(own) or layer.is_copy,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.ms))


def assign_nodes(
    layers: Sequence[RuntimeLayer], latencies_ms: Sequence[float], graph: GraphCosts
) -> list[tuple[str, ...]]:
    """Return the nodes whose costs belong to each layer.

    A node in several layers belongs to the longest of them, but a dequantisation to each.
    """
    owners: dict[str, int] = {}
    for index in sorted(range(len(layers)), key=lambda index: -latencies_ms[index]):
        if not layers[index].is_copy:
            for node in layers[index].nodes:
                if node in graph:
                    owners.setdefault(node, index)
    return [
        tuple(n for n in layer.nodes if not layer.is_copy and (owners.get(n) == index or graph.is_shared(n)))
        for index, layer in enumerate(layers)
    ]


def _count_costs(layer: RuntimeLayer, nodes: Sequence[str], graph: GraphCosts) -> NodeCosts:
    """Return the costs of a layer's own nodes; of a copy, or of a layer that the runtime added, those it reports."""
    if nodes:
        return graph.count(nodes, is_widened=layer.is_widened)
    name = layer.nodes[-1] if layer.nodes else layer.name
    operator = layer.operator or "unknown"
    if operator in VIEWS:
        return NodeCosts(name, operator, "", layer.shape, 0, 0)
    if layer.is_copy and layer.shape:
        return NodeCosts(name, operator, "", layer.shape, 0, graph.count_copy(layer.shape, layer.item_bytes))
    return NodeCosts(name, operator, "", layer.shape, count_operator_macs(operator), layer.moved_bytes)
