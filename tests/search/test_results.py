"""Results of a search and their JSON form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lgc.search.results import FrontResult, SearchResult, TableTarget
from lgc.search.runtime.run_settings import LEGACY_SETTINGS
from lgc.search.training.config import TrainConfig
from lgc.search.training.results import EvaluationResult, TrainResult

OUTPUTS = Path(__file__).parents[1] / "compat" / "files" / "outputs"
"""Outputs of the commands of lgc 0.1."""


def read_output(name):
    return json.loads((OUTPUTS / f"{name}.json").read_text())["output"]


@pytest.fixture
def point() -> SearchResult:
    return SearchResult.from_dict(read_output("search"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("search", SearchResult),
        ("search-tables", SearchResult),
        ("search-front", FrontResult),
        ("train", TrainResult),
        ("train-evaluate", EvaluationResult),
    ],
)
def test_results_keep_their_json(name, kind):
    content = read_output(name)
    result = kind.from_dict(content | {"unknown": 1})
    later = {"val_interval": None, **LEGACY_SETTINGS["train"]} if name == "train" else {}
    assert result.as_dict() == later | content
    assert kind.from_dict(json.loads(json.dumps(result.as_dict()))) == result


def test_json_has_typed_fields():
    front = FrontResult.from_dict(read_output("search-front"))
    assert [row.architecture.name for row in front.front] == ["architecture.json"] * 2
    assert SearchResult.from_dict(read_output("search-tables")).tables[1].target_ms == 0.5504
    trained = TrainResult.from_dict(read_output("train"))
    assert trained.config == TrainConfig(
        steps=2, batch=2, optimiser="sgd", balanced=False, aux_heads="single", init="supernet", keep="last"
    )
    assert (trained.scored_at, trained.from_scratch) == ((32, 32), ())


def test_refinement_keeps_its_json_names(point):
    content = replace(point, measured_ms=1.1, corrected_ms=1.2, refinements=3).as_dict()
    assert (content["measured_ms"], content["corrected_ms"], content["landings"]) == (1.1, 1.2, 3)
    assert not {"measured_ms", "corrected_ms", "landings", "refinements", "tables", "dominated"} & set(point.as_dict())
    assert SearchResult.from_dict(content).refinements == 3


def test_measured_error_needs_measurement(point):
    assert replace(point, target_ms=1.0).measured_error_pct is None
    assert replace(point, target_ms=1.0, measured_ms=1.1).measured_error_pct == pytest.approx(10)


def test_undefined_losses_keep_their_place(point):
    diverged = replace(point, trial_losses=[None, 2.0], loss_likeliest=None, gap=None)
    assert SearchResult.from_dict(diverged.as_dict()) == diverged


def test_faster_and_better_point_dominates(point):
    other = replace(point, predicted_ms=point.predicted_ms - 0.1)
    assert not other.dominates(point)  # same loss
    better = replace(other, trial_losses=[1.0, None])
    assert better.dominates(point)
    assert not point.dominates(better)
    assert not replace(better, predicted_ms=point.predicted_ms + 0.1).dominates(point)


def test_trial_miou_decides_before_loss(point):
    scored = replace(point, trial_losses=[1.0, 2.0], trial_mious=[30.0, 31.0])
    faster = replace(scored, predicted_ms=point.predicted_ms - 0.1, trial_losses=[0.5], trial_mious=[30.5])
    assert (scored.best_trial_miou, point.best_trial_miou) == (31.0, None)
    assert not faster.dominates(scored)
    assert replace(faster, trial_losses=[9.0], trial_mious=[None, 32.0]).dominates(scored)
    assert faster.dominates(replace(scored, trial_mious=[]))  # of an earlier version: by loss


def test_miou_of_one_stage_is_compared(point):
    """A point without trials is compared by the supernet's mIoU, which is another scale than that of trials."""
    tried = replace(point, trial_losses=[1.0], trial_mious=[40.0], supernet_miou=20.0, operators={"skip": 6})
    untried = replace(point, trial_losses=[], trial_mious=[], supernet_miou=25.0)
    assert untried.dominates(tried)
    assert not tried.dominates(untried)
    other_head = replace(untried, supernet_miou=26.0, head_channels=99)
    assert other_head.dominates(untried)
    assert not replace(untried, supernet_miou=26.0).dominates(untried)


def test_trials_of_one_architecture_do_not_dominate(point):
    lucky, other = (replace(point, trial_losses=[1.0], trial_mious=[miou]) for miou in (32.0, 31.0))
    assert not lucky.dominates(other)
    assert lucky.dominates(replace(other, operators={"skip": 6}))


def test_domination_needs_every_table(point):
    rows = [TableTarget("a.lut", None, 1.0, 1.0), TableTarget("b.lut", None, 2.0, 2.0)]
    both = replace(point, tables=tuple(rows))
    better = replace(both, trial_losses=[], loss_after=0.1)
    assert better.dominates(both)
    slower = TableTarget("b.lut", None, 2.1, 2.1)
    assert not replace(better, tables=(rows[0], slower)).dominates(both)
