"""Tables of `lgc-bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .console import format_number, grid

if TYPE_CHECKING:
    from rich.table import Table

    from ...models.nets.peers import Peer
    from ...profiler.comparison import Timing


def make_bench_tables(rows: Sequence[Timing]) -> list[Table | str]:
    """Return a table for each input size and scope, a line that explains the columns, and the remarks."""
    groups: dict[tuple[str, str, int], list[Timing]] = {}
    for row in rows:
        groups.setdefault((row.input, row.scope, row.batch), []).append(row)
    is_batched = any(row.batch > 1 for row in rows)
    batch, fps = ("batch of the title, else 1", "batch x 1000 / ms") if is_batched else ("batch 1", "1000 / ms")
    lines = [
        f"ms: median of all runs, {batch}, with interquartile range, p90 and p99; FPS = {fps}. rel. latency: "
        "latency relative to the fastest, median of the ratios in each eighth of the run, with 90 % interval. argmax "
        "match: pixels with the class of torch in fp32 (for a file: of ONNX Runtime on the CPU)."
    ]
    lines += sorted({f"mIoU of {row.name}: {row.scored_on}" for row in rows if row.miou is not None})
    lines += dict.fromkeys(f"{row.name}, {row.precision}: {remark}" for row in rows for remark in row.remarks)
    titles = [f"{size}, {scope}{f', batch {batch}' * (batch > 1)}" for size, scope, batch in groups]
    return [*map(_make_table, titles, groups.values()), *lines]


def _make_table(title: str, rows: Sequence[Timing]) -> Table:
    """Return a table of comparable rows; the title has what all of them share."""
    first = rows[0]
    columns = {"backend": [row.backend for row in rows], "precision": [_format_precision(row) for row in rows]}
    varying = [name for name, cells in columns.items() if len(set(cells)) > 1]
    shared = [f"on {first.device}" if "backend" in varying else f"{first.backend} on {first.device}"]
    shared += [] if "precision" in varying else columns["precision"][:1]
    shared += [f"{first.threads} threads"] if first.threads > 1 else []
    numbers = ("M params", "GMACs", "FPS", "ms", "IQR", "p90", "p99", "rel. latency", "argmax match", "mIoU")
    table = grid(", ".join([title, *shared]), "network", "kind", *varying, *numbers, numbers=len(numbers))
    for index, row in enumerate(rows):
        table.add_row(
            row.name,
            row.kind,
            *(columns[name][index] for name in varying),
            f"{row.parameters / 1e6:.2f}",
            f"{row.macs / 1e9:.2f}",
            f"{row.fps:.1f}",
            f"{row.median_ms:.3f}",
            f"{row.iqr_ms:.3f}",
            f"{row.p90_ms:.3f}",
            f"{row.p99_ms:.3f}",
            f"{row.relative:.2f} ± {(row.relative_high - row.relative_low) / 2:.2f}",
            format_number(row.argmax_agreement_pct, ".2f", " %"),
            format_number(row.miou, ".1f", " %"),
        )
    return table


def _format_precision(row: Timing) -> str:
    """Return the precision; for quantisation other than Q/DQ with its kind."""
    return row.precision if row.quantisation in (None, "QDQ") else f"{row.precision} ({row.quantisation})"


def make_published_table(peers: Sequence[Peer]) -> Table:
    """Return the published frame rates, apart from the measured ones: their conditions differ."""
    title = "published frame rates: other GPUs, backends and scopes, not comparable with the measured ones"
    table = grid(title, "network", "GPU", "backend", "input", "FPS", "mIoU val", "mIoU test", numbers=3)
    for peer in peers:
        for rate in peer.published.frame_rates:
            scores = (format_number(score, ".1f", " %") for score in (rate.miou_val, rate.miou_test))
            size = "x".join(map(str, rate.input))
            table.add_row(peer.title, rate.gpu, rate.backend, size, f"{rate.fps:.1f}", *scores)
    return table
