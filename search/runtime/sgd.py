"""Stochastic gradient descent that survives a step whose gradients overflowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT, StateDict


class GuardedSGD(torch.optim.SGD):
    """SGD with momentum that skips the update of a step whose gradients are NaN or infinite.

    The device decides: the host does not wait for a GPU. In fp16, torch's gradient scaler decides by the same means.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay.

    Attributes:
        skipped: number of updates skipped in a row up to the last one, a scalar on the device.
    """

    def __init__(self, params: ParamsT, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay)
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._is_fused = all(p.is_floating_point() for p in parameters)  # torch's fused kernel has no complex numbers
        self._step_supports_amp_scaling = self._is_fused
        self.skipped = torch.zeros((), device=parameters[0].device)
        self._prepare()

    def _prepare(self) -> None:
        """Select the fused kernel, and begin with a momentum of 0.

        A skipped first step would leave the kernel's own momentum uninitialised.
        """
        for group in self.param_groups:
            group["fused"] = self._is_fused or None
            for parameter in group["params"]:
                if self.state[parameter].get("momentum_buffer") is None:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state, also of torch's SGD."""
        super().load_state_dict(state_dict)
        self._prepare()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the parameters unless their gradients are NaN or infinite."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return super().step(closure)
        by_scaler = getattr(self, "found_inf", None)
        invalid = _find_invalid(gradients) if by_scaler is None else by_scaler
        self.skipped = (self.skipped + 1) * invalid
        if not self._is_fused:
            return None if bool(invalid) else super().step(closure)
        self.found_inf = invalid
        try:
            return super().step(closure)
        finally:
            if by_scaler is None:
                del self.found_inf


def _find_invalid(gradients: list[Tensor]) -> Tensor:
    """Return 1 if a gradient has NaN or infinite values, or its norm overflows, else 0, as a scalar on the device."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
    return (~norms.isfinite().all()).float()
