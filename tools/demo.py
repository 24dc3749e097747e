"""`lgc-demo`: the whole pipeline at a small size, from generated images to a measured frame rate."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli.console import emit, grid, new_app, replace_non_finite, run, say, share_cores
from .cli.options import JsonOption, SeedOption, make_device_option
from .cli.progress import make_item_progress, make_step_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..lut.target import Target
    from ..profiler.timing.rounds import RoundProgress

SCENES = {"train": 96, "val": 24, "test": 8}
"""Images per split."""
TARGET_POSITION = 0.4
"""Position of the latency target between the fastest (0) and the slowest (1) architecture."""
TOLERANCE_PCT = 10.0
"""Largest prediction error that passes."""
CPU_STEPS, GPU_STEPS = (48, 96), (400, 1000)
"""Steps of the search and of the training."""

app = new_app()


@dataclass
class Demo:
    """State of a demonstration.

    Attributes:
        out: folder of all files.
        target: target of the table and the export.
        seed: random seed.
        steps: steps of the search and of the training.
        summary: results so far.
    """

    out: Path
    target: Target
    seed: int
    steps: tuple[int, int]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Folder of the generated scenes."""
        return self.out / "data"

    @property
    def lut(self) -> Path:
        """Latency table."""
        return self.out / "tiny.lut"

    @property
    def run(self) -> Path:
        """Run folder of search and training."""
        return self.out / "run"


@app.command()
def demo(
    device: Annotated[str, make_device_option()] = "cpu",
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Output folder; an interrupted demo in it is resumed.")
    ] = Path("demo-run"),
    seed: SeedOption = 0,
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

    Exit code 1 if the prediction error exceeds 10 %, or an output differs from torch.

    Example: lgc-demo --device cpu --out demo-run
    """
    share_cores()
    from ..files import ensure_folder, write_atomic
    from ..lut.target import Target
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    start = time.monotonic()
    place = check_device(device)
    chosen = (steps, 2 * steps) if steps else CPU_STEPS if place.is_cpu else GPU_STEPS
    state = Demo(ensure_folder(out), Target(place, default_backend(place)), seed, chosen)
    for number, (title, stage) in enumerate(STAGES, start=1):
        with _stage(f"[{number}/{len(STAGES)}] {title}") as on_progress:
            stage(state, on_progress)
    state.summary["seconds"] = time.monotonic() - start
    write_atomic(out / "summary.json", json.dumps(replace_non_finite(state.summary), indent=2) + "\n")
    emit(state.summary, as_json, *_make_tables(state))
    if abs(state.summary["error_pct"]) > TOLERANCE_PCT:
        say(f"prediction error {state.summary['error_pct']:+.1f} %, more than {TOLERANCE_PCT:g} %")
        return 1
    return 0 if state.summary["equals_torch"] else 1


@contextmanager
def _stage(title: str) -> Iterator[Callable[[RoundProgress], None]]:
    """Show the progress of a stage, then its duration."""
    start = time.monotonic()
    with progress_bar() as on_progress:
        yield on_progress
    say(f"{title} ({time.monotonic() - start:.0f} s)")


def _scenes(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..models.space.lgcnet import SearchSpace
    from ..search.data.synthetic.writers import write_scenes

    advance = make_item_progress("generating", sum(SCENES.values()), on_progress)
    write_scenes(state.data, "camvid-segnet", SCENES, SearchSpace.load("tiny").input, state.seed, advance)
    state.summary["data"] = str(state.data)


def _profile(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..models.space.lgcnet import SearchSpace
    from ..profiler.profile import profile

    result = profile(
        SearchSpace.load("tiny"), state.target, state.lut, networks=12, seed=state.seed, on_progress=on_progress
    )
    report = result.verification.as_dict() if result.verification else None
    state.summary |= {"lut": str(state.lut), "entries": result.entries, "verification": report}


def _search(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..lut.predictor import Predictor
    from ..lut.table.table import LatencyTable
    from ..search.config import SearchConfig
    from ..search.engine import search

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
    result = search(predictor, state.data, state.run, config, device=state.target.device, on_step=on_step).as_dict()
    names = ("architecture", "target_ms", "fastest_ms", "slowest_ms")
    state.summary |= {name: result[name] for name in names}


def _train(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..search.training.config import TrainConfig
    from ..search.training.train import train

    config = TrainConfig(steps=state.steps[1], batch=8, lr=0.02, init="supernet", seed=state.seed)
    on_step = make_step_progress("training", on_progress)
    result = train(state.run, state.data, config, device=state.target.device, on_step=on_step).as_dict()
    state.summary |= {name: result[name] for name in ("weights", "miou")}


def _export(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..models.space.lgcnet import Architecture
    from ..profiler.deployment.export import ExportSettings, export_network

    settings = ExportSettings(
        source=state.run, table=state.lut, backends=(state.target.backend,), device=state.target.device
    )
    exported = export_network(settings, on_progress=on_progress, log=lambda line: None)
    (result,) = exported.targets
    architecture = Architecture.load(state.summary["architecture"])
    state.summary |= {"parameters": architecture.parameters, "macs": architecture.macs}
    state.summary |= result.as_dict() | {"onnx": exported.files[0].onnx}
    state.summary |= {"equals_torch": not exported.list_failures(None)}


STAGES = (
    ("generate street scenes in CamVid's layout", _scenes),
    ("measure and verify a latency table", _profile),
    ("search an architecture under a latency target", _search),
    ("train and score the network", _train),
    ("export the network, compare it with torch, time it", _export),
)


def _make_tables(state: Demo) -> list[Table | str]:
    from .cli.lut_show import format_drift

    summary = state.summary
    table = grid(f"LGCNet, preset tiny, on {state.target}", "", "", numbers=1)
    rows = [
        ("parameters", f"{summary['parameters']:,}"),
        ("MACs", f"{summary['macs'] / 1e6:.1f} M"),
        ("mIoU on generated scenes", f"{summary['miou']:.1f} %"),
        ("latency target", f"{summary['target_ms']:.3f} ms"),
        ("  range of the space", f"{summary['fastest_ms']:.3f} to {summary['slowest_ms']:.3f} ms"),
        ("  prediction of the table", f"{summary['table_ms']:.3f} ms"),
        ("predicted latency, drift corrected", f"{summary['predicted_ms']:.3f} ms"),
        ("measured latency, table's statistic", f"{summary['measured_ms']:.3f} ms"),
        ("  prediction error", f"{summary['error_pct']:+.1f} %"),
        ("median latency of all frames", f"{summary['median_ms']:.3f} ms"),
        ("  frame rate", f"{summary['fps']:.1f} FPS"),
        ("  p90 / p99", f"{summary['p90_ms']:.3f} / {summary['p99_ms']:.3f} ms"),
        ("logits compared with torch", f"within {summary['max_abs_diff']:.0e}"),
    ]
    for row in rows:
        table.add_row(*row)
    names = ("data", "lut", "architecture", "weights", "onnx", "engine")
    files = [f"{name:13} {summary[name]}" for name in names if summary[name]]
    return [table, format_drift(summary["drift_pct"]), *files, f"{'summary':13} {state.out / 'summary.json'}"]


def main() -> None:
    """Run the command."""
    run(app)
