"""`lgc-bench`: compare networks under one protocol, and plot mIoU vs. frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..models.space.protocol import DENSE
from ..precisions import PRECISIONS
from .cli.bench_table import make_bench_tables, make_published_table
from .cli.console import RESTARTS, emit, new_app, run, say
from .cli.network_options import PrecisionListOption, ScopeOption, make_network_option
from .cli.options import (
    JsonOption,
    SecondsOption,
    ThreadsOption,
    is_given,
    make_backend_option,
    make_device_option,
    parse_seconds,
    parse_size,
)
from .cli.progress import progress_bar

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ..lut.target import Target
    from ..models.nets.peers import Peer
    from ..models.nets.sources import NetworkSource
    from ..profiler.comparison import Candidate, Timing

app = new_app()

PEER_SIZE = (1024, 2048)
"""Height and width of peers without any other size to compare at: Cityscapes'."""
DEFAULT_CLASSES = 19
"""Classes of peers without any other network to compare with: Cityscapes'."""


SourcesOption = Annotated[
    list[Path] | None,
    typer.Argument(metavar="A.onnx|RUN|architecture.json ...", help="ONNX files, run folders, architecture files."),
]
NetworksOption = Annotated[list[str] | None, make_network_option("; repeatable. Without a run of it: random weights.")]
BackendOption = Annotated[list[str] | None, make_backend_option("the device's preferred backend", "; repeatable")]
SizesOption = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="HxW", help="Input size of runs and peers; repeatable.", show_default="their own"),
]
PlotOption = Annotated[Path | None, typer.Option(metavar="FILE.html", help="Plot mIoU vs. FPS, for evaluated runs.")]
PublishedOption = Annotated[
    bool, typer.Option("--published", help="Also print the published frame rates of the peers, in a separate table.")
]


@app.command()
def bench(
    context: typer.Context,
    sources: SourcesOption = None,
    peers: Annotated[bool, typer.Option("--peers", help="Include all built-in peer networks.")] = False,
    peer: Annotated[list[str] | None, typer.Option(help="Include a built-in peer by name; repeatable.")] = None,
    network: NetworksOption = None,
    backend: BackendOption = None,
    device: Annotated[str, make_device_option()] = "cpu",
    precision: PrecisionListOption = None,
    threads: ThreadsOption = 1,
    sizes: SizesOption = None,
    scope: ScopeOption = DENSE,
    seconds: SecondsOption = "10s",
    plot: PlotOption = None,
    published: PublishedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Time ONNX files, runs and peers under one protocol, interleaved in random order on the same machine.

    An ONNX file runs in its own precision; an fp32 file also in fp16 and bf16. Runs and peers run in every --precision.

    Example: lgc-bench runs/street other.onnx --peer fast-scnn --input 512x1024
    """
    from ..models.nets.peers import PEERS
    from ..models.nets.sources import PeerSource, load_source
    from ..profiler.comparison import pair_candidates, time_candidates
    from ..report.accuracy_speed import check_plot, write_plot

    duration_s = parse_seconds(seconds)
    named = [PeerSource(name) for name in (*(PEERS if peers else ()), *(peer or ()))]
    networks = list(dict.fromkeys([*named, *map(load_source, network or ())]))
    candidates = _list_candidates(sources or [], networks, [parse_size(text) for text in sizes or []], scope)
    targets = _choose_targets(device, backend or [], precision or ["fp32"], threads)
    pairs = pair_candidates(candidates, targets)
    if all(candidate.kind == "file" for candidate in candidates):
        if sizes:
            raise UsageError("--input is only for runs, architectures and peers: ONNX files have a fixed size")
        if is_given(context, "scope"):
            raise UsageError("--scope is only for runs, architectures and peers: ONNX files have a fixed scope")
    if plot is not None:
        check_plot(candidates, plot)
    for target in targets:
        skipped = [candidate.name for candidate in candidates if (candidate, target) not in pairs]
        if skipped:
            say(f"skipped on {target}: {', '.join(skipped)} (other backend or precision)")
    if len({candidate.group for candidate in candidates}) > 1:
        say("networks differ in input size or scope: compare within a table only")
    with progress_bar() as on_progress:
        rows = time_candidates(candidates, targets, duration_s, on_progress)
    result = BenchResult(
        rows,
        _describe_environment(targets),
        tuple(PEERS.values()) if published else (),
        None if plot is None else str(plot),
    )
    tables = make_bench_tables(rows) + ([make_published_table(result.published)] if result.published else [])
    emit(result.as_dict(), as_json, *tables)
    if plot is not None:
        write_plot(rows, plot)
        say(f"wrote {plot}")


@dataclass(frozen=True)
class BenchResult:
    """Result of `lgc-bench`.

    Attributes:
        results: one row per network and target.
        environment: machine and versions of each target.
        published: peers whose published frame rates were requested.
        plot: path of the plot; None if not requested.
    """

    results: Sequence[Timing]
    environment: Sequence[dict[str, JsonValue]]
    published: Sequence[Peer] = ()
    plot: str | None = None

    def as_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object, without keys that were not requested."""
        published = [
            {"name": peer.title, **asdict(rate)} for peer in self.published for rate in peer.published.frame_rates
        ]
        return {
            "results": [vars(row) for row in self.results],
            "environment": [*self.environment],
            **({"published": [*published]} if published else {}),
            **({} if self.plot is None else {"plot": self.plot}),
        }


def _list_candidates(
    sources: Sequence[Path], networks: Sequence[NetworkSource], sizes: Sequence[tuple[int, int]], scope: str
) -> list[Candidate]:
    """Return all networks at all requested sizes; files only at their own.

    A factory that a run was trained with belongs to this run; the other networks have random weights.
    """
    from ..models.nets.definition import find_factory
    from ..profiler.comparison import build_candidate, read_file_candidate, read_run_candidate

    if not sources and not networks:
        raise UsageError("nothing to compare: pass ONNX files or runs, or --peers, --peer or --network")
    candidates: list[Candidate] = []
    used: list[NetworkSource] = []
    for source in sources:
        if source.suffix == ".onnx":
            candidates.append(read_file_candidate(source))
        else:
            own_size: list[tuple[int, int] | None] = [None]
            network = find_factory(source, networks)
            used += [] if network is None else [network]
            candidates += [read_run_candidate(source, size, scope, network, say) for size in sizes or own_size]
    counts = {candidate.classes for candidate in candidates} - {None}
    classes = counts.pop() if len(counts) == 1 else None
    peer_sizes = sizes or list(dict.fromkeys(candidate.size for candidate in candidates)) or [PEER_SIZE]
    return candidates + [
        build_candidate(network, size, scope, classes or DEFAULT_CLASSES)
        for size in peer_sizes
        for network in networks
        if network not in used
    ]


def _choose_targets(device: str, backends: Sequence[str], precisions: Sequence[str], threads: int) -> list[Target]:
    """Return each backend in its supported ones of the precisions, after checking that it runs.

    Raises:
        UsageError: no backend supports one of the precisions.
    """
    from ..lut.target import Target
    from ..profiler.backends import get_backend, require_backend
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    place = check_device(device)
    names = list(dict.fromkeys(backends or [default_backend(place)]))
    precisions = list(dict.fromkeys(precisions))
    used_threads = place.num_threads(threads)
    targets = []
    for name in names:
        requested = [Target(place, name, precision, used_threads) for precision in precisions]
        supported = get_backend(name).precisions(place)
        targets += [target for target in requested if target.precision in supported] or requested
    missing = [precision for precision in precisions if all(target.precision != precision for target in targets)]
    targets += [Target(place, names[0], precision, used_threads) for precision in missing]
    for target in targets:
        require_backend(target, PRECISIONS)  # int8 only of files in int8
    return targets


def _describe_environment(targets: Sequence[Target]) -> list[dict[str, JsonValue]]:
    """Return machine and versions of each target."""
    from ..profiler.backends import get_backend
    from ..profiler.machine.environment import fingerprint

    return [{"target": str(target), **fingerprint(target, get_backend(target.backend))} for target in targets]


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
