"""Batch normalisation over two processes: `norm_worker.py FOLDER`, under torchrun.

Reads `FOLDER/cases.pt`: settings, images, loss weights and first index of the second process's part, for each case.
Writes `FOLDER/rankR.pt`: outputs, gradients and statistics of each case.
"""

from __future__ import annotations

import sys

import torch

from lgc.search.runtime.fabric import GlobalBatchNorm

folder = sys.argv[1]
torch.distributed.init_process_group("gloo")
rank, results = torch.distributed.get_rank(), []
for case in torch.load(f"{folder}/cases.pt"):
    norm = GlobalBatchNorm(case["x"].shape[1], momentum=case["momentum"])
    norm.load_state_dict(case["state"])
    norm.train(case["training"])
    part = slice(0, case["middle"]) if rank == 0 else slice(case["middle"], None)
    x = case["x"][part].clone().requires_grad_()
    out = norm(x)
    (out * case["weights"][part]).sum().backward()
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    gradients = {"x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    results.append({"out": out.detach(), "state": state, "gradients": gradients})
torch.save(results, f"{folder}/rank{rank}.pt")
torch.distributed.destroy_process_group()
