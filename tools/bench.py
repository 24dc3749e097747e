"""`lgc-bench`: networks timed side by side under one protocol, with a plot of mIoU over frame rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .cli.console import RESTARTS, emit, grid, new_app, run, say
from .cli.options import (
    ExportScopeOption,
    JsonOption,
    NetworkPrecisionsOption,
    ThreadsOption,
    make_device_option,
    parse_seconds,
    parse_size,
)
from .cli.progress import progress_bar

if TYPE_CHECKING:
    from ..lut.target import Target
    from ..profiler.comparison import Candidate, Timing

app = new_app()

PEER_SIZE = (1024, 2048)
"""Default height and width of peers: the image size of Cityscapes."""
NUM_CLASSES = 19
"""Default number of classes of peers: that of Cityscapes."""
INT8 = "int8"


@app.command()
def bench(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="A.onnx|RUN|architecture.json ...", help="Networks: ONNX files, run folders, architectures."
        ),
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Include all built-in peers.")] = False,
    peer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Include a built-in peer, e.g. fast-scnn; repeatable.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Inference backend: torch, onnxruntime, onnxruntime-tensorrt or tensorrt; repeatable.",
            show_default="CPU: onnxruntime; GPU: tensorrt if installed, else torch",
        ),
    ] = None,
    device: Annotated[str, make_device_option()] = "cpu",
    precision: NetworkPrecisionsOption = None,
    threads: ThreadsOption = 1,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="HxW",
            help="Height and width of the network input in pixels, for runs and peers; repeatable.",
            show_default="the run's input size; 1024x2048 for peers alone",
        ),
    ] = None,
    scope: ExportScopeOption = "dense",
    seconds: Annotated[str, typer.Option(metavar="TIME", help="Measuring time per network.")] = "10s",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a plot of mIoU over FPS of the scored networks.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Print the peers' published frame rates in a separate table.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Time ONNX files, runs and peers side by side: same machine, same protocol, in random order.

    Runs and peers are timed in every --precision. An ONNX file is timed in its own precision; an fp32 file also in fp16
    and bf16.

    Example: lgc-bench runs/street other.onnx --peer fast-scnn --input 512x1024
    """
    from ..models.space.plan import EXPORT_SCOPES
    from ..profiler.comparison import pairs_of, time_candidates

    if scope not in EXPORT_SCOPES:
        raise UsageError(f"unknown scope {scope!r}; known: {', '.join(EXPORT_SCOPES)}")
    duration = parse_seconds(seconds)
    candidates = _make_candidates(
        sources or [], _choose_peers(peers, peer or []), [parse_size(text) for text in sizes or []], scope
    )
    targets = _make_targets(device, backend or [], precision or ["fp32"], threads)
    pairs_of(candidates, targets)  # checks that each network runs on a target
    _print_skipped(candidates, targets)
    if sizes and all(candidate.kind == "file" for candidate in candidates):
        raise UsageError("--input does not apply to ONNX files, whose input size is fixed")
    if plot is not None:
        from ..report.accuracy_speed import check_plot, write_plot

        check_plot(candidates, plot)
    if len({candidate.group for candidate in candidates}) > 1:
        say("the networks differ in input size or scope: compare only within a table")
    with progress_bar() as on_progress:
        rows = time_candidates(candidates, targets, duration, on_progress)
    content: dict[str, Any] = {"results": [vars(row) for row in rows], "environment": _read_environments(targets)}
    if published:
        content["published"] = _list_published()
    if plot is not None:
        content["plot"] = str(plot)
    emit(content, as_json, *make_bench_tables(rows), *(_published_table(content["published"]) if published else ()))
    if plot is not None:
        write_plot(rows, plot)
        say(f"wrote {plot}")
    return 0


def _choose_peers(use_all: bool, names: list[str]) -> list[str]:
    from ..models.nets.peers import PEERS

    return list(dict.fromkeys([*(PEERS if use_all else ()), *names]))


def _make_candidates(
    sources: list[Path], peers: list[str], sizes: list[tuple[int, int]], scope: str
) -> list[Candidate]:
    """Return every network at every requested input size; ONNX files have a fixed size."""
    from ..profiler.comparison import file_candidate, peer_candidate, run_candidate

    if not sources and not peers:
        raise UsageError("nothing to compare: give ONNX files or runs, or use --peers")
    candidates: list[Candidate] = []
    for source in sources:
        if source.suffix == ".onnx":
            candidates.append(file_candidate(source))
        else:
            run_sizes: list[tuple[int, int] | None] = [*sizes] or [None]
            candidates += [run_candidate(source, size, scope) for size in run_sizes]
    class_counts = {candidate.classes for candidate in candidates} - {None}
    num_classes = class_counts.pop() if len(class_counts) == 1 else None
    peer_sizes = sizes or list(dict.fromkeys(candidate.size for candidate in candidates)) or [PEER_SIZE]
    candidates += [
        peer_candidate(name, size, scope, num_classes or NUM_CLASSES) for size in peer_sizes for name in peers
    ]
    return candidates


def _make_targets(device: str, backends: list[str], precisions: list[str], threads: int) -> list[Target]:
    """Return a target per backend and supported precision; check that each is usable.

    A precision that no backend supports gets a target too, so that its check fails with the reason.
    """
    from ..lut.target import Target
    from ..profiler.backends import get_backend, require_backend
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    place = check_device(device)
    names = list(dict.fromkeys(backends or [default_backend(place)]))
    targets: list[Target] = []
    for name in names:
        requested = [
            Target(place, name, precision, place.num_threads(threads)) for precision in dict.fromkeys(precisions)
        ]
        supported = get_backend(name).precisions(place)
        targets += [target for target in requested if target.precision in supported] or requested
    covered = {target.precision for target in targets}
    targets += [
        Target(place, names[0], precision) for precision in dict.fromkeys(precisions) if precision not in covered
    ]
    for target in targets:
        require_backend(target)
    return targets


def _print_skipped(candidates: list[Candidate], targets: list[Target]) -> None:
    """Print the networks that do not run on a target, with the reason."""
    for target in targets:
        for candidate in candidates:
            reason = candidate.refusal(target)
            if reason is not None:
                say(f"skipped {candidate.name} on {target}: {reason}")


def _read_environments(targets: list[Target]) -> list[dict[str, Any]]:
    """Return the fingerprint of machine and libraries for each target."""
    from ..profiler.backends import get_backend
    from ..profiler.machine.environment import fingerprint

    return [{"target": str(target), **fingerprint(target, get_backend(target.backend))} for target in targets]


def make_bench_tables(rows: list[Timing]) -> list[Any]:
    """Return a table per input size and scope, and notes on the columns."""
    groups: dict[tuple[str, str], list[Timing]] = {}
    for row in rows:
        groups.setdefault((row.input, row.scope), []).append(row)
    shown: list[Any] = [_make_table(f"{size}, {scope}", members) for (size, scope), members in groups.items()]
    shown.append(
        "ms: median of all runs, batch 1, with interquartile range, p90 and p99. FPS: 1000 / ms. times: latency "
        "relative to the fastest network, median over eight parts of the run with its 90 % interval. agrees: pixels "
        "with the same class as torch in fp32 (for ONNX files: as ONNX Runtime on the CPU)."
    )
    if any(row.precision == INT8 and row.backend == "onnxruntime" for row in rows):
        shown.append(
            "int8 under ONNX Runtime: lgc-export writes float32 biases, as TensorRT requires, so ONNX Runtime computes "
            "these convolutions in float32. The frame rate does not predict that of an int8 engine."
        )
    shown += [
        f"mIoU of {line}" for line in sorted({f"{row.name}: {row.scored_on}" for row in rows if row.miou is not None})
    ]
    shown += list(dict.fromkeys(f"{row.name}, {row.precision}: {remark}" for row in rows for remark in row.remarks))
    return shown


def _make_table(title: str, rows: list[Timing]) -> Any:
    """Return the rows of one size and scope as a table; its title has what all rows share."""
    first = rows[0]
    varying = [name for name in ("backend", "precision") if len({getattr(row, name) for row in rows}) > 1]
    shared = [f"on {first.device}" if "backend" in varying else f"{first.backend} on {first.device}"]
    shared += [] if "precision" in varying else [first.precision]
    shared += [f"{first.threads} threads"] if first.threads > 1 else []
    numbers = ("M params", "GMACs", "FPS", "ms", "IQR", "p90", "p99", "times", "agrees", "mIoU")
    table = grid(", ".join([title, *shared]), "network", "kind", *varying, *numbers, numbers=len(numbers))
    for row in rows:
        table.add_row(
            row.name,
            row.kind,
            *(getattr(row, name) for name in varying),
            f"{row.parameters / 1e6:.2f}",
            f"{row.macs / 1e9:.2f}",
            f"{row.fps:.1f}",
            f"{row.median_ms:.3f}",
            f"{row.iqr_ms:.3f}",
            f"{row.p90_ms:.3f}",
            f"{row.p99_ms:.3f}",
            f"{row.relative:.2f} ± {(row.relative_high - row.relative_low) / 2:.2f}",
            "-" if row.argmax_agreement_pct is None else f"{row.argmax_agreement_pct:.2f} %",
            "-" if row.miou is None else f"{row.miou:.1f} %",
        )
    return table


def _list_published() -> list[dict[str, Any]]:
    """Return the frame rates in the peers' papers."""
    from ..models.nets.peers import PEERS

    return [
        {"name": peer.title, **{key: getattr(rate, key) for key in rate.__dataclass_fields__}}
        for peer in PEERS.values()
        for rate in peer.published.frame_rates
    ]


def _published_table(rows: list[dict[str, Any]]) -> list[Any]:
    title = "as published: other GPUs, backends and scopes, not comparable with the measured rates"
    table = grid(title, "network", "GPU", "backend", "input", "FPS", "mIoU val", "mIoU test", numbers=3)
    for row in rows:
        scores = ("-" if row[key] is None else f"{row[key]:.1f} %" for key in ("miou_val", "miou_test"))
        size = "x".join(map(str, row["input"]))
        table.add_row(row["name"], row["gpu"], row["backend"], size, f"{row['fps']:.1f}", *scores)
    return [table]


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
