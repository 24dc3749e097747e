"""Trials: short trainings from scratch that compare the best architectures of a search."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lgc.errors import FileFormatError
from lgc.models import Architecture
from lgc.search.config import SearchConfig, SearchRunConfig
from lgc.search.data.datasets import load_dataset, split_halves
from lgc.search.data.labels import IGNORE
from lgc.search.engine import search
from lgc.search.runtime.batches import load_batches
from lgc.search.runtime.fabric import open_fabric
from lgc.search.selection import finalize, trials
from lgc.search.selection.trials import CandidateTrials, Trial, derive_trial_seed
from lgc.search.training import network_trainer
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

from ..runs import KilledError, change, kill_at

TRIALS_FILE = "search-trials.json"


@pytest.fixture
def run_trial(street_space, scenes):
    """Return an architecture's trial: `run_trial(number, steps=4, ...)`; a trial has a quarter of the steps."""
    first, second = split_halves(load_dataset(scenes, "train", (32, 32), augment=True), 0)
    batches = list(load_batches(second, 2, 0, start=0, stop=2))

    def run(number=0, on_step=lambda: None, held_out=batches, **settings):
        config = SearchRunConfig(**({"steps": 16, "batch": 2, "trial_share": 0.25} | settings))
        own = config.make_trial(derive_trial_seed(config.seed, 0))
        return trials.run_trial(street_space.sample(number), own, open_fabric("cpu"), first, held_out, None, on_step)

    run.batches = batches
    return run


@pytest.fixture
def tried(short) -> SearchConfig:
    """A search with a trial of three steps for each of two candidates."""
    return change(short, trials=2, trial_seeds=1, trial_share=0.5)


def test_trial_depends_on_seed_and_architecture(run_trial):
    first, same, other_seed, other_architecture = run_trial(), run_trial(), run_trial(seed=1), run_trial(1)
    assert first == same
    assert len({first.loss, other_seed.loss, other_architecture.loss}) == 3
    for trial in (first, other_seed, other_architecture):
        assert 0.5 < trial.loss < 10
        assert 0 <= trial.miou < 100


def test_seed_determines_initial_weights(run_trial):
    """A batch of all images is the same for all seeds, except for order and views."""
    first, second = (run_trial(seed=seed, batch=4).loss for seed in (0, 1))
    assert abs(first - second) > 1e-3


def test_longer_trial_has_lower_loss(run_trial):
    ticks = []
    short, long = (run_trial(steps=steps, on_step=lambda: ticks.append(0)) for steps in (4, 640))
    assert long.loss < short.loss - 0.2
    assert long.miou >= short.miou  # both may predict the most frequent class alone
    assert len(ticks) == 1 + 160


def test_trial_score_is_that_of_its_predictions(run_trial, monkeypatch):
    """A network that sees the labels has an mIoU of 100 %, one that sees those of two classes swapped has less."""
    labels = iter([])

    class Oracle(trials.LGCNet):
        def forward(self, images):
            logits = super().forward(images)
            return logits if self.training else 0 * logits.mean() + next(labels)

    monkeypatch.setattr(trials, "LGCNet", Oracle)
    scores = []
    for swapped in (False, True):
        truths = [batch[1].clone() for batch in run_trial.batches]
        known = torch.cat(truths)[torch.cat(truths) != IGNORE].unique()
        for truth in truths:
            truth[truth == IGNORE] = 0
            if swapped:
                truth[truth == known[0]] = known[1]
        labels = iter([torch.nn.functional.one_hot(truth.long(), 11).permute(0, 3, 1, 2).float() for truth in truths])
        scores.append(run_trial().miou)
    assert scores[0] == pytest.approx(100)
    classes = len(known)
    assert scores[1] < 100 * (classes - 1) / classes


def test_unlabelled_images_give_no_miou(run_trial):
    void = [(images, torch.full_like(labels, IGNORE)) for images, labels in run_trial.batches]
    trial = run_trial(held_out=void)
    assert (trial.loss, trial.miou) == (0.0, None)


def test_diverged_trial_has_no_scores(run_trial, monkeypatch):
    real = trials.SegmentationLoss.__call__
    monkeypatch.setattr(
        trials.SegmentationLoss, "__call__", lambda *arguments: [math.nan * loss for loss in real(*arguments)]
    )
    trial = run_trial()
    assert (trial.loss, trial.miou) == (None, None)


def candidate(*scores: tuple[float | None, float | None]) -> CandidateTrials:
    """Return trials with these losses and mIoUs."""
    return CandidateTrials(tuple(Trial(seed, *score) for seed, score in enumerate(scores)))


def test_candidates_rank_by_miou_then_loss():
    ordered = [
        candidate((1.0, 10.0), (1.0, 30.0)),
        candidate((1.5, 20.0), (1.5, 20.0)),
        candidate((2.0, 30.0)),
        candidate((0.5, 0.0)),
        candidate((0.5, 90.0), (None, None)),
    ]
    assert sorted([ordered[i] for i in (4, 1, 0, 3, 2)], key=lambda own: own.rank) == ordered
    first, second = candidate((1.0, None)), candidate((2.0, None))
    assert min((second, first), key=lambda own: own.rank) == first
    assert (ordered[0].miou, ordered[4].miou, ordered[4].loss) == (20.0, None, None)


def test_trials_follow_the_recipe_of_trainings():
    config = SearchRunConfig(steps=30, batch=6, crop=(32, 48), precision="bf16", balanced=False)
    own = config.make_trial(5)
    assert own == TrainConfig(steps=8, batch=6, crop=(32, 48), seed=5, precision="bf16", balanced=False)


def test_better_half_has_another_trial(street, scenes, short, tmp_path, monkeypatch):
    """Their mean decides: the candidate with the best single trial may lose, also against one with a lower mean."""
    mious = iter([50.0, 32.0, 40.0, 10.0, 31.0])
    ran = []

    def score(architecture, config, *_):
        ran.append((architecture.choices, config.seed))
        return Trial(config.seed, 1.0, next(mious))

    monkeypatch.setattr(finalize, "run_trial", score)
    config = change(short, trials=3, trial_seeds=2, trial_share=0.5)
    result = search(street, scenes, tmp_path / "run", config)
    choices, seeds = zip(*ran, strict=True)
    assert len({*choices[:3]}) == 3
    assert choices[3:] == (choices[0], choices[2])
    assert len({*seeds, config.seed}) == 6
    assert {*result.trial_seeds} == {*seeds}
    assert result.trial_mious == [30.0, 32.0, 35.5]
    assert Architecture.load(result.architecture).choices == choices[2]
    assert result.trial_miou == result.best_trial_miou == 35.5
    assert config.num_trials == len(ran) == 5


@pytest.fixture
def starts(monkeypatch):
    """Initial weights and first batch of each training, trial or final, in this order."""
    weights, batches = [], []

    def spy_network(network, fabric):
        state = network.state_dict().items()
        weights.append({name.removeprefix("network."): value.clone() for name, value in state})

    def spy_batches(*arguments, **options):
        loaded = list(load_batches(*arguments, **options))
        batches.append(loaded[0])
        return (batch for batch in loaded)

    monkeypatch.setattr(network_trainer, "synchronise_norms", spy_network)
    monkeypatch.setattr(network_trainer, "load_batches", spy_batches)
    return lambda: list(zip(weights, batches, strict=True))


def test_trial_starts_unlike_final_training(street_space, scenes, run, starts):
    """With the run's own seed, as in earlier versions, weights and batches would be those of the final training."""
    dataset = load_dataset(scenes, "train", (32, 32), augment=True)
    held_out = list(load_batches(load_dataset(scenes, "val", (32, 32)), 2, 0, start=0, stop=1))
    config = SearchRunConfig(steps=3, batch=2)
    for seed in (config.seed, *(derive_trial_seed(config.seed, number) for number in range(3))):
        trials.run_trial(street_space.sample(0), config.make_trial(seed), open_fabric("cpu"), dataset, held_out)
    train(run, scenes, TrainConfig(steps=1, batch=2, seed=config.seed))
    *trial_starts, final = starts()
    for number, (weights, (images, labels)) in enumerate(trial_starts):
        is_same = number == 0  # the run's own seed
        convolutions = [name for name, value in weights.items() if value.ndim == 4]
        assert len(convolutions) > 10
        assert {torch.equal(weights[name], final[0][name]) for name in convolutions} == {is_same}
        assert torch.equal(images, final[1][0]) == torch.equal(labels, final[1][1]) == is_same
    firsts = [images for _, (images, _) in trial_starts]
    assert not any(torch.equal(firsts[a], firsts[b]) for a in range(4) for b in range(a))


def test_highest_trial_miou_wins(street, scenes, short, tmp_path, monkeypatch):
    """The mIoU of trials determines the result, not their loss, nor the order of the candidates."""
    runs: list[tuple[Architecture, int]] = []

    def score(architecture, config, *_):
        runs.append((architecture, config.seed))
        is_best = len(runs) == best
        return Trial(config.seed, 3.0 if is_best else 1.0, 40.0 if is_best else 30.0 - len(runs))

    monkeypatch.setattr(finalize, "run_trial", score)
    settings = change(short, trials=3, trial_seeds=1)
    for best in (1, 3):
        runs.clear()
        result = search(street, scenes, tmp_path / str(best), settings)
        candidates, seeds = zip(*runs, strict=True)
        assert len({architecture.choices for architecture in candidates}) == 3
        assert Architecture.load(result.architecture).choices == candidates[best - 1].choices
        assert [miou == 40 for miou in result.trial_mious] == [number == best for number in (1, 2, 3)]
        assert result.trial_losses == [3.0 if number == best else 1.0 for number in (1, 2, 3)]
        assert result.trial_seeds == list(seeds) == [derive_trial_seed(settings.seed, number) for number in range(3)]
        assert len({*seeds, settings.seed}) == 4
        assert result.predicted_ms == pytest.approx(street.predict(candidates[best - 1]))
        loss_after = result.loss_after
    first = search(street, scenes, tmp_path / "none", short)
    assert first.loss_after <= loss_after  # without trials, the best in the supernet wins
    assert (first.trial_losses, first.trial_mious, first.trial_seeds, first.trial_steps) == ([], [], [], 0)


def test_diverged_trial_never_wins(street, scenes, tried, tmp_path, monkeypatch):
    ran = []

    def score(architecture, config, *_):
        ran.append(architecture)
        return Trial(config.seed, *((None, None) if len(ran) == 1 else (5.0, 0.0)))

    monkeypatch.setattr(finalize, "run_trial", score)
    result = search(street, scenes, tmp_path / "run", tried)
    assert Architecture.load(result.architecture).choices == ran[1].choices
    assert (result.trial_losses, result.trial_mious) == ([None, 5.0], [None, 0.0])


def test_search_reports_steps_of_trials(street, scenes, tried, tmp_path):
    reported = []
    result = search(street, scenes, tmp_path / "run", tried, on_step=lambda *step: reported.append(step))
    assert reported == [(step, 12) for step in range(1, 13)]
    assert result.trial_steps == 3
    assert len(result.trial_losses) == len(result.trial_mious) == 2


def test_only_interrupted_trial_is_repeated(street, scenes, tried, tmp_path):
    whole = search(street, scenes, tmp_path / "whole", tried)

    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", tried, on_step=kill_at(10))
    reported = []
    cut = search(street, scenes, tmp_path / "cut", tried, on_step=lambda step, _: reported.append(step))
    assert reported == [10, 11, 12]  # the first trial was finished
    for name in ("trial_losses", "trial_mious", "trial_seeds"):
        assert getattr(cut, name) == getattr(whole, name)
    assert (tmp_path / "cut" / TRIALS_FILE).read_bytes() == (tmp_path / "whole" / TRIALS_FILE).read_bytes()
    assert Architecture.load(cut.architecture).choices == Architecture.load(whole.architecture).choices


def test_trials_of_earlier_version_are_repeated(street, scenes, tried, tmp_path):
    """They had the seed of the final training and no mIoU."""
    whole = search(street, scenes, tmp_path / "whole", tried)
    keys = list(json.loads((tmp_path / "whole" / TRIALS_FILE).read_text()))
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", tried, on_step=kill_at(6))
    file = tmp_path / "cut" / TRIALS_FILE
    file.write_text(json.dumps({keys[0]: 1.5, keys[1]: None}))
    cut = search(street, scenes, tmp_path / "cut", tried)
    assert cut.trial_mious == whole.trial_mious
    assert file.read_bytes() == (tmp_path / "whole" / TRIALS_FILE).read_bytes()


def test_damaged_trials_file_is_named(street, scenes, tried, tmp_path):
    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "run", tried, on_step=kill_at(6))
    (tmp_path / "run" / TRIALS_FILE).write_text("{")
    with pytest.raises(FileFormatError, match=r"search-trials\.json is damaged .* delete it"):
        search(street, scenes, tmp_path / "run", tried)
