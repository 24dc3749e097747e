"""Tables of a network's layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..console import format_count, format_number, grid

if TYPE_CHECKING:
    from rich.table import Table

    from ....profiler.layers.breakdown import LayerBreakdown, LayerRow
    from ....profiler.layers.peak import DevicePeak

MAX_LAYERS = 20
"""Largest number of layers in a table."""
TABLE_WIDTH, GAP = 120, 2
"""Columns of a table, and between two of its columns."""
NAME_WIDTH, OPERATOR_WIDTH, SHAPE_WIDTH = 20, 22, 13
"""Smallest width of a name, which gets what the others leave; largest width of operator and shape."""
_PRODUCT = re.compile("Conv|MatMul|Gemm|Einsum|Attention|LSTM|GRU|RNN")
"""Operators that a fused layer is described by."""
MAX_EXCESS_PCT = 5.0
"""Largest difference of the sum from the network's latency, in percent, without a warning."""
MAX_SPREAD_PCT = 5.0
"""Largest spread of the network's batches, in percent, without a warning."""
LEGEND = (
    "share: of the sum; cum.: up to this layer. MB: weights, inputs, outputs; -: unknown. peak: relative to the "
    "roofline, min(peak of the arithmetic, MACs/B x bandwidth)."
)


def make_layer_tables(breakdowns: list[LayerBreakdown]) -> list[Table | str]:
    """Return a table and lines for each network and target, and a legend."""
    from ....profiler.layers.remarks import describe_excess, describe_longest

    parts: list[Table | str] = []
    for breakdown in breakdowns:
        parts += [_make_table(breakdown), _describe_sum(breakdown), _describe_peak(breakdown.peak)]
        parts += [*describe_excess(breakdown), *describe_longest(breakdown), *breakdown.remarks]
    return [*parts, LEGEND] if parts else []


def _make_table(breakdown: LayerBreakdown) -> Table:
    """Return the layers with the longest times, and a row for the others."""
    header = ("layer", "operator", "output", "ms", "share %", "cum. %", "MMACs", "MB", "MACs/B", "peak %")
    rows = []
    cumulated_pct = 0.0
    shown = breakdown.layers[:MAX_LAYERS]
    for name, row in zip(_name_layers(shown), shown, strict=True):
        cumulated_pct += row.share_pct
        rows.append(_make_cells(name, row, cumulated_pct))
    if others := breakdown.layers[MAX_LAYERS:]:
        rows.append(_sum_cells(others))
    size = "x".join(map(str, breakdown.size))
    title = f"{breakdown.network}, {size}: layers on {breakdown.target}"
    table = grid(title, *header, numbers=len(header) - 3)
    widths = [max(map(len, column)) for column in list(zip(header, *rows, strict=True))[1:]]
    width = max(TABLE_WIDTH - sum(widths) - GAP * len(widths), NAME_WIDTH)
    for name, *cells in rows:
        table.add_row(shorten(name, width), *cells)
    return table


def _name_layers(rows: Sequence[LayerRow]) -> list[str]:
    """Return the abbreviated names; with the operator where other nodes would have the same."""
    nodes: dict[str, set[str]] = {}
    for row in rows:
        nodes.setdefault(abbreviate(row.name, row.operator), set()).add(row.name)
    names = [abbreviate(row.name, row.operator) for row in rows]
    return [name if len(nodes[name]) == 1 else abbreviate(row.name, "") for name, row in zip(names, rows, strict=True)]


def _make_cells(name: str, row: LayerRow, cumulated_pct: float) -> tuple[str, ...]:
    shape = row.shape[1:] if len(row.shape) > 1 and row.shape[0] == 1 else row.shape
    return (
        name,
        _describe_operator(row),
        shorten("x".join(map(str, shape)) or "-", SHAPE_WIDTH),
        f"{row.ms:.3f}",
        f"{row.share_pct:.1f}",
        f"{cumulated_pct:.1f}",
        format_number(None if row.macs is None else row.macs / 1e6, ".1f"),
        format_number(None if row.bytes is None else row.bytes / 1e6, ".2f"),
        format_number(row.intensity, ".1f"),
        format_number(row.peak_pct, ".0f"),
    )


def _sum_cells(rows: Sequence[LayerRow]) -> tuple[str, ...]:
    """Return the cells of a row for several layers."""
    return (
        f"{len(rows)} more",
        "",
        "",
        f"{sum(row.ms for row in rows):.3f}",
        f"{sum(row.share_pct for row in rows):.1f}",
        "100.0",
        _sum_known([row.macs for row in rows], ".1f"),
        _sum_known([row.bytes for row in rows], ".2f"),
        "",
        "",
    )


def _sum_known(values: Sequence[int | None], spec: str) -> str:
    """Return the sum of the known values in millions, as a lower bound if others are unknown."""
    known = [value for value in values if value is not None]
    if not known:
        return format_number(None, spec)
    return f"{'≥' if len(known) < len(values) else ''}{sum(known) / 1e6:{spec}}"


def _describe_operator(row: LayerRow) -> str:
    """Return the operator with the kernel of its convolution: `Conv 3x3+Relu`, `DwConv 3x3/2+Relu`.

    If it is too long, only the main one of the fused operators and its neighbours are left: `...+Mul+MatMul`.
    """
    parts = [re.sub("(?<=Norm)alization$|(?<=uantize)Linear$", "", part) for part in row.operator.split("+")]
    main = next((index for index, part in enumerate(parts) if _PRODUCT.search(part)), len(parts) - 1)
    if row.kernel and "Conv" in parts[main]:
        kind, _, kernel = row.kernel.rpartition(" ")
        prefix = {"depthwise": "Dw", "grouped": "Gr"}.get(kind.partition(" ")[0], "")
        parts[main] = f"{prefix}{parts[main]} {kernel}"
    before, after = parts[:main], parts[main + 1 :]
    text = "+".join(parts)
    while len(text) > OPERATOR_WIDTH and (before or after):
        before, after = (before[1:], after) if before else (before, after[:-1])
        start, end = "…" if len(before) < main else "", "…" if len(after) < len(parts) - main - 1 else ""
        text = "+".join(filter(None, (start, *before, parts[main], *after, end)))
    return shorten(text, OPERATOR_WIDTH)


def _describe_sum(breakdown: LayerBreakdown) -> str:
    """Return the sum over the layers next to the network's latency, with a warning if they differ."""
    line = (
        f"sum of {format_count(len(breakdown.layers), 'layer')}: {breakdown.sum_ms:.3f} ms with the profiler on, "
        f"{breakdown.excess_pct:+.1f} % of the network's {breakdown.network_ms:.3f} ms without it, in the same rounds "
        f"({breakdown.runs} runs each)"
    )
    if breakdown.spread_pct > MAX_SPREAD_PCT:
        line += (
            f". Busy machine: the network's latency spreads by ±{breakdown.spread_pct:.0f} %, so single layers are "
            "uncertain; repeat on a quiet machine, or with longer --seconds"
        )
    elif abs(breakdown.excess_pct) > MAX_EXCESS_PCT:
        us = (breakdown.sum_ms - breakdown.network_ms) * 1e3 / len(breakdown.layers)
        line += f". More than {MAX_EXCESS_PCT:.0f} % apart: the profiler changes each layer by {us:+.1f} us on average"
    return line


def _describe_peak(peak: DevicePeak) -> str:
    """Return the peak in one line."""
    rates = ", ".join(f"{rate / 1e9:.3g} GB/s for {_format_bytes(size)}" for size, rate in peak.bandwidths)
    is_own = peak.precision in peak.target
    notes = [] if is_own else ["not measured in the target's precision"]
    if peak.slowest_macs_per_s is not None:
        notes.append(f"slowest repetition {peak.slowest_macs_per_s / 1e9:.4g}")
    rate = f"{peak.macs_per_s / 1e9:.4g} GMACs/s" + ("" if is_own else f" in {peak.precision}")
    note = f" ({'; '.join(notes)})" if notes else ""
    return (
        f"measured peak of {peak.target}: {rate}{note}; {rates} (addition of arrays, this "
        f"size in all); measured {peak.date} in {peak.seconds:.0f} s"
    )


def _format_bytes(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"


def abbreviate(name: str, operator: str) -> str:
    """Return a node's name without what the table or the name itself repeats.

    torch names `/body/body.1/conv/Conv` the node of type Conv in the module body.1.conv: this becomes `body.1/conv`.
    """
    parts = name.strip("/").split("/")
    if len(parts) > 1 and parts[-1] in operator.split("+"):
        parts.pop()
    following = [*parts[1:], ""]
    return "/".join(part for part, after in zip(parts, following, strict=True) if not after.startswith(f"{part}."))


def shorten(text: str, width: int) -> str:
    """Return a text of at most `width` characters, with an ellipsis in place of its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[head + 1 - width :]}"
