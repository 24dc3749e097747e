"""Compare outputs of exported files with torch at every precision, for trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lgc.models import SearchSpace
from lgc.models.images import read_pixels
from lgc.models.nets.state.weights import load_weights
from lgc.profiler.deployment.export import export_file
from lgc.profiler.deployment.network import Network
from lgc.search.data.description import read_dataset
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import TrainConfig
from lgc.search.training.train import train

SCENES = {"train": 96, "val": 32, "test": 0}
SCENES_SEED = 31
ARCHITECTURES = 3
STEPS = 150
CALIBRATION = 32


def compare_outputs(scratch: Path) -> dict[str, Any]:
    """Train random architectures, export them, and compare outputs on random inputs and unseen images."""
    space, data = SearchSpace.load("tiny"), scratch / "outputs-data"
    if not data.exists():
        write_scenes(data, "camvid-segnet", SCENES, space.input, SCENES_SEED)
    training, unseen = (
        [read_pixels(pair.image, space.input) for pair in read_dataset(data).pairs(split)] for split in ("train", "val")
    )
    rows = []
    for seed in range(ARCHITECTURES):
        run = scratch / f"outputs-{seed}"
        architecture = space.sample(seed)
        architecture.save(run / "architecture.json")
        train(run, data, TrainConfig(steps=STEPS, batch=8, optimiser="sgd", lr=0.05, warm_up=20, seed=seed))
        weights = load_weights(run / "weights.safetensors", architecture)
        network = Network(architecture, weights, "dense", images=tuple(training[:CALIBRATION]))
        for precision in ("fp32", "fp16", "int8"):
            written = export_file(network, run / "export", precision, unseen)
            rows += [
                {"network": seed, "precision": precision, **comparison} for comparison in written.as_dict()["agreement"]
            ]
    kept = {"networks": ARCHITECTURES, "steps": STEPS, "calibration_images": CALIBRATION, "images": len(unseen)}
    return {"rows": rows, **kept}
