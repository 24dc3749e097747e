"""Search and training on a CUDA device in every precision, compared with the same steps on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lgc.lut import Predictor
from lgc.models import LGCNet, SearchSpace
from lgc.models.nets.peers import build_peer
from lgc.precisions import disable_tf32
from lgc.search.config import SearchConfig
from lgc.search.data.datasets import load_dataset
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.engine import search
from lgc.search.runtime.fabric import open_fabric
from lgc.search.training.auxiliary import TrainingNetwork
from lgc.search.training.config import TrainConfig
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.network_trainer import NetworkTrainer
from lgc.search.training.scores import evaluate_network
from lgc.search.training.train import train

from ..search.runs import require_like_losses

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch")

STEPS = 4
ARCHITECTURE = SearchSpace.load("tiny").with_input(96, 128).sample(0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, "camvid-segnet", {"train": 16, "val": 4, "test": 0}, (96, 128), 0)
    return folder


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the CPU's runs, which the first test makes."""
    return tmp_path_factory.mktemp("cpu")


@pytest.fixture
def predictor(make_table) -> Predictor:
    with make_table(ARCHITECTURE.space) as table:
        return Predictor(table.space, table)


def middle(predictor: Predictor) -> float:
    """Return a target between the fastest and the slowest architecture, in milliseconds."""
    return (predictor.predict(predictor.fastest) + predictor.predict(predictor.slowest)) / 2


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_search_losses_equal_cpu(precision, scenes, predictor, on_cpu, tmp_path):
    disable_tf32()
    target = middle(predictor)
    rates = {"warm_up": 0.5, "weight_lr": 1e-3, "weight_lr_end": 1e-4}
    config = SearchConfig(steps=STEPS, batch=4, targets_ms=((target,),), samples=16, finalists=4, **rates)
    search(predictor, scenes, on_cpu / "search", config)
    result = search(predictor, scenes, tmp_path / "run", config, device="cuda:0", precision=precision)
    require_like_losses(tmp_path / "run", on_cpu / "search", "search", precision)
    assert 0.98 * target <= result.predicted_ms <= target


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_losses_equal_cpu(precision, scenes, on_cpu, tmp_path):
    disable_tf32()
    ARCHITECTURE.save(tmp_path / "architecture.json")
    config = TrainConfig(steps=STEPS, batch=4, optimiser="sgd", lr=3e-3)  # AdamW grows rounding errors
    train(tmp_path, scenes, config, out=on_cpu / "train")
    on_gpu = config.model_copy(update={"precision": precision})
    result = train(tmp_path, scenes, on_gpu, out=tmp_path / "out", device="cuda:0")
    require_like_losses(tmp_path / "out", on_cpu / "train", "train", precision)
    scored = evaluate_run(tmp_path / "out", scenes)  # the GPU's weights on the CPU
    assert scored.miou == pytest.approx(result.miou, abs=0.2)
    assert scored.pixel_accuracy == pytest.approx(result.pixel_accuracy, abs=0.2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["tiny", "fast-scnn"])
def test_training_step_does_not_wait(precision, name):
    network = build_peer(name, 11) if name == "fast-scnn" else LGCNet(ARCHITECTURE.space, ARCHITECTURE)
    config = TrainConfig(steps=9, batch=2, precision=precision)
    trainee = TrainingNetwork(network, config.heads)
    trainer = NetworkTrainer(trainee, config, open_fabric("cuda:0", precision), torch.ones(11))
    images = torch.randn(2, 3, 96, 128, device="cuda").to(memory_format=torch.channels_last)
    batch = images, torch.randint(0, 11, (2, 96, 128), device="cuda")
    trainer.train_step(batch)  # chooses kernels and allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        record = trainer.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(record["loss"])


class Convolution(torch.nn.Conv2d):
    """A network of one convolution that keeps its last image and logits."""

    def forward(self, image):
        self.image, self.logits = image, super().forward(image)
        return self.logits


def test_scores_are_computed_without_tf32(scenes, monkeypatch):
    for switch in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        monkeypatch.setattr(switch, "fp32_precision", "tf32")
    dataset, fabric = load_dataset(scenes, "val", (96, 128), full_labels=True), open_fabric("cuda:0")
    network = Convolution(3, 11, 7, padding=3).to(fabric.device)
    evaluate_network(network, dataset, fabric=fabric)
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    exact = functional.conv2d(network.image.double(), network.weight.double(), network.bias.double(), padding=3)
    assert float((network.logits - exact).abs().max()) < 1e-4 * float(exact.abs().max())  # TF32: about 5e-4


def test_gpu_draws_same_noise_as_cpu(scenes, predictor, tmp_path):
    config = SearchConfig(steps=4, batch=2, warm_up=0.5, samples=4, finalists=2)
    noise = {}
    for device in ("cpu", "cuda:0"):
        out = tmp_path / device.replace(":", "")
        search(predictor, scenes, out, config, device=device)
        checkpoint = torch.load(out / "search.ckpt", weights_only=True, map_location="cpu")
        noise[device] = checkpoint["noise"]
    assert torch.equal(noise["cpu"], noise["cuda:0"])
