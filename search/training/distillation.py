"""Distillation: a trained network, the teacher, gives the probabilities of classes that the student learns too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...files import hash_file
from ...models.geometry import Geometry
from ...models.images import Normalisation
from ...models.nets.checks import check_outputs
from ...models.nets.definition import Log, NetworkDefinition, find_factory, load_definition
from ...models.nets.outputs import UNKNOWN_ACTIVATION
from ...models.nets.state.weights import WEIGHTS_FILE, load_weights
from ...models.space.lgcnet import LGCNetSpace
from ...models.training_result import read_class_names
from .config import TrainConfig

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ...models.nets.sources import NetworkSource


@dataclass(frozen=True)
class Teacher:
    """Trained network to learn from.

    Attributes:
        path: its run folder.
        network: [N, 3, H, W] -> logits [N, C, h, w], of images in the student's normalisation; frozen, in evaluation
            mode.
        digest: 12 hexadecimal digits of the SHA-256 of its weights.
        geometry: positions of its logits in the image.
    """

    path: Path
    network: nn.Module
    digest: str
    geometry: Geometry = Geometry.HALF_PIXEL


def load_teacher(
    config: TrainConfig, student: NetworkDefinition, factory: NetworkSource | None = None, log: Log = print
) -> Teacher | None:
    """Return the trained network of the run folder `config.teacher`; None without one.

    Args:
        config: settings.
        student: network to train.
        factory: factory of the teacher's run, as named by the user; the student's own need not be named again.
        log: receives a remark if the names of the teacher's classes are unknown.

    Raises:
        UsageError: the run has no weights, other classes, or does not take images of this size; it was trained with a
            factory that the user has not named; or it returns probabilities.
        PluginError: the network does not accept images of this size.
        FileFormatError: a file of the run is missing or damaged.
    """
    if config.teacher is None:
        return None
    path, size = Path(config.teacher), config.crop or student.input
    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise UsageError(f"no weights in the teacher {path} ({WEIGHTS_FILE}): train it first")
    definition = _load_definition(path, student, factory, log)
    _require_same_classes(path, definition, student, log)
    architecture = definition.architecture
    if architecture is not None and size != architecture.search_space.input:
        space = LGCNetSpace.require(architecture.space)
        if not space.accepts_size(size):
            raise UsageError(
                f"the teacher {path} needs images whose sides are {space.describe_sizes()}, not {size[0]}x{size[1]}; "
                "choose another --crop"
            )
    network = definition.build()
    network.load_state_dict(load_weights(weights, definition))
    if architecture is None:
        report = check_outputs(network, replace(definition, input=size))
        if report.activation not in ("", UNKNOWN_ACTIVATION):
            raise UsageError(
                f"the teacher {path} returns probabilities, not logits: remove {report.activation} from the forward of "
                f"{definition.source.reference}"
            )
        for warning in report.format_warnings():
            log(f"teacher {path}: {warning}")
    if definition.normalisation != student.normalisation:
        network = nn.Sequential(Renormalise(student.normalisation, definition.normalisation), network)
    return Teacher(path, network.eval().requires_grad_(False), hash_file(weights), definition.geometry)


class Renormalise(nn.Module):
    """Convert images [N, 3, H, W] from one normalisation to another."""

    scale: Tensor
    shift: Tensor

    def __init__(self, source: Normalisation, target: Normalisation) -> None:
        super().__init__()
        columns = (torch.tensor(values)[:, None, None] for values in (source.mean, source.std, target.mean, target.std))
        mean, std, target_mean, target_std = columns
        self.register_buffer("scale", std / target_std)
        self.register_buffer("shift", (mean - target_mean) / target_std)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images in the target's normalisation."""
        return x * self.scale + self.shift


def _load_definition(
    path: Path, student: NetworkDefinition, factory: NetworkSource | None, log: Log
) -> NetworkDefinition:
    """Return the definition of the teacher's network."""
    try:
        return load_definition(path, factory or find_factory(path, [student.source]), log)
    except UsageError as error:  # which names the option of a command's own network
        raise UsageError(str(error).replace("--network", "--teacher-network")) from error


def _require_same_classes(path: Path, teacher: NetworkDefinition, student: NetworkDefinition, log: Log) -> None:
    """Check that teacher and student have the same classes in the same order."""
    if teacher.classes != student.classes:
        raise UsageError(
            f"the teacher {path} has {teacher.classes} classes, the dataset {student.classes}: "
            "distillation needs a teacher with the same classes"
        )
    classes = student.class_names or ()
    names = teacher.class_names or read_class_names(path)
    if names is None:
        log(f"the names of the classes of the teacher {path} are unknown, assumed: {', '.join(classes)}")
    elif classes and names != classes:
        index = next(i for i, pair in enumerate(zip(names, classes, strict=True)) if pair[0] != pair[1])
        raise UsageError(
            f"the teacher {path} has other classes: its class {index} is {names[index]!r}, not {classes[index]!r}; "
            "train it on this dataset"
        )


def describe_teacher(teacher: Teacher | None) -> dict[str, JsonValue]:
    """Return the settings that identify the teacher of a training; none without a teacher."""
    if teacher is None:
        return {}
    return {"teacher": str(teacher.path.resolve()), "teacher_weights": teacher.digest}


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the mean over all pixels of KL(teacher || student), scaled by the square of the temperature.

    Per pixel as in "Structured Knowledge Distillation for Semantic Segmentation" (arXiv 1903.04197), where void pixels
    count too. The temperature T and the factor T * T, which keeps the size of the gradients, are those of "Distilling
    the Knowledge in a Neural Network" (arXiv 1503.02531). Every process has the same number of pixels, so the mean of
    their losses is the mean over all.

    Args:
        logits: logits of the student, [N, C, h, w].
        teacher_logits: logits of the teacher at the same positions, [N, C, h, w]; see `resizing.relocate_logits`.
        temperature: temperature of both softmax functions.
    """
    pair = (logits.float(), teacher_logits.float())
    student, teacher = (F.log_softmax(value / temperature, dim=1) for value in pair)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2
