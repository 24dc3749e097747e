"""Checks of a network of any source by running it on random images: outputs, sizes, training mode."""

from __future__ import annotations

import copy
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ...errors import LgcError, MismatchError, PluginError, UsageError
from ...plugins import describe_error
from ..map_sizes import covers_image
from ..onnx.signature import OUTPUT_OPTION
from ..onnx.tracing import CHANGES_INPUT
from .definition import NetworkDefinition
from .outputs import (
    MAIN_KEYS,
    UNKNOWN_ACTIVATION,
    ActivationMarks,
    choose_main,
    explain_unusable,
    find_activation,
    is_logits,
    list_outputs,
    split_outputs,
)
from .state.probe import TOLERANCE, LogitsProbe

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
        activation: Activation if the main output looks like probabilities, see `find_activation`; empty for logits.
    """

    size: tuple[int, int]
    main: str
    auxiliary: tuple[str, ...]
    ignored: tuple[str, ...]
    activation: str

    def format_remarks(self, aux: float) -> list[str]:
        """Return lines for the user: main output, auxiliary ones with their weight `aux` in the loss, ignored ones."""
        lines = []
        if self.auxiliary or self.ignored:
            position = " (position, from 0)" if self.main.isdecimal() else ""
            advice = "" if self.main in MAIN_KEYS else f"; another one: {OUTPUT_OPTION} NAME"
            lines.append(f"main output: {self.main}{position}{advice}")
        if self.auxiliary:
            use = f"in the loss with weight {aux:g}" if aux else "not trained (--aux 0)"
            lines.append(f"auxiliary outputs: {', '.join(self.auxiliary)}; {use}, not in evaluation and export")
        if self.ignored:
            lines.append(f"outputs that are not logits of the classes are ignored: {', '.join(self.ignored)}")
        return lines + self.format_warnings()

    def format_warnings(self, mode: str = "") -> list[str]:
        """Return a warning if the main output looks like probabilities; `mode` is e.g. ` in evaluation mode`."""
        if not self.activation:
            return []
        advice = f"remove {self.activation} from forward"
        if self.activation == UNKNOWN_ACTIVATION:
            advice = "if forward ends in an activation, remove it"
        return [
            f"warning: the main output{mode} looks like probabilities (0 to 1), but logits are expected in training "
            f"and evaluation: {advice}"
        ]


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
    _require_logits(outputs, main, definition, images)
    again = split_outputs(network(images))[0]
    _require_orientation(network, images, definition.source.reference)
    network.train(mode)
    if not _are_equal(again, outputs[main]):
        raise PluginError(f"{definition.source.reference} {_NOT_REPEATABLE}")
    return _report(outputs, main, definition)


def _require_orientation(network: nn.Module, images: Tensor, name: str) -> None:
    """Check on half of a square image, if the network accepts it, that height and width are not swapped.

    Raises:
        PluginError: They are.
    """
    height, width = images.shape[2:]
    if height != width or height < 2:
        return
    try:
        logits = split_outputs(network(images[:, :, : height // 2].contiguous()))[0]
    except (Exception, SystemExit):
        return  # other sizes are not needed
    size, image = (logits.shape[-2], logits.shape[-1]), (height // 2, width)
    if not covers_image(size, image) and covers_image(size[::-1], image):
        raise PluginError(
            f"{name} returned logits of {size[0]}x{size[1]} for an image of {image[0]}x{image[1]}: height and width "
            f"are swapped; expected logits [N, C, h, w]"
        )


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
    if not torch.is_grad_enabled():
        raise PluginError(
            f"{name}: gradients are disabled: remove torch.set_grad_enabled(False) from the file or what it imports"
        )
    try:
        replica = copy.deepcopy(network).train()
    except Exception as error:
        raise PluginError(f"{name} cannot be copied, as weight averaging needs: {describe_error(error)}") from error
    images = _make_images(min(batch, 2), crop or definition.input, _find_device(network))
    option = "--input" if crop is None else "--crop"
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        try:
            outputs = _run(replica, definition, images, option)
        except PluginError as error:
            _require_copyable(network, replica, images, error, name)
            raise
        main = _find_training_output(replica, definition, outputs, images, option)
    _require_logits(outputs, main, definition, images)
    if not outputs[main].requires_grad:
        raise PluginError(f"{name}: no gradient reaches its parameters: remove detach() and no_grad() from forward")
    require_rebuildable(replica, definition)
    return _report(outputs, main, definition, crop)


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
def _require_copyable(network: nn.Module, replica: nn.Module, images: Tensor, error: PluginError, name: str) -> None:
    """Check that a failure in training mode is not one of the copy alone.

    Raises:
        PluginError: Only the copy fails.
    """
    mode, size = network.training, (images.shape[2], images.shape[3])
    runs = [_accepts(each.eval(), images, size) for each in (network, replica)]
    network.train(mode)
    if runs == [True, False]:
        raise PluginError(
            f"{name}: a copy of it fails, as weight averaging needs one ({error}): let hooks use the module that they "
            f"get, or a method of it, instead of the original in a closure"
        ) from error


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
    if len(outputs) == 1:
        return main
    evaluated = _run(network.eval(), definition, images, option)
    network.train()
    for module in network.modules():
        if isinstance(module, _NormBase | _DropoutNd) or (module is not network and not any(module.children())):
            module.eval()  # e.g. a layer of the user's that drops paths
    expected = evaluated[choose_main(evaluated)]
    comparable = _run(network, definition, images, option)
    network.train()
    for is_same in (_are_equal, _are_equal_resized):
        equal = [key for key, value in comparable.items() if key in outputs and is_same(value, expected)]
        if equal:
            return main if main in equal else equal[0]
    if main in MAIN_KEYS or list(evaluated) == list(outputs):
        return main
    raise PluginError(
        f"{definition.source.reference} returns {len(outputs)} outputs in training mode, {len(evaluated)} in "
        f"evaluation mode, and which of {', '.join(outputs)} is the main one is unknown: choose it with "
        f"{OUTPUT_OPTION} NAME, or return a dict in training mode, with the main logits as 'out'"
    )


def require_rebuildable(network: nn.Module, definition: NetworkDefinition) -> None:
    """Check that a network with the same seed has the same weights, and with the same state dict computes the same.

    Raises:
        PluginError: It does not.
    """
    name = definition.source.reference
    rebuilt = definition.build(_REBUILD_SEED)
    _require_seeded(rebuilt, definition)
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


def _require_seeded(network: nn.Module, definition: NetworkDefinition) -> None:
    """Check that the user's initial weights depend on the seed of the generators alone, as resuming needs.

    Raises:
        PluginError: They do not.
    """
    if definition.source.kind != "factory":
        return
    again = definition.build(_REBUILD_SEED).state_dict()
    for name, value in network.state_dict().items():
        if (
            name not in again
            or value.shape != again[name].shape
            or not torch.allclose(value, again[name], equal_nan=True)
        ):
            raise PluginError(
                f"{definition.source.reference}: two networks built with one seed have different initial values "
                f"of {name}, so a training could not be resumed: draw random numbers with torch, np.random or random, "
                f"without a generator or a seed of your own, or with a constant seed"
            )


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Return True for outputs that are equal, apart from rounding."""
    return a.shape == b.shape and float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max())


def _are_equal_resized(value: Tensor, evaluated: Tensor) -> bool:
    """Return True for logits that evaluation mode resizes to the image's size, or returns as probabilities."""
    if value.ndim != 4 or evaluated.ndim != 4 or value.shape[:2] != evaluated.shape[:2]:
        return False
    size, value = evaluated.shape[2:], value.float()
    resized = [F.interpolate(value, size=size, mode="bilinear", align_corners=corners) for corners in (False, True)]
    activations = (nn.Identity(), nn.Softmax(1), nn.Sigmoid())
    return any(_are_equal(activation(each), evaluated) for each in resized for activation in activations)


def _report(
    outputs: dict[str, Tensor], main: str, definition: NetworkDefinition, crop: tuple[int, int] | None = None
) -> OutputReport:
    logits, image = outputs[main], crop or definition.input
    auxiliary, ignored = [], []
    for name, value in outputs.items():
        if name == main:
            continue
        usable = is_logits(value, definition.classes)
        reason = explain_unusable(name, value, image) if usable else ""
        if usable and not reason:
            auxiliary.append(name)
        else:
            ignored.append(f"{name} {list(value.shape)}{f' ({reason})' if reason else ''}")
    size = logits.shape[2], logits.shape[3]
    return OutputReport(size, main, tuple(auxiliary), tuple(ignored), find_activation(logits))


def _find_device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _make_images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return random images [batch, 3, *size], the same on every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, *size, generator=generator).to(device)


def _run(network: nn.Module, definition: NetworkDefinition, images: Tensor, option: str) -> dict[str, Tensor]:
    """Return the outputs by name; translate errors, which name a size that works if there is one."""
    name, version = definition.source.reference, images._version
    try:
        with _run_compiled_eagerly(), ActivationMarks():
            outputs = list_outputs(network(images))
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
    if images._version != version:
        raise PluginError(f"{name} {CHANGES_INPUT}")
    return outputs


def _run_compiled_eagerly() -> AbstractContextManager[object]:
    """Return a context in which compiled functions run their Python code, where marks are set."""
    is_compiler_loaded = "torch._dynamo" in sys.modules  # importing it takes seconds
    return torch.compiler.set_stance("force_eager") if is_compiler_loaded else nullcontext()


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


def _require_logits(outputs: dict[str, Tensor], main: str, definition: NetworkDefinition, images: Tensor) -> None:
    """Check shape, type and values of the main output.

    Raises:
        PluginError: It is not finite logits [batch, classes, h, w] of the whole image.
    """
    name, classes, batch, logits = definition.source.reference, definition.classes, len(images), outputs[main]
    shape, image = list(logits.shape), (images.shape[2], images.shape[3])
    expected = f"expected logits [N, {classes}, h, w]"
    if logits.ndim != 4 or shape[0] != batch or not logits.is_floating_point() or 0 in shape:
        kind = "" if logits.is_floating_point() else f" of type {str(logits.dtype).removeprefix('torch.')}"
        raise PluginError(f"{name} returned {shape}{kind} for {batch} images; {expected}")
    if shape[1] != classes:
        others = [key for key, value in outputs.items() if is_logits(value, classes)]
        advice = _explain_channels(shape, classes, main, others)
        raise PluginError(f"{name} returned {shape[1]} channels for {classes} classes: {advice}")
    if not bool(logits.isfinite().all()):
        raise PluginError(f"{name} returned NaN or infinite logits for random images")
    if not covers_image((shape[2], shape[3]), image):
        raise PluginError(
            f"{name} returned logits of {shape[2]}x{shape[3]} for images of {image[0]}x{image[1]}: no whole stride "
            f"divides both sides so, and logits of another area would be stretched over the image: pad the "
            f"convolutions, crop what forward has padded, or resize the logits to the image"
        )


def _explain_channels(shape: list[int], classes: int, main: str, others: list[str]) -> str:
    """Return how to fix a main output that lacks a channel per class; `others` have one."""
    if others:
        return f"its main output is {main}, but {', '.join(others)} would fit: choose with {OUTPUT_OPTION} {others[0]}"
    if shape[3] == classes:
        return f"its output {shape} has the channels last: return it as [N, {classes}, h, w], with permute(0, 3, 1, 2)"
    if shape[1] == 1:
        return f"a single channel cannot hold them: return one channel per class, also for {classes} classes"
    return "use the argument `classes`"
