"""`lgc-bench`: networks side by side under one protocol, and a plot of their mIoU over their frame rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .cli.console import STARTS_ANEW, JsonFlag, emit, grid, new_app, parse_seconds, parse_size, progress_bar, run, say

if TYPE_CHECKING:
    from ..lut.target import Target
    from ..profiler.comparison import Candidate, Timing

app = new_app()

PEER_SIZE = (1024, 2048)
"""Height and width at which peers are timed where nothing else says a size: Cityscapes' own."""
CLASSES = 19
INT8 = "int8"


@app.command()
def bench(
    sources: Annotated[
        list[Path] | None, typer.Argument(metavar="A.onnx|RUN|architecture.json ...", help="What is compared.")
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Compare with all built-in peers too.")] = False,
    peer: Annotated[list[str] | None, typer.Option(help="A built-in peer by name, several times for several.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Backend, several times for several.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16, bf16 or int8; several for several.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="HxW", help="Input size of runs and peers, several times for several."),
    ] = None,
    scope: Annotated[str, typer.Option(help="Of runs and peers: core, dense or end-to-end.")] = "dense",
    seconds: Annotated[str, typer.Option(metavar="TIME", help="How long each network is timed.")] = "10s",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a plot of mIoU over FPS, where mIoU is known.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Also print the peers' published frame rates, in a table of their own.")
    ] = False,
    as_json: JsonFlag = False,
) -> int:
    """Time ONNX files, runs and peers side by side: same machine, same minutes, same protocol, in random order.

    A file runs in its own precision, or in fp16 and bf16 if it is of fp32; all else in every one that is asked for.

    Example: lgc-bench runs/street other.onnx --peer fast-scnn --input 512x1024
    """
    from ..models.space.plan import EXPORT_SCOPES
    from ..profiler.comparison import pairs_of, time_candidates

    if scope not in EXPORT_SCOPES:
        raise UsageError(f"unknown scope {scope!r}; known: {', '.join(EXPORT_SCOPES)}")
    duration = parse_seconds(seconds)
    entrants = _entrants(sources or [], _peers(peers, peer or []), [parse_size(text) for text in sizes or []], scope)
    targets = _targets(device, backend or [], precision or ["fp32"], threads)
    _tell_what_is_left_out(entrants, targets, pairs_of(entrants, targets))
    if sizes and all(entrant.kind == "file" for entrant in entrants):
        raise UsageError("ONNX files have sizes of their own: --input is for runs, architectures and peers")
    if plot is not None:
        from ..report.accuracy_speed import check_plot, write_plot

        check_plot(entrants, plot)
    if len({entrant.group for entrant in entrants}) > 1:
        say("these networks differ in input size or scope: compare within a table")
    with progress_bar() as on_progress:
        rows = time_candidates(entrants, targets, duration, on_progress)
    content: dict[str, Any] = {"results": [vars(row) for row in rows], "environment": _environment(targets)}
    if published:
        content["published"] = _published()
    if plot is not None:
        content["plot"] = str(plot)
    emit(content, as_json, *tables(rows), *(_published_table(content["published"]) if published else ()))
    if plot is not None:
        write_plot(rows, plot)
        say(f"wrote {plot}")
    return 0


def _peers(everything: bool, named: list[str]) -> list[str]:
    from ..models.nets.peers import PEERS

    return list(dict.fromkeys([*(PEERS if everything else ()), *named]))


def _entrants(sources: list[Path], peers: list[str], sizes: list[tuple[int, int]], scope: str) -> list[Candidate]:
    """Everything that is to be timed, at every size asked for; files have but their own."""
    from ..profiler.comparison import file_candidate, peer_candidate, run_candidate

    if not sources and not peers:
        raise UsageError("nothing to compare: name ONNX files or runs, or take --peers")
    found: list[Candidate] = []
    for source in sources:
        if source.suffix == ".onnx":
            found.append(file_candidate(source))
        else:
            wanted: list[tuple[int, int] | None] = [*sizes] or [None]
            found += [run_candidate(source, size, scope) for size in wanted]
    classes = {entrant.classes for entrant in found} - {None}
    at = sizes or list(dict.fromkeys(entrant.size for entrant in found)) or [PEER_SIZE]
    count = classes.pop() if len(classes) == 1 else None
    found += [peer_candidate(name, size, scope, count or CLASSES) for size in at for name in peers]
    return found


def _targets(device: str, backends: list[str], precisions: list[str], threads: int) -> list[Target]:
    """Every backend in every precision that it offers, each shown to be usable before anything is timed."""
    from ..lut.target import Target
    from ..profiler.backends import get_backend, require_backend
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    place = check_device(device)
    on_cpu = place.is_cpu
    names, wanted = (list(dict.fromkeys(given)) for given in (backends or [default_backend(place)], precisions))
    targets = []
    for name in names:
        made = [Target(place, name, precision, threads if on_cpu else 1) for precision in wanted]
        offered = get_backend(name).precisions(place)
        targets += [target for target in made if target.precision in offered] or made
    missing = [precision for precision in wanted if all(target.precision != precision for target in targets)]
    targets += [Target(place, names[0], precision) for precision in missing]
    for target in targets:
        require_backend(target)
    return targets


def _tell_what_is_left_out(
    entrants: list[Candidate], targets: list[Target], pairs: list[tuple[Candidate, Target]]
) -> None:
    for target in targets:
        names = [entrant.name for entrant in entrants if (entrant, target) not in pairs]
        if names:
            say(f"not run on {target}, which is not theirs: {', '.join(names)}")


def _environment(targets: list[Target]) -> list[dict[str, Any]]:
    """Machine and versions behind the numbers, for each target."""
    from ..profiler.backends import get_backend
    from ..profiler.machine.environment import fingerprint

    return [{"target": str(target), **fingerprint(target, get_backend(target.backend))} for target in targets]


def tables(rows: list[Timing]) -> list[Any]:
    """What people see: a table for each size and scope, and what has to be known of it."""
    groups: dict[tuple[str, str], list[Timing]] = {}
    for row in rows:
        groups.setdefault((row.input, row.scope), []).append(row)
    shown: list[Any] = [_table(f"{size}, {scope}", members) for (size, scope), members in groups.items()]
    shown.append(
        "ms: median of all runs, batch 1, with interquartile range, p90 and p99; FPS = 1000 / ms. times: how many "
        "times as long as the fastest, median of the ratios in each eighth of the run, with its 90 % interval. "
        "agrees: pixels of the class that torch gives in fp32 (ONNX Runtime on the CPU, where there is only a file)."
    )
    if any(row.precision == INT8 and row.backend == "onnxruntime" for row in rows):
        shown.append(
            "int8 under ONNX Runtime: convolutions whose biases are float32, as lgc-export writes them for TensorRT, "
            "are computed in float32 between the rounding. Their rate tells nothing of an int8 engine's."
        )
    shown += [f"mIoU of {line}" for line in sorted({f"{r.name}: {r.scored_on}" for r in rows if r.miou is not None})]
    shown += list(dict.fromkeys(f"{row.name}, {row.precision}: {remark}" for row in rows for remark in row.remarks))
    return shown


def _table(title: str, rows: list[Timing]) -> Any:
    """Rows that compare; what all have in common stands in the title."""
    first = rows[0]
    varying = [name for name in ("backend", "precision") if len({getattr(row, name) for row in rows}) > 1]
    where = [f"on {first.device}" if "backend" in varying else f"{first.backend} on {first.device}"]
    where += [] if "precision" in varying else [first.precision]
    where += [f"{first.threads} threads"] if first.threads > 1 else []
    numbers = ("M params", "GMACs", "FPS", "ms", "IQR", "p90", "p99", "times", "agrees", "mIoU")
    table = grid(", ".join([title, *where]), "network", "kind", *varying, *numbers, numbers=len(numbers))
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


def _published() -> list[dict[str, Any]]:
    """The peers' frame rates as their papers give them."""
    from ..models.nets.peers import PEERS

    return [
        {"name": peer.title, **{key: getattr(rate, key) for key in rate.__dataclass_fields__}}
        for peer in PEERS.values()
        for rate in peer.published.frame_rates
    ]


def _published_table(rows: list[dict[str, Any]]) -> list[Any]:
    title = "as published: other GPUs, backends and scopes, not to be compared with the above"
    table = grid(title, "network", "GPU", "backend", "input", "FPS", "mIoU val", "mIoU test", numbers=3)
    for row in rows:
        scores = ("-" if row[key] is None else f"{row[key]:.1f} %" for key in ("miou_val", "miou_test"))
        size = "x".join(map(str, row["input"]))
        table.add_row(row["name"], row["gpu"], row["backend"], size, f"{row['fps']:.1f}", *scores)
    return [table]


def main() -> None:
    """Run the command."""
    run(app, STARTS_ANEW)
