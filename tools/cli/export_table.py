"""What `lgc-export` shows people, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .console import grid, say

if TYPE_CHECKING:
    from ...profiler.deployment.deploy import TargetResult
    from ...profiler.deployment.parity import Parity

WORST_ENTRIES = 8
"""Entries of the table that are shown as the reason of a wrong prediction."""


def make_export_tables(files: Sequence[Mapping[str, Any]], results: Sequence[TargetResult]) -> list[Any]:
    """What people see."""
    from ..lut import format_drift

    lines: list[Any] = [_files(files)]
    lines += [f"engine  {result.engine}" for result in results if result.engine]
    if any(result.fps for result in results):
        numbers = ("table ms", "predicted ms", "90 % interval", "measured ms", "error", "FPS", "p90 ms", "p99 ms")
        table = grid("predicted against measured", "backend", "device", "precision", "scope", *numbers, numbers=8)
        for result in results:
            cells = (
                _number(result.table_ms, ".3f"),
                _number(result.predicted_ms, ".3f"),
                _interval(result),
                _number(result.measured_ms, ".3f"),
                _number(result.error_pct, "+.1f", " %"),
                _number(result.fps, ".1f"),
                _number(result.p90_ms, ".3f"),
                _number(result.p99_ms, ".3f"),
            )
            table.add_row(result.backend, result.device, result.precision, result.scope, *cells)
        lines.append(table)
    for result in results:
        lines += _remarks(result)
    drifts = [result.drift_pct for result in results if result.predicted_ms is not None]
    lines += list(dict.fromkeys(format_drift(drift_pct) for drift_pct in drifts))
    if any(result.fps for result in results):
        lines.append("FPS = 1000 / median ms of all runs; measured ms is the table's statistic, so that it compares.")
    for result in results:
        if result.slots is not None:
            lines += _slots(result)
    return lines


def _files(files: Sequence[Mapping[str, Any]]) -> Any:
    """The files written, and how near their outputs are to torch's."""
    numbers = ("MB", "max |diff|", "mean |diff|", "same class")
    table = grid("files, compared with torch in fp32", "precision", "compared on", *numbers, "file", numbers=0)
    for file in files:
        for one in file["agreement"]:
            table.add_row(
                file["precision"],
                f"{one['images']} {'images' if one['source'] == 'images' else 'of noise'}",
                f"{file['bytes'] / 1e6:.2f}",
                _number(one["max_abs_diff"], ".1e"),
                _number(one["mean_abs_diff"], ".1e"),
                _number(one["argmax_agreement_pct"], ".3f", " %"),
                str(file["onnx"]),
            )
    return table


def _remarks(result: TargetResult) -> list[str]:
    where = f"{result.backend}, {result.precision}"
    lines = [f"{where}: {result.note}"] if result.note else []
    return [*lines, *([] if result.parity is None else [f"{where}: {_agrees(result.parity)}"])]


def _agrees(found: Parity) -> str:
    """How near outputs are to torch's."""
    logits = "" if found.max_abs_diff is None else f"; its logits within {found.max_abs_diff:.1e} of torch's"
    return f"{found.argmax_agreement_pct:.2f} % of pixels of torch's class{logits}"


def _slots(result: TargetResult) -> list[Any]:
    """Which entries of the table the layers disagree with, the worst first."""
    assert result.slots is not None
    rows = result.slots.entries[:WORST_ENTRIES]
    title = f"{result.backend}, {result.precision}: the table's entries against the layers"
    table = grid(title, "entry", "slots", "table ms", "layers ms", "difference", numbers=4)
    for row in rows:
        cells = (f"{row.table_ms:.4f}", f"{row.measured_ms:.4f}", f"{row.difference_ms:+.4f} ms")
        table.add_row(row.entry, str(row.slots), *cells)
    if not rows:
        return [f"{title}: none differs by more than its bounds"]
    return [table]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _interval(result: TargetResult) -> str:
    if result.predicted_low_ms is None:
        return "-"
    return f"{result.predicted_low_ms:.3f} to {result.predicted_high_ms:.3f}"


def check_results(files: Sequence[Mapping[str, Any]], results: Sequence[TargetResult], limit: float | None) -> int:
    """Exit code: 1 if an output is not torch's, or a prediction beyond the tolerance."""
    code = 0
    for file in files:
        if not file["passes"]:
            say(f"{file['onnx']} does not give torch's output in {file['precision']}: see how far it is in the table")
            code = 1
    for result in results:
        if not result.equals_torch():
            assert result.parity is not None  # else it would pass
            told = _agrees(result.parity)
            say(f"{result.backend} on {result.device} does not give torch's output in {result.precision}: {told}")
            code = 1
        if limit is not None and not result.within(limit):
            say(
                f"{result.backend} on {result.device}: predicted {result.predicted_ms:.3f} ms, measured "
                f"{result.measured_ms:.3f} ms, off by {result.error_pct:+.1f} %, more than {limit:g} %"
            )
            code = 1
    return code
