"""Validations during a training: the curve of their scores, and the weights to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor, nn

from ...errors import TrainingError
from ..data.datasets import SegmentationDataset
from ..runtime.run_folder import OnStep
from .config import TrainConfig
from .results import CurvePoint
from .scores import Scores, evaluate_network

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ...models.nets.definition import Log

VALIDATION_SPLIT = "val"
MAX_DEFAULT_VALIDATIONS = 10
"""Validations of a training without `val_interval`, unless it has fewer epochs."""


@dataclass(frozen=True)
class KeptWeights:
    """Weights to keep, and their scores.

    Attributes:
        step: number of steps that made them.
        scores: scores on the validation images.
        size: height and width of the labels in pixels; None where labels have several sizes.
        state: state of the network to evaluate, on the CPU.
    """

    step: int
    scores: Scores
    size: tuple[int, int] | None
    state: dict[str, Tensor]


class ValidationState(TypedDict):
    """Part of a checkpoint: validations until then.

    Attributes:
        curve: step, mIoU and pixel accuracy of each validation.
        kept: `KeptWeights` as a dictionary; None before the first validation.
    """

    curve: list[tuple[int, float | None, float | None]]
    kept: dict[str, Any] | None


class Validation:
    """Validation of the weights to evaluate, every few steps of a training and after the last one.

    The weights with the best mIoU are kept, of equal ones the later; with `keep` "last", or without a labelled pixel,
    those of the last step. All processes share the images, and make the same calls.

    Args:
        dataset: validation images, with labels at their own resolution.
        config: settings.
        interval: steps between two validations.
        fabric: device and processes.
        log: receives a line on each validation.
        on_score: callback for the number of evaluated images and the total.

    Attributes:
        curve: scores of each validation.
        kept: weights to keep; None before the first validation.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        config: TrainConfig,
        interval: int,
        *,
        fabric: Fabric,
        log: Log = lambda line: None,
        on_score: OnStep = lambda step, steps: None,
    ) -> None:
        self.dataset, self.curve = dataset, list[CurvePoint]()
        self.kept: KeptWeights | None = None
        self._config, self._interval, self._fabric = config, interval, fabric
        self._log, self._on_score = log, on_score

    def is_due(self, step: int) -> bool:
        """Return True if the weights after a step are evaluated; without labels, only those of the last step."""
        if step == self._config.steps:
            return True
        is_unlabelled = self.kept is not None and self.kept.scores.miou is None
        return step % self._interval == 0 and not is_unlabelled

    def run(self, network: nn.Module, step: int) -> CurvePoint:
        """Evaluate the weights after a step, in float32, and keep them if they are the best.

        Raises:
            DataError: a file is damaged or holds foreign values.
            TrainingError: the network returns NaN or infinite values.
        """
        with _evaluation_mode(network):
            try:
                scores, size = evaluate_network(
                    network,
                    self.dataset,
                    fabric=self._fabric,
                    workers=self._config.workers or 0,
                    on_step=self._on_score,
                )
            except TrainingError as error:
                raise TrainingError(
                    f"validation after step {step} of {self._config.steps}: {error}; "
                    + advise_restart(f"a lower --lr than {self._config.lr:g}")
                ) from error
        point = CurvePoint(step, scores.miou, scores.pixel_accuracy)
        is_best = _is_best(point, self.curve)
        self.curve.append(point)
        if is_best or self._config.keep == "last":
            state = {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
            self.kept = KeptWeights(step, scores, size, state)
        self._describe(point, is_best)
        return point

    def _describe(self, point: CurvePoint, is_best: bool) -> None:
        """Log a line on a validation."""
        progress = f"step {point.step} of {self._config.steps}"
        if point.miou is not None:
            self._log(f"{progress}: mIoU {point.miou:.2f} % on {VALIDATION_SPLIT}{' (best)' * is_best}")
        elif len(self.curve) == 1:
            self._log(
                f"{progress}: {VALIDATION_SPLIT} has no labelled pixel, so there is no mIoU, and the weights of the "
                "last step are kept"
            )

    def finish(self, network: nn.Module, step: int) -> KeptWeights:
        """Return the weights to keep; evaluate those of the last step first if none of this training were.

        Raises:
            DataError: see `run`.
            TrainingError: see `run`.
        """
        if not self.curve or self.curve[-1].step != step:  # e.g. resumed from an earlier version's last checkpoint
            self.run(network, step)
        assert self.kept is not None
        return self.kept

    def summarise(self) -> dict[str, Any]:
        """Return the fields of a `TrainResult` on the validations."""
        best = _find_best(self.curve)
        return {
            "curve": tuple(self.curve),
            "best_step": None if best is None else best.step,
            "last_miou": self.curve[-1].miou,
        }

    def snapshot(self) -> ValidationState:
        """Return the state that `restore` loads."""
        curve = [(point.step, point.miou, point.pixel_accuracy) for point in self.curve]
        kept = None if self.kept is None else {**vars(self.kept), "scores": asdict(self.kept.scores)}
        return {"curve": curve, "kept": kept}

    def restore(self, state: ValidationState) -> None:
        """Load a snapshot."""
        self.curve = [CurvePoint(*values) for values in state["curve"]]
        kept = state["kept"]
        self.kept = None if kept is None else KeptWeights(**kept | {"scores": Scores(**kept["scores"])})


def _find_best(curve: Sequence[CurvePoint]) -> CurvePoint | None:
    """Return the validation with the best mIoU, of equal ones the last; None without a labelled pixel."""
    scored = [(point.miou, point.step, point) for point in curve if point.miou is not None]
    return max(scored)[-1] if scored else None


def _is_best(point: CurvePoint, earlier: Sequence[CurvePoint]) -> bool:
    return point.miou is None or _find_best([*earlier, point]) is point


def advise_restart(change: str) -> str:
    """Return what to do after an invalid loss, as the end of a message; the same settings would give it again."""
    return f"the last checkpoint, if any, is kept: train on from it with --init RUN/train.ckpt --out NEW and {change}"


def choose_interval(config: TrainConfig, epoch_steps: int) -> int:
    """Return the steps between two validations: by default a tenth of all, and at least an epoch."""
    return config.val_interval or max(math.ceil(config.steps / MAX_DEFAULT_VALIDATIONS), epoch_steps)


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluate a network inside the context as without a training, and leave each of its modules in its mode.

    cuDNN does not time its kernels meanwhile, whose choice changes the last bits of the logits.
    """
    modes = [(module, module.training) for module in network.modules()]
    is_training, benchmark = network.training, torch.backends.cudnn.benchmark
    network.eval()
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        network.train(is_training)
        for module, mode in modes:
            module.training = mode
