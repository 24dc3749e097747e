"""Checks of a network of any source by running it on random images: outputs, sizes, training mode."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import LgcError, PluginError, UsageError
from ...plugins import describe_error
from .definition import NetworkDefinition
from .outputs import is_logits, split_outputs

_MULTIPLES = (8, 16, 32, 64)
"""Multiples that the sides of an image may have to be."""
_SINGLE_VALUE = "Expected more than 1 value per channel"
"""Start of torch's error for a batch normalisation of one value."""


@dataclass(frozen=True)
class OutputReport:
    """Outputs of a network.

    Attributes:
        size: Height and width of the logits in pixels.
        auxiliary: Names of the other outputs that are logits of the classes.
        ignored: Names and shapes of outputs that are not, e.g. features.
    """

    size: tuple[int, int]
    auxiliary: tuple[str, ...]
    ignored: tuple[str, ...]

    def format_remarks(self, aux: float) -> list[str]:
        """Return a line for the auxiliary outputs, weighted by `aux` in the loss, and one for the ignored ones."""
        lines = []
        if self.auxiliary:
            use = f"in the loss with weight {aux:g}" if aux else "not trained (--aux 0)"
            lines.append(f"auxiliary outputs: {', '.join(self.auxiliary)}; {use}, not in evaluation and export")
        if self.ignored:
            lines.append(f"outputs that are not logits of the classes are ignored: {', '.join(self.ignored)}")
        return lines


@torch.no_grad()
def check_outputs(network: nn.Module, definition: NetworkDefinition) -> OutputReport:
    """Check the outputs of a network in evaluation mode on one random image of its size, and report them.

    Raises:
        PluginError: The network raises an error, or its main output is not finite logits [1, classes, h, w].
    """
    mode = network.training
    images = _make_images(1, definition.input, _find_device(network))
    logits, others = _run(network.eval(), definition, images, "--input")
    network.train(mode)
    _require_logits(logits, definition, len(images))
    return _report(logits, others, definition.classes)


def check_training(
    network: nn.Module, definition: NetworkDefinition, batch: int, crop: tuple[int, int] | None
) -> OutputReport:
    """Check that a network can be trained, on a copy of it in training mode, and report its outputs in that mode.

    Args:
        network: Network on the device of the training.
        definition: Definition of the network.
        batch: Images per batch; at most 2 are run.
        crop: Height and width of training images; None for the definition's size.

    Raises:
        PluginError: The network has no parameters, a state that is not a tensor, cannot be copied, raises an error, or
            its main output is not finite logits [N, classes, h, w] with a gradient.
        UsageError: Batch normalisation would see a single value.
    """
    name = definition.source.reference
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PluginError(f"{name} has no parameters to train")
    foreign = [key for key, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if foreign:
        raise PluginError(f"{name}: the state {foreign[0]!r} is not a tensor, so it cannot be saved")
    try:
        replica = copy.deepcopy(network).train()
    except Exception as error:
        raise PluginError(f"{name} cannot be copied, as weight averaging needs: {describe_error(error)}") from error
    images = _make_images(min(batch, 2), crop or definition.input, _find_device(network))
    option = "--input" if crop is None else "--crop"
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        logits, others = _run(replica, definition, images, option)
    _require_logits(logits, definition, len(images))
    if not logits.requires_grad:
        raise PluginError(f"{name}: no gradient reaches its parameters: remove detach() and no_grad() from forward")
    return _report(logits, others, definition.classes)


def _report(logits: Tensor, others: dict[str, Tensor], classes: int) -> OutputReport:
    auxiliary = [name for name, value in others.items() if is_logits(value, classes)]
    ignored = [f"{name} {list(value.shape)}" for name, value in others.items() if name not in auxiliary]
    return OutputReport((logits.shape[2], logits.shape[3]), tuple(auxiliary), tuple(ignored))


def _find_device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _make_images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return random images [batch, 3, *size], the same on every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *size, generator=generator).to(device)


def _run(
    network: nn.Module, definition: NetworkDefinition, images: Tensor, option: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return main output and others; translate errors, which name a size that works if there is one."""
    name = definition.source.reference
    try:
        return split_outputs(network(images))
    except (LgcError, torch.OutOfMemoryError) as error:
        if isinstance(error, PluginError):
            raise PluginError(f"{name}: {error}") from error
        raise
    except Exception as error:
        if _SINGLE_VALUE in str(error) and len(images) == 1 and network.training:
            raise UsageError(
                f"{name}: a batch normalisation sees one value per channel with --batch 1: use --batch 2 or more"
            ) from error
        height, width = images.shape[2:]
        advice = _advise_size(network, images, option)
        raise PluginError(
            f"{name} failed on images [{len(images)}, 3, {height}, {width}]: {describe_error(error)}{advice}"
        ) from error


def _advise_size(network: nn.Module, images: Tensor, option: str) -> str:
    """Return the next larger size that the network accepts, as the end of a message; empty if there is none."""
    height, width = images.shape[2:]
    for multiple in _MULTIPLES:
        factors = [-(-side // multiple) | 1 for side in (height, width)]  # odd, so no multiple of twice the number
        sizes = [((factors[0] + more) * multiple, (factors[1] + more) * multiple) for more in (0, 2)]
        if all(_accepts(network, images, size) for size in sizes):
            rounded = "x".join(str(-(-side // multiple) * multiple) for side in (height, width))
            return f"; it needs sides that are multiples of {multiple}: use {option} {rounded}"
    return ""


def _accepts(network: nn.Module, images: Tensor, size: tuple[int, int]) -> bool:
    """Return True if a network runs on images of a different (height, width)."""
    try:
        network(_make_images(len(images), size, images.device))
    except Exception:
        return False
    return True


def _require_logits(logits: Tensor, definition: NetworkDefinition, batch: int) -> None:
    """Check shape, type and values of the main output.

    Raises:
        PluginError: It is not finite logits [batch, classes, h, w].
    """
    name, classes, shape = definition.source.reference, definition.classes, list(logits.shape)
    expected = f"expected logits [N, {classes}, h, w]"
    if logits.ndim != 4 or shape[0] != batch or not logits.is_floating_point() or 0 in shape:
        kind = "" if logits.is_floating_point() else f" of type {str(logits.dtype).removeprefix('torch.')}"
        raise PluginError(f"{name} returned {shape}{kind} for {batch} images; {expected}")
    if shape[1] != classes:
        raise PluginError(f"{name} returned {shape[1]} channels for {classes} classes: use the argument `classes`")
    if not bool(logits.isfinite().all()):
        raise PluginError(f"{name} returned NaN or infinite logits for random images")
