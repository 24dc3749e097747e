"""`lgc-demo`: the whole pipeline at a small size, from generated images to a frame rate held against its prediction."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli.console import JsonFlag, emit, finite, grid, new_app, progress_bar, run, say, share_cores, step_progress

if TYPE_CHECKING:
    from ..lut.target import Target
    from ..profiler.timing.rounds import RoundProgress

SCENES = {"train": 96, "val": 24, "test": 8}
TARGET_SHARE = 0.4
"""Where the demo's latency target lies between the fastest (0) and the slowest (1) architecture."""
TOLERANCE_PCT = 10.0
"""Error of the prediction beyond which the demo fails."""
CPU_STEPS, GPU_STEPS = (48, 96), (400, 1000)
"""Steps of the search and of the training."""

app = new_app()


@dataclass
class Demo:
    """One demonstration: where, on what, and what came out so far."""

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
        """The latency table."""
        return self.out / "tiny.lut"

    @property
    def run(self) -> Path:
        """Run folder of search and training."""
        return self.out / "run"


@app.command()
def demo(
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Folder for everything; gone on with if it is there.")
    ] = Path("demo-run"),
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the search, and twice as many of the training.")
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Generate scenes, profile, verify, search under a latency target, train, export, and compare with the prediction.

    Example: lgc-demo --device cpu --out demo-run
    """
    share_cores()
    from ..files import ensure_folder, write_atomic
    from ..lut.target import Target
    from ..profiler.backends.default import default_backend
    from ..profiler.machine.devices import check_device

    start = time.monotonic()
    device = check_device(device)
    chosen = (steps, 2 * steps) if steps else CPU_STEPS if device == "cpu" else GPU_STEPS
    state = Demo(ensure_folder(out), Target(device, default_backend(device)), seed, chosen)
    for number, (title, stage) in enumerate(STAGES, start=1):
        with _stage(f"[{number}/{len(STAGES)}] {title}") as on_progress:
            stage(state, on_progress)
    state.summary["seconds"] = time.monotonic() - start
    write_atomic(out / "summary.json", json.dumps(finite(state.summary), indent=2) + "\n")
    emit(state.summary, as_json, *_closing(state))
    if abs(state.summary["error_pct"]) > TOLERANCE_PCT:
        say(f"the prediction is off by {state.summary['error_pct']:+.1f} %, more than {TOLERANCE_PCT:g} %")
        return 1
    return 0 if state.summary["equals_torch"] else 1


@contextmanager
def _stage(title: str) -> Iterator[Callable[[RoundProgress], None]]:
    """Announce a stage, show its progress, say how long it took."""
    start = time.monotonic()
    with progress_bar() as on_progress:
        yield on_progress
    say(f"{title} ({time.monotonic() - start:.0f} s)")


def _scenes(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..models.space.lgcnet import SearchSpace
    from ..search.data.synthetic.writers import write_scenes

    total, done = sum(SCENES.values()), 0
    on_step = step_progress("drawing", on_progress)

    def drawn() -> None:
        nonlocal done
        done += 1
        on_step(done, total)

    write_scenes(state.data, "camvid-segnet", SCENES, SearchSpace.load("tiny").input, state.seed, drawn)
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
        targets_ms=((round(fastest + TARGET_SHARE * (slowest - fastest), 3),),),
    )
    on_step = step_progress("searching", on_progress)
    result = search(predictor, state.data, state.run, config, device=state.target.device, on_step=on_step)
    names = ("architecture", "target_ms", "fastest_ms", "slowest_ms")
    state.summary |= {name: result[name] for name in names}


def _train(state: Demo, on_progress: Callable[[RoundProgress], None]) -> None:
    from ..search.training.config import TrainConfig
    from ..search.training.train import train

    config = TrainConfig(steps=state.steps[1], batch=8, lr=0.02, init="supernet", seed=state.seed)
    on_step = step_progress("training", on_progress)
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
    file = deploy.write_compared(network, folder, "fp32", [])
    with LatencyTable.open(state.lut) as table:
        result = deploy.time_network(network, state.target, table, seconds=10, on_progress=on_progress)
    engine = None
    if state.target.backend == "tensorrt":
        engine = str(deploy.build_here(network, folder, state.target)[0])
    state.summary |= {"parameters": architecture.parameters, "macs": architecture.macs}
    state.summary |= result.as_dict() | {"onnx": file["onnx"], "engine": engine}
    state.summary |= {"equals_torch": file["passes"] and result.equals_torch()}


STAGES = (
    ("street scenes drawn, in CamVid's layout", _scenes),
    ("latency table measured and verified", _profile),
    ("architecture searched under a latency target", _search),
    ("network trained and scored", _train),
    ("exported, compared with torch, timed", _export),
)


def _closing(state: Demo) -> list[Any]:
    from .lut import drift_line

    found = state.summary
    table = grid(f"LGCNet, preset tiny, on {state.target}", "", "", numbers=1)
    rows = [
        ("parameters", f"{found['parameters']:,}"),
        ("MACs", f"{found['macs'] / 1e6:.1f} M"),
        ("mIoU on generated scenes", f"{found['miou']:.1f} %"),
        ("latency target", f"{found['target_ms']:.3f} ms"),
        ("  reach of the space", f"{found['fastest_ms']:.3f} to {found['slowest_ms']:.3f} ms"),
        ("  by the table", f"{found['table_ms']:.3f} ms"),
        ("predicted latency, now", f"{found['predicted_ms']:.3f} ms"),
        ("measured, the table's way", f"{found['measured_ms']:.3f} ms"),
        ("  prediction's error", f"{found['error_pct']:+.1f} %"),
        ("median of all frames", f"{found['median_ms']:.3f} ms"),
        ("  frame rate by that", f"{found['fps']:.1f} FPS"),
        ("  p90 / p99 of a frame", f"{found['p90_ms']:.3f} / {found['p99_ms']:.3f} ms"),
        ("logits against torch", f"within {found['max_abs_diff']:.0e}"),
    ]
    for row in rows:
        table.add_row(*row)
    names = ("data", "lut", "architecture", "weights", "onnx", "engine")
    files = [f"{name:13} {found[name]}" for name in names if found[name]]
    return [table, drift_line(found["drift_pct"]), *files, f"{'summary':13} {state.out / 'summary.json'}"]


def main() -> None:
    """Run the command."""
    run(app)
