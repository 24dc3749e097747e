"""Latency tables of any network or supernet, from a list of its slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..device import Device
from ..errors import PluginError, UsageError
from ..lut.table.table import LatencyTable
from ..lut.target import Target
from ..models.space.protocol import Architecture, Slot, Space
from ..models.space.slots import as_space
from ..plugins import describe_error
from .backends import Workload
from .backends.default import default_backend
from .machine.devices import check_device
from .network_checks import warn_of_correction, warn_of_drift
from .profile import ProfileSettings
from .profile import profile as profile_space
from .timing.workloads import NetworkBuilder, build_folded
from .verification import Verification
from .verification import verify as verify_space

if TYPE_CHECKING:
    from torch import nn

ModuleBuilder = Callable[[tuple[int, ...]], "nn.Module"]
"""Function from the choice at each decision, [D], to the whole network."""
Shapes = Sequence[tuple[int, ...]]


def profile(
    slots: Space | Sequence[Slot],
    device: str | Device = "cpu",
    *,
    out: str | Path | None = None,
    backend: str | None = None,
    precision: str = "fp32",
    threads: int = 1,
    build: ModuleBuilder | None = None,
    input_shapes: Shapes | None = None,
    **settings: Any,
) -> LatencyTable:
    """Measure the operators of a list of slots on a device; return the latency table, open.

    Run it again to resume. With `build`, whole networks are measured too: they calibrate the table, and verify its
    predictions. Without it, the table is not verified, and says so.

    Args:
        slots: slots of the network in the order of computation, or a space.
        device: `cpu` or `cuda:N`.
        out: table file; NAME-DEVICE-BACKEND-PRECISION.lut in the current folder if None.
        backend: a name of `BACKENDS`; the device's preferred one if None.
        precision: precision of the operators.
        threads: CPU threads of an operator.
        build: function from choices, [D], to the network as it is deployed: in evaluation mode, normalisations folded.
        input_shapes: shape of each input of the networks.
        settings: fields of `ProfileSettings`, e.g. `networks=24`, `budget_s=60`.

    Raises:
        UsageError: invalid slots, networks without `build` and `input_shapes`, or with other multiply-accumulates than
            the slots: they have other sizes, or ignore choices.
        DeviceError: the device is not present.
        BackendUnavailableError: the backend does not run on the device.
        MismatchError: `out` has a different target, machine or list of slots, or other networks.
        PluginError: `build` raises an error or returns no module.
    """
    if (build is None) != (input_shapes is None):
        raise UsageError("whole networks need both build and input_shapes")
    if build is None and settings.get("networks"):
        raise UsageError(f"networks={settings['networks']} needs build, a function from choices to the network")
    space, place = as_space(slots), check_device(str(device))
    target = Target(place, backend or default_backend(place), precision, place.num_threads(threads))
    named = f"{space.name}-{place.replace(':', '')}-{target.backend}-{precision}.lut"
    path = Path(named if out is None else out)
    networks = {} if build is not None else {"networks": 0}
    workloads = None if build is None or input_shapes is None else make_network_builder(build, input_shapes)
    profile_space(space, target, path, ProfileSettings(**{**networks, **settings}), build_network=workloads)
    table = LatencyTable.open(path)
    warn_of_correction(table)
    return table


def verify(
    table: LatencyTable, build: ModuleBuilder, input_shapes: Shapes, *, networks: int = 16, seed: int = 0
) -> Verification:
    """Measure random networks outside a table of slots, and compare them with its predictions.

    Args:
        table: complete table of this machine.
        build: function from choices, [D], to the network; see `profile`.
        input_shapes: shape of each input of the networks.
        networks: number of networks, at least 2.
        seed: seed of the network sample.

    Raises:
        MismatchError: the table was measured on a different device model, or with other networks.
        MissingEntryError: the table is incomplete.
        PluginError: `build` raises an error or returns no module.
        UsageError: fewer than 2 networks, the slots have fewer outside the table, or the networks have other
            multiply-accumulates than the slots.
    """
    verification = verify_space(table, networks, seed, build_network=make_network_builder(build, input_shapes))
    warn_of_drift(table, verification.drift_pct)
    return verification


def make_network_builder(build: ModuleBuilder, input_shapes: Shapes) -> NetworkBuilder:
    """Return a function from an architecture to the workload of the network that `build` makes of its choices."""
    shapes = tuple(tuple(shape) for shape in input_shapes)

    def make_workload(architecture: Architecture, scope: str) -> Workload:
        name = f"{architecture.space.name} network {architecture.key}"
        return Workload(name, shapes, lambda: build_folded(lambda: _build(build, architecture.choices), shapes))

    return make_workload


def _build(build: ModuleBuilder, choices: tuple[int, ...]) -> nn.Module:
    """Return the user's network.

    Raises:
        PluginError: `build` raises an error, or returns no module.
    """
    from torch import nn

    try:
        module = build(choices)
    except Exception as error:
        raise PluginError(f"build({choices}) failed: {describe_error(error)}") from error
    if not isinstance(module, nn.Module):
        raise PluginError(f"build({choices}) returned {type(module).__name__}, not a torch module")
    return module
