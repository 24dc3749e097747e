"""Benchmark of the deployment: predictions against exports, our clock against a bare loop, outputs, builds, peers.

`make bench-deployment`. Everything is made anew in a scratch folder; what is timed runs alone, compared in one run.
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
import outputs
from deploymentpage import page
from parts import stamp, with_earlier_parts
from run import HERE, path_of, write
from turns import in_turns

from lgc.lut import LatencyTable, Predictor, Target
from lgc.lut.statistics.calibration import report
from lgc.models import SearchSpace
from lgc.models.space.plan import DENSE
from lgc.profiler.backends import Workload, get_backend
from lgc.profiler.comparison import peer_candidate, run_candidate, time_candidates
from lgc.profiler.deployment.network import INT8, Network, write_onnx
from lgc.profiler.machine.environment import fingerprint, pinned
from lgc.profiler.profile import profile
from lgc.profiler.timing.measure import assign, measure_seconds
from lgc.profiler.verification import at_speed, drift, unseen, with_sentinels

PARTS = ("predicted", "clock", "outputs", "ahead", "peers", "contest")
EXPORTS = 20
SECONDS = 10.0
"""Time for each network."""
ROUNDS, LOOP = 40, 10
"""Of our clock against a bare loop: rounds, and runs of each kind in a round."""
CONTEST_SIZE = (256, 512)
SEED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="lgcnet-camvid")
    parser.add_argument("--input", nargs=2, type=int, default=(360, 480), help="height and width of predicted networks")
    parser.add_argument("--scratch", type=Path, help="folder that is kept; a table in it is not made again")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="others stay as the file has them")
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
        made = {
            "predicted": lambda: predicted(space, target, scratch),
            "clock": lambda: clock(space, target),
            "outputs": lambda: outputs.outputs(scratch),
            "ahead": lambda: ahead(space),
            "peers": peers,
            "contest": lambda: side_by_side(target, scratch),
        }
        for part in arguments.parts:
            result[part] = made[part]()
            print(part, "done", flush=True)
    result = with_earlier_parts(result, path_of(arguments.out, result, target), PARTS)
    write(arguments.out, result, target, page(result))


def predicted(space: SearchSpace, target: Target, scratch: Path) -> dict[str, Any]:
    """Random architectures exported to files, and the files timed: predictions of a table against that.

    All are visited in one run, with networks of the table among them that tell how fast the machine runs.
    """
    lut = scratch / "t.lut"
    start = time.monotonic()
    made = profile(space, target, lut)
    seconds = time.monotonic() - start
    with LatencyTable.open(lut) as table:
        predictor = Predictor(space, table)
        chosen = unseen(table, EXPORTS, SEED)
        files = {key: write_onnx(Network(one, None, DENSE), scratch / "onnx") for key, one in chosen.items()}
        shape = ((1, 3, *space.input),)
        workloads = {key: Workload(path.name, shape, None, file=path.read_bytes()) for key, path in files.items()}
        subjects = with_sentinels(table, workloads, DENSE)
        found = measure_seconds(assign(get_backend(target.backend), target, subjects), SECONDS * len(subjects))
        drift_pct = drift(table, found)
    table_ms = {key: predictor.predict(one) for key, one in chosen.items()}
    rows = [
        {
            "table_ms": table_ms[key],
            "predicted_ms": at_speed(table_ms[key], drift_pct),
            "measured_ms": found.summary(key).latency_ms,
            "median_ms": float(np.median(np.concatenate(found.durations(key)))),
            "runs": int(sum(map(len, found.durations(key)))),
        }
        for key in chosen
    ]
    for row in rows:
        row["error_pct"] = (row["predicted_ms"] / row["measured_ms"] - 1) * 100
    even, odd = found.halves()
    halves = [(even.summary(key).latency_ms, odd.summary(key).latency_ms) for key in chosen]
    against = report([row["predicted_ms"] for row in rows], [row["measured_ms"] for row in rows], halves)
    return {
        "rows": sorted(rows, key=lambda row: row["measured_ms"]),
        "report": against.as_dict(),
        "drift_pct": drift_pct,
        "table": {"entries": made.entries, "noisy": made.noisy, "seconds": seconds},
        "interval_pct": predictor.correction.half_width_pct(),
    }


def clock(space: SearchSpace, target: Target) -> dict[str, Any]:
    """Our timing of a session against a bare loop over the same session's own API, in turn: medians of `LOOP` runs."""
    rows = []
    for seed in range(3):
        network = Network(space.sample(seed), None, DENSE)
        runner: Any = get_backend(target.backend).compile(network.workload(), target)
        with pinned(target):
            runner.prepare()
            rows.append(in_turns(partial(_ours, runner), partial(_bare, runner), ROUNDS))
        runner.close()
    return {"rows": rows, "rounds": ROUNDS, "runs_a_round": LOOP}


def _ours(runner: Any) -> float:
    return statistics.median(runner.run(LOOP))


def _bare(runner: Any) -> float:
    session, binding, times = runner._session, runner._binding, []
    for _ in range(LOOP):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def ahead(space: SearchSpace) -> dict[str, Any]:
    """Presets and random architectures through TensorRT-RTX's parser and ahead-of-time builder."""
    from lgc.profiler.backends.trt.engine import build_engine

    networks = [(name, SearchSpace.load(name).sample(0)) for name in ("tiny", "lgcnet-camvid", "lgcnet-cityscapes")]
    networks += [(f"{space.name} {index}", one) for index, one in enumerate(space.spread(EXPORTS, SEED))]
    rows = []
    for name, architecture in networks:
        network = Network(architecture, None, DENSE, images=noise(architecture.space.input))
        for precision in ("fp32", "fp16", "bf16", INT8):
            model = network.model(INT8 if precision == INT8 else "fp32")
            try:
                engine = build_engine(model, precision=precision, compute_capability="8.9")
                row = {"layers": len(engine.layers), "bytes": len(engine.data), "seconds": engine.seconds}
            except Exception as error:
                row = {"refused": str(error)}
            rows.append({"name": name, "precision": precision, **row})
    return {"rows": rows, "built": sum("refused" not in row for row in rows), "library": engine_library()}


def noise(size: tuple[int, int]) -> tuple[Any, ...]:
    """Images that int8 takes its ranges from, where no output is looked at."""
    return (np.random.default_rng(SEED).integers(0, 256, (*size, 3), np.uint8),)


def engine_library() -> str:
    from lgc.profiler.backends.trt.loader import load_tensorrt

    return str(load_tensorrt(without_gpu=True))


def peers() -> list[dict[str, Any]]:
    """Parameters and MACs of the built-in peers as published, and as the tests count them."""
    from lgc.models.nets.peers import PEERS

    sys.path.insert(0, str(HERE.parent / "models"))
    import test_peers as counting

    rows = []
    for name, peer in PEERS.items():
        published, module = peer.published, counting.counted(name)
        ours = {
            "parameters": counting.parameters(module, norms=name not in counting.WITHOUT_NORMS),
            "macs": counting.macs(module, published.size),
        }
        told = {"published_parameters": published.parameters, "published_macs": published.macs}
        rows.append({"title": peer.title, "size": list(published.size), "counted": published.counted, **told, **ours})
    return rows


def side_by_side(target: Target, scratch: Path) -> list[dict[str, Any]]:
    """The built-in peers and an architecture of ours side by side."""
    from lgc.models.nets.peers import PEERS

    file = scratch / "random-lgcnet-cityscapes.json"
    SearchSpace.load("lgcnet-cityscapes").sample(0).save(file)
    entrants = [run_candidate(file, CONTEST_SIZE, DENSE)]
    entrants += [peer_candidate(name, CONTEST_SIZE, DENSE, 19) for name in PEERS]
    return [vars(row) for row in time_candidates(entrants, [target], SECONDS)]


if __name__ == "__main__":
    main()
