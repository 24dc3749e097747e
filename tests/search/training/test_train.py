from __future__ import annotations

from shutil import copytree

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from lgc.errors import DataError, FileFormatError, OutputError, TrainingError, UsageError
from lgc.models import Architecture, LGCNet
from lgc.models.nets.state.weights import load_weights, save_weights
from lgc.models.space.settings import format_validation_error
from lgc.search.data.datasets import load_dataset
from lgc.search.runtime import training_loop
from lgc.search.runtime.batches import load_batches
from lgc.search.training import network_trainer
from lgc.search.training.config import TrainConfig
from lgc.search.training.ema import WeightAverage
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.initial_weights import initialise
from lgc.search.training.losses import SegmentationLoss
from lgc.search.training.network_trainer import split_decay_groups
from lgc.search.training.train import train

from ..runs import KilledError, kill_at, load_checkpoint, read_log, require_equal_tensors

CONFIG = TrainConfig(steps=6, batch=2)


def test_saved_weights_are_the_scored_ones(run, scenes):
    result = train(run, scenes, CONFIG)
    again = evaluate_run(run, scenes)
    content = result.as_dict()
    assert {name: content.get(name) for name in again.as_dict()} == again.as_dict()
    assert list(result.per_class) == list(load_dataset(scenes, "val").classes)
    expected = {"pretrain": "none", "steps": 6, "images": 8, "scored_on": "val", "scored_images": 3, "processes": 1}
    expected |= {"precision": "fp32", "ema": 0.999, "scored_at": [32, 32], "train_split": "train", "from_scratch": []}
    assert {name: content[name] for name in expected} == expected


def test_training_lowers_the_loss(run, scenes):
    train(run, scenes, TrainConfig(steps=60, batch=4, lr=0.01, balanced=False))
    losses = [record["loss"] for record in read_log(run, "train")]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_training_keeps_tf32_settings(run, scenes, monkeypatch):
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


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_resumed_training_is_bit_identical(run, scenes, tmp_path, monkeypatch, optimiser):
    config = TrainConfig(**CONFIG.model_dump(exclude_unset=True), optimiser=optimiser)
    whole = train(run, scenes, config, out=tmp_path / "whole")
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)

    cut, steps = tmp_path / "cut", []
    with pytest.raises(KilledError):
        train(run, scenes, config, out=cut, on_step=kill_at(4))
    resumed = train(run, scenes, config, out=cut, on_step=lambda step, _: steps.append(step))
    assert steps == [5, 6]
    assert resumed.miou == whole.miou
    assert read_log(cut, "train") == read_log(tmp_path / "whole", "train")
    states = [load_checkpoint(tmp_path / name, "train") for name in ("whole", "cut")]
    for part in ("trainee", "mean"):
        require_equal_tensors(states[0][part], states[1][part])
    moments = [state["optimiser"]["state"] for state in states]
    for index, entry in moments[0].items():
        require_equal_tensors(entry, moments[1][index])


def test_checkpoint_of_the_other_optimiser_is_refused(run, scenes, tmp_path):
    train(run, scenes, TrainConfig(steps=6, batch=2, optimiser="sgd"))
    for name in ("train.json", "train-result.json", "weights.safetensors"):
        (run / name).unlink()
    with pytest.raises(FileFormatError, match="not one of --optimiser adamw"):
        train(run, scenes, CONFIG)


def test_different_training_is_not_overwritten(run, scenes):
    train(run, scenes, CONFIG)
    with pytest.raises(OutputError, match="steps 6, not 7"):
        train(run, scenes, CONFIG.model_copy(update={"steps": 7}))


def test_seeds_train_into_separate_folders(run, scenes, tmp_path):
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
    assert [result.weights for result in results] == [
        tmp_path / f"seed{seed}" / "weights.safetensors" for seed in (0, 1)
    ]
    assert [path.name for path in run.iterdir()] == ["architecture.json"]


def test_folder_with_different_architecture_is_refused(run, scenes, street_space, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    street_space.sample(1).save(other / "architecture.json")
    with pytest.raises(OutputError, match="differs from"):
        train(run, scenes, CONFIG, out=other)
    assert [path.name for path in other.iterdir()] == ["architecture.json"]


def test_nan_loss_keeps_last_checkpoint(run, scenes, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    real, calls = SegmentationLoss.__call__, 0

    def broken(*arguments):
        nonlocal calls
        calls += 1
        return [loss * (float("nan") if calls > 3 else 1.0) for loss in real(*arguments)]

    monkeypatch.setattr(SegmentationLoss, "__call__", broken)
    with pytest.raises(TrainingError, match=r"loss is nan at step 3; .* a lower --lr than 0\.004$") as error:
        train(run, scenes, CONFIG)
    assert error.value.exit_code == 1
    state = load_checkpoint(run, "train")
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["trainee"].values())
    assert not (run / "weights.safetensors").exists()
    monkeypatch.setattr(SegmentationLoss, "__call__", real)
    assert train(run, scenes, CONFIG).config.steps == 6


class Explode(torch.autograd.Function):
    """The identity, whose gradient is NaN in the backward passes `calls`."""

    calls: frozenset[int] = frozenset()
    count = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Explode.count += 1
        return gradient * (float("nan") if Explode.count in Explode.calls else 1.0)


@pytest.fixture
def explode(monkeypatch):
    """Make the gradients of steps (from 1) NaN, with finite losses: `explode(steps)`."""
    real = SegmentationLoss.__call__

    def set_steps(steps):
        monkeypatch.setattr(Explode, "calls", frozenset(steps))
        monkeypatch.setattr(Explode, "count", 0)
        monkeypatch.setattr(
            SegmentationLoss,
            "__call__",
            lambda *arguments: [Explode.apply(loss) if i == 0 else loss for i, loss in enumerate(real(*arguments))],
        )

    return set_steps


@pytest.mark.usefixtures("eager_checkpoints")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_update_by_nan_gradients_is_skipped(run, scenes, explode, caplog, precision):
    explode({3, 4})
    train(run, scenes, CONFIG.model_copy(update={"precision": precision}))
    assert [record["skipped"] for record in read_log(run, "train")] == [0, 0, 1, 2, 0, 0]
    assert caplog.messages == ["the gradients of step 2 are NaN or infinite: its update was skipped"]
    assert all(value.isfinite().all() for value in load_file(run / "weights.safetensors").values())


@pytest.mark.usefixtures("eager_checkpoints")
def test_repeated_nan_gradients_end_training(run, scenes, explode, monkeypatch):
    monkeypatch.setattr(network_trainer, "MAX_SKIPPED", 3)
    explode({2, 4, 5, 6})
    with pytest.raises(TrainingError, match=r"gradients of 3 steps in a row, up to step 5, are NaN .*lower --lr"):
        train(run, scenes, CONFIG)
    assert load_checkpoint(run, "train")["step"] == 5
    assert len(read_log(run, "train")) == 5


def test_infinite_weights_are_not_saved(run, scenes, monkeypatch):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    real = WeightAverage.update

    def corrupt(self, step):
        real(self, step)
        if step == 3:
            next(self.source.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(WeightAverage, "update", corrupt)
    with pytest.raises(TrainingError, match="not finite after step 3"):
        train(run, scenes, CONFIG)
    assert load_checkpoint(run, "train")["step"] == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_names_options_to_lower(run, scenes, monkeypatch, error):
    def exhaust_memory(*_, **__):
        raise error

    monkeypatch.setattr(SegmentationLoss, "__call__", exhaust_memory)
    with pytest.raises(TrainingError, match="Lower --batch, --crop or --workers"):
        train(run, scenes, CONFIG)


def write_supernet(run, network):
    """Write a search's checkpoint with the network's weights, doubled, into the run folder."""
    net = {name: 2 * value for name, value in network.state_dict().items()}
    torch.save({"step": 3, "net": net}, run / "search.ckpt")
    return net


def test_training_starts_from_the_supernet(run, scenes, street_space, monkeypatch):
    network = LGCNet(street_space, street_space.sample(0))
    net = write_supernet(run, network)
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    started = {}

    def record(self, step):
        started.setdefault("stem", self.source.state_dict()["stem.0.conv.weight"].clone())

    monkeypatch.setattr(WeightAverage, "update", record)
    result = train(run, scenes, CONFIG.model_copy(update={"init": "supernet", "lr": 1e-9}))
    assert (result.config.init, result.from_scratch) == ("supernet", ())
    assert torch.allclose(started["stem"], net["stem.0.conv.weight"])


def test_parts_with_different_shapes_stay_random(street_space, tmp_path):
    network = LGCNet(street_space, street_space.sample(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = {name: value + 1 for name, value in before.items()}
    stored["head.0.conv.weight"] = torch.zeros(9, 8, 3, 3)
    del stored["cells.1.project.0.conv.weight"]
    save_file(stored, tmp_path / "w.safetensors")
    assert initialise(network, tmp_path / "w.safetensors", 11).random_parts == ("cells.1", "head")
    for name, value in network.state_dict().items():
        random = name.startswith(("cells.1.", "head."))
        assert torch.equal(value, before[name] if random else stored[name]), name


def test_classifier_of_other_classes_is_random(street_space, tmp_path):
    content = {**street_space.model_dump(mode="json"), "classes": 19}
    other = street_space.check(content, "19 classes")
    stored = LGCNet(other, other.sample(0)).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in stored.items()}}, tmp_path / "w.pth")
    network = LGCNet(street_space, street_space.sample(0))
    transfer = initialise(network, tmp_path / "w.pth", 11)
    assert transfer.random_parts == ("head.1",)
    assert transfer.classifiers == {"head.1": 19}
    assert torch.equal(network.state_dict()["head.0.conv.weight"], stored["head.0.conv.weight"])


def test_training_starts_from_a_file(run, scenes, street_space, tmp_path, foreign_files):
    network = LGCNet(street_space, street_space.sample(0))
    path = tmp_path / "pretrained.safetensors"
    save_weights(network, path)
    settings = {"init": str(path), "lr": 1e-9, "ema": 0.0}
    result = train(run, scenes, CONFIG.model_copy(update=settings))
    assert result.config.init == str(path)
    trained = load_file(run / "weights.safetensors")
    assert torch.allclose(trained["stem.0.conv.weight"], network.state_dict()["stem.0.conv.weight"], atol=1e-6)
    with pytest.raises(FileFormatError, match="an empty file"):
        train(run, scenes, CONFIG.model_copy(update={"init": str(foreign_files["an empty file"])}), out=tmp_path / "x")


@pytest.mark.parametrize(("init", "message"), [("supernet", "--init scratch"), ("imagenet", "neither scratch nor")])
def test_missing_initial_weights_are_refused(run, scenes, init, message):
    with pytest.raises(UsageError, match=message):
        train(run, scenes, CONFIG.model_copy(update={"init": init}))


def test_weights_of_different_architecture_are_refused(run, scenes, street_space, foreign_files):
    train(run, scenes, CONFIG)
    with pytest.raises(FileFormatError, match="different architecture"):
        load_weights(run / "weights.safetensors", street_space.sample(7))
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun):
            load_weights(path, street_space.sample(0))


def test_non_finite_weights_are_named(run, scenes, call):
    train(run, scenes, CONFIG)
    weights = load_file(run / "weights.safetensors")
    weights["head.1.bias"][0] = float("nan")
    save_file(weights, run / "weights.safetensors")
    init = ("--init", run / "weights.safetensors", "--steps", 2, "--out", run.with_name("second"))
    for command in (
        ("lgc-train", run, "--data", scenes, "--evaluate"),
        ("lgc-train", run, "--data", scenes, *init),
        ("lgc-export", run, "--onnx", "--out", run.with_name("out")),
        ("lgc-bench", run),
    ):
        assert "weights.safetensors: tensor head.1.bias has NaN values (1 of 11)" in call(*command).refusal(command[0])


def test_learning_rate_and_decay_are_those_of_the_optimiser():
    default, sgd = TrainConfig(steps=1), TrainConfig(steps=1, optimiser="sgd")
    assert (default.optimiser, default.lr, default.weight_decay) == ("adamw", 4e-3, 0.01)
    assert (sgd.lr, sgd.weight_decay) == (0.01, 5e-4)
    assert TrainConfig(steps=1, optimiser="sgd", lr=0.3).lr == 0.3
    with pytest.raises(ValidationError, match="'adamw' or 'sgd'") as error:
        TrainConfig(steps=1, optimiser="adam")
    assert format_validation_error(error.value) == "optimiser: must be 'adamw' or 'sgd', not 'adam'"


def test_norms_and_biases_have_no_decay(street_space):
    decayed, rest = split_decay_groups(LGCNet(street_space, street_space.sample(0)), 5e-4)
    assert {p.ndim for p in decayed["params"]} == {4}
    assert {p.ndim for p in rest["params"]} == {1}
    assert (decayed["weight_decay"], rest["weight_decay"]) == (5e-4, 0.0)


def test_seed_and_step_determine_batches(scenes):
    dataset = load_dataset(scenes, "train", (32, 32), augment=True, seed=3)
    whole = list(load_batches(dataset, 3, 1, start=0, stop=7))
    tail = list(load_batches(dataset, 3, 1, start=5, stop=7, workers=1))
    assert len(whole) == 7
    for a, b in zip(whole[5:], tail, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert not torch.equal(whole[0][0], whole[2][0])
    assert len(next(iter(load_batches(dataset, 20, 1, start=0, stop=1)))[0]) == 20


def test_shards_make_up_the_whole_batch(scenes):
    dataset = load_dataset(scenes, "train", (32, 32), augment=True, seed=3)
    whole = list(load_batches(dataset, 4, 1, start=1, stop=5))
    shards = [list(load_batches(dataset, 2, 1, start=1, stop=5, shard=(rank, 2))) for rank in (0, 1)]
    for (images, labels), *parts in zip(whole, *shards, strict=True):
        assert torch.equal(images, torch.cat([part[0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[1] for part in parts]))


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_file_is_named_in_one_line(scenes, tmp_path, workers):
    copytree(scenes, tmp_path / "data")
    dataset = load_dataset(tmp_path / "data", "train", (32, 32))
    dataset.pairs[0].image.write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"\A[^\n]*scene_000000\.png[^\n]*\Z"):
        list(load_batches(dataset, 8, 1, start=0, stop=1, workers=workers))
