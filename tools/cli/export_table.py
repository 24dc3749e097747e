"""Tables of `lgc-export`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .console import format_count, format_number, grid

if TYPE_CHECKING:
    from rich.table import Table

    from ...profiler.deployment.export import ExportResult, FileResult
    from ...profiler.deployment.latency import TargetResult

PREDICTION_COLUMNS = ("table ms", "predicted ms", "90 % interval", "error")
MAX_ENTRIES = 8
"""Largest number of deviating entries that is printed."""


def make_export_tables(result: ExportResult) -> list[Table | str]:
    """Return tables and lines of files, latencies, remarks and deviating entries."""
    from .lut_show import format_drift

    timed = [target for target in result.targets if target.fps]
    drifts = dict.fromkeys(target.drift_pct for target in timed if target.predicted_ms is not None)
    return [
        _make_file_table(result.files),
        *(f"engine  {target.engine}" for target in result.targets if target.engine),
        *([_make_latency_table(timed)] if timed else []),
        *(line for target in result.targets for line in _format_remarks(target)),
        *(format_drift(drift_pct) for drift_pct in drifts),
        *(["FPS = 1000 / median ms of all runs; measured ms: same statistic as the table."] if timed else []),
        *(_make_deviation_table(target) for target in result.targets if target.slots is not None),
    ]


def _make_file_table(files: Sequence[FileResult]) -> Table:
    numbers = ("MB", "max |diff|", "mean |diff|", "argmax match")
    reference = files[0].reference
    title = f"files, compared with {'torch in fp32' if reference == 'torch' else reference}"
    table = grid(title, "precision", "compared on", *numbers, "file")
    for file in files:
        for parity in file.parity:
            table.add_row(
                file.precision,
                format_count(parity.images, "image" if parity.source == "images" else "random input"),
                f"{file.bytes / 1e6:.2f}",
                format_number(parity.max_abs_diff, ".1e"),
                format_number(parity.mean_abs_diff, ".1e"),
                format_number(parity.argmax_agreement_pct, ".3f", " %"),
                file.onnx,
            )
    return table


def _make_latency_table(results: Sequence[TargetResult]) -> Table:
    has_prediction = any(result.table_ms is not None for result in results)
    rows = [_format_latency(result) for result in results]
    names = [name for name in rows[0] if has_prediction or name not in PREDICTION_COLUMNS]
    title = "predicted and measured latency" if has_prediction else "measured latency"
    table = grid(title, *names, numbers=len(names) - 4)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    return table


def _format_latency(result: TargetResult) -> dict[str, str]:
    """Return column -> cell of the table of latencies."""
    low, high = result.predicted_low_ms, result.predicted_high_ms
    return {
        "backend": result.backend,
        "device": str(result.device),
        "precision": result.precision,
        "scope": result.scope,
        "table ms": format_number(result.table_ms, ".3f"),
        "predicted ms": format_number(result.predicted_ms, ".3f"),
        "90 % interval": "-" if low is None else f"{low:.3f} to {high:.3f}",
        "measured ms": format_number(result.measured_ms, ".3f"),
        "error": format_number(result.error_pct, "+.1f", " %"),
        "FPS": format_number(result.fps, ".1f"),
        "p90 ms": format_number(result.p90_ms, ".3f"),
        "p99 ms": format_number(result.p99_ms, ".3f"),
    }


def _format_remarks(result: TargetResult) -> list[str]:
    remarks = [remark for remark in (result.note, result.starvation, result.parity) if remark is not None]
    return [f"{result.backend}, {result.precision}: {remark}" for remark in remarks]


def _make_deviation_table(result: TargetResult) -> Table | str:
    """Return the entries of the table that deviate from the layer times, largest deviation first."""
    assert result.slots is not None
    title = f"{result.backend}, {result.precision}: table entries compared with layer times"
    if not result.slots.entries:
        return f"{title}: no entry deviates significantly"
    table = grid(title, "entry", "slots", "table ms", "layers ms", "difference", numbers=4)
    for row in result.slots.entries[:MAX_ENTRIES]:
        cells = (f"{row.table_ms:.4f}", f"{row.measured_ms:.4f}", f"{row.difference_ms:+.4f} ms")
        table.add_row(row.entry, str(row.slots), *cells)
    return table
