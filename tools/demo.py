"""`lgc-demo`: the whole pipeline at a small size, from generated images to a measured frame rate."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..files import ensure_folder, replace_non_finite, write_atomic
from .cli.console import announce_dataset, emit, grid, new_app, run, say, share_cores
from .cli.options import JsonOption, make_device_option, make_seed_option
from .cli.progress import make_item_progress, make_step_progress, progress_bar

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.table import Table

    from ..lut.target import Target
    from ..models.space.protocol import Architecture, SearchSpace
    from ..profiler.deployment.export import ExportResult
    from ..profiler.deployment.latency import TargetResult
    from ..profiler.profile import ProfileResult
    from ..profiler.timing.observer import RoundProgress
    from ..search.results import SearchResult
    from ..search.training.results import TrainResult

SCENES = {"train": 96, "val": 24, "test": 8}
"""Images per split."""
TARGET_POSITION = 0.4
"""Position of the latency target between the fastest (0) and the slowest (1) architecture."""
TOLERANCE_PCT = 10.0
"""Largest prediction error that passes."""
CPU_STEPS, GPU_STEPS = (48, 96), (400, 1000)
"""Steps of the search and of the training."""
PICTURED_IMAGES = 6
"""Validation images in the picture."""
Outcome = Literal["passed", "failed", "not judged"]
"""Outcome of comparing prediction and measurement; not judged if the machine's speed changed too much for it."""

app = new_app()


@dataclass
class Demo:
    """State of a demonstration; each stage sets its result.

    Attributes:
        out: folder of all files.
        target: target of the table and the export.
        seed: random seed.
        steps: steps of the search and of the training.
        given: dataset of the user; None for generated scenes.
        profiled: the latency table.
        searched: the architecture.
        trained: its weights.
        exported: the exported network.
        remeasured: True if the network was measured a second time.
        seconds: duration of all stages.
    """

    out: Path
    target: Target
    seed: int
    steps: tuple[int, int]
    given: Path | None = None
    remeasured: bool = False
    profiled: ProfileResult = field(init=False)
    searched: SearchResult = field(init=False)
    trained: TrainResult = field(init=False)
    exported: ExportResult = field(init=False)
    seconds: float = field(init=False)

    @property
    def data(self) -> Path:
        """Dataset: the user's, or the folder of the generated scenes."""
        return self.given or self.out / "data"

    @cached_property
    def space(self) -> SearchSpace:
        """Search space with the classes of the dataset."""
        from ..models.space.protocol import SearchSpace
        from ..search.data.description import read_dataset

        return SearchSpace.load("tiny").with_classes(read_dataset(self.data).num_classes)

    @property
    def lut(self) -> Path:
        """Latency table."""
        return self.out / "tiny.lut"

    @property
    def run(self) -> Path:
        """Run folder of search and training."""
        return self.out / "run"

    @cached_property
    def architecture(self) -> Architecture:
        """Architecture of the search."""
        from ..models.space.protocol import Architecture

        return Architecture.load(self.searched.architecture)

    @property
    def measured(self) -> TargetResult:
        """Latency of the exported network."""
        return self.exported.targets[0]

    @property
    def picture(self) -> Path:
        """Picture of labels and predictions."""
        return self.out / "predictions.png"

    @property
    def equals_torch(self) -> bool:
        """True if the outputs of the exported network equal torch's."""
        return not self.exported.list_failures(None)

    def as_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object."""
        verification = self.profiled.verification
        return {
            "data": str(self.data),
            "lut": str(self.lut),
            "entries": self.profiled.entries,
            "verification": {**verification.as_dict()} if verification else None,
            "architecture": str(self.searched.architecture),
            "fastest_ms": self.searched.fastest_ms,
            "slowest_ms": self.searched.slowest_ms,
            "weights": str(self.trained.weights),
            "miou": self.trained.miou,
            "parameters": self.architecture.parameters,
            "macs": self.architecture.macs,
            **self.measured.as_dict(),
            "target_ms": self.searched.target_ms,
            "onnx": self.exported.files[0].onnx,
            "equals_torch": self.equals_torch,
            "outcome": judge(self.measured),
            "picture": str(self.picture),
            "seconds": self.seconds,
        }


@app.command()
def demo(
    device: Annotated[str, make_device_option()] = "cpu",
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Output folder; an interrupted demo in it is resumed.")
    ] = Path("demo-run"),
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Dataset: a dataset.yaml, or a folder.", show_default="generated scenes"),
    ] = None,
    seed: Annotated[int, make_seed_option()] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the search; the training takes twice as many.",
            show_default=f"{CPU_STEPS[0]} on a CPU, {GPU_STEPS[0]} on a GPU",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run the whole pipeline: generate scenes, profile, search under a latency target, train, export and verify.

    With --data the same on a dataset of yours, at 192x256 and for its classes.

    Exit code 1 if the prediction error exceeds 10 %, or an output differs from torch. If the speed of the machine
    changed by more than 10 % since profiling, such an error is measured again once, and then not judged.

    Example: lgc-demo --device cpu --out demo-run
    """
    share_cores()
    from ..lut.target import Target
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    start = time.monotonic()
    place = check_device(device)
    chosen = (steps, 2 * steps) if steps else CPU_STEPS if place.is_cpu else GPU_STEPS
    stages = _list_stages(data)
    state = Demo(ensure_folder(out), Target(place, default_backend(place)), seed, chosen, data)
    for number, (title, stage) in enumerate(stages, start=1):
        with _stage(f"[{number}/{len(stages)}] {title}") as on_progress:
            stage(state, on_progress)
    if judge(state.measured) == "not judged":
        change = describe_change(state.measured)
        with _stage(f"first measurement of the network: {change}; measured it a second time") as on_progress:
            _export(state, on_progress)
        state.remeasured = True
    _draw_predictions(state)
    state.seconds = time.monotonic() - start
    summary = state.as_dict()
    write_atomic(out / "summary.json", json.dumps(replace_non_finite(summary), indent=2) + "\n")
    emit(summary, as_json, *_make_tables(state))
    if judge(state.measured) != "passed":
        again = "second measurement: " if state.remeasured else ""
        say(f"lgc-demo: {again}{explain_error(state.measured, out, shlex.join(sys.argv))}")
        return 1
    return 0 if state.equals_torch else 1


def judge(measured: TargetResult) -> Outcome:
    """Return the outcome of the comparison of a network's prediction and measurement."""
    if measured.within(TOLERANCE_PCT):
        return "passed"
    return "not judged" if describe_change(measured) else "failed"


def describe_change(measured: TargetResult) -> str:
    """Return how the machine's speed changed since profiling, if by more than `TOLERANCE_PCT`; else nothing."""
    slowdown = 1 + (measured.drift_pct or 0.0) / 100
    ratio = max(slowdown, 1 / slowdown)
    if ratio <= 1 + TOLERANCE_PCT / 100:
        return ""
    return f"the machine ran {ratio:.1f}x {'slower' if slowdown > 1 else 'faster'} than during profiling"


def explain_error(measured: TargetResult, out: Path, command: str) -> str:
    """Return a line on a prediction error above `TOLERANCE_PCT`, and what to do.

    Args:
        measured: measured network.
        out: folder of the demonstration.
        command: command line that made it.
    """
    change = describe_change(measured)
    problem = f"the prediction is off by {measured.error_pct:+.1f} % (limit {TOLERANCE_PCT:g} %)"
    if change:
        problem = f"not judged: {change}, e.g. because of other programs, and {problem}"
    if change and (measured.drift_pct or 0.0) > 0:
        return f"{problem}; on an idle machine, `{command}` measures the network again"
    # The table is suspect. A new run in the same folder would only read it.
    return f"{problem}; on an idle machine, run `rm -r {shlex.quote(str(out))} && {command}`"


@contextmanager
def _stage(title: str) -> Iterator[Callable[[RoundProgress], None]]:
    """Show the progress of a stage, then its duration."""
    start = time.monotonic()
    with progress_bar() as on_progress:
        yield on_progress
    say(f"{title} ({time.monotonic() - start:.0f} s)")


def _scenes(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..models.space.protocol import SearchSpace
    from ..search.data.synthetic.writers import write_scenes

    advance = make_item_progress("generating", sum(SCENES.values()), on_progress)
    write_scenes(state.data, "camvid-segnet", SCENES, SearchSpace.load("tiny").input, state.seed, advance)


def _profile(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..profiler.profile import profile

    state.profiled = profile(
        state.space, state.target, state.lut, networks=12, seed=state.seed, on_progress=on_progress
    )


def _search(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable
    from ..search.config import SearchConfig
    from ..search.engine import search
    from ..search.results import SearchResult

    with LatencyTable.open(state.lut) as table:
        predictor = Predictor(table.space, table)
    fastest, slowest = (predictor.predict(end) for end in (predictor.fastest, predictor.slowest))
    config = SearchConfig(
        steps=state.steps[0],
        batch=8,
        seed=state.seed,
        targets_ms=((round(fastest + TARGET_POSITION * (slowest - fastest), 3),),),
    )
    on_step = make_step_progress("searching", on_progress)
    result = search(predictor, state.data, state.run, config, device=state.target.device, on_step=on_step)
    assert isinstance(result, SearchResult)  # there is one target
    state.searched = result


def _train(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..search.training.config import TrainConfig
    from ..search.training.train import train

    config = TrainConfig(steps=state.steps[1], batch=8, init="supernet", seed=state.seed)
    on_step = make_step_progress("training", on_progress)
    state.trained = train(
        state.run, state.data, config, device=state.target.device, on_step=on_step, log=lambda line: None
    )


def _export(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..profiler.deployment.export import ExportSettings, export_network

    settings = ExportSettings(
        source=state.run, table=state.lut, backends=(state.target.backend,), device=state.target.device
    )
    state.exported = export_network(settings, on_progress=on_progress, log=lambda line: None)


def _draw_predictions(state: Demo) -> None:
    """Write labels and predictions of some validation images next to each other as a picture."""
    from ..models.images import read_pixels
    from ..profiler.inference.painting import Legend, write_png
    from ..profiler.inference.segmenter import Segmenter
    from ..report.overlays import Overlay, draw_overlays
    from ..search.data.description import read_dataset
    from ..search.data.reading import read_label

    spec = read_dataset(state.data)
    legend = Legend(spec.classes, spec.palette)
    pairs, overlays = spec.pairs("val"), list[Overlay]()
    with Segmenter.open(Path(state.exported.files[0].onnx)) as segmenter:
        for pair in pairs[:: -(-len(pairs) // PICTURED_IMAGES)]:
            assert pair.label is not None  # it was evaluated
            pixels, labels = read_pixels(pair.image), read_label(pair.label, pair.coding, pair.image)
            overlays += [
                Overlay.fit(f"{pair.image.name}: labels", pixels, labels, legend),
                Overlay.fit(f"{pair.image.name}: prediction", pixels, segmenter.segment(pixels), legend),
            ]
    scores = [state.trained.per_class[name] for name in spec.classes]
    notes = ["no IoU" if iou is None else f"IoU {iou:.0f} %" for iou in scores]
    write_png(draw_overlays(overlays, legend, [*notes, ""]), state.picture)


Stage = tuple[str, Callable[[Demo, Callable[["RoundProgress"], None]], None]]
"""Title and function of a stage."""
STAGES: tuple[Stage, ...] = (
    ("generate street scenes in CamVid's layout", _scenes),
    ("measure and verify a latency table", _profile),
    ("search an architecture under a latency target", _search),
    ("train and score the network", _train),
    ("export the network, compare it with torch, time it", _export),
)


def _list_stages(data: Path | None) -> tuple[Stage, ...]:
    """Return the titles and functions of all stages; those of a dataset do not generate scenes.

    Raises:
        DataError: the dataset cannot be read, or has no images to train or to score.
    """
    if data is None:
        return STAGES
    spec = announce_dataset(data)
    images = {split: len(spec.pairs(split)) for split in ("train", "val")}
    counts = ", ".join(f"{split} {count}" for split, count in images.items())
    title = f"read {data}: {spec.num_classes} classes, images: {counts}"
    return ((title, lambda state, on_progress: None), *STAGES[1:])


def _make_tables(state: Demo) -> list[Table | str]:
    from ..profiler.deployment.target_report import describe_target
    from .cli.lut_show import format_drift

    searched, measured, architecture = state.searched, state.measured, state.architecture
    assert measured.parity is not None  # the network ran
    table = grid(f"LGCNet, preset tiny, on {state.target}", "quantity", "value", numbers=1)
    rows = [
        ("parameters", f"{architecture.parameters:,}"),
        ("MACs", f"{architecture.macs / 1e6:.1f} M"),
        ("mIoU on " + ("val" if state.given else "generated scenes"), f"{state.trained.miou:.1f} %"),
        ("latency target (undisturbed runs, as in the table)", f"{searched.target_ms:.3f} ms"),
        ("  range of the space", f"{searched.fastest_ms:.3f} to {searched.slowest_ms:.3f} ms"),
        ("  prediction of the table", f"{measured.table_ms:.3f} ms"),
        ("predicted latency, drift corrected", f"{measured.predicted_ms:.3f} ms"),
        ("measured latency (undisturbed runs)", f"{measured.measured_ms:.3f} ms"),
        ("  prediction error", f"{measured.error_pct:+.1f} %"),
        ("median latency of all frames", f"{measured.median_ms:.3f} ms"),
        ("  frame rate", f"{measured.fps:.1f} FPS"),
        ("  p90 / p99", f"{measured.p90_ms:.3f} / {measured.p99_ms:.3f} ms"),
        ("logits compared with torch", f"within {measured.parity.max_abs_diff:.0e}"),
    ]
    for row in rows:
        table.add_row(*row)
    paths = {
        "data": state.data,
        "lut": state.lut,
        "architecture": searched.architecture,
        "weights": state.trained.weights,
        "onnx": state.exported.files[0].onnx,
        "engine": measured.engine,
        "predictions": state.picture,
        "summary": state.out / "summary.json",
    }
    files = [f"{name:13} {path}" for name, path in paths.items() if path]
    drift = format_drift(measured.drift_pct, "second measurement of the network" if state.remeasured else "")
    remarks = [remark for remark in (describe_target(measured), measured.starvation) if remark is not None]
    return [table, drift, *remarks, *files, *_suggest_commands(state)]


def _suggest_commands(state: Demo) -> list[str]:
    """Return the next commands for data of the user's."""
    data = "DIR" if state.given is None else shlex.quote(str(state.given))
    title = "next, with your images and labels in DIR" if state.given is None else "next, at the size that you need"
    return [
        f"{title} (README.md, docs/datasets.md):",
        f"  lgc-data check {data} --overlays labels.png",
        f"  lgc-profile --device {state.target.device} --space tiny --data {data} --input HxW --out my.lut",
        f"  lgc-search --lut my.lut --data {data} --target-ms MS --out runs/my",
    ]


def main() -> None:
    """Run the command."""
    run(app)
