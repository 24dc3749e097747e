from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from lgc.lut import Correction, LatencyTable, Predictor
from lgc.models import SearchSpace
from lgc.models.space.cost import Cost
from lgc.search.config import SearchConfig
from lgc.search.constraint.constraint import CostConstraint
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.runtime import training_loop
from lgc.search.supernet.blocks import BlockDecisions

from .runs import change, find_target


@pytest.fixture(scope="session")
def table_cache() -> dict[tuple[str, int], bytes]:
    """Tables by space and seed: making one takes longer than most tests."""
    return {}


@pytest.fixture
def predict(make_table, table_cache, tmp_path) -> Callable[..., Predictor]:
    """Make predictors from random latencies: `predict(space, seed=0, correction=None)`."""
    numbers = count()

    def make(space: SearchSpace, seed: int = 0, *, correction: Correction | None = None) -> Predictor:
        path = tmp_path / f"{space.name}-{next(numbers)}.lut"
        if (space.fingerprint, seed) not in table_cache:
            make_table(space, path.name, seed=seed).close()
            table_cache[space.fingerprint, seed] = path.read_bytes()
        path.write_bytes(table_cache[space.fingerprint, seed])
        with LatencyTable.open(path) as table:
            if correction is not None:
                table.set_metadata("calibration", {"dense": asdict(correction)})
            return Predictor(space, table)

    return make


@pytest.fixture
def predictor(mini_space, predict) -> Predictor:
    """Predictor of the mini space from random latencies."""
    return predict(mini_space)


@dataclass
class RandomPredictor:
    """What a constraint reads of a predictor: random heavy-tailed latencies, 0 for `zero`, little for `skip`."""

    space: SearchSpace
    seed: int
    fixed_ms: float = 0.5
    edge_ms: np.ndarray = field(init=False)
    head_ms: np.ndarray = field(init=False)

    def __post_init__(self):
        rng, operators = np.random.default_rng(self.seed), self.space.operators
        self.edge_ms = rng.lognormal(-2, 1, (self.space.edges, len(operators)))
        self.edge_ms[:, operators.index("skip")] *= 0.1
        if "zero" in operators:
            self.edge_ms[:, operators.index("zero")] = 0.0
        self.head_ms = np.sort(rng.uniform(0, 0.3, len(self.space.heads)))
        self.head_ms -= self.head_ms[self.space.default_head]

    @property
    def cost(self) -> Cost:
        single = np.zeros((len(self.space.decisions), self.space.num_choices))
        single[:-1, : self.edge_ms.shape[1]] = self.edge_ms
        single[-1, : len(self.head_ms)] = self.head_ms
        return Cost("ms", "random", self.fixed_ms, single, {})


@pytest.fixture(scope="session")
def random_predictor() -> type[RandomPredictor]:
    """Stand-in for a predictor in tests with thousands of tables: `random_predictor(space, seed)`."""
    return RandomPredictor


@pytest.fixture(scope="session")
def latency_at() -> Callable[[BlockDecisions, RandomPredictor, float], CostConstraint]:
    """Return latencies with a target at a share of the range from the fastest to the slowest architecture."""

    def make(decisions: BlockDecisions, predictor: RandomPredictor, share: float) -> CostConstraint:
        free = CostConstraint.from_predictors(decisions, [predictor])
        fastest, slowest = (float(free.target_ratio(end)[0]) for end in (free.cheapest, free.costliest))
        return CostConstraint.from_predictors(decisions, [predictor], [fastest + share * (slowest - fastest)])

    return make


@pytest.fixture(scope="session")
def little_space(mini_space) -> SearchSpace:
    """A space small enough to enumerate: 6 edges, all but one of which may be zero, and heads of 2, 4 and 8."""
    content = {**mini_space.model_dump(mode="json"), "name": "little", "head_widths": [2, 8]}
    content |= {"cells": 1, "reductions": [], "fusion": {"nodes": 1, "channels": 4, "level": 2}}
    return SearchSpace.check(content, "the little space")


@pytest.fixture(scope="session")
def deep_space(mini_space) -> SearchSpace:
    """The mini space with two normal cells, then two reduction cells, and a fourth operator."""
    operators = ["zero", "skip", "sep_conv_3x3", "max_pool_3x3"]
    content = {**mini_space.model_dump(mode="json"), "name": "deep", "cells": 4, "reductions": [2, 3]}
    return SearchSpace.check({**content, "operators": operators}, "the deep space")


@pytest.fixture(scope="session")
def zeroless_space(mini_space) -> SearchSpace:
    """The mini space without `zero`: all choices are valid."""
    content = {**mini_space.model_dump(mode="json"), "name": "zeroless", "operators": ["skip", "sep_conv_3x3"]}
    return SearchSpace.check(content, "the zeroless space")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few generated scenes in CamVid's layout, with 11 classes."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, "camvid-segnet", {"train": 8, "val": 3, "test": 0}, (32, 32), 0)
    return folder


@pytest.fixture
def street_space(mini_space):
    """The mini space with the scenes' classes."""
    return mini_space.check({**mini_space.model_dump(mode="json"), "name": "street", "classes": 11}, "street")


@pytest.fixture
def street(street_space, predict) -> Predictor:
    """Predictor of the street space from random latencies."""
    return predict(street_space)


@pytest.fixture
def short() -> SearchConfig:
    """A search of a few steps."""
    return SearchConfig(steps=6, batch=2, warm_up=0.3, arch_lr=0.05, samples=16, finalists=3, trials=0)


@pytest.fixture
def eager_checkpoints(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)


@pytest.fixture
def front(street, short) -> SearchConfig:
    """A search with two targets."""
    return change(short, targets_ms=tuple((round(find_target(street, share), 3),) for share in (0.2, 0.8)))


@pytest.fixture
def run(street_space, tmp_path):
    """A run folder that holds an architecture only."""
    folder = tmp_path / "run"
    folder.mkdir()
    street_space.sample(0).save(folder / "architecture.json")
    return folder
