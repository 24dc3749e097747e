"""Running statistics of two processes after a forward pass: `statistics_worker.py FOLDER`, under torchrun.

All statistics begin with the number of the process, and each process sees zeros alone. Writes `FOLDER/rankR.pt`: the
first value of each buffer after the pass, after the average, and after a broadcast of other values.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from lgc.search.runtime.fabric import (
    average_tensors,
    broadcast_buffers,
    keep_statistics,
    list_local_statistics,
    open_fabric,
)


class Scaled(nn.Module):
    """A layer with a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x):
        return x * self.scale


fabric = open_fabric("cpu")
network = nn.Sequential(
    nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), Scaled(), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=False)
)
network.append(nn.InstanceNorm2d(4, track_running_stats=True))
keep_statistics(network)
model = fabric.setup(network).train()
network[3].eval()  # a frozen normalisation
for buffer in network.buffers():
    buffer.fill_(fabric.global_rank)
model(torch.zeros(2, 3, 5, 5)).sum().backward()
states = [{name: float(value.flatten()[0]) for name, value in network.named_buffers()}]
average_tensors(list_local_statistics(network), fabric)
states.append({name: float(value.flatten()[0]) for name, value in network.named_buffers()})
for buffer in network.buffers():
    buffer.fill_(fabric.global_rank + 1)
broadcast_buffers(network, fabric)
states.append({name: float(value.flatten()[0]) for name, value in network.named_buffers()})
torch.save(states, f"{sys.argv[1]}/rank{fabric.global_rank}.pt")
del model, network, fabric  # before the process group, whose threads they would outlive
