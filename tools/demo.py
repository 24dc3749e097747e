"""`lgc-demo`: the whole pipeline at a small size, from synthetic images to measured and predicted frame rate."""

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
from .cli.report_tables import format_drift

if TYPE_CHECKING:
    from ..lut.target import Target
    from ..profiler.timing.rounds import RoundProgress

SCENES = {"train": 96, "val": 24, "test": 8}
TARGET_RATIO = 0.4
"""Position of the latency target between the fastest (0) and the slowest (1) architecture."""
MAX_ERROR_PCT = 10.0
"""Prediction error above which the demo fails."""
CPU_STEPS, GPU_STEPS = (48, 96), (400, 1000)
"""Steps of search and training."""

app = new_app()


@dataclass
class Demo:
    """Settings and results of a demo.

    Attributes:
        out: folder of all files.
        target: target of the latency table.
        seed: random seed of every stage.
        steps: steps of search and training.
        summary: results so far.
    """

    out: Path
    target: Target
    seed: int
    steps: tuple[int, int]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Folder of the synthetic scenes."""
        return self.out / "data"

    @property
    def lut(self) -> Path:
        """File of the latency table."""
        return self.out / "tiny.lut"

    @property
    def run(self) -> Path:
        """Run folder of search and training."""
        return self.out / "run"


@app.command()
def demo(
    device: Annotated[str, make_device_option()] = "cpu",
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Output folder; run the same command again to resume in it.")
    ] = Path("demo-run"),
    seed: SeedOption = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of the search; the training has twice as many.", show_default="48 on a CPU, 400 on a GPU"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run the whole pipeline: synthetic data, latency table, search, training, export, comparison with the prediction.

    Exit code 1 if the prediction is off by more than 10 %.

    Example: lgc-demo --device cpu --out demo-run
    """
    share_cores()
    from ..files import ensure_folder, write_atomic
    from ..lut.target import Target
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    start = time.monotonic()
    place = check_device(device)
    default_steps = CPU_STEPS if place.is_cpu else GPU_STEPS
    target = Target(place, default_backend(place))
    state = Demo(ensure_folder(out), target, seed, (steps, 2 * steps) if steps else default_steps)
    for number, (title, stage) in enumerate(STAGES, start=1):
        with _show_stage(f"[{number}/{len(STAGES)}] {title}") as on_progress:
            stage(state, on_progress)
    state.summary["seconds"] = time.monotonic() - start
    write_atomic(out / "summary.json", json.dumps(replace_non_finite(state.summary), indent=2) + "\n")
    emit(state.summary, as_json, *_format_summary(state))
    if abs(state.summary["error_pct"]) > MAX_ERROR_PCT:
        say(f"the prediction is off by {state.summary['error_pct']:+.1f} %, more than {MAX_ERROR_PCT:g} %")
        return 1
    return 0 if state.summary["equals_torch"] else 1


@contextmanager
def _show_stage(title: str) -> Iterator[Callable[[RoundProgress], None]]:
    """Show the progress of a stage, then its title and duration."""
    start = time.monotonic()
    with progress_bar() as on_progress:
        yield on_progress
    say(f"{title} ({time.monotonic() - start:.0f} s)")


def _write_scenes(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..models.space.lgcnet import SearchSpace
    from ..search.data.synthetic.writers import write_scenes

    advance = make_item_progress("drawing", sum(SCENES.values()), on_progress)
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
    fastest, slowest = (predictor.predict(choices) for choices in (predictor.fastest, predictor.slowest))
    config = SearchConfig(
        steps=state.steps[0],
        batch=8,
        seed=state.seed,
        targets_ms=((round(fastest + TARGET_RATIO * (slowest - fastest), 3),),),
    )
    on_step = make_step_progress("searching", on_progress)
    result = search(predictor, state.data, state.run, config, device=state.target.device, on_step=on_step)
    names = ("architecture", "target_ms", "fastest_ms", "slowest_ms")
    state.summary |= {name: result[name] for name in names}


def _train(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..search.training.config import TrainConfig
    from ..search.training.train import train

    config = TrainConfig(steps=state.steps[1], batch=8, lr=0.02, init="supernet", seed=state.seed)
    on_step = make_step_progress("training", on_progress)
    result = train(state.run, state.data, config, device=state.target.device, on_step=on_step)
    state.summary |= {name: result[name] for name in ("weights", "miou")}


def _export(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..lut.table.table import LatencyTable
    from ..models.nets.weights import load_weights
    from ..models.space.lgcnet import Architecture
    from ..models.space.plan import DENSE
    from ..profiler.deployment import deploy
    from ..profiler.deployment.network import Network

    architecture = Architecture.load(state.summary["architecture"])
    weights = load_weights(Path(state.summary["weights"]), architecture)
    network = Network(architecture, weights, DENSE)
    folder = state.run / "export"
    file = deploy.export_file(network, folder, "fp32", [])
    with LatencyTable.open(state.lut) as table:
        result = deploy.time_network(network, state.target, table, seconds=10, on_progress=on_progress)
    engine = None
    if state.target.backend == "tensorrt":
        engine = str(deploy.build_target_engine(network, folder, state.target)[0])
    state.summary |= {"parameters": architecture.parameters, "macs": architecture.macs}
    state.summary |= result.as_dict() | {"onnx": file["onnx"], "engine": engine}
    state.summary |= {"equals_torch": file["passes"] and result.equals_torch()}


STAGES = (
    ("street scenes written in CamVid's layout", _write_scenes),
    ("latency table measured and verified", _profile),
    ("architecture searched under a latency target", _search),
    ("network trained and scored", _train),
    ("network exported, compared with torch and timed", _export),
)


def _format_summary(state: Demo) -> list[Any]:
    """Return the results as a table, and the files as lines."""
    summary = state.summary
    table = grid(f"LGCNet, preset tiny, on {state.target}", "", "", numbers=1)
    rows = [
        ("parameters", f"{summary['parameters']:,}"),
        ("MACs", f"{summary['macs'] / 1e6:.1f} M"),
        ("mIoU on synthetic scenes", f"{summary['miou']:.1f} %"),
        ("latency target", f"{summary['target_ms']:.3f} ms"),
        ("  range of the space", f"{summary['fastest_ms']:.3f} to {summary['slowest_ms']:.3f} ms"),
        ("  prediction of the table", f"{summary['table_ms']:.3f} ms"),
        ("predicted latency, corrected for drift", f"{summary['predicted_ms']:.3f} ms"),
        ("measured latency (table's statistic)", f"{summary['measured_ms']:.3f} ms"),
        ("  prediction error", f"{summary['error_pct']:+.1f} %"),
        ("median of all frames", f"{summary['median_ms']:.3f} ms"),
        ("  frame rate", f"{summary['fps']:.1f} FPS"),
        ("  p90 / p99", f"{summary['p90_ms']:.3f} / {summary['p99_ms']:.3f} ms"),
        ("difference from torch's logits", f"at most {summary['max_abs_diff']:.0e}"),
    ]
    for row in rows:
        table.add_row(*row)
    names = ("data", "lut", "architecture", "weights", "onnx", "engine")
    files = [f"{name:13} {summary[name]}" for name in names if summary[name]]
    return [table, format_drift(summary["drift_pct"]), *files, f"{'summary':13} {state.out / 'summary.json'}"]


def main() -> None:
    """Run the command."""
    run(app)
