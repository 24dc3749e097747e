from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lgc.errors import FileFormatError, OutputError, UsageError
from lgc.models import Architecture, LGCNet
from lgc.models.network import DenseOutput
from lgc.models.weights import load_weights
from lgc.search import training
from lgc.search.batches import batches
from lgc.search.config import TrainConfig
from lgc.search.data.datasets import load_dataset
from lgc.search.engine import search
from lgc.search.scores import evaluate, scores
from lgc.search.training import decay_groups, train

CONFIG = TrainConfig(steps=6, batch=2)


@pytest.fixture
def run(street_space, tmp_path):
    """A run folder that holds an architecture and nothing else."""
    folder = tmp_path / "run"
    folder.mkdir()
    street_space.sample(0).save(folder / "architecture.json")
    return folder


def test_weights_on_disk_are_the_ones_scored(run, scenes):
    result = train(run, scenes, CONFIG)
    architecture = Architecture.load(run / "architecture.json")
    network = LGCNet(architecture.space, architecture)
    network.load_state_dict(load_weights(run / "weights.safetensors", architecture))
    again = evaluate(DenseOutput(network).eval(), load_dataset(scenes, "val", architecture.space.input))
    assert again.miou == pytest.approx(result["miou"])
    assert again.per_class == result["per_class"]
    assert result["pretrain"] == "none"
    assert list(result["per_class"]) == list(load_dataset(scenes, "val").classes)


def test_training_learns(run, scenes):
    train(run, scenes, TrainConfig(steps=60, batch=4, lr=0.05))
    losses = [json.loads(line)["loss"] for line in (run / "train.jsonl").read_text().splitlines()]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_killed_and_resumed_gives_the_same_bits(run, scenes, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "architecture.json").write_bytes((run / "architecture.json").read_bytes())
    train(run, scenes, CONFIG)
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)

    def die(step, steps):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(other, scenes, CONFIG, on_step=die)
    train(other, scenes, CONFIG)
    whole, cut = (load_file(folder / "weights.safetensors") for folder in (run, other))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_another_training_is_not_overwritten(run, scenes):
    train(run, scenes, CONFIG)
    with pytest.raises(OutputError, match="steps 6, not 7"):
        train(run, scenes, CONFIG.model_copy(update={"steps": 7}))


def test_start_from_the_supernet(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    search(street, scenes, out, short)
    architecture = Architecture.load(out / "architecture.json")
    network = LGCNet(architecture.space, architecture)
    weights = training.supernet_weights(out, network)
    saved = torch.load(out / "search.ckpt", weights_only=True)["net"]
    assert all(torch.equal(value, saved[name]) for name, value in weights.items())
    assert train(out, scenes, CONFIG.model_copy(update={"init": "supernet"}))["pretrain"] == "supernet"


def test_no_supernet_to_start_from(run, scenes):
    with pytest.raises(UsageError, match="--init scratch"):
        train(run, scenes, CONFIG.model_copy(update={"init": "supernet"}))


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


def test_miou_by_hand():
    confusion = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]], dtype=torch.double)
    found = scores(confusion, ("road", "car", "pole", "sky"))
    assert found.per_class == {
        "road": pytest.approx(100 * 6 / 13),
        "car": pytest.approx(100 * 3 / 6),
        "pole": None,
        "sky": pytest.approx(0.0),
    }
    assert found.miou == pytest.approx((100 * 6 / 13 + 50 + 0) / 3)


def test_evaluation_ignores_void_and_counts_all_images(scenes):
    dataset = load_dataset(scenes, "val", (32, 32))
    truth = {index: dataset[index][1] for index in range(len(dataset))}
    order = iter(range(len(dataset)))

    def perfect(images):
        return truth[next(order)].clamp(max=10)[None]

    assert evaluate(perfect, dataset).miou == pytest.approx(100.0)


def test_batches_are_fixed_by_seed_and_step(scenes):
    dataset = load_dataset(scenes, "train", (32, 32), augment=True, seed=3)
    whole = list(batches(dataset, 3, 1, start=0, stop=7))
    tail = list(batches(dataset, 3, 1, start=5, stop=7))
    assert len(whole) == 7
    for a, b in zip(whole[5:], tail, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert not torch.equal(whole[0][0], whole[2][0])
    assert len(next(iter(batches(dataset, 20, 1, start=0, stop=1)))[0]) == 20
