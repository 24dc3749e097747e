"""Steps of a training: gradient descent with an auxiliary loss and a moving average of the weights."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, NotRequired, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import FileFormatError, MismatchError, TrainingError
from ...models.nets.network import get_geometry
from ...models.nets.outputs import get_logits
from ...models.nets.resizing import relocate_logits
from ...models.nets.state.probe import LogitsProbe
from ...models.nets.state.weights import copy_infinite_tensors, find_invalid
from ..data.datasets import SegmentationDataset
from ..runtime.batches import Batch, load_batches
from ..runtime.checkpoint import Checkpoint
from ..runtime.data_wait import advise_loading
from ..runtime.fabric import (
    average_tensors,
    broadcast_buffers,
    keep_statistics,
    list_local_statistics,
    place_network,
    synchronise_norms,
)
from ..runtime.metrics_log import Metric, MetricsRecord
from ..runtime.optimisers import GuardedAdamW, GuardedOptimiser, GuardedSGD
from ..runtime.run_folder import OnStep, RunFolder
from ..runtime.training_loop import restore_checkpoint, run_steps
from .auxiliary import TrainingNetwork
from .config import ADAMW, TrainConfig
from .distillation import Teacher, distillation_loss
from .ema import WeightAverage
from .losses import SegmentationLoss
from .validation import Validation, ValidationState, advise_restart

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.optim.optimizer import ParamsT, StateDict

MOMENTUM = 0.9
MAX_GRADIENT_NORM = 35.0
"""Norm of all gradients above which they are clipped: MMDetection's for SGD."""
MAX_SKIPPED = 20
"""Updates skipped in a row, because gradients are NaN or infinite, after which a training ends; fp16 starts so."""
_LOG = logging.getLogger("lgc.training")
QUICK_PROBE_S = 0.5
"""Seconds up to which a probe of the trained weights is part of every checkpoint."""
MAX_PROBE_SHARE = 0.05
"""Largest share of the time between two slower probes that the first one took; checkpoints between them have none."""


class TrainingRecord(MetricsRecord):
    """Metrics of a training step, averaged over all processes.

    Attributes:
        loss: loss of the network.
        aux_loss: loss of the auxiliary head; summed over several auxiliary outputs.
        teacher_loss: distillation loss.
        lr: learning rate.
        gradient_norm: norm of all gradients before clipping.
        skipped: number of updates skipped in a row, up to this one, because gradients are NaN or infinite.
        val_miou: mIoU of the weights after this step, in percent; only in steps with a validation.
        val_pixel_accuracy: share of correctly classified pixels, in percent.
    """

    loss: Metric
    aux_loss: NotRequired[Metric]
    teacher_loss: NotRequired[Metric]
    lr: float
    gradient_norm: NotRequired[Metric]
    skipped: NotRequired[Metric]
    val_miou: NotRequired[float | None]
    val_pixel_accuracy: NotRequired[float | None]


class TrainingState(Checkpoint):
    """State of a `NetworkTrainer`.

    Attributes:
        trainee: weights of the network and its auxiliary head.
        optimiser: state of the optimiser.
        mean: average weights; None without an average.
        precision: state of Fabric's precision.
        probe: probe of the network before the first step, as JSON; missing in checkpoints of earlier versions.
        trained_probe: probe of the network with these weights, as JSON; missing in checkpoints of earlier versions, and
            of a network that cannot be copied in training or returns infinite logits; in most of a slow network.
        validation: curve and weights to keep; missing without validations, e.g. in checkpoints of earlier versions.
    """

    trainee: dict[str, Tensor]
    optimiser: StateDict
    mean: dict[str, Tensor] | None
    precision: StateDict
    probe: NotRequired[str]
    trained_probe: NotRequired[str]
    validation: NotRequired[ValidationState]


class NetworkTrainer:
    """A network in training, the average of its weights, and the optimiser.

    Args:
        network: network with its auxiliary head; it is moved to Fabric's device.
        config: settings.
        fabric: device, precision and processes.
        class_weights: weights of the classes, [C]; None for equal weights.
        teacher: network to learn from too, moved to Fabric's device; None for the labels alone.
        probe: probe of the network with the random weights of the seed, to recognise it when resumed; None for none.
        validation: validations during the training; None for none.

    Attributes:
        step: number of finished steps.
        seconds: time spent on them, including earlier calls.
        waiting_pct: share of the time of the steps that was spent waiting for data, in percent; None if unknown.
    """

    waiting_pct: float | None = None

    def __init__(
        self,
        network: TrainingNetwork,
        config: TrainConfig,
        fabric: Fabric,
        class_weights: torch.Tensor | None = None,
        teacher: Teacher | None = None,
        probe: LogitsProbe | None = None,
        validation: Validation | None = None,
    ) -> None:
        if config.sync_bn:
            synchronise_norms(network, fabric)
        keep_statistics(network)
        place_network(network, fabric)
        self.config, self.fabric, self.step, self.seconds = config, fabric, 0, 0.0
        self._trainee, self._probe, self._validation = network, probe, validation
        self._probe_s = self._probed_at = 0.0  # duration and end of the last probe of trained weights
        self._has_skipped = False
        self._infinite = copy_infinite_tensors(network)
        self._unwrapped = make_optimiser(network, config)
        # Fabric's wrappers compute in its precision and average gradients over its processes.
        self._model, self._optimiser = fabric.setup(network, self._unwrapped)
        self._model.train()
        self._local_statistics = list_local_statistics(network)
        self._average = WeightAverage(network.network, config.ema) if config.ema else None
        self._geometry = get_geometry(network.network)
        self._compute_losses = SegmentationLoss(config.ohem, fabric, class_weights, self._geometry)
        self._teacher = None if teacher is None else teacher.network.to(fabric.device)
        self._teacher_geometry = self._geometry if teacher is None else teacher.geometry

    @property
    def network(self) -> nn.Module:
        """Network to evaluate and to save: with average weights, or the last ones without an average."""
        return self._trainee.network if self._average is None else self._average.network

    def train_step(self, batch: Batch) -> TrainingRecord:
        """Make one step on this process's part of a batch; return metrics of this process, as tensors on the device."""
        config, fabric = self.config, self.fabric
        images, labels = batch
        lr = config.lr * config.factor(self.step)
        for group in self._unwrapped.param_groups:
            group["lr"] = lr
        torch.manual_seed(_seed_step(config.seed, self.step, fabric.global_rank))
        logits, auxiliary = self._model(images)
        loss, *others = self._compute_losses([logits, *auxiliary.values()], labels)
        total, record = loss, TrainingRecord(step=self.step, loss=loss.detach(), lr=lr)
        if others:
            aux_loss = torch.stack(others).sum()
            total, record["aux_loss"] = total + config.aux * aux_loss, aux_loss.detach()
        if self._teacher is not None:
            with torch.no_grad(), fabric.autocast():
                targets = get_logits(self._teacher(images))
            targets = relocate_logits(
                targets, self._teacher_geometry, (images.shape[-2], images.shape[-1]), logits, self._geometry
            )
            teacher_loss = distillation_loss(logits, targets, config.temperature)
            total, record["teacher_loss"] = total + config.teacher_weight * teacher_loss, teacher_loss.detach()
        self._optimiser.zero_grad(set_to_none=True)
        fabric.backward(total)
        self._optimiser.step()
        record["gradient_norm"], record["skipped"] = self._unwrapped.norm, self._unwrapped.skipped
        average_tensors(self._local_statistics, fabric)
        if self._average is not None:
            self._average.update(self.step)
        self.step += 1
        return record

    def check(self, record: MetricsRecord) -> None:
        """Check that the losses of a step are numbers, and that not too many updates were skipped; log the first.

        Raises:
            TrainingError: a loss is NaN or infinite, or so were the gradients of `MAX_SKIPPED` steps in a row.
        """
        for name, value in record.items():
            if name.endswith("loss") and isinstance(value, float) and not math.isfinite(value):
                raise TrainingError(f"the {name} is {value} at step {record['step']}; {self._advise()}")
        skipped = cast("TrainingRecord", record).get("skipped", 0.0)
        if skipped >= MAX_SKIPPED:
            raise TrainingError(
                f"the gradients of {MAX_SKIPPED} steps in a row, up to step {record['step']}, are NaN or infinite; "
                f"{self._advise()}"
            )
        if skipped and not self._has_skipped and self.config.precision != "fp16":  # fp16 begins by trying scales
            self._has_skipped = True
            if self.fabric.is_global_zero:
                _LOG.warning("the gradients of step %d are NaN or infinite: its update was skipped", record["step"])

    def validate(self, before: Callable[[], object]) -> dict[str, float | None] | None:
        """Evaluate the weights if a validation is due after this step; return its metrics, else None.

        Args:
            before: called before a validation.

        Raises:
            DataError: a validation image or label is damaged or holds foreign values.
            TrainingError: the network returns NaN or infinite logits.
        """
        if self._validation is None or not self._validation.is_due(self.step):
            return None
        before()
        broadcast_buffers(self.network, self.fabric)  # a module of the user's may have collected its own images'
        point = self._validation.run(self.network, self.step)
        return {"val_miou": point.miou, "val_pixel_accuracy": point.pixel_accuracy}

    def _advise(self) -> str:
        other = "" if self.config.precision == "fp32" else f", or --precision fp32 in place of {self.config.precision}"
        return advise_restart(f"a lower --lr than {self.config.lr:g}{other}")

    def snapshot(self) -> TrainingState:
        """Return the state that `restore` loads.

        Raises:
            TrainingError: weights are NaN or infinite.
        """
        state = self._trainee.state_dict()
        invalid = [find_invalid(value, self._infinite.get(name)).any() for name, value in state.items()]
        if bool(torch.stack(invalid).any()):
            raise TrainingError(f"weights are not finite after step {self.step - 1}; {self._advise()}")
        snapshot: TrainingState = {
            "step": self.step,
            "seconds": self.seconds,
            "trainee": state,
            "optimiser": self._unwrapped.state_dict(),
            "mean": None if self._average is None else self._average.network.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self._validation is not None:
            snapshot["validation"] = self._validation.snapshot()
        if self._probe is not None:
            snapshot["probe"] = self._probe.model_dump_json()
            start = time.monotonic()
            if self._probe_s <= QUICK_PROBE_S or self._probe_s <= MAX_PROBE_SHARE * (start - self._probed_at):
                with suppress(MismatchError):
                    snapshot["trained_probe"] = self._probe_weights(self._probe).model_dump_json()
                self._probed_at = time.monotonic()
                self._probe_s = self._probed_at - start
        return snapshot

    def _probe_weights(self, like: LogitsProbe) -> LogitsProbe:
        """Return the probe of the network with its present weights; of a copy, as the network is in training.

        Raises:
            MismatchError: the network cannot be copied, fails, or returns NaN or infinite logits.
        """
        try:
            network = copy.deepcopy(self._trainee.network)
        except RuntimeError as error:  # a tensor of the last step, e.g. of torch's old weight normalisation
            raise MismatchError(f"it cannot be copied: {error}") from error
        return like.repeat(network)

    def restore(self, state: TrainingState) -> None:
        """Load a snapshot.

        Raises:
            FileFormatError: the snapshot belongs to a different network or optimiser.
            MismatchError: the network has the same weights, but computes something else.
        """
        self.step, self.seconds = state["step"], float(state["seconds"])
        try:
            self._trainee.load_state_dict(state["trainee"])
        except RuntimeError as error:
            raise FileFormatError(
                "the checkpoint belongs to a different network, whose weights have other names or shapes: choose "
                "another folder with --out"
            ) from error
        if self._probe is not None and "probe" in state:
            self._require_probe(state["probe"], self._probe, "before the first step")
        if self._probe is not None and "trained_probe" in state:
            trained = self._probe_weights(self._probe)
            self._require_probe(state["trained_probe"], trained, f"with the weights of step {self.step}")
        try:
            self._unwrapped.load_state_dict(state["optimiser"])
        except (KeyError, ValueError) as error:
            raise FileFormatError(
                f"the checkpoint is not one of --optimiser {self.config.optimiser}: pass the other one, or choose "
                "another folder with --out"
            ) from error
        if self._average is not None:
            assert state["mean"] is not None  # the run folder's settings include the average
            self._average.network.load_state_dict(state["mean"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self._validation is not None and "validation" in state:
            self._validation.restore(state["validation"])

    def _require_probe(self, stored: str, own: LogitsProbe, when: str) -> None:
        """Check that the network is the one of the checkpoint."""
        try:
            LogitsProbe.model_validate_json(stored).require_equal(own)
        except MismatchError as error:
            raise MismatchError(
                f"the network has changed since this training began: {error}, {when}; its source, a module that it "
                "imports, a package or an environment variable has changed: restore it, or choose another folder with "
                "--out"
            ) from error


def run_training(trainer: NetworkTrainer, dataset: SegmentationDataset, run: RunFolder, on_step: OnStep) -> None:
    """Restore the last checkpoint, if there is one, and make the remaining steps.

    Raises:
        TrainingError: a loss is NaN or infinite; the last checkpoint, if any, is kept.
        DataError: a file of the dataset is damaged or holds foreign values.
    """
    config = trainer.config
    restore_checkpoint(trainer, run.checkpoint)
    batches = load_training_batches(trainer, dataset)
    advice = advise_loading(config.workers or 0, dataset.store)
    with _autotune_kernels(), keep_generators(trainer.fabric):
        run_steps(trainer, batches, config.steps, run, on_step, trainer.validate, advice)


def load_training_batches(trainer: NetworkTrainer, dataset: SegmentationDataset) -> Generator[Batch]:
    """Yield the batches of the remaining steps on the trainer's device, this process's part of each."""
    config, fabric = trainer.config, trainer.fabric
    return load_batches(
        dataset,
        config.divide_batch(fabric.world_size),
        config.seed,
        start=trainer.step,
        stop=config.steps,
        workers=config.workers or 0,
        shard=(fabric.global_rank, fabric.world_size),
        device=fabric.device,
    )


def keep_generators(fabric: Fabric) -> AbstractContextManager[None]:
    """Keep the state of torch's random generators, which steps seed, for the code after the context."""
    return torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else [])


def _seed_step(seed: int, step: int, rank: int) -> int:
    """Return the seed of a step's dropout and other random layers, so that a resumed training repeats them."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint32)[0])


@contextmanager
def _autotune_kernels() -> Iterator[None]:
    """Let cuDNN time its kernels inside the context: all batches have the same shape.

    `torch.backends.cudnn.flags` would also write the old switch of TF32, which the new one forbids.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def make_optimiser(network: nn.Module, config: TrainConfig) -> GuardedOptimiser:
    """Return the optimiser of a network's weights."""
    groups = split_decay_groups(network, config.weight_decay)
    if config.optimiser == ADAMW:
        return GuardedAdamW(groups, config.lr, config.weight_decay, max_norm=MAX_GRADIENT_NORM)
    return GuardedSGD(groups, config.lr, MOMENTUM, max_norm=MAX_GRADIENT_NORM)


def split_decay_groups(network: nn.Module, weight_decay: float) -> ParamsT:
    """Return two parameter groups: convolutions with weight decay, norms and biases without."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
