"""`lgc-bench`: compare networks under one protocol, and plot mIoU vs. frame rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..models.space.protocol import DENSE
from ..precisions import INT8, PRECISIONS
from .cli.console import RESTARTS, emit, new_app, run, say
from .cli.network_options import (
    LAYOUT_OPTION,
    OUTPUT_OPTION,
    LayoutOption,
    OutputNameOption,
    PrecisionListOption,
    ScopeOption,
    make_network_option,
)
from .cli.options import (
    JsonOption,
    PluginOption,
    SecondsOption,
    ThreadsOption,
    is_given,
    load_operators,
    make_backend_option,
    make_device_option,
    parse_seconds,
    parse_size,
)
from .cli.progress import progress_bar
from .cli.tables.bench_table import make_bench_tables, make_published_table
from .cli.tables.layer_table import make_layer_tables

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ..lut.target import Target
    from ..models.nets.peers import Peer
    from ..models.nets.sources import NetworkSource
    from ..profiler.candidates import ReadOptions
    from ..profiler.comparison import Candidate, Timing
    from ..profiler.layers.breakdown import LayerBreakdown
    from ..profiler.timing.observer import OnProgress

app = new_app()

PEER_SIZE = (1024, 2048)
"""Height and width of peers without any other size to compare at: Cityscapes'."""
DEFAULT_CLASSES = 19
"""Classes of networks built without any other network to compare with: Cityscapes'."""


SourcesOption = Annotated[
    list[Path] | None,
    typer.Argument(metavar="A.onnx|RUN|architecture.json ...", help="ONNX files, run folders, architecture files."),
]
NetworksOption = Annotated[list[str] | None, make_network_option("; repeatable. Without a run of it: random weights.")]
BackendOption = Annotated[list[str] | None, make_backend_option("the device's preferred backend", "; repeatable")]
SizesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="HxW",
        help="Input size of runs, peers and files with dynamic axes; repeatable.",
        show_default="their own",
    ),
]
ClassesOption = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=255,
        help="Classes of peers and of --network without a run.",
        show_default="those of the other networks, else 19",
    ),
]
PlotOption = Annotated[Path | None, typer.Option(metavar="FILE.html", help="Plot mIoU vs. FPS, for evaluated runs.")]
PublishedOption = Annotated[
    bool, typer.Option("--published", help="Also print the published frame rates of the peers, in a separate table.")
]
LayersOption = Annotated[
    bool,
    typer.Option("--layers", help="Also time the layers: costs, percent of the device's peak. Takes --seconds more."),
]
RefreshPeakOption = Annotated[
    bool, typer.Option("--refresh-peak", help="Measure the device's peak again and keep the faster of both.")
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
    classes: ClassesOption = None,
    scope: ScopeOption = DENSE,
    output_name: OutputNameOption = None,
    layout: LayoutOption = None,
    seconds: SecondsOption = "10s",
    plot: PlotOption = None,
    published: PublishedOption = False,
    layers: LayersOption = False,
    refresh_peak: RefreshPeakOption = False,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time ONNX files, runs and peers under one protocol, interleaved in random order on the same machine.

    An ONNX file runs in its own precision; an fp32 file also in fp16 and bf16. Runs and peers run in every --precision.

    Example: lgc-bench runs/street other.onnx --peer fast-scnn --input 512x1024
    """
    from ..models.nets.peers import PEERS
    from ..profiler.candidates import ReadOptions
    from ..profiler.comparison import pair_candidates, time_candidates
    from ..report.accuracy_speed import check_plot, write_plot

    load_operators(plugin)
    duration_s = parse_seconds(seconds)
    networks = _list_networks([*(PEERS if peers else ()), *(peer or ())], network or ())
    input_sizes = [parse_size(text) for text in sizes or []]
    files = ReadOptions(tuple(input_sizes), output_name, layout.upper() if layout else None)
    candidates = _list_candidates(sources or [], networks, input_sizes, scope, files, classes)
    targets = _choose_targets(device, backend or [], precision or _list_precisions(candidates), threads)
    if is_given(context, "scope"):
        _require_scopes(candidates)
    if refresh_peak and not layers:
        raise UsageError("--refresh-peak is only for --layers")
    if plot is not None:
        check_plot(candidates, plot)
    pairs = pair_candidates(candidates, targets)
    layer_targets = _select_layer_targets(targets) if layers else []
    _print_remarks(candidates, targets if precision or backend else (), pairs)
    with progress_bar() as on_progress:
        rows = time_candidates(candidates, targets, duration_s, on_progress)
        layer_pairs = [(candidate, target) for candidate, target in pairs if target in layer_targets]
        breakdowns = _measure_layers(layer_pairs, duration_s, refresh_peak, on_progress)
    selected, picture = tuple(PEERS.values()) if published else (), str(plot) if plot else None
    result = BenchResult(rows, _describe_environment(targets), selected, picture, breakdowns)
    tables = make_bench_tables(rows) + ([make_published_table(result.published)] if result.published else [])
    tables += make_layer_tables(list(breakdowns.values()))
    emit(result.as_dict(), as_json, *tables)
    if plot is not None:
        write_plot(rows, plot)
        say(f"wrote {plot}")


def _require_scopes(candidates: Sequence[Candidate]) -> None:
    if all(candidate.kind == "file" for candidate in candidates):
        raise UsageError("--scope is only for runs, architectures and peers: ONNX files have a fixed scope")


def _list_networks(peers: Sequence[str], references: Sequence[str]) -> list[NetworkSource]:
    """Return peers and the user's networks, each once."""
    from ..models.nets.sources import PeerSource, load_source

    return list(dict.fromkeys([*map(PeerSource, peers), *map(load_source, references)]))


def _print_remarks(
    candidates: Sequence[Candidate], chosen: Sequence[Target], pairs: Sequence[tuple[Candidate, Target]]
) -> None:
    """Print the remarks on files, the networks that a backend of `chosen` does not time, and on different groups."""
    for candidate in candidates:
        for remark in (*candidate.file.remarks, *candidate.file.metadata_remarks) if candidate.file else ():
            say(f"{candidate.name}: {remark}")
    for target in chosen:
        timed = [candidate for candidate, other in pairs if other.backend == target.backend]
        skipped = [candidate.name for candidate in candidates if candidate not in timed]
        if skipped:
            say(f"skipped on {target}: {', '.join(skipped)} (other backend or precision)")
    if len({candidate.group for candidate in candidates}) > 1:
        say("networks differ in input size or scope: compare within a table only")
    for remark in _compare_tasks(candidates):
        say(remark)


def _compare_tasks(candidates: Sequence[Candidate]) -> list[str]:
    """Return remarks on networks with different numbers of classes, and on scores on different data."""
    from ..report.accuracy_speed import describe_score

    counts = sorted({candidate.classes for candidate in candidates if candidate.classes is not None})
    scored = {score for candidate in candidates if (score := describe_score(candidate))}
    remarks = []
    if len(counts) > 1:
        remarks.append(f"networks have {' and '.join(map(str, counts))} classes: more classes take more time")
    if len(scored) > 1:
        remarks.append(f"mIoUs are of different data, so they do not compare: {'; '.join(sorted(scored))}")
    return remarks


@dataclass(frozen=True)
class BenchResult:
    """Result of `lgc-bench`.

    Attributes:
        results: one row per network and target.
        environment: machine and versions of each target.
        published: peers whose published frame rates were requested.
        plot: path of the plot; None if not requested.
        breakdowns: layers of the networks, by name, input, scope, backend and precision; empty if not requested.
    """

    results: Sequence[Timing]
    environment: Sequence[dict[str, JsonValue]]
    published: Sequence[Peer] = ()
    plot: str | None = None
    breakdowns: Mapping[tuple[str, ...], LayerBreakdown] = field(default_factory=dict)

    def as_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object, without keys that were not requested."""
        published = [
            {"name": peer.title, **asdict(rate)} for peer in self.published for rate in peer.published.frame_rates
        ]
        return {
            "results": [vars(row) | self._describe_layers(row) for row in self.results],
            "environment": [*self.environment],
            **({"published": [*published]} if published else {}),
            **({} if self.plot is None else {"plot": self.plot}),
        }

    def _describe_layers(self, row: Timing) -> dict[str, JsonValue]:
        key = (row.name, row.input, row.scope, row.backend, row.precision)
        return self.breakdowns[key].as_dict() if key in self.breakdowns else {}


def _select_layer_targets(targets: Sequence[Target]) -> list[Target]:
    """Return the targets whose backend reports layer times; print the reason for the others.

    Raises:
        UsageError: no backend does.
    """
    from ..profiler.backends import get_backend

    reasons = {target: get_backend(target.backend).diagnose_layers(target.device) for target in targets}
    selected = [target for target in targets if reasons[target] is None]
    if not selected:
        raise UsageError(f"--layers: {reasons[targets[0]]}")
    for target in targets:
        if reasons[target]:
            say(f"no layers on {target}: {reasons[target]}")
    return selected


def _measure_layers(
    pairs: Sequence[tuple[Candidate, Target]], seconds: float, refresh_peak: bool, on_progress: OnProgress
) -> dict[tuple[str, ...], LayerBreakdown]:
    """Return the layers of each network and target; a new peak is measured once for each target."""
    from ..profiler.layers.breakdown import measure_breakdown

    breakdowns: dict[tuple[str, ...], LayerBreakdown] = {}
    refreshed = set()
    for candidate, target in pairs:
        key = (candidate.name, "x".join(map(str, candidate.size)), candidate.scope, target.backend, target.precision)
        breakdowns[key] = measure_breakdown(
            candidate,
            target,
            seconds,
            refresh_peak=refresh_peak and target not in refreshed,
            on_progress=on_progress,
        )
        refreshed.add(target)
    return breakdowns


def _list_candidates(
    sources: Sequence[Path],
    networks: Sequence[NetworkSource],
    sizes: Sequence[tuple[int, int]],
    scope: str,
    files: ReadOptions,
    classes: int | None,
) -> list[Candidate]:
    """Return all networks at all requested sizes; files of a fixed size only at that.

    A factory that a run was trained with belongs to this run; the other networks have random weights.
    """
    from ..models.nets.definition import find_factory
    from ..profiler.candidates import build_candidate, read_file_candidates, read_run_candidate
    from ..profiler.source_names import name_apart, name_networks

    if not sources and not networks:
        raise UsageError("nothing to compare: pass ONNX files or runs, or --peers, --peer or --network")
    for name in (source.name for source in sources if source.name.startswith("peer:")):
        raise UsageError(f"{name} is not a file: for a published network, use --peer {name.removeprefix('peer:')}")
    onnx_files = [source for source in sources if source.suffix.lower() == ".onnx"]
    names = name_apart(sources)
    if not onnx_files and (files.output or files.layout):
        raise UsageError(f"{OUTPUT_OPTION} and {LAYOUT_OPTION} are only for ONNX files")
    files = replace(files, keep_size=bool(networks) or len(onnx_files) < len(sources))
    candidates: list[Candidate] = []
    used: list[NetworkSource] = []
    for source in sources:
        if source in onnx_files:
            own = read_file_candidates(source, files)
        else:
            own_size: list[tuple[int, int] | None] = [None]
            network = find_factory(source, networks)
            used += [] if network is None else [network]
            own = [read_run_candidate(source, size, scope, network, say) for size in sizes or own_size]
        candidates += [replace(candidate, name=names[source]) for candidate in own]
    peers = [network for network in networks if network not in used]
    if classes is not None and not peers:
        raise UsageError("--classes is only for peers, and for --network without a run")
    count = classes or _choose_classes(candidates, peers)
    own_sizes = dict.fromkeys((c.size[0], c.size[1]) for c in candidates if len(c.size) == 2)
    peer_sizes = sizes or list(own_sizes) or [PEER_SIZE]
    network_names = name_networks(peers)
    for size in peer_sizes:
        built = [build_candidate(network, size, scope, count, say) for network in peers]
        candidates += [replace(each, name=network_names[own]) for each, own in zip(built, peers, strict=True)]
    return candidates


def _choose_classes(candidates: Sequence[Candidate], peers: Sequence[NetworkSource]) -> int:
    """Return the number of classes of networks to build: that of all others, else a default, with a message.

    Raises:
        UsageError: the others differ.
    """
    counts = sorted({candidate.classes for candidate in candidates if candidate.classes is not None})
    if len(counts) == 1:
        return counts[0]
    names = ", ".join(peer.name for peer in peers)
    if counts and peers:
        raise UsageError(
            f"the runs have {' and '.join(map(str, counts))} classes: choose those of {names} with --classes N"
        )
    if peers:
        say(f"{names}: {DEFAULT_CLASSES} classes are assumed, as for Cityscapes; --classes N builds others")
    return DEFAULT_CLASSES


def _list_precisions(candidates: Sequence[Candidate]) -> list[str]:
    """Return the precisions without --precision: fp32, and int8 for the files that are quantised."""
    own = {candidate.precision for candidate in candidates}
    return [name for name in ("fp32", INT8) if name in own] or ["fp32"]


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
