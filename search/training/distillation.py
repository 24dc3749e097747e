"""Distillation: a trained network, the teacher, gives the probabilities of classes that the student learns too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import FileFormatError, UsageError
from ...files import read_text
from ...models.nets.network import LGCNet
from ...models.nets.weights import WEIGHTS_FILE, load_weights
from ...models.space.lgcnet import LGCNetSpace
from ...models.space.protocol import ARCHITECTURE_FILE, Architecture

if TYPE_CHECKING:
    from pydantic import JsonValue

RESULT_FILE = "train-result.json"


@dataclass(frozen=True)
class Teacher:
    """Trained network to learn from.

    Attributes:
        path: its run folder.
        network: [N, 3, H, W] -> logits [N, C, h, w]; frozen, in evaluation mode.
        digest: 12 hexadecimal digits of the SHA-256 of its weights.
        remarks: lines for the user.
    """

    path: Path
    network: nn.Module
    digest: str
    remarks: tuple[str, ...] = ()


def load_teacher(path: Path, classes: Sequence[str], size: tuple[int, int]) -> Teacher:
    """Return the trained network of a run folder as a teacher.

    Args:
        path: run folder with weights.
        classes: names of the student's classes.
        size: height and width of the training images.

    Raises:
        UsageError: the run has no weights, other classes, or a stride that does not divide `size`.
        FileFormatError: a file of the run is missing or damaged.
    """
    weights = path / WEIGHTS_FILE
    if not weights.is_file():
        raise UsageError(f"no weights in the teacher {path} ({WEIGHTS_FILE}): train it first")
    architecture = Architecture.load(path / ARCHITECTURE_FILE)
    space = LGCNetSpace.require(architecture.space)
    if space.classes != len(classes):
        raise UsageError(
            f"the teacher {path} has {space.classes} classes, the dataset {len(classes)}: "
            "distillation needs a teacher with the same classes"
        )
    remarks = _compare_classes(path, classes)
    stride = space.plan.stride
    if any(side % stride for side in size):
        raise UsageError(
            f"the teacher {path} needs images whose sides are multiples of {stride}, not {size[0]}x{size[1]}; "
            "choose another --crop"
        )
    network = LGCNet(space, architecture)
    network.load_state_dict(load_weights(weights, architecture))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    return Teacher(path, network.eval().requires_grad_(False), digest, remarks)


def _compare_classes(path: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Check the names of a teacher's classes; return a remark if its run folder does not hold them."""
    result = path / RESULT_FILE
    if not result.is_file():
        return (f"the teacher {path} has no {RESULT_FILE}: its classes are assumed to be {', '.join(classes)}",)
    try:
        names = list(json.loads(read_text(result, "training result"))["per_class"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{result} is a damaged training result: delete it, or train the teacher again"
        ) from error
    if names != list(classes):
        index = next(i for i, pair in enumerate(zip(names, classes, strict=True)) if pair[0] != pair[1])
        raise UsageError(
            f"the teacher {path} has other classes: its class {index} is {names[index]!r}, not {classes[index]!r}; "
            "train it on this dataset"
        )
    return ()


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
        teacher_logits: logits of the teacher at any resolution, [N, C, h', w']; resized to the student's.
        temperature: temperature of both softmax functions.
    """
    targets = F.interpolate(teacher_logits.float(), size=logits.shape[-2:], mode="bilinear", align_corners=False)
    student, teacher = (F.log_softmax(value / temperature, dim=1) for value in (logits.float(), targets))
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2
