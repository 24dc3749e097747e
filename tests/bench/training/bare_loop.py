"""A training loop in bare torch, as a good engineer writes it for one network, without anything around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BareLoop:
    """Network, optimiser and moving average of a training; `network` returns logits and a dictionary of auxiliary ones.

    Channels-last memory where it is faster, fused AdamW, an average by one `lerp`
    and the value of the loss every `LOG_EVERY` steps.
    """

    LOG_EVERY = 10

    def __init__(
        self, network: nn.Module, main: nn.Module, config: Any, weights: Tensor | None, channels_last: bool
    ) -> None:
        self.config, self.weights, self.step, self.losses = config, weights, 0, []
        self.network, self.channels_last = network.train(), channels_last
        if channels_last:
            network.to(memory_format=torch.channels_last)
        decayed, rest = ([p for p in network.parameters() if (p.ndim > 1) == many] for many in (True, False))
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, config.lr, fused=True)
        self.average = copy.deepcopy(main).eval().requires_grad_(False)
        pairs = list(zip(self.average.state_dict().values(), main.state_dict().values(), strict=True))
        self.floats = [[*part] for part in zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)]
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    def run(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Make a step on each batch."""
        for images, labels in batches:
            warm_up = min(self.config.warm_up, self.config.steps // 10)
            rise = min((self.step + 1) / warm_up, 1.0) if warm_up else 1.0
            for group in self.optimiser.param_groups:
                group["lr"] = self.config.lr * rise * (1 - self.step / self.config.steps) ** 0.9
            logits, auxiliary = self.network(images)
            labels = labels.long()
            loss = self.compute_loss(logits, labels)
            for part in auxiliary.values():
                loss = loss + self.config.aux * self.compute_loss(part, labels)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.floats[0], self.floats[1], 1 - decay)
                for average, value in self.counts:
                    average.copy_(value)
            if self.step % self.LOG_EVERY == 0:
                self.losses.append(loss.item())
            self.step += 1

    def compute_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of upsampled logits; over hard pixels, at least a sixteenth, with OHEM."""
        full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        if not self.config.ohem:
            return F.cross_entropy(full, labels, self.weights, ignore_index=255)
        losses = F.cross_entropy(full, labels, ignore_index=255, reduction="none").flatten()
        labelled = (labels != 255).flatten()
        hard = losses > -math.log(0.7)
        least = math.ceil(int(labelled.sum()) / 16)
        kept = losses.detach().topk(least).indices if int(hard.sum()) < least else hard
        if self.weights is None:
            return losses[kept].mean()
        weight = (self.weights[labels.flatten().masked_fill(~labelled, 0)] * labelled)[kept]
        return (losses[kept] * weight).sum() / weight.sum()
