"""The search and the training on a CUDA device, in every precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgc.lut import Predictor
from lgc.models import SearchSpace
from lgc.search.config import SearchConfig
from lgc.search.data.writers import write_scenes
from lgc.search.engine import search
from lgc.search.train_config import TrainConfig
from lgc.search.training import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of torch")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, "camvid-segnet", {"train": 16, "val": 4, "test": 0}, (96, 128), 0)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_search_and_a_training_on_the_gpu(precision, scenes, make_table, tmp_path):
    space = SearchSpace.load("tiny").with_input(96, 128)
    with make_table(space) as table:
        predictor = Predictor(space, table)
    target = (predictor.predict(predictor.fastest) + predictor.predict(predictor.slowest)) / 2
    config = SearchConfig(steps=20, batch=4, targets_ms=((target,),), samples=16, finalists=4)
    found = search(predictor, scenes, tmp_path / "run", config, device="cuda:0", precision=precision)
    assert 0.98 * target <= found["predicted_ms"] <= target
    trained = train(tmp_path / "run", scenes, TrainConfig(steps=20, batch=4, precision=precision), device="cuda:0")
    assert trained["miou"] > 0


def test_a_gpu_takes_as_much_of_the_noise_as_a_cpu(scenes, make_table, tmp_path):
    space = SearchSpace.load("tiny").with_input(96, 128)
    with make_table(space) as table:
        predictor = Predictor(space, table)
    config = SearchConfig(steps=4, batch=2, warm_up=0.5, samples=4, finalists=2)
    noise = {}
    for device in ("cpu", "cuda:0"):
        out = tmp_path / device.replace(":", "")
        search(predictor, scenes, out, config, device=device)
        checkpoint = torch.load(out / "search.ckpt", weights_only=True, map_location="cpu")
        noise[device] = checkpoint["noise"]
    assert torch.equal(noise["cpu"], noise["cuda:0"])
