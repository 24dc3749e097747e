"""Commands `lgc-train` one after the other in one process of several: `train_worker.py FOLDER COMMANDS.json`.

Each command is [name, step of a kill or null, words]. Writes `FOLDER/NAME-rankR.json` with its exit code and, of every
step, a digest of each image, and `FOLDER/NAME-rankR.pt` with the state after the last step.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from lgc.search.runtime import training_loop
from lgc.search.training import network_trainer, train
from lgc.tools import train as tool

folder, commands = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
rank = os.environ["RANK"]
train.TRAINING_EPOCHS = 4
train_step, run_steps = network_trainer.NetworkTrainer.train_step, network_trainer.run_steps
images: list[list[str]] = []
state: dict[str, object] = {}


def record_images(self, batch):
    images.append([hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in batch[0].contiguous()])
    return train_step(self, batch)


def record_state(trainer, *arguments):
    try:
        run_steps(trainer, *arguments)
    finally:
        state.update(trainer.snapshot())


def run(name, killed_at, words):
    images.clear()
    state.clear()

    def kill(step, steps):
        if step == killed_at:
            raise SystemExit(9)

    tool.make_step_progress = lambda label, _: kill if label == "training" else lambda step, steps: None
    sys.argv = ["lgc-train", *words]
    try:
        tool.main()
    except SystemExit as error:
        (folder / f"{name}-rank{rank}.json").write_text(json.dumps({"code": error.code, "images": images}))
    torch.save(state, folder / f"{name}-rank{rank}.pt")


network_trainer.NetworkTrainer.train_step, network_trainer.run_steps = record_images, record_state
training_loop.CHECKPOINT_S = 0.0
for command in commands:
    run(*command)
