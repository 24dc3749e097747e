"""Checks of networks that the user's code builds: they must be those of the table's slots, and of earlier calls."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import MismatchError, PluginError, UsageError
from ..lut.table.schema import PENDING
from ..lut.table.table import LatencyTable
from ..models.recipe import Module, hash_text, iter_layers
from ..models.space.operators import count_macs, get_recipe, input_shapes
from ..models.space.opspec import OpSpec
from ..models.space.protocol import DENSE, Architecture
from .backends import Workload
from .timing.workloads import NetworkBuilder

if TYPE_CHECKING:
    from torch import nn

MAX_IDENTIFIED = 8
"""Networks of a table whose digests are kept."""
MAX_NETWORK_RATIO = 1.5
"""Largest ratio of the multiply-accumulates of networks to those of their slots."""
MIN_MACS_RANGE = 1.1
"""Smallest ratio of the multiply-accumulates of two networks that are compared."""
PLAUSIBLE_FACTOR = 2.0
"""Largest factor between two speeds, or between a network and its operators, without a warning."""
NETWORK_BUILDS = "builds"
"""Key of the table's metadata with the digests of its networks as they were built, by benchmark."""
_LOG = logging.getLogger("lgc.profiler")


def check_networks(table: LatencyTable, networks: Iterable[Architecture], build_network: NetworkBuilder) -> None:
    """Check the networks that the user's code builds against the slots, and against those measured before.

    The digests of the table's first networks are stored with it before the first one is measured. What torch cannot run
    on meta tensors, or cannot count, is not checked, and a line says so.

    Args:
        table: Table with its networks registered.
        networks: Networks to be measured.
        build_network: Function from an architecture and a scope to the workload of the whole network.

    Raises:
        UsageError: Their multiply-accumulates are not those of the slots.
        MismatchError: The table was measured with other networks.
        PluginError: The user's code fails.
    """
    from ..models.onnx.tracing import UncountedError

    try:
        try:
            _require_macs_of_slots([*networks], build_network)
        except UncountedError as error:
            _LOG.warning("warning: networks are not compared with their slots: %s", error)
        _require_same_builds(table, build_network)
    except _UncheckableError as error:
        _LOG.warning("warning: networks are not compared with their slots, nor with those of later calls: %s", error)


class _UncheckableError(Exception):
    """A network that does not run on meta tensors."""


def _require_macs_of_slots(networks: Sequence[Architecture], build_network: NetworkBuilder) -> None:
    """Check that the cheapest and the most expensive network differ by the multiply-accumulates of their slots.

    The difference counts, as slots may leave out a part that all networks have.
    """
    if len(networks) < 2:
        return
    count_slots = cache(_count_operator)
    slots = [(sum(map(count_slots, network.specs(DENSE))), network) for network in networks]
    (low, cheapest), (high, most_expensive) = (choose(slots, key=lambda pair: pair[0]) for choose in (min, max))
    if high <= MIN_MACS_RANGE * low:
        return
    built = [_count_network(build_network(network, DENSE)) for network in (cheapest, most_expensive)]
    ratio = (built[1] - built[0]) / (high - low)
    if not 1 / MAX_NETWORK_RATIO <= ratio <= MAX_NETWORK_RATIO:
        raise UsageError(
            f"the networks do not have the slots' sizes or choices: from choices {list(cheapest.choices)} to "
            f"{list(most_expensive.choices)}, MACs of the slots grow by {high - low:,}, those of the networks by "
            f"{built[1] - built[0]:,}: build must use every choice, and input_shapes be those of the slots"
        )


def _require_same_builds(table: LatencyTable, build_network: NetworkBuilder) -> None:
    """Check the table's networks against their stored digests; store these before the first network is measured."""
    rows = {benchmark.key: (benchmark, architecture) for benchmark, architecture, at in table.networks() if at == DENSE}
    stored = table.metadata(NETWORK_BUILDS)
    if stored is None:
        if any(benchmark.status != PENDING for benchmark, _ in rows.values()):
            return  # a table of an earlier version, whose networks are unknown
        first = islice(rows.items(), MAX_IDENTIFIED)
        digests = {key: _identify(build_network(architecture, DENSE)) for key, (_, architecture) in first}
        if digests:
            table.set_metadata(NETWORK_BUILDS, digests)
        return
    for key, digest in stored.items():
        if key in rows and _identify(build_network(rows[key][1], DENSE)) != digest:
            raise MismatchError(
                f"{table.path} was measured with other networks: for choices {list(rows[key][1].choices)}, build or "
                "input_shapes give another one now: restore them, or profile into another file with out="
            )


def warn_of_correction(table: LatencyTable) -> None:
    """Log a warning if the weights of the table's calibration are implausible."""
    correction = table.correction(DENSE)
    if correction is None:
        return
    weights = correction.weights if correction.form == "kinds" else correction.weights[:1]
    _warn_of_factor(table, sum(weights) / len(weights), "as the sum of its operators")


def warn_of_drift(table: LatencyTable, drift_pct: float | None) -> None:
    """Log a warning if the drift of the machine since the table was measured is implausible."""
    _warn_of_factor(table, 1 + (drift_pct or 0.0) / 100, "as when the table was measured")


def _warn_of_factor(table: LatencyTable, factor: float, reference: str) -> None:
    if not 1 / PLAUSIBLE_FACTOR <= factor <= PLAUSIBLE_FACTOR:
        _LOG.warning(
            "warning: %s: a network takes %.2f times as long %s: check that build makes the networks of the slots, and "
            "the load of the machine",
            *(table.path, factor, reference),
        )


def _count_operator(spec: OpSpec) -> int:
    """Count the multiply-accumulates of an operator; those of a user's module from what it computes."""
    if not any(isinstance(layer, Module) for layer in iter_layers(get_recipe(spec))):
        return count_macs(spec)
    from ..models.nets.layers import build_module

    return _count_products(build_module(spec), input_shapes(spec))


def _count_network(workload: Workload) -> int:
    return _count_products(workload.module(), workload.input_shapes)


def _count_products(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> int:
    from ..models.onnx.tracing import UncountedError, count_products

    try:
        return count_products(module, shapes)
    except UncountedError:
        raise
    except PluginError as error:
        raise _UncheckableError(str(error)) from error


def _identify(workload: Workload) -> str:
    """Return the digest of a network: of its input shapes and its computation."""
    from ..models.onnx.trace_text import describe_computation

    module = workload.module()
    try:
        computation = describe_computation(module, *workload.input_shapes)
    except PluginError as error:
        raise _UncheckableError(str(error)) from error
    return hash_text("\n".join([repr(workload.input_shapes), *computation]))
