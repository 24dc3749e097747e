"""Benchmark of the deployment: predictions of exports, timing against a bare loop, outputs, engine builds, peers.

`make bench-deployment`. Everything is made in a temporary folder; timings run alone, and compared
networks run in one session.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lgc.lut import LatencyTable, Predictor, Target
from lgc.lut.statistics.calibration import evaluate_predictions
from lgc.models import SearchSpace
from lgc.models.nets.sources import PeerSource
from lgc.models.space.protocol import DENSE
from lgc.precisions import INT8
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.candidates import build_candidate, read_run_candidate
from lgc.profiler.comparison import time_candidates
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.drift import add_references, compute_drift, correct_for_drift
from lgc.profiler.machine.environment import fingerprint, pinned
from lgc.profiler.profile import profile
from lgc.profiler.timing.measure import assign, measure_seconds
from lgc.profiler.verification import sample_unseen

from ..common.paired_timing import time_alternately
from ..common.results import BENCH, merge_parts, result_path, stamp, write_result
from .outputs import compare_outputs
from .page import render_page

PARTS = ("predicted", "clock", "outputs", "ahead", "peers", "contest")
EXPORTS = 20
SECONDS = 10.0
"""Duration per network."""
ROUNDS, LOOP = 40, 10
"""Rounds of the comparison with a bare loop, and runs of each kind in a round."""
COMPARISON_SIZE = (256, 512)
SEED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="lgcnet-camvid")
    parser.add_argument("--input", nargs=2, type=int, default=(360, 480), help="height and width of predicted networks")
    parser.add_argument("--scratch", type=Path, help="folder to keep; a table in it is reused")
    parser.add_argument(
        "--parts",
        nargs="*",
        default=PARTS,
        choices=PARTS,
        help="parts to run; the others are kept from the existing file",
    )
    arguments = parser.parse_args()
    target = Target("cpu", "onnxruntime")
    space = SearchSpace.load(arguments.space).with_input(*arguments.input)
    result: dict[str, Any] = {
        "name": ["deployment", space.name, "x".join(map(str, space.input))],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
    }
    with nullcontext(arguments.scratch) if arguments.scratch else tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        measure = {
            "predicted": lambda: measure_predictions(space, target, scratch),
            "clock": lambda: compare_timing(space, target),
            "outputs": lambda: compare_outputs(scratch),
            "ahead": lambda: build_ahead(space),
            "peers": count_peers,
            "contest": lambda: compare_networks(target, scratch),
        }
        for part in arguments.parts:
            result[part] = measure[part]()
            print(part, "done", flush=True)
    result = merge_parts(result, result_path(arguments.out, result, target), PARTS)
    write_result(arguments.out, result, target, render_page(result))


def measure_predictions(space: SearchSpace, target: Target, scratch: Path) -> dict[str, Any]:
    """Export random architectures, time the files, and compare with the predictions of a table.

    All are timed in one session together with reference networks of the table, which show the drift.
    """
    lut = scratch / "t.lut"
    start = time.monotonic()
    profiled = profile(space, target, lut)
    seconds = time.monotonic() - start
    with LatencyTable.open(lut) as table:
        predictor = Predictor(space, table)
        chosen = sample_unseen(table, EXPORTS, SEED)
        files = {
            key: write_onnx(Network(architecture, None, DENSE), scratch / "onnx")
            for key, architecture in chosen.items()
        }
        shape = ((1, 3, *space.input),)
        workloads = {key: Workload(path.name, shape, None, file=path.read_bytes()) for key, path in files.items()}
        benchmarks = add_references(table, workloads, DENSE)
        measurement = measure_seconds(
            assign(get_backend(target.backend), target, benchmarks), SECONDS * len(benchmarks)
        )
        drift_pct = compute_drift(table, measurement)
    table_ms = {key: predictor.predict(architecture) for key, architecture in chosen.items()}
    rows = [
        {
            "table_ms": table_ms[key],
            "predicted_ms": correct_for_drift(table_ms[key], drift_pct),
            "measured_ms": measurement.summary(key).latency_ms,
            "median_ms": float(np.median(np.concatenate(measurement.durations(key)))),
            "runs": int(sum(map(len, measurement.durations(key)))),
        }
        for key in chosen
    ]
    for row in rows:
        row["error_pct"] = (row["predicted_ms"] / row["measured_ms"] - 1) * 100
    even, odd = measurement.split_halves()
    halves = [(even.summary(key).latency_ms, odd.summary(key).latency_ms) for key in chosen]
    accuracy = evaluate_predictions([row["predicted_ms"] for row in rows], [row["measured_ms"] for row in rows], halves)
    return {
        "rows": sorted(rows, key=lambda row: row["measured_ms"]),
        "report": accuracy.as_dict(),
        "drift_pct": drift_pct,
        "table": {"entries": profiled.entries, "noisy": profiled.noisy, "seconds": seconds},
        "interval_pct": predictor.correction.half_width_pct(),
    }


def compare_timing(space: SearchSpace, target: Target) -> dict[str, Any]:
    """Compare lgc's timing of a session with a bare loop over its API, alternately; medians of `LOOP` runs."""
    rows = []
    for seed in range(3):
        network = Network(space.sample(seed), None, DENSE)
        runner: Any = get_backend(target.backend).compile(network.workload(), target)
        with pinned(target):
            runner.prepare()
            rows.append(time_alternately(partial(_time_runner, runner), partial(_time_session, runner), ROUNDS))
        runner.close()
    return {"rows": rows, "rounds": ROUNDS, "runs_a_round": LOOP}


def _time_runner(runner: Any) -> float:
    return statistics.median(runner.run(LOOP))


def _time_session(runner: Any) -> float:
    session, binding, times = runner._session, runner._binding, []
    for _ in range(LOOP):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def build_ahead(space: SearchSpace) -> dict[str, Any]:
    """Build engines of presets and random architectures ahead of time with TensorRT-RTX."""
    from lgc.profiler.backends.trt.engine import build_engine

    networks = [(name, SearchSpace.load(name).sample(0)) for name in ("tiny", "lgcnet-camvid", "lgcnet-cityscapes")]
    networks += [(f"{space.name} {index}", network) for index, network in enumerate(space.spread(EXPORTS, SEED))]
    rows = []
    for name, architecture in networks:
        network = Network(architecture, None, DENSE, images=random_images(architecture.space.input))
        for precision in ("fp32", "fp16", "bf16", INT8):
            model = network.model(INT8 if precision == INT8 else "fp32")
            try:
                engine = build_engine(model, precision=precision, compute_capability="8.9")
                row = {"layers": len(engine.layers), "bytes": len(engine.data), "seconds": engine.seconds}
            except Exception as error:
                row = {"refused": str(error)}
            rows.append({"name": name, "precision": precision, **row})
    return {"rows": rows, "built": sum("refused" not in row for row in rows), "library": engine_library()}


def random_images(size: tuple[int, int]) -> tuple[Any, ...]:
    """Return a random image for int8 calibration; outputs are not compared."""
    return (np.random.default_rng(SEED).integers(0, 256, (*size, 3), np.uint8),)


def engine_library() -> str:
    """Return name and version of the library that builds engines."""
    from lgc.profiler.backends.trt.loader import load_tensorrt

    return str(load_tensorrt(without_gpu=True))


def count_peers() -> list[dict[str, Any]]:
    """Return parameters and MACs of the peers, as published and as counted by the tests."""
    from lgc.models.nets.peers import PEERS

    sys.path.insert(0, str(BENCH.parent / "models" / "nets"))
    import test_peers as counting

    rows = []
    for name, peer in PEERS.items():
        published, module = peer.published, counting.counted(name)
        counts = {
            "parameters": counting.parameters(module, norms=name not in counting.WITHOUT_NORMS),
            "macs": counting.macs(module, published.size),
        }
        figures = {"published_parameters": published.parameters, "published_macs": published.macs}
        rows.append(
            {"title": peer.title, "size": list(published.size), "counted": published.counted, **figures, **counts}
        )
    return rows


def compare_networks(target: Target, scratch: Path) -> list[dict[str, Any]]:
    """Benchmark the peers and a random architecture side by side."""
    from lgc.models.nets.peers import PEERS

    file = scratch / "random-lgcnet-cityscapes.json"
    SearchSpace.load("lgcnet-cityscapes").sample(0).save(file)
    candidates = [read_run_candidate(file, COMPARISON_SIZE, DENSE)]
    candidates += [build_candidate(PeerSource(name), COMPARISON_SIZE, DENSE, 19) for name in PEERS]
    return [vars(row) for row in time_candidates(candidates, [target], SECONDS)]


if __name__ == "__main__":
    main()
