"""Optimisers that survive a step whose gradients explode or overflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT, StateDict


class GuardedOptimiser(torch.optim.Optimizer):
    """Guard of an optimiser of torch: it clips gradients, and skips the update of a step with NaN or infinite ones.

    The device decides: the host does not wait for a GPU. In fp16, torch's gradient scaler decides on skipping by the
    same means.

    Attributes:
        norm: norm of the gradients of the last step before clipping, a scalar on the device.
        skipped: number of updates skipped in a row up to the last one, a scalar on the device.
    """

    def _guard(self, max_norm: float) -> None:
        """Prepare, after torch's constructor."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        # torch's fused kernels have no complex numbers, and walk through memory as if it had no gaps.
        self._is_fused = all(p.is_floating_point() and _has_layout(torch.empty_like(p), p) for p in parameters)
        self._step_supports_amp_scaling = self._is_fused
        self._max_norm = max_norm
        self.skipped = self.norm = torch.zeros((), device=parameters[0].device)
        self._prepare()

    def _prepare(self) -> None:
        """Select the fused kernel, and lay out the state like its parameters.

        A checkpoint may hold it in another memory format, in which the kernel would pair it with other weights.
        """
        for group in self.param_groups:
            group["fused"] = self._is_fused or None
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if self._is_fused and "step" in state:  # torch's AdamW counts on the host if it is not fused
                    state["step"] = state["step"].to(parameter.device, torch.float32)
                for name, value in state.items():
                    if value.shape == parameter.shape and not _has_layout(value, parameter):
                        state[name] = torch.empty_like(parameter).copy_(value)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state, also of torch's own optimiser."""
        super().load_state_dict(state_dict)
        self._prepare()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the parameters unless their gradients are NaN or infinite."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [_lay_out_gradient(parameter) for parameter in parameters]
        if not gradients:
            return super().step(closure)
        scaler = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
        scale: Any = 1.0 if scaler["grad_scale"] is None else scaler["grad_scale"]
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
        self.norm = torch.linalg.vector_norm(norms) / scale
        invalid = (~self.norm.isfinite()).float() if scaler["found_inf"] is None else scaler["found_inf"]
        self.skipped = (self.skipped + 1) * invalid
        excess = (self.norm / self._max_norm).clamp_min(1.0)
        if not self._is_fused:
            if bool(invalid):
                return None
            torch._foreach_div_(gradients, excess)
            return super().step(closure)
        self.grad_scale, self.found_inf = scale * excess, invalid
        try:
            return super().step(closure)
        finally:
            for name, value in scaler.items():
                if value is None:
                    delattr(self, name)


class GuardedSGD(GuardedOptimiser, torch.optim.SGD):
    """SGD with momentum, guarded.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay.
        max_norm: norm of all gradients together above which they are scaled down to it.
    """

    def __init__(
        self, params: ParamsT, lr: float, momentum: float, weight_decay: float = 0.0, max_norm: float = math.inf
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay)
        self._guard(max_norm)

    def _prepare(self) -> None:
        """Also begin with a momentum of 0: a skipped first step would leave the kernel's own uninitialised."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
        super()._prepare()


class GuardedAdamW(GuardedOptimiser, torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), guarded.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: decoupled weight decay.
        max_norm: norm of all gradients together above which they are scaled down to it.
    """

    def __init__(self, params: ParamsT, lr: float, weight_decay: float, max_norm: float = math.inf) -> None:
        super().__init__(params, lr, weight_decay=weight_decay)
        self._guard(max_norm)


def _lay_out_gradient(parameter: Tensor) -> Tensor:
    """Return a parameter's gradient, in the parameter's memory format."""
    gradient = parameter.grad
    assert gradient is not None
    if not _has_layout(gradient, parameter):
        parameter.grad = gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient


def _has_layout(tensor: Tensor, like: Tensor) -> bool:
    """Return True if two tensors of equal shape have their elements in the same order in memory, with the same gaps."""
    if tensor.stride() == like.stride():
        return True
    sides = zip(like.shape, tensor.stride(), like.stride(), strict=True)
    return all(own == other for side, own, other in sides if side > 1)
