"""Checks of a network of any source by running it on random images: outputs, sizes, training mode."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ...errors import LgcError, MismatchError, PluginError, UsageError
from ...plugins import describe_error
from .definition import NetworkDefinition
from .outputs import MAIN_KEYS, choose_main, is_logits, list_outputs, split_outputs
from .probe import TOLERANCE, LogitsProbe

_MULTIPLES = (8, 16, 32, 64)
"""Multiples that the sides of an image may have to be."""
_SINGLE_VALUE = "Expected more than 1 value per channel"
"""Start of torch's error for a batch normalisation of one value."""
_OUT_OF_MEMORY = "can't allocate memory"
"""Part of torch's error for exhausted memory of the machine, which callers explain."""


_NOT_REPEATABLE = (
    "returns different outputs for the same image in evaluation mode, so its score would be random: make dropout and "
    "other random layers depend on self.training"
)
_REBUILD_SEED = 2**31 - 1
"""Seed that no training has by default, so that random constants differ."""


@dataclass(frozen=True)
class OutputReport:
    """Outputs of a network.

    Attributes:
        size: Height and width of the logits in pixels.
        main: Name of the main output; empty for a single tensor.
        auxiliary: Names of the other outputs that are logits of the classes.
        ignored: Names and shapes of outputs that are not, e.g. features.
        probabilities: The main output is between 0 and 1 and its channels have the sum 1, as after a softmax.
    """

    size: tuple[int, int]
    main: str
    auxiliary: tuple[str, ...]
    ignored: tuple[str, ...]
    probabilities: bool

    def format_remarks(self, aux: float) -> list[str]:
        """Return lines for the user: main output, auxiliary ones with their weight `aux` in the loss, ignored ones."""
        lines = []
        if self.auxiliary or self.ignored:
            lines.append(f"main output: {self.main}{' (position, from 0)' if self.main.isdecimal() else ''}")
        if self.auxiliary:
            use = f"in the loss with weight {aux:g}" if aux else "not trained (--aux 0)"
            lines.append(f"auxiliary outputs: {', '.join(self.auxiliary)}; {use}, not in evaluation and export")
        if self.ignored:
            lines.append(f"outputs that are not logits of the classes are ignored: {', '.join(self.ignored)}")
        if self.probabilities:
            lines.append(
                "warning: the main output looks like probabilities (0 to 1, with sum 1), but the loss expects logits: "
                "remove softmax from forward"
            )
        return lines


@torch.no_grad()
def check_outputs(network: nn.Module, definition: NetworkDefinition) -> OutputReport:
    """Check the outputs of a network in evaluation mode on one random image of its size, and report them.

    Raises:
        PluginError: The network raises an error, its main output is not finite logits [1, classes, h, w], or differs
            when the same image is run again.
    """
    mode = network.training
    images = _make_images(1, definition.input, _find_device(network))
    outputs = _run(network.eval(), definition, images, "--input")
    main = choose_main(outputs)
    _require_logits(outputs[main], definition, len(images))
    again = split_outputs(network(images))[0]
    network.train(mode)
    if not _are_equal(again, outputs[main]):
        raise PluginError(f"{definition.source.reference} {_NOT_REPEATABLE}")
    return _report(outputs, main, definition.classes)


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
        PluginError: The network has no parameters, a state that is not a tensor or not finite, cannot be copied, raises
            an error, its main output is unknown or is not finite logits [N, classes, h, w] with a gradient, or its
            state dict does not hold everything that it computes with.
        UsageError: Batch normalisation would see a single value.
    """
    name = definition.source.reference
    _require_state(network, name)
    try:
        replica = copy.deepcopy(network).train()
    except Exception as error:
        raise PluginError(f"{name} cannot be copied, as weight averaging needs: {describe_error(error)}") from error
    images = _make_images(min(batch, 2), crop or definition.input, _find_device(network))
    option = "--input" if crop is None else "--crop"
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        outputs = _run(replica, definition, images, option)
        main = _find_training_output(replica, definition, outputs, images, option)
    logits = outputs[main]
    _require_logits(logits, definition, len(images))
    if not logits.requires_grad:
        raise PluginError(f"{name}: no gradient reaches its parameters: remove detach() and no_grad() from forward")
    require_rebuildable(replica, definition)
    return _report(outputs, main, definition.classes)


def _require_state(network: nn.Module, name: str) -> None:
    """Check that a network has parameters, and a state that can be saved and stays finite.

    Raises:
        PluginError: It has not.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PluginError(f"{name} has no parameters to train")
    parameters = dict(network.named_parameters(remove_duplicate=False))
    for key, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise PluginError(f"{name}: the state {key!r} is not a tensor, so it cannot be saved")
        if bool(value.isnan().any()) or (key in parameters and not bool(value.isfinite().all())):
            raise PluginError(f"{name}: the initial values of {key} are not finite")


@torch.no_grad()
def _find_training_output(
    network: nn.Module, definition: NetworkDefinition, outputs: dict[str, Tensor], images: Tensor, option: str
) -> str:
    """Return the name of the output in training mode that is the main one in evaluation mode.

    Where the modes return different outputs, e.g. (auxiliary, main) and main, the main one is equal in both as soon as
    normalisations and dropout compute as in evaluation. Else its name decides.

    Args:
        network: Network in training mode; it is in that mode afterwards.
        definition: Definition of the network.
        outputs: Its outputs in that mode.
        images: Images [N, 3, H, W].
        option: Option of the images' size, for messages.

    Raises:
        PluginError: No output is equal, and the names are ambiguous.
    """
    main = choose_main(outputs)
    evaluated = _run(network.eval(), definition, images, option)
    network.train()
    if len(outputs) == 1 or list(evaluated) == list(outputs):
        return main
    for module in network.modules():
        if isinstance(module, _NormBase | _DropoutNd):
            module.eval()
    expected = evaluated[choose_main(evaluated)]
    comparable = _run(network, definition, images, option)
    network.train()
    equal = [key for key, value in comparable.items() if _are_equal(value, expected)]
    if len(equal) == 1 and equal[0] in outputs:
        return equal[0]
    if main in MAIN_KEYS:
        return main
    raise PluginError(
        f"{definition.source.reference} returns {len(outputs)} outputs in training mode, {len(evaluated)} in "
        f"evaluation mode, and which of {', '.join(outputs)} is the main one is unknown: return a dict in training "
        f"mode, with the main logits as 'out'"
    )


def require_rebuildable(network: nn.Module, definition: NetworkDefinition) -> None:
    """Check that a network with the same state dict, built again, computes the same.

    Raises:
        PluginError: It does not.
    """
    name = definition.source.reference
    rebuilt = definition.build(_REBUILD_SEED)
    try:
        rebuilt.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise PluginError(f"{name} has other tensors when it is built again: {describe_error(error)}") from error
    probe = LogitsProbe.take(network, definition.input)
    try:
        probe.require_equal(probe.repeat(network))
    except MismatchError as error:
        raise PluginError(f"{name} {_NOT_REPEATABLE}") from error
    try:
        probe.require_equal(probe.repeat(rebuilt))
    except MismatchError as error:
        raise PluginError(
            f"{name} computes with values that its state dict lacks, so a saved network would be another one (built "
            f"again with the same state dict, {error}): keep tensors with register_buffer, without persistent=False, "
            f"and layers in nn.ModuleList"
        ) from error


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Return True for outputs that are equal, apart from rounding."""
    return a.shape == b.shape and float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max())


def _report(outputs: dict[str, Tensor], main: str, classes: int) -> OutputReport:
    logits = outputs[main].detach()
    others = {name: value for name, value in outputs.items() if name != main}
    auxiliary = [name for name, value in others.items() if is_logits(value, classes)]
    ignored = [f"{name} {list(value.shape)}" for name, value in others.items() if name not in auxiliary]
    sums = logits.sum(1)
    probabilities = bool(logits.min() >= 0) and torch.allclose(sums, torch.ones_like(sums), atol=TOLERANCE)
    return OutputReport((logits.shape[2], logits.shape[3]), main, tuple(auxiliary), tuple(ignored), probabilities)


def _find_device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _make_images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return random images [batch, 3, *size], the same on every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *size, generator=generator).to(device)


def _run(network: nn.Module, definition: NetworkDefinition, images: Tensor, option: str) -> dict[str, Tensor]:
    """Return the outputs by name; translate errors, which name a size that works if there is one."""
    name = definition.source.reference
    try:
        return list_outputs(network(images))
    except (LgcError, torch.OutOfMemoryError) as error:
        if isinstance(error, PluginError):
            raise PluginError(f"{name}: {error}") from error
        raise
    except (Exception, SystemExit) as error:
        if _SINGLE_VALUE in str(error) and len(images) == 1 and network.training:
            raise UsageError(
                f"{name}: a batch normalisation sees one value per channel with --batch 1: use --batch 2 or more"
            ) from error
        if _OUT_OF_MEMORY in str(error):
            raise
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
    except (Exception, SystemExit):
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
