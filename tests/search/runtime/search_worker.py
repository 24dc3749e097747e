"""`lgc-search` with a record of sampled paths and states: `search_worker.py FOLDER [options of lgc-search]`.

Writes `FOLDER/rankR.pt` for each process: choices of all samples and the final state, for each part of the search.
"""

from __future__ import annotations

import os
import sys

import torch

from lgc.search.selection import strategies
from lgc.search.supernet.alphas import ArchitectureParameters
from lgc.search.supernet.supernet_trainer import SupernetTrainer
from lgc.tools.search import main

folder = sys.argv.pop(1)
parts: list[dict[str, object]] = []
choices: list[torch.Tensor] = []
train_until, sample_likely = SupernetTrainer.train_until, strategies.sample_likely


def record_samples(kind, name):
    real = getattr(kind, name)

    def call(self, *arguments):
        sample = real(self, *arguments)
        choices.append(torch.from_numpy(sample.choices))
        return sample

    setattr(kind, name, call)


def record_training(self, *arguments, **options):
    choices.clear()
    train_until(self, *arguments, **options)
    parts.append({"choices": torch.stack(choices), **self.snapshot()})
    torch.save(parts, f"{folder}/rank{os.environ.get('RANK', '0')}.pt")


def sample_few(log_p, latency, samples, finalists, seed):
    return sample_likely(log_p, latency, 16, 3, seed)


strategies.sample_likely = sample_few
record_samples(ArchitectureParameters, "sample_path")
record_samples(SupernetTrainer, "_draw_path")
SupernetTrainer.train_until = record_training
main()
