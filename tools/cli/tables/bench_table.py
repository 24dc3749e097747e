"""Tables of `lgc-bench`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ....device import Device
from ....report.terminal import format_quantity
from ..console import format_count, format_number, grid

if TYPE_CHECKING:
    from rich.table import Table

    from ....models.nets.peers import Peer
    from ....profiler.comparison import Timing


def make_bench_tables(rows: Sequence[Timing]) -> list[Table | str]:
    """Return a table for each input size, scope and batch, lines that explain the columns, and the remarks."""
    groups: dict[tuple[str, str, int], list[Timing]] = {}
    for row in rows:
        groups.setdefault((row.input, row.scope, row.batch), []).append(row)
    is_batched = any(row.batch > 1 for row in rows)
    batch, fps = ("batch of the title, else 1", "batch x 1000 / ms") if is_batched else ("batch 1", "1000 / ms")
    lines = [
        f"ms: median of all runs, {batch}; FPS = {fps}. rel. latency: latency relative to the fastest, of undisturbed "
        "runs, with its 90 % interval."
    ]
    matches = {_format_match(row) for row in rows} - {"-"}
    hidden = {"match"} if len(matches) < 2 else set[str]()
    if matches:
        share = f"{min(matches)} of the " if hidden else ""
        lines.append(f"match: {share}pixels with the class of torch in fp32 (files: of ONNX Runtime on the CPU).")
    lines += _describe_scores(rows)
    lines += dict.fromkeys(f"{row.name}, {row.precision}: {remark}" for row in rows for remark in row.remarks)
    titles = [f"{size}, {scope}{f', batch {batch}' * (batch > 1)}" for size, scope, batch in groups]
    tables = [_make_table(title, members, hidden) for title, members in zip(titles, groups.values(), strict=True)]
    return [*tables, *lines]


def _describe_scores(rows: Sequence[Timing]) -> list[str]:
    """Return a line on the data of the scores, or a line for each network where they differ."""
    from ....report.accuracy_speed import describe_score

    data = {row.name: describe_score(row) for row in rows if row.miou is not None}
    if len(set(data.values())) == 1:
        return [f"mIoU: {next(iter(data.values()))}"]
    return [f"mIoU of {name}: {score}" for name, score in sorted(data.items())]


def _make_table(title: str, rows: Sequence[Timing], hidden: Collection[str]) -> Table:
    """Return a table of comparable rows without the hidden columns; the title has what all of them share."""
    first = rows[0]
    texts = {
        "backend": [row.backend for row in rows],
        "precision": [_format_precision(row) for row in rows],
        "classes": ["-" if row.classes is None else str(row.classes) for row in rows],
        "kind": [row.kind for row in rows],
    }
    varying = [name for name, cells in texts.items() if len(set(cells)) > 1]
    shared = [f"on {first.device}" if "backend" in varying else f"{first.backend} on {first.device}"]
    shared += [] if "precision" in varying else texts["precision"][:1]
    shared += [format_count(first.threads, "thread")] if Device(first.device).is_cpu else []
    shared += [] if "classes" in varying or first.classes is None else [f"{first.classes} classes"]
    cells = [_format_row(row) for row in rows]
    scored = any(row.miou is not None for row in rows)
    numbers = [name for name in cells[0] if name not in hidden and (scored or name != "mIoU")]
    columns = [*varying, *numbers]
    table = grid(", ".join([title, *shared]), "network", *columns, numbers=len(numbers))
    for index, row in enumerate(rows):
        table.add_row(row.name, *(texts[name][index] for name in varying), *(cells[index][name] for name in numbers))
    return table


def _format_row(row: Timing) -> dict[str, str]:
    """Return column -> number."""
    return {
        "params": format_quantity(row.parameters),
        "MACs": format_quantity(row.macs),
        "FPS": f"{row.fps:.1f}",
        "ms": f"{row.median_ms:.3f}",
        "p99": f"{row.p99_ms:.3f}",
        "rel. latency": f"{row.relative:.2f} ± {(row.relative_high - row.relative_low) / 2:.2f}",
        "match": _format_match(row),
        "mIoU": format_number(row.miou, ".1f", " %"),
    }


def _format_match(row: Timing) -> str:
    return format_number(row.argmax_agreement_pct, ".2f", " %")


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
