"""Optimisation of a supernet's weights: AdamW, or SGD with momentum; cosine decay and clipped gradients."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

from ..config import SearchConfig
from ..runtime.fabric import average_gradients
from ..runtime.optimisers import GuardedAdamW, GuardedSGD
from ..training.config import ADAMW
from ..training.network_trainer import split_decay_groups

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.optim.optimizer import StateDict

MAX_GRADIENT_NORM = 5.0
"""Norm above which the gradient is clipped."""
WEIGHT_MOMENTUM = 0.9
"""Momentum of the weights' gradient descent. Assumption."""


class WeightState(TypedDict):
    """State of a `WeightOptimiser`, by the names that checkpoints use.

    Attributes:
        weights: state of the optimiser.
        schedule: state of the learning rate's schedule.
    """

    weights: StateDict
    schedule: StateDict


def make_weight_optimiser(network: nn.Module, config: SearchConfig, fabric: Fabric) -> torch.optim.Optimizer:
    """Return the optimiser of a supernet's weights.

    In fp16 it is torch's own: Fabric does not clip the gradients of one that handles the scaler itself, as guarded ones
    do.
    """
    is_guarded = getattr(fabric.strategy.precision, "scaler", None) is None
    lr, decay = config.weight_lr, config.weight_decay
    if config.optimiser == ADAMW:
        groups = split_decay_groups(network, decay)
        return (GuardedAdamW if is_guarded else torch.optim.AdamW)(groups, lr, weight_decay=decay)
    kind = GuardedSGD if is_guarded else torch.optim.SGD
    return kind(network.parameters(), lr, WEIGHT_MOMENTUM, weight_decay=decay)


class WeightOptimiser:
    """Optimiser of a supernet's weights.

    Args:
        network: network to train, on Fabric's device.
        config: settings: optimiser, steps, learning rates and weight decay.
        fabric: device, precision and processes.
    """

    def __init__(self, network: nn.Module, config: SearchConfig, fabric: Fabric) -> None:
        self._network, self._fabric = network, fabric
        self._own = make_weight_optimiser(network, config, fabric)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._own, config.steps, config.weight_lr_end)
        optimiser = fabric.setup_optimizers(self._own)
        assert not isinstance(optimiser, tuple)  # Fabric returns a tuple for several optimisers only
        self._optimiser = optimiser

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def backward(self, loss: Tensor) -> Tensor | None:
        """Compute gradients, averaged over all processes and clipped; return their norm before the clipping."""
        self._optimiser.zero_grad(set_to_none=True)
        self._fabric.backward(loss)
        average_gradients(self._network.parameters(), self._fabric)
        return self._fabric.clip_gradients(
            self._network, self._optimiser, max_norm=MAX_GRADIENT_NORM, error_if_nonfinite=False
        )

    def step(self) -> None:
        """Update the weights and the learning rate."""
        self._optimiser.step()
        self._schedule.step()

    def snapshot(self) -> WeightState:
        """Return the state that `restore` loads."""
        return {"weights": self._own.state_dict(), "schedule": self._schedule.state_dict()}

    def restore(self, state: WeightState) -> None:
        """Load a snapshot, which stays unchanged and can be loaded again."""
        self._own.load_state_dict(deepcopy(state["weights"]))  # the optimiser would update the snapshot's tensors
        self._schedule.load_state_dict(state["schedule"])
