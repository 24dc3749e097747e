from __future__ import annotations

from pathlib import Path

import pytest

from lgc.lut import Predictor
from lgc.search.config import SearchConfig
from lgc.search.data.writers import write_scenes


@pytest.fixture
def predictor(mini_space, make_table) -> Predictor:
    """Predictions of the mini space from made-up latencies."""
    with make_table(mini_space) as table:
        return Predictor(mini_space, table)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few generated scenes in CamVid's layout; 11 classes."""
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, "camvid-segnet", {"train": 8, "val": 3, "test": 0}, (32, 32), 0)
    return folder


@pytest.fixture
def street_space(mini_space):
    """The mini space with the scenes' classes."""
    return mini_space.check({**mini_space.model_dump(mode="json"), "name": "street", "classes": 11}, "street")


@pytest.fixture
def street(street_space, make_table) -> Predictor:
    """Predictions of the street space from made-up latencies."""
    with make_table(street_space, "street.lut") as table:
        return Predictor(street_space, table)


@pytest.fixture
def short() -> SearchConfig:
    """A search of a few steps."""
    return SearchConfig(steps=6, batch=2, warm_up=0.3, arch_lr=0.05, samples=16, finalists=3)
