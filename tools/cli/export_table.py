"""Output of `lgc-export`: tables of files and results, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .console import grid, say
from .report_tables import format_drift

if TYPE_CHECKING:
    from ...profiler.deployment.deploy import TargetResult
    from ...profiler.deployment.parity import Parity

MAX_ENTRIES = 8
"""Printed table entries that explain a wrong prediction."""


def make_export_tables(files: Sequence[Mapping[str, Any]], results: Sequence[TargetResult]) -> list[Any]:
    """Return tables and lines on the written files and on the results."""
    timed = [result for result in results if result.fps]
    lines: list[Any] = [_make_file_table(files)]
    lines += [f"engine  {result.engine}" for result in results if result.engine]
    if timed:
        lines.append(_make_result_table(results))
    for result in results:
        lines += _format_remarks(result)
    drifts = [result.drift_pct for result in results if result.predicted_ms is not None]
    lines += list(dict.fromkeys(format_drift(drift_pct) for drift_pct in drifts))
    if timed:
        lines.append(
            "FPS: 1000 / median ms of all runs. measured ms: same statistic as the table (minimum of each batch, "
            "interquartile mean)."
        )
    for result in results:
        if result.slots is not None:
            lines += _make_slot_table(result)
    return lines


def _make_file_table(files: Sequence[Mapping[str, Any]]) -> Any:
    """Return the written files with the differences of their outputs from torch's."""
    numbers = ("MB", "max |diff|", "mean |diff|", "same class")
    table = grid("files, compared with torch in fp32", "precision", "compared on", *numbers, "file", numbers=0)
    for file in files:
        for row in file["agreement"]:
            table.add_row(
                file["precision"],
                f"{row['images']} {'images' if row['source'] == 'images' else 'noise images'}",
                f"{file['bytes'] / 1e6:.2f}",
                _format_number(row["max_abs_diff"], ".1e"),
                _format_number(row["mean_abs_diff"], ".1e"),
                _format_number(row["argmax_agreement_pct"], ".3f", " %"),
                str(file["onnx"]),
            )
    return table


def _make_result_table(results: Sequence[TargetResult]) -> Any:
    numbers = ("table ms", "predicted ms", "90 % interval", "measured ms", "error", "FPS", "p90 ms", "p99 ms")
    table = grid("predicted and measured latency", "backend", "device", "precision", "scope", *numbers, numbers=8)
    for result in results:
        cells = (
            _format_number(result.table_ms, ".3f"),
            _format_number(result.predicted_ms, ".3f"),
            _format_interval(result),
            _format_number(result.measured_ms, ".3f"),
            _format_number(result.error_pct, "+.1f", " %"),
            _format_number(result.fps, ".1f"),
            _format_number(result.p90_ms, ".3f"),
            _format_number(result.p99_ms, ".3f"),
        )
        table.add_row(result.backend, result.device, result.precision, result.scope, *cells)
    return table


def _format_remarks(result: TargetResult) -> list[str]:
    label = f"{result.backend}, {result.precision}"
    lines = [f"{label}: {result.note}"] if result.note else []
    return [*lines, *([] if result.parity is None else [f"{label}: {_format_parity(result.parity)}"])]


def _format_parity(parity: Parity) -> str:
    """Return a line on the differences of outputs from torch's."""
    logits = "" if parity.max_abs_diff is None else f"; logits differ by at most {parity.max_abs_diff:.1e}"
    return f"{parity.argmax_agreement_pct:.2f} % of pixels have torch's class{logits}"


def _make_slot_table(result: TargetResult) -> list[Any]:
    """Return the table entries that differ most from the measured layers."""
    assert result.slots is not None
    rows = result.slots.entries[:MAX_ENTRIES]
    title = f"{result.backend}, {result.precision}: table entries and measured layers"
    if not rows:
        return [f"{title}: no entry differs by more than its bounds"]
    table = grid(title, "entry", "slots", "table ms", "layers ms", "difference", numbers=4)
    for row in rows:
        cells = (f"{row.table_ms:.4f}", f"{row.measured_ms:.4f}", f"{row.difference_ms:+.4f} ms")
        table.add_row(row.entry, str(row.slots), *cells)
    return [table]


def _format_number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _format_interval(result: TargetResult) -> str:
    if result.predicted_low_ms is None:
        return "-"
    return f"{result.predicted_low_ms:.3f} to {result.predicted_high_ms:.3f}"


def check_results(
    files: Sequence[Mapping[str, Any]], results: Sequence[TargetResult], tolerance_pct: float | None
) -> int:
    """Return the exit code: 1 if an output differs from torch's, or a prediction is off by more than the tolerance."""
    failures = [
        f"{file['onnx']}: outputs differ from torch by more than {file['precision']} allows, see the table of files"
        for file in files
        if not file["passes"]
    ]
    for result in results:
        label = f"{result.backend} on {result.device}"
        if not result.equals_torch():
            assert result.parity is not None  # without a comparison, the result passes
            parity = _format_parity(result.parity)
            failures.append(f"{label}: outputs differ from torch by more than {result.precision} allows: {parity}")
        if tolerance_pct is not None and not result.within(tolerance_pct):
            failures.append(
                f"{label}: predicted {result.predicted_ms:.3f} ms, measured {result.measured_ms:.3f} ms: error "
                f"{result.error_pct:+.1f} %, more than {tolerance_pct:g} %"
            )
    for failure in failures:
        say(failure)
    return 1 if failures else 0
