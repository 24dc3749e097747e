"""Networks of `rapid` found for two latencies, against peers, random architectures and other strategies, on CamVid.

`make bench-camvid DATA=DIR` takes about ten hours of a core. Each finished search and training is a file in `--work`;
run the same command again to resume, with `--parts` for some of it. Of the dataset, the result has counts and scores
only. Latencies are measured last, all in one run: leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lgc.lut.predictor import Predictor
from lgc.lut.table.table import LatencyTable
from lgc.models.space.lgcnet import LGCNetArchitecture
from lgc.models.space.protocol import ARCHITECTURE_FILE, Architecture
from lgc.profiler.machine.devices import read_cpu_model
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.constraint.projection import build_architecture, draw_on_target
from lgc.search.decisions import Decisions

from ..common import trees
from .trainings import (
    Setting,
    TrainingFailedError,
    call,
    keep,
    place_architecture,
    run_once,
    train_and_score,
)

SPACE = "rapid"
PEERS = {"fast-scnn": 3, "ddrnet-23-slim": 3, "pidnet-s": 3, "stdc1-seg": 1, "bisenetv2": 1}
"""Peer -> number of seeds."""
LEVELS = {"fast": "fast-scnn", "accurate": "ddrnet-23-slim"}
"""Latency of the searches -> peer that has it."""
MARGIN = 0.98
"""Target of a search, as a share of the peer's latency."""
STRATEGIES = ("gradient", "random", "evolution")
DEFAULT_STRATEGY = "gradient"
"""Strategy of the searches at both latencies; the others are compared at the lower one."""
SEARCHES, SEEDS = 3, 3
"""Searches at each latency, and trainings of each result."""
RANDOM = 16
"""Random architectures at the lower latency, one training each."""
SEARCH_STEPS = 400
"""Steps of a search, of 16 images: 35 passes over half of the training images."""
TARGETS, TARGET_STEPS = 5, 40
"""Targets over the range of the table, and steps of the short searches for them."""
PARTS = ("peers", "ours", "random", "strategies", "targets", "latency")
SIZES = ((192, 256), (384, 512))
"""Input sizes of the measured latencies; the first is that of trainings and searches."""


@dataclass(frozen=True)
class Job:
    """A search or a training.

    Attributes:
        name: name of its file in the work folder.
        make: returns the content, given a descriptor of its lock.
        measures: True if it measures latencies, so that no other job may run.
    """

    name: str
    make: Callable[[int], dict[str, Any]]
    measures: bool = False


@dataclass(frozen=True)
class Bench:
    """Everything that the jobs share.

    Attributes:
        setting: data, work folder, size and length of the trainings.
        tree: source tree whose commands run.
        commit: its commit.
        table: latency table.
        targets: target of each level, in ms by the table's statistic.
    """

    setting: Setting
    tree: Path
    commit: str
    table: Path
    targets: dict[str, float]

    def make_training(self, network: str, seed: int, architecture: Path | None) -> Job:
        """Return the training of a peer, or of an architecture."""
        name = f"{network}-seed-{seed}"

        def make(held: int) -> dict[str, Any]:
            if architecture is not None:
                place_architecture(LGCNetArchitecture.load(architecture), self.setting.work / "runs" / name)
            reference = None if architecture is not None else f"peer:{network}"
            scores = train_and_score(name, self.setting, self.tree, held, seed, reference)
            return {"network": network, "commit": self.commit, **scores}

        return Job(name, make)

    def make_search(self, name: str, target_ms: float, *options: str) -> Job:
        """Return a search, whose run folder is `searches/NAME`."""

        def make(held: int) -> dict[str, Any]:
            out = self.locate(name).parent
            inputs = ("--lut", str(self.table), "--data", str(self.setting.data), "--out", str(out))
            target = ("--target-ms", f"{target_ms:.4f}", "--measure")
            found = call(name, self.setting, self.tree, held, *inputs, *target, *options, tool="search")
            kept = {key: value for key, value in found.items() if key != "architecture"}
            return {"commit": self.commit, "machine": read_cpu_model(), **kept}

        return Job(name, make, measures=True)

    def locate(self, search: str) -> Path:
        """Return the architecture of a search."""
        return self.setting.work / "searches" / search / ARCHITECTURE_FILE


def main() -> None:
    arguments = parse_arguments(__doc__, PARTS)
    setting, bench = open_bench(arguments)
    stages = (stage for part in PARTS if part in arguments.parts for stage in list_stages(part, bench))
    failures = run_stages(stages, setting, arguments.jobs)
    if arguments.out is not None:
        from .camvid_page import write_camvid

        write_camvid(bench.setting, bench.targets, arguments.out)
    sys.exit(failures > 0)


def open_bench(arguments: argparse.Namespace) -> tuple[Setting, Bench]:
    """Return what the arguments of a benchmark name; stop without its data."""
    if arguments.data is None or not arguments.data.is_dir():
        sys.exit(f"no folder {arguments.data}: CamVid cannot be downloaded here, pass its folder with --data")
    repository = arguments.repository.resolve()
    setting = Setting(arguments.data.resolve(), arguments.work.resolve(), SIZES[0], 8, arguments.epochs, 1, repository)
    return setting, prepare(setting)


def run_stages(stages: Iterable[Sequence[Job]], setting: Setting, jobs: int) -> int:
    """Run the jobs of each stage, some at the same time; return the number of those that failed."""
    failures = 0
    for stage in stages:
        with ThreadPoolExecutor(1 if any(job.measures for job in stage) else jobs) as pool:
            for future in [pool.submit(run_once, job.name, setting, job.make) for job in stage]:
                try:
                    print(future.result(), flush=True)
                except TrainingFailedError as error:
                    print(error, file=sys.stderr, flush=True)
                    failures += 1
    return failures


def parse_arguments(description: str | None, parts: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="folder of the result and its page; default: none are written")
    parser.add_argument("--data", type=Path, help="folder of CamVid, 360x480")
    parser.add_argument("--work", type=Path, required=True, help="folder of searches and trainings, which is kept")
    parser.add_argument("--parts", nargs="*", default=parts, choices=parts)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time, one thread each")
    parser.add_argument("--repository", type=Path, default=trees.REPOSITORY, help="repository with the commit")
    return parser.parse_args()


def prepare(setting: Setting) -> Bench:
    """Write what must not change while the work folder is used: settings, table and targets.

    Every result has the commit that made it: that of the repository when the command began.
    """
    setting.work.mkdir(parents=True, exist_ok=True)
    commit = trees.resolve_commit("HEAD", setting.repository)
    if trees.is_changed(setting.repository):
        print("searching and training by HEAD, without the uncommitted changes", file=sys.stderr)
    keep(setting.work / "settings.json", {**setting.list_settings(), "space": SPACE, "search_steps": SEARCH_STEPS})
    tree = trees.check_out(commit, setting.work / "trees", setting.repository)
    table, size = setting.work / f"{SPACE}.lut", "x".join(map(str, setting.size))

    def profile(held: int) -> dict[str, Any]:
        line = ("--space", SPACE, "--input", size, "--device", "cpu", "--out", str(table))
        return call("table", setting, tree, held, *line, tool="profile")

    def measure(held: int) -> dict[str, Any]:
        peers = [part for peer in LEVELS.values() for part in ("--peer", peer)]
        line = (*peers, "--input", size, "--classes", "11", "--seconds", "60s")
        return call("levels", setting, tree, held, *line, tool="bench")

    for name, make in (("table", profile), ("levels", measure)):
        print(run_once(name, setting, make), flush=True)
    rows = json.loads((setting.work / "levels.json").read_text())["results"]
    latencies = {row["name"]: row["latency_ms"] for row in rows}
    targets = {level: MARGIN * latencies[peer] for level, peer in LEVELS.items()}
    return Bench(setting, tree, commit, table, targets)


def list_stages(part: str, bench: Bench) -> Iterator[list[Job]]:
    """Yield jobs that may run at the same time; a later stage needs those before it."""
    if part == "peers":
        seeds = [(peer, seed) for seed in range(max(PEERS.values())) for peer, count in PEERS.items() if seed < count]
        yield [bench.make_training(peer, seed, None) for peer, seed in seeds]
    elif part == "ours":
        for level in LEVELS:
            yield from search_and_train(bench, name_strategies([DEFAULT_STRATEGY]), level)
    elif part == "strategies":
        others = [strategy for strategy in STRATEGIES if strategy != DEFAULT_STRATEGY]
        yield from search_and_train(bench, name_strategies(others), "fast")
    elif part == "random":
        networks = {f"fast-drawn-{number}": number for number in range(RANDOM)}
        for name, number in networks.items():
            drawn = draw_architecture(bench.table, bench.targets["fast"], number)
            place_architecture(drawn, bench.locate(name).parent)
        yield [bench.make_training(name, number % SEEDS, bench.locate(name)) for name, number in networks.items()]
    elif part == "targets":
        options = ("--strategy", "random", "--steps", str(TARGET_STEPS), "--trials", "0")
        yield [bench.make_search(f"target-{index}", ms, *options) for index, ms in enumerate(list_targets(bench.table))]
    elif part == "latency":
        yield [Job(f"latency-{height}x{width}", _make_latency(bench, (height, width))) for height, width in SIZES]


def name_strategies(strategies: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the variant of each strategy."""
    return {strategy: ("--strategy", strategy) for strategy in strategies}


def search_and_train(
    bench: Bench, variants: Mapping[str, Sequence[str]], level: str, seeds: int = SEEDS
) -> Iterator[list[Job]]:
    """Yield the searches of each variant, a name and options of `lgc-search`, then the trainings of their results."""
    names = {
        f"{level}-{variant}-{number}": (*options, "--seed", str(number))
        for variant, options in variants.items()
        for number in range(SEARCHES)
    }
    steps = ("--steps", str(SEARCH_STEPS))
    yield [bench.make_search(name, bench.targets[level], *options, *steps) for name, options in names.items()]
    yield [bench.make_training(name, seed, bench.locate(name)) for seed in range(seeds) for name in names]


def draw_architecture(table: Path, target_ms: float, seed: int) -> Architecture:
    """Return a random architecture just below a target: random preferences, projected as by the search at random."""
    with LatencyTable.open(table) as opened:
        predictor = Predictor(opened.space, opened)
    constraint = CostConstraint.from_predictors(Decisions(predictor.space), [predictor], [target_ms])
    return build_architecture(draw_on_target(constraint, 1, np.random.default_rng(seed)), 0, constraint)


def list_targets(table: Path) -> list[float]:
    """Return targets over the range of a table, evenly spaced in their logarithm, without its ends."""
    with LatencyTable.open(table) as opened:
        fastest, slowest = Predictor(opened.space, opened).range_ms
    return [float(ms) for ms in np.geomspace(fastest, slowest, TARGETS + 2)[1:-1]]


def _make_latency(bench: Bench, size: tuple[int, int]) -> Callable[[int], dict[str, Any]]:
    """Return the measurement of all networks at a size, interleaved, by `lgc-bench`."""

    def make(held: int) -> dict[str, Any]:
        folder = bench.setting.work / "searches"
        found = sorted(str(path.parent) for path in folder.glob(f"*/{ARCHITECTURE_FILE}"))
        line = (*found, "--peers", "--input", "x".join(map(str, size)), "--seconds", f"{10 * (len(found) + 5)}s")
        return call(f"latency-{size[0]}", bench.setting, bench.tree, held, *line, tool="bench")

    return make


if __name__ == "__main__":
    main()
