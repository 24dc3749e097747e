"""One plain line on a layer: share of the time, percent of the peak, and what bounds it. It states the figures only."""

from __future__ import annotations

from .breakdown import COMPUTE, MEMORY, LayerBreakdown, LayerRow
from .peak import DevicePeak

NUM_REMARKS = 3
"""Layers with a line, longest first."""
BOUND_PCT = 50.0
"""Percent of the roof above which its resource is called the layer's bound."""
ABOVE_PCT = 105.0
"""Percent of the roof above which the peak itself is in doubt."""
_IMAGE_OPERATORS = ("Conv", "Pool", "Resize", "Upsample", "ArgMax", "BatchNorm", "DepthToSpace", "Reorder")
"""Parts of the names of operators whose output has a height and width."""
_MAX_SCALE_ERROR = 0.15
"""Relative deviation of an output's height and width from a fraction of the input's that is rounding."""


def describe_longest(breakdown: LayerBreakdown) -> list[str]:
    """Return a line on each of the longest layers."""
    return [
        f"{number}. {describe_layer(row, breakdown.size, breakdown.peak)}"
        for number, row in enumerate(breakdown.layers[:NUM_REMARKS], start=1)
    ]


def describe_layer(row: LayerRow, size: tuple[int, ...], peak: DevicePeak) -> str:
    """Return a line on a layer.

    Args:
        row: layer.
        size: height and width of the network's input.
        peak: peak of the device.
    """
    parts = [f"{row.name}: {_describe_operator(row, size)}: {row.share_pct:.0f} % of the time"]
    if row.peak_pct is not None:
        parts.append(f"{row.peak_pct:.0f} % of peak")
    return f"{', '.join(parts)}, {_explain(row, peak)}"


def _describe_operator(row: LayerRow, size: tuple[int, ...]) -> str:
    """Return the operator with kernel and scale, e.g. `conv 7x7/2 at 1/2`."""
    name = "change of layout" if row.is_copy else row.operator
    if row.kernel:
        kind, _, kernel = row.kernel.rpartition(" ")
        name = f"{kind} conv {kernel}".strip()
    on_images = any(part in row.operator for part in _IMAGE_OPERATORS)
    return f"{name} {_describe_scale(row.shape, size)}".strip() if on_images else name


def _describe_scale(shape: tuple[int, ...], size: tuple[int, ...]) -> str:
    """Return `at 1/8` for an output of an eighth of the input's height and width; empty for other shapes.

    Only operators on images have a scale: the last axes of attention are tokens.
    """
    if len(size) != 2 or len(shape) < 3 or not all(shape[-2:]):
        return ""
    ratios = [whole / part for whole, part in zip(size, shape[-2:], strict=True)]
    scale = max(round(ratios[0]), 1)
    return f"at 1/{scale}" if all(abs(ratio / scale - 1) < _MAX_SCALE_ERROR for ratio in ratios) else ""


def _explain(row: LayerRow, peak: DevicePeak) -> str:
    """Return what the figures say about the layer's time."""
    if row.macs is None or row.bytes is None:
        return f"costs unknown: {_explain_unknown(row)}"
    if row.peak_pct is None:
        return "nothing to compute or to move: its time is the runtime's own"
    bandwidth = f"{peak.bandwidth(row.bytes) / 1e9:.0f} GB/s for {row.bytes / 1e6:.3g} MB"
    compute = f"{peak.macs_per_s / 1e9:.0f} GMACs/s"
    if row.peak_pct > ABOVE_PCT:
        return f"faster than the measured peak ({compute if row.limit == COMPUTE else bandwidth})"
    if row.limit == MEMORY:
        cause = f"{_format_intensity(row)}, {bandwidth}"
    else:
        cause = f"{_format_intensity(row)}, arithmetic at {compute}"
    if row.peak_pct >= BOUND_PCT:
        return f"{row.limit}-bound: {cause}"
    return (
        f"bound by neither: {peak.compute_ms(row.macs):.3f} ms of arithmetic and {peak.memory_ms(row.bytes):.3f} ms of "
        f"memory traffic at the peaks, {row.ms:.3f} ms measured"
    )


def _explain_unknown(row: LayerRow) -> str:
    """Return why the costs of a layer are unknown."""
    if not row.is_traced:
        return "the runtime does not report the ONNX nodes of this layer"
    if row.macs is None:
        return f"the multiply-accumulates of {row.operator} are not counted"
    return "the size of a tensor is known only when it runs"


def describe_excess(breakdown: LayerBreakdown) -> list[str]:
    """Return a line on the layers that are faster than the measured peak, if there are any."""
    peak, lines = breakdown.peak, []
    for limit, name in ((COMPUTE, "arithmetic"), (MEMORY, "memory traffic")):
        shares = [row.peak_pct or 0.0 for row in breakdown.layers if row.limit == limit]
        shares = [share for share in shares if share > ABOVE_PCT]
        if not shares:
            continue
        if limit == COMPUTE and peak.precision != breakdown.target.precision:
            cause = f"the peak is that of {peak.precision}, which {breakdown.target.precision} may exceed"
        else:
            cause = (
                "data in a faster cache, an algorithm with fewer operations, or a peak of a busier machine "
                "(--refresh-peak measures it again and keeps the faster)"
            )
        lines.append(f"layers above the peak of {name}: {len(shares)}, up to {max(shares):.0f} %: {cause}")
    return lines


def _format_intensity(row: LayerRow) -> str:
    return "no MACs" if not row.macs else f"{row.intensity:.1f} MACs/byte"
