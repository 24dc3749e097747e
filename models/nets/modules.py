"""Torch modules of the user's as operators, checked once for each spec."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import LgcError, PluginError
from ...plugins import describe_error
from ..onnx.trace_text import describe_computation, find_difference
from ..onnx.tracing import count_products, run_on_meta
from ..random_state import get_random_state, keep_random_state
from ..recipe import Footprint, Module, ModuleSource, hash_text
from ..space.operators import register_operator
from ..space.opspec import OpSpec
from .layers import fold_norms, is_foldable

BUILDS, RANDOM_BUILDS = 2, 8
"""Modules of a spec that are compared; more if the factory draws numbers from Python's or NumPy's generator."""
MAX_MACS_RATIO = 1.5
"""Largest ratio of the multiply-accumulates that a user gives to the counted ones without a warning."""
_LOG = logging.getLogger("lgc.models")

Count = Callable[[OpSpec], int]
Factory = TypeVar("Factory", bound=Callable[[OpSpec], Any])


def register_module(
    name: str, *, macs: Count, parameters: Count | None = None, searchable: bool = False
) -> Callable[[Factory], Factory]:
    """Register the decorated factory of torch modules as an operator.

    The factory gets an `OpSpec` and returns a module, [N, c_in, H, W] -> [N, c_out, H / stride, W / stride]. What the
    modules compute is part of the fingerprint of spaces with the operator: after a change, tables are measured again.

    Args:
        name: Name of the operator, which must be new.
        macs: Function from a spec to the multiply-accumulates of one image. If they differ from those of the module's
            convolutions and matrix products, as torch counts them, by more than `MAX_MACS_RATIO`, a warning says so.
        parameters: Function from a spec to the number of parameters; counted from the module if None.
        searchable: True if search spaces may use the operator as a candidate.

    Raises:
        ValueError: The name is taken.
        UsageError: The name is invalid; see `register_operator`.
    """

    def register(factory: Factory) -> Factory:
        build = _CheckedFactory(name, factory, macs)
        source = ModuleSource(
            name=name,
            digest=build.digest,
            factory=build,
            macs=cache(build.check_macs),
            parameters=partial(_call_count, name, "parameters", parameters or cache(build.count_parameters)),
            footprint=cache(build.find_footprint),
        )
        register_operator(name, searchable=searchable)(lambda spec: (Module(source, spec),))
        return factory

    return register


def _call_count(name: str, what: str, count: Count, spec: OpSpec) -> int:
    """Return a count of the user's, checked."""
    try:
        value = count(spec)
    except LgcError:
        raise
    except Exception as error:
        raise PluginError(f"{spec}: {what} of {name} raises {describe_error(error)}") from error
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise PluginError(f"{spec}: {what} of {name} returns {value!r}, not an integer of at least 0")
    return int(value)


class _CheckedFactory:
    """Factory of an operator whose modules of one spec all compute the same."""

    def __init__(self, name: str, factory: Callable[[OpSpec], Any], macs: Count) -> None:
        self._name, self._factory = name, factory
        self._count_macs = partial(_call_count, name, "macs", macs)
        self._computations: dict[OpSpec, tuple[str, ...]] = {}
        self._has_warned = False

    def __call__(self, spec: OpSpec) -> nn.Module:
        """Return a module of `spec`.

        Raises:
            PluginError: The factory or the count of multiply-accumulates fails, the module is unusable, or does not
                compute what others of the spec do.
        """
        expected = self._find_computation(spec)
        module = self._build(spec)
        self._require_equal(spec, expected, self._describe(spec, module))
        return module

    def digest(self, spec: OpSpec) -> str:
        """Return the digest of what the modules of `spec` compute; see `describe_computation`."""
        return hash_text("\n".join(self._find_computation(spec)))

    def _find_computation(self, spec: OpSpec) -> tuple[str, ...]:
        """Return the text that every module of `spec` has, compared between `BUILDS` of them at first."""
        if spec not in self._computations:
            with keep_random_state():
                state = get_random_state()
                module = self._build(spec)
                count = RANDOM_BUILDS if get_random_state() != state else BUILDS
                self._check_output(spec, module)
                self._count_macs(spec)
                first = self._describe(spec, module)
                for _ in range(count - 1):
                    self._require_equal(spec, first, self._describe(spec, self._build(spec)))
            self._computations[spec] = first
        return self._computations[spec]

    def _describe(self, spec: OpSpec, module: nn.Module) -> tuple[str, ...]:
        try:
            return describe_computation(module, (spec.batch, spec.c_in, *spec.fine))
        except PluginError as error:
            raise PluginError(f"{spec}: the module of {self._name} fails: {error}") from error

    def _require_equal(self, spec: OpSpec, first: tuple[str, ...], second: tuple[str, ...]) -> None:
        if difference := find_difference(first, second):
            raise PluginError(f"{spec}: two modules of {self._name} differ: {difference}")

    def _build(self, spec: OpSpec) -> nn.Module:
        try:
            module = self._factory(spec)
        except Exception as error:
            raise PluginError(f"{spec}: the factory of {self._name} raises {describe_error(error)}") from error
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise PluginError(f"{spec}: the factory of {self._name} returns {kind}, not a torch module")
        return module

    def _build_folded(self, spec: OpSpec) -> nn.Module:
        """Return a folded module without a change of random states."""
        with keep_random_state():
            module = self(spec)
            return fold_norms(module, sequences=is_foldable(module, [(1, spec.c_in, *spec.fine)]))

    def _check_output(self, spec: OpSpec, module: nn.Module) -> None:
        """Check that the output has the shape of the spec, in float32."""
        try:
            out = run_on_meta(module, [(spec.batch, spec.c_in, *spec.fine)])
        except PluginError as error:
            raise PluginError(f"{spec}: the module of {self._name} fails: {error}") from error
        expected = (spec.batch, spec.c_out, *spec.coarse)
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if got != expected:
            raise PluginError(f"{spec}: wrong output of {self._name}: expected {expected}, got {got}")
        if out.dtype != torch.float32:
            raise PluginError(f"{spec}: wrong output of {self._name}: expected torch.float32, got {out.dtype}")

    def check_macs(self, spec: OpSpec) -> int:
        """Return the user's count; log a warning, one for the operator, if the module's products do not confirm it."""
        macs = self._count_macs(spec)
        if not self._has_warned and (products := self._count_products(spec)):
            self._has_warned = not 1 / MAX_MACS_RATIO <= macs / products <= MAX_MACS_RATIO
            if self._has_warned:
                _LOG.warning(
                    "warning: macs of operator %s returns %d for %s, but its convolutions and matrix products have %d: "
                    "correct the macs of its register_module, part of its networks' costs%s",
                    *(self._name, macs, spec, products, _explain_surplus(macs / products)),
                )
        return macs

    def _count_products(self, spec: OpSpec) -> int | None:
        """Return the counted multiply-accumulates of one image; None if torch's counter fails."""
        with keep_random_state():
            module = self(spec)
        try:
            return count_products(module, [(1, spec.c_in, *spec.fine)])
        except PluginError:
            return None

    def count_parameters(self, spec: OpSpec) -> int:
        """Count the parameters of the folded module."""
        return sum(parameter.numel() for parameter in self._build_folded(spec).parameters())

    def find_footprint(self, spec: OpSpec) -> Footprint:
        """Return the memory of the folded module for one image: a tensor per operation that does not run in place."""
        recorder = _TensorRecorder()
        out = run_on_meta(self._build_folded(spec), [(1, spec.c_in, *spec.fine)], recorder=recorder)
        return recorder.summarise(out)


def _explain_surplus(ratio: float) -> str:
    """Return why a number of multiply-accumulates may exceed that of convolutions and matrix products."""
    if ratio < 1:
        return ""
    return "; FLOPs are twice MACs" if 1.9 < ratio < 2.1 else ", unless other operations, e.g. an FFT, have the rest"


class _TensorRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record of the storages that operations read and write; the first one is the input. Views share a storage."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: list[Tensor] = []  # the identity of a freed storage would be used again
        self._sizes: dict[int, int] = {}
        self._steps: list[set[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and record an operation."""
        out = func(*args, **(kwargs or {}))
        touched = [tensor for tensor in tree_leaves((args, kwargs, out)) if isinstance(tensor, Tensor)]
        written = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        self._kept += touched
        for tensor in written:
            self._sizes.setdefault(_storage(tensor), tensor.numel())
        self._steps.append({_storage(tensor) for tensor in touched})
        return out

    def summarise(self, out: Tensor) -> Footprint:
        """Return the memory of the recorded operations, each tensor alive until its last use; `out` until the end."""
        source = next(iter(self._sizes))
        uses = {each: [at for at, step in enumerate(self._steps) if each in step] for each in self._sizes}
        uses[_storage(out)].append(len(self._steps))
        alive = [
            sum(size for each, size in self._sizes.items() if each != source and uses[each][0] <= at <= uses[each][-1])
            for at in range(len(self._steps))
        ]
        end = uses[source][-1] + 1
        return Footprint(max(alive[:end]), max(alive[end:], default=0), out.numel())


def _storage(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage."""
    return int(tensor.untyped_storage()._cdata)
