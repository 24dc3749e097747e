"""Datasets in many layouts give exact class names and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.layouts import LAYOUTS
from lgc.search.data.predictions import PredictionWriter
from lgc.search.data.reading import read_label

from .small_sets import MIOU, PICTURE, SMALL_SETS, VOID, SmallSet, score_small_set


@pytest.fixture(params=SMALL_SETS)
def small_set(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallSet:
    """Write each dataset into the folder `data` of the current folder."""
    monkeypatch.chdir(tmp_path)
    SMALL_SETS[request.param].write(tmp_path / "data")
    return SMALL_SETS[request.param]


def test_every_layout_has_a_small_set() -> None:
    assert set(LAYOUTS) <= set(SMALL_SETS)


def test_class_names_and_scores_are_exact(small_set: SmallSet, request: pytest.FixtureRequest) -> None:
    dataset, result = score_small_set(small_set, Path("data"))
    key = request.node.callspec.params["small_set"]
    assert dataset.name == (small_set.name or (key if key in LAYOUTS else "data"))
    assert dataset.num_classes == len(dataset.palette) == small_set.num_classes
    scores = [result.per_class[name] for name in small_set.names]
    first = 75 if small_set.void_is_class else 100
    assert scores == [pytest.approx(first), pytest.approx(50), pytest.approx(200 / 3)]
    others = result.per_class.keys() - {*small_set.names}
    assert small_set.void_is_class or all(result.per_class[name] is None for name in others)
    assert small_set.void_is_class or result.miou == pytest.approx(MIOU)


def test_predictions_have_the_datasets_own_values(small_set: SmallSet) -> None:
    dataset = load_dataset("data", "val")
    writer = PredictionWriter(Path("predictions"), dataset)
    pair = dataset.pairs[0]
    classes = read_label(pair.label, pair.coding)
    writer.write(0, np.where(classes == 255, classes[-1, 0], classes))
    written = read_label(writer.paths[0], pair.coding)
    assert np.array_equal(written[PICTURE != VOID], classes[PICTURE != VOID])


def test_known_layouts_need_no_remark(small_set: SmallSet, request: pytest.FixtureRequest) -> None:
    known = request.node.callspec.params["small_set"] in LAYOUTS or small_set.description is not None
    assert bool(read_dataset("data").remarks) != known
