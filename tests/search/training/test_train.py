from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lgc.errors import FileFormatError, OutputError, TrainingError, UsageError
from lgc.models import Architecture, LGCNet
from lgc.models.nets.weights import load_weights, save_weights
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime.batches import load_batches
from lgc.search.training import training_loop as descent
from lgc.search.training.config import TrainConfig
from lgc.search.training.ema import WeightAverage
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.initial_weights import copy_fitting_parts
from lgc.search.training.train import train
from lgc.search.training.training_loop import decay_groups

from ..runs import KilledError

CONFIG = TrainConfig(steps=6, batch=2)


def log_of(run):
    return [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]


def test_weights_on_disk_are_the_ones_scored(run, scenes):
    result = train(run, scenes, CONFIG)
    again = evaluate_run(run, scenes)
    names = ("weights", "miou", "per_class", "pixel_accuracy", "scored_on", "scored_at", "scored_images")
    assert {name: again[name] for name in names} == {name: result[name] for name in names}
    assert list(result["per_class"]) == list(load_dataset(scenes, "val").classes)
    said = {"pretrain": "none", "steps": 6, "images": 8, "scored_on": "val", "scored_images": 3, "processes": 1}
    said |= {"precision": "fp32", "ema": 0.999, "scored_at": [32, 32], "train_split": "train", "from_scratch": []}
    assert {name: result[name] for name in said} == said


def test_training_learns(run, scenes):
    train(run, scenes, TrainConfig(steps=60, batch=4, lr=0.05))
    losses = [record["loss"] for record in log_of(run)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_training_follows_a_measurement_without_tf32(run, scenes, monkeypatch):
    cudnn, benchmark = torch.backends.cudnn, []
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    try:
        train(run, scenes, TrainConfig(steps=1, batch=2), on_step=lambda *_: benchmark.append(cudnn.benchmark))
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("ieee", "ieee")
    finally:
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before
    assert benchmark == [True]
    assert cudnn.benchmark is False


def test_killed_and_resumed_gives_the_same_bits(run, scenes, tmp_path, monkeypatch):
    whole = train(run, scenes, CONFIG, out=tmp_path / "whole")
    monkeypatch.setattr(descent, "CHECKPOINT_S", 0.0)

    def die(step, steps):
        if step == 4:
            raise KilledError

    cut, steps = tmp_path / "cut", []
    with pytest.raises(KilledError):
        train(run, scenes, CONFIG, out=cut, on_step=die)
    resumed = train(run, scenes, CONFIG, out=cut, on_step=lambda step, _: steps.append(step))
    assert steps == [4, 5, 6]  # the step it died in was not saved
    assert resumed["miou"] == whole["miou"]
    assert log_of(cut) == log_of(tmp_path / "whole")
    ends = [torch.load(tmp_path / name / "train.ckpt", weights_only=True) for name in ("whole", "cut")]
    for part in ("trainee", "mean"):
        assert all(torch.equal(value, ends[1][part][name]) for name, value in ends[0][part].items())
    momenta = [[state["momentum_buffer"] for state in end["optimiser"]["state"].values()] for end in ends]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_another_training_is_not_overwritten(run, scenes):
    train(run, scenes, CONFIG)
    with pytest.raises(OutputError, match="steps 6, not 7"):
        train(run, scenes, CONFIG.model_copy(update={"steps": 7}))


def test_seeds_side_by_side(run, scenes, tmp_path):
    results = [
        train(run, scenes, CONFIG.model_copy(update={"seed": seed}), out=tmp_path / f"seed{seed}") for seed in (0, 1)
    ]
    weights = [
        load_weights(
            tmp_path / f"seed{seed}" / "weights.safetensors",
            Architecture.load(tmp_path / f"seed{seed}" / "architecture.json"),
        )
        for seed in (0, 1)
    ]
    assert not torch.equal(weights[0]["head.1.weight"], weights[1]["head.1.weight"])
    assert [result["weights"] for result in results] == [
        str(tmp_path / f"seed{seed}" / "weights.safetensors") for seed in (0, 1)
    ]
    assert [path.name for path in run.iterdir()] == ["architecture.json"]


def test_a_folder_of_another_architecture_is_left_alone(run, scenes, street_space, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    street_space.sample(1).save(other / "architecture.json")
    with pytest.raises(OutputError, match="another architecture"):
        train(run, scenes, CONFIG, out=other)
    assert [path.name for path in other.iterdir()] == ["architecture.json"]


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(run, scenes, monkeypatch):
    monkeypatch.setattr(descent, "CHECKPOINT_S", 0.0)
    real, calls = descent.ohem_loss, 0

    def broken(*words, **named):
        nonlocal calls
        calls += 1
        return real(*words, **named) * (float("nan") if calls > 6 else 1.0)

    monkeypatch.setattr(descent, "ohem_loss", broken)
    with pytest.raises(TrainingError, match=r"loss is nan at step 3; .*Lower --lr from 0\.01$") as stopped:
        train(run, scenes, CONFIG)
    assert stopped.value.exit_code == 1
    before = torch.load(run / "train.ckpt", weights_only=True)
    assert before["step"] == 3
    assert all(value.isfinite().all() for value in before["trainee"].values())
    assert not (run / "weights.safetensors").exists()
    monkeypatch.setattr(descent, "ohem_loss", real)
    assert train(run, scenes, CONFIG)["steps"] == 6


def test_weights_that_are_no_numbers_are_not_saved(run, scenes, monkeypatch):
    monkeypatch.setattr(descent, "CHECKPOINT_S", 0.0)
    real = WeightAverage.update

    def spoil(self, network, step):
        real(self, network, step)
        if step == 3:
            next(network.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(WeightAverage, "update", spoil)
    with pytest.raises(TrainingError, match="not finite after step 3"):
        train(run, scenes, CONFIG)
    assert torch.load(run / "train.ckpt", weights_only=True)["step"] == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ],
)
def test_out_of_memory_says_what_to_lower(run, scenes, monkeypatch, error):
    def greedy(*words, **named):
        raise error

    monkeypatch.setattr(descent, "ohem_loss", greedy)
    with pytest.raises(TrainingError, match="Lower --batch, --crop or --workers"):
        train(run, scenes, CONFIG)


def with_supernet(run, network, **changed):
    """Leave a search's checkpoint in the run: the network's own weights, doubled, some of them changed."""
    net = {name: 2 * value for name, value in network.state_dict().items()} | changed
    torch.save({"step": 3, "net": net}, run / "search.ckpt")
    return net


def test_start_from_the_supernet(run, scenes, street_space, monkeypatch):
    network = LGCNet(street_space, street_space.sample(0))
    net = with_supernet(run, network)
    monkeypatch.setattr(descent, "CHECKPOINT_S", 0.0)
    started = {}

    def look(self, network, step):
        started.setdefault("stem", network.state_dict()["stem.0.conv.weight"].clone())

    monkeypatch.setattr(WeightAverage, "update", look)
    result = train(run, scenes, CONFIG.model_copy(update={"init": "supernet", "lr": 1e-9}))
    assert (result["pretrain"], result["from_scratch"]) == ("supernet", [])
    assert torch.allclose(started["stem"], net["stem.0.conv.weight"])


def test_parts_of_another_shape_start_from_scratch(street_space, tmp_path):
    network = LGCNet(street_space, street_space.sample(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = {name: value + 1 for name, value in before.items()}
    stored["head.0.conv.weight"] = torch.zeros(9, 8, 3, 3)
    del stored["cells.1.project.0.conv.weight"]
    assert copy_fitting_parts(network, stored, tmp_path) == ("cells.1", "head")
    for name, value in network.state_dict().items():
        kept = name.startswith(("cells.1.", "head."))
        assert torch.equal(value, before[name] if kept else stored[name]), name
    with pytest.raises(UsageError, match="nothing that fits"):
        copy_fitting_parts(network, {}, tmp_path / "search.ckpt")


def test_start_from_a_file(run, scenes, street_space, tmp_path, foreign_files):
    network = LGCNet(street_space, street_space.sample(0))
    path = tmp_path / "pretrained.safetensors"
    save_weights(network, path)
    settings = {"init": str(path), "lr": 1e-9, "ema": 0.0}
    result = train(run, scenes, CONFIG.model_copy(update=settings))
    assert result["pretrain"] == str(path)
    trained = load_file(run / "weights.safetensors")
    assert torch.allclose(trained["stem.0.conv.weight"], network.state_dict()["stem.0.conv.weight"], atol=1e-6)
    with pytest.raises(FileFormatError, match="an empty file"):
        train(run, scenes, CONFIG.model_copy(update={"init": str(foreign_files["an empty file"])}), out=tmp_path / "x")


@pytest.mark.parametrize(("init", "says"), [("supernet", "--init scratch"), ("imagenet", "neither scratch nor")])
def test_nothing_to_start_from(run, scenes, init, says):
    with pytest.raises(UsageError, match=says):
        train(run, scenes, CONFIG.model_copy(update={"init": init}))


def test_weights_of_another_architecture_are_refused(run, scenes, street_space, foreign_files):
    train(run, scenes, CONFIG)
    with pytest.raises(FileFormatError, match="another architecture"):
        load_weights(run / "weights.safetensors", street_space.sample(7))
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun):
            load_weights(path, street_space.sample(0))


def test_norms_and_biases_do_not_decay(street_space):
    decayed, rest = decay_groups(LGCNet(street_space, street_space.sample(0)), 5e-4)
    assert {p.ndim for p in decayed["params"]} == {4}
    assert {p.ndim for p in rest["params"]} == {1}
    assert (decayed["weight_decay"], rest["weight_decay"]) == (5e-4, 0.0)


def test_batches_are_fixed_by_seed_and_step(scenes):
    dataset = load_dataset(scenes, "train", (32, 32), augment=True, seed=3)
    whole = list(load_batches(dataset, 3, 1, start=0, stop=7))
    tail = list(load_batches(dataset, 3, 1, start=5, stop=7, workers=1))
    assert len(whole) == 7
    for a, b in zip(whole[5:], tail, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert not torch.equal(whole[0][0], whole[2][0])
    assert len(next(iter(load_batches(dataset, 20, 1, start=0, stop=1)))[0]) == 20


def test_shares_of_processes_make_up_the_whole_batch(scenes):
    dataset = load_dataset(scenes, "train", (32, 32), augment=True, seed=3)
    whole = list(load_batches(dataset, 4, 1, start=1, stop=5))
    shares = [list(load_batches(dataset, 2, 1, start=1, stop=5, share=(rank, 2))) for rank in (0, 1)]
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        assert torch.equal(images, torch.cat([part[0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[1] for part in parts]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_in_one_line(scenes, tmp_path, workers):
    from shutil import copytree

    from lgc.errors import DataError

    copytree(scenes, tmp_path / "data")
    dataset = load_dataset(tmp_path / "data", "train", (32, 32))
    dataset.pairs[0].image.write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"\A[^\n]*scene_000000\.png[^\n]*\Z"):
        list(load_batches(dataset, 8, 1, start=0, stop=1, workers=workers))
