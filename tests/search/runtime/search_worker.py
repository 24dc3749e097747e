"""`lgc-search`, keeping what was drawn and learnt: `search_worker.py FOLDER [options of lgc-search]`.

FOLDER gets `rankR.pt` of each process: for every part of the search the picks of all draws, and the state at its end.
"""

from __future__ import annotations

import os
import sys

import torch

from lgc.search.selection import strategies as selection
from lgc.search.supernet.alphas import ArchitectureParameters
from lgc.search.supernet.supernet_trainer import SupernetTrainer
from lgc.tools.search import main

folder = sys.argv.pop(1)
parts: list[dict[str, object]] = []
picks: list[torch.Tensor] = []
draw, advance, likely = ArchitectureParameters.draw, SupernetTrainer.advance, selection.sample_likely


def kept_draw(self, *words, **options):
    drawn = draw(self, *words, **options)
    picks.append(torch.from_numpy(drawn.picked))
    return drawn


def kept_advance(self, *words, **options):
    picks.clear()
    advance(self, *words, **options)
    parts.append({"picks": torch.stack(picks), **self.snapshot()})
    torch.save(parts, f"{folder}/rank{os.environ.get('RANK', '0')}.pt")


def few_likely(log_p, latency, samples, finalists, seed):
    return likely(log_p, latency, 16, 3, seed)


selection.sample_likely = few_likely
ArchitectureParameters.draw = kept_draw
SupernetTrainer.advance = kept_advance
main()
