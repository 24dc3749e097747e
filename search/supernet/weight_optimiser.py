"""Optimisation of weights in a search: SGD with momentum, cosine decay and clipped gradients."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

from ..config import SearchConfig
from ..runtime.fabric import average_gradients
from ..runtime.optimisers import GuardedSGD

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
        weights: state of the gradient descent.
        schedule: state of the learning rate's schedule.
    """

    weights: StateDict
    schedule: StateDict


class WeightOptimiser:
    """Optimiser of a supernet's weights, or of an architecture's in a short training run.

    Args:
        network: network to train, on Fabric's device.
        config: settings: learning rates and weight decay.
        steps: length of the cosine schedule.
        fabric: device, precision and processes.
    """

    def __init__(self, network: nn.Module, config: SearchConfig, steps: int, fabric: Fabric) -> None:
        self._network, self._fabric = network, fabric
        # Fabric does not clip the gradients of an optimiser that handles the scaler of fp16 itself, as `GuardedSGD`.
        kind = GuardedSGD if getattr(fabric.strategy.precision, "scaler", None) is None else torch.optim.SGD
        self._sgd = kind(network.parameters(), config.weight_lr, WEIGHT_MOMENTUM, weight_decay=config.weight_decay)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._sgd, steps, config.weight_lr_end)
        optimiser = fabric.setup_optimizers(self._sgd)
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
        return {"weights": self._sgd.state_dict(), "schedule": self._schedule.state_dict()}

    def restore(self, state: WeightState) -> None:
        """Load a snapshot, which stays unchanged and can be loaded again."""
        self._sgd.load_state_dict(deepcopy(state["weights"]))  # the optimiser would update the snapshot's tensors
        self._schedule.load_state_dict(state["schedule"])
