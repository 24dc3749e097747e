"""Tables of `lgc-export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ....report.terminal import format_quantity
from ..console import format_count, format_number, grid

if TYPE_CHECKING:
    from rich.table import Table

    from ....profiler.deployment.export import ExportResult, FileResult
    from ....profiler.deployment.latency import TargetResult
    from ....profiler.deployment.layer_attribution import SlotReport

STATISTIC = (
    "measured ms: same statistic as the table, on a CPU of the fastest run of each batch. The frame rate is of all "
    "runs."
)
MAX_ENTRIES = 8
"""Largest number of deviating entries that is printed."""


def make_export_tables(result: ExportResult) -> list[Table | str]:
    """Return tables and lines of files, latencies, remarks and deviating entries."""
    from ..lut_show import format_drift

    timed = [target for target in result.targets if target.fps]
    predicted = [target for target in timed if target.table_ms is not None]
    drifts = dict.fromkeys(target.drift_pct for target in predicted if target.predicted_ms is not None)
    return [
        _make_file_table(result.files),
        *(f"{file.precision}: {remark}" for file in result.files for remark in file.remarks),
        *(f"onnx    {file.onnx}" for file in result.files),
        *(f"engine  {target.engine}" for target in result.targets if target.engine),
        *([_make_latency_table("prediction", predicted, _format_prediction)] if predicted else []),
        *(format_drift(drift_pct) for drift_pct in drifts),
        *([STATISTIC] if predicted else []),
        *([_make_latency_table(_describe_fps(timed[0].batch), timed, _format_speed)] if timed else []),
        *(line for target in result.targets for line in _format_remarks(target)),
        *(part for target in result.targets if target.slots for part in _make_deviation_table(target, target.slots)),
    ]


def _make_file_table(files: Sequence[FileResult]) -> Table:
    numbers = ("size", "max |diff|", "mean |diff|", "argmax match")
    reference = files[0].reference
    title = f"files, compared with {'torch in fp32' if reference == 'torch' else reference}"
    table = grid(title, "precision", "compared on", *numbers, numbers=len(numbers))
    for file in files:
        for parity in file.parity:
            table.add_row(
                file.precision,
                format_count(parity.images, "image" if parity.source == "images" else "random input"),
                f"{format_quantity(file.bytes)}B",
                format_number(parity.max_abs_diff, ".1e"),
                format_number(parity.mean_abs_diff, ".1e"),
                format_number(parity.argmax_agreement_pct, ".3f", " %"),
            )
    return table


def _make_latency_table(
    title: str, results: Sequence[TargetResult], format_row: Callable[[TargetResult], dict[str, str]]
) -> Table:
    """Return a row for each target; the title has the names that all of them share."""
    names = ("backend", "precision", "device", "scope")
    varying = [name for name in names if len({getattr(result, name) for result in results}) > 1] or ["backend"]
    shared = [str(getattr(results[0], name)) for name in names if name not in varying]
    threads = {result.threads for result in results}
    shared += [format_count(count, "thread") for count in threads if count is not None]
    rows = [format_row(result) for result in results]
    table = grid(f"{title}: {', '.join(shared)}", *varying, *rows[0], numbers=len(rows[0]))
    for result, row in zip(results, rows, strict=True):
        table.add_row(*(str(getattr(result, name)) for name in varying), *row.values())
    return table


def _format_prediction(result: TargetResult) -> dict[str, str]:
    """Return column -> cell of the table of predictions."""
    low, high = result.predicted_low_ms, result.predicted_high_ms
    return {
        "table ms": format_number(result.table_ms, ".3f"),
        "predicted ms": format_number(result.predicted_ms, ".3f"),
        "90 % interval": "-" if low is None else f"{low:.3f} to {high:.3f}",
        "measured ms": format_number(result.measured_ms, ".3f"),
        "error": format_number(result.error_pct, "+.1f", " %"),
    }


def _describe_fps(batch: int) -> str:
    return f"frame rate, FPS = {f'{batch} images x ' * (batch > 1)}1000 / median ms"


def _format_speed(result: TargetResult) -> dict[str, str]:
    """Return column -> cell of the table of frame rates."""
    return {
        "FPS": format_number(result.fps, ".1f"),
        "median ms": format_number(result.median_ms, ".3f"),
        "p90 ms": format_number(result.p90_ms, ".3f"),
        "p99 ms": format_number(result.p99_ms, ".3f"),
    }


def _format_remarks(result: TargetResult) -> list[str]:
    from ....profiler.deployment.target_report import describe_target

    remarks = [
        remark
        for remark in (describe_target(result), result.note, result.starvation, result.parity)
        if remark is not None
    ]
    return [f"{result.backend}, {result.precision}: {remark}" for remark in remarks]


def _make_deviation_table(result: TargetResult, report: SlotReport) -> list[Table | str]:
    """Return the entries that deviate from the layer times, largest first, and a line on what belongs to no entry."""
    title = f"{result.backend}, {result.precision}: table entries compared with layer times"
    rest = (
        f"layer times are scaled by {report.factor:.2f} to the network's latency, as profiling slows it down; the "
        f"calibration's intercept, {report.intercept_ms:+.4f} ms, belongs to no entry, and layers without an entry "
        f"take {report.unattributed_ms:.4f} ms"
    )
    if not report.entries:
        return [f"{title}: no entry deviates significantly", rest]
    table = grid(title, "entry", "slots", "table ms", "layers ms", "difference ms", numbers=4)
    for row in report.entries[:MAX_ENTRIES]:
        cells = (f"{row.table_ms:.4f}", f"{row.measured_ms:.4f}", f"{row.difference_ms:+.4f}")
        table.add_row(row.entry, str(row.slots), *cells)
    return [table, rest]
