"""Training of a supernet: first-order bi-level optimisation of its weights and of the architecture parameters."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import TrainingError
from ...models.nets.network import get_geometry
from ...models.random_state import seed_generators
from ..config import SearchConfig
from ..constraint.constraint import CostConstraint
from ..constraint.exploration import draw_paths
from ..constraint.objectives import make_objective
from ..data.datasets import SegmentationDataset
from ..decisions import Indices
from ..runtime.batches import Batch, load_batches
from ..runtime.checkpoint import Checkpoint
from ..runtime.data_wait import advise_loading
from ..runtime.fabric import average_gradients, place_network, synchronise_norms
from ..runtime.metrics_log import Metric, MetricsRecord
from ..runtime.run_folder import OnStep, RunFolder
from ..runtime.training_loop import run_steps
from ..training.config import divide_batch
from ..training.losses import SegmentationLoss
from ..training.scores import compute_scores, count_confusions
from .alphas import ArchitectureParameters, SampledPath
from .blocks import BlockDecisions
from .gumbel import anneal_temperature
from .supernet import Supernet, use_batch_statistics
from .weight_optimiser import WeightOptimiser, WeightState

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.optim.optimizer import StateDict

MIN_ENTROPY = 0.5
"""Smallest entropy of a decision after the warm-up, as a share of its first one; it falls linearly to 0. Ours."""
LOG_EVERY = 25
"""Steps between records of mIoU and of the most probable architecture in the metrics log."""
_CHECKED = {
    "weight_loss": "loss of the weights",
    "weight_gradient": "gradient of the weights",
    "arch_loss": "loss of the architecture",
}
"""Metrics that must be finite, and their names in messages."""
FP16_SCALE = 1024.0
"""Scale of the architecture's loss in fp16, where gradients would underflow; they are divided by it afterwards."""
BatchPair = tuple[Batch, Batch | None]
"""Batch for the weights, and batch for the architecture; None in the warm-up."""


class SupernetRecord(MetricsRecord, total=False):
    """Metrics of a step of the supernet; each part of the step adds its own.

    Attributes:
        weight_loss: loss of the sampled path on the batch for the weights.
        weight_gradient: norm of its gradient before clipping; not in fp16.
        weight_lr: learning rate of the weights.
        temperature: temperature of the Gumbel softmax.
        arch_loss: loss on the batch for the architecture, without the latency term.
        expected_ms: expected latency on each table.
        load: target ratio, by its name in the logs of earlier versions.
        multiplier: multiplier of the latency term.
        entropy: entropy of the probabilities, per block.
        miou: mIoU of the path on the batch, in percent; None without a labelled pixel.
        most_likely: the most probable architecture as text.
    """

    weight_loss: Metric
    weight_gradient: Metric
    weight_lr: float
    temperature: float
    arch_loss: Metric
    expected_ms: list[float]
    load: float
    multiplier: float
    entropy: list[float]
    miou: float | None
    most_likely: str


class SupernetState(Checkpoint, WeightState):
    """State of a `SupernetTrainer`.

    Attributes:
        net: weights of the supernet.
        alphas: architecture parameters.
        arch: state of their optimiser.
        precision: state of Fabric's precision.
        multiplier: multiplier of the latency term.
        noise: state of the generator of the Gumbel noise.
    """

    net: dict[str, Tensor]
    alphas: dict[str, Tensor]
    arch: StateDict
    precision: StateDict
    multiplier: float
    noise: Tensor


class SupernetTrainer:
    """A supernet in training, its architecture parameters, and their optimisers.

    Args:
        decisions: decisions of the search.
        config: settings.
        fabric: device, precision and processes.
        constraint: costs for the loss.
        class_weights: weights of the classes in the loss, [C]; None for equal weights.
        paths: random paths, [P, S], that train the weights; by default those near the constraint, see `exploration`.

    Attributes:
        step: number of finished steps.
        seconds: time spent on them, including earlier calls.
        waiting_pct: share of the time of the steps that was spent waiting for data, in percent; None if unknown.
    """

    waiting_pct: float | None = None

    def __init__(
        self,
        decisions: BlockDecisions,
        config: SearchConfig,
        fabric: Fabric,
        constraint: CostConstraint,
        class_weights: Tensor | None = None,
        paths: Indices | None = None,
    ) -> None:
        self.config, self.fabric, self.constraint = config, fabric, constraint
        self._paths = draw_paths([constraint], config.seed) if paths is None else paths
        with seed_generators(config.seed):
            self.net = Supernet(decisions)
            self.alphas = ArchitectureParameters(decisions, config.active_communication, config.gamma, config.embedding)
        # A search by gradients starts near its target; the average of a space may be several times that.
        self.alphas.add_log_frequencies(self._paths)
        with torch.no_grad():
            self._first_entropies = self.alphas.list_entropies()
        synchronise_norms(self.net, fabric)
        place_network(self.net, fabric)
        self._weights = WeightOptimiser(self.net, config, fabric)
        groups = [
            {"params": list(self.alphas.alpha.parameters()), "lr": config.resolved_arch_lr},
            {"params": list(self.alphas.guides.parameters()), "lr": config.communication_lr},
        ]
        self._adam = torch.optim.Adam(groups, betas=(0.5, 0.999), weight_decay=config.arch_decay)
        self.objective = make_objective(config, constraint)
        self._noise = torch.Generator().manual_seed(config.seed)
        self._compute_losses = SegmentationLoss(False, fabric, class_weights, get_geometry(self.net))
        self.step = 0
        self.seconds = 0.0

    def train_until(
        self,
        stop: int,
        halves: tuple[SegmentationDataset, SegmentationDataset],
        run: RunFolder,
        on_step: OnStep = lambda step, steps: None,
    ) -> None:
        """Train up to step `stop`, with checkpoints and a metrics log in `run`.

        Args:
            stop: step after the last one.
            halves: images for the weights, and for the architecture.
            run: run folder.
            on_step: callback for the number of finished steps and `stop`.

        Raises:
            TrainingError: a loss is NaN or infinite; the last checkpoint, if any, is kept.
        """
        self.net.train()
        advice = advise_loading(self.config.workers or 0, halves[0].store)
        run_steps(self, self._load_batches(halves, stop), stop, run, on_step, advice=advice)

    def _load_batches(self, halves: tuple[SegmentationDataset, SegmentationDataset], stop: int) -> Generator[BatchPair]:
        """Yield batches of both halves from the current step; None for the architecture in the warm-up."""
        config, warm_up = self.config, self.config.warm_up_steps
        shard = self.fabric.global_rank, self.fabric.world_size
        load = partial(load_batches, workers=config.workers or 0, shard=shard, device=self.fabric.device)
        batch = divide_batch(config.batch, self.fabric.world_size)
        weight_batches = load(halves[0], batch, config.seed, start=self.step, stop=stop)
        start = max(self.step, warm_up)
        arch_batches = load(halves[1], batch, config.seed + 1, start=start, stop=max(stop, start))
        with closing(weight_batches), closing(arch_batches):
            for step in range(self.step, stop):
                yield next(weight_batches), next(arch_batches) if step >= warm_up else None

    def train_step(self, batches: BatchPair, /) -> SupernetRecord:
        """Make one step on the weights, then, after the warm-up, one on the architecture; return their metrics."""
        config, step = self.config, self.step
        weight_batch, arch_batch = batches
        temperature = anneal_temperature(self.progress, config.temperature, config.temperature_end)
        with torch.no_grad():
            explores = arch_batch is None or float(torch.rand((), generator=self._noise)) < config.explore
            sample = self._draw_path() if explores else self.alphas.sample_path(temperature, self._noise)
        record = self._update_weights(sample, weight_batch)
        if arch_batch is not None:
            record |= self._update_architecture(arch_batch, temperature)
        record["entropy"] = self.alphas.entropies()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            record |= self._evaluate(sample, weight_batch if arch_batch is None else arch_batch)
        self.step += 1
        return record

    def _draw_path(self) -> SampledPath:
        """Return one of the random paths."""
        return SampledPath(self._paths[int(torch.randint(len(self._paths), (), generator=self._noise))])

    def _update_weights(self, sample: SampledPath, batch: Batch) -> SupernetRecord:
        loss = self.compute_loss(sample, batch)
        norm, lr = self._weights.backward(loss), self._weights.lr
        self._weights.step()
        record: SupernetRecord = {"step": self.step, "weight_loss": loss.detach(), "weight_lr": lr}
        if norm is not None and not self._is_fp16:  # in fp16 some gradients overflow until the scale fits
            record["weight_gradient"] = norm
        return record

    def _update_architecture(self, batch: Batch, temperature: float) -> SupernetRecord:
        parameters = list(self.alphas.parameters())
        sample = self.alphas.sample_path(temperature, self._noise)
        loss = self.compute_loss(sample, batch)
        expected = self.constraint.expected(self.alphas.probabilities())
        ratio = self.constraint.expected_target_ratio(expected)
        scale = FP16_SCALE if self._is_fp16 else 1.0
        compared = self._compare_width(sample, batch, loss.detach())
        total = (loss.cpu() + compared + self.objective.penalty(ratio)) * scale
        self._adam.zero_grad(set_to_none=True)
        total.backward(inputs=parameters)  # type: ignore[no-untyped-call]
        average_gradients(parameters, self.fabric)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(scale)
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._adam.step()
            self.alphas.raise_entropies(MIN_ENTROPY * self._first_entropies * (1 - self.progress))
            self.objective.update(ratio.item())
        return {
            "step": self.step,
            "temperature": temperature,
            "arch_loss": loss.detach(),
            "expected_ms": expected.tolist(),
            "load": ratio.item(),
            "multiplier": self.objective.multiplier,
        }

    def _compare_width(self, sample: SampledPath, batch: Batch, loss: Tensor) -> Tensor:
        """Return a term of value 0 whose gradient is that of the widths: the loss of a rival less that of the path.

        A width has no gate: its channels are read by convolutions whose normalisation cancels their scale, and inner
        channels depend on it too. So one width, drawn at random, is compared with its rival by a forward pass of the
        path with it; the gradient counts for all, as each is drawn equally often.
        """
        widths = np.flatnonzero(self.alphas.decisions.are_widths)
        if not len(widths) or sample.rivals is None or sample.rival_gates is None:
            return torch.zeros(())
        width = int(widths[int(torch.randint(len(widths), (), generator=self._noise))])
        if sample.rivals[width] < 0:
            return torch.zeros(())
        choices = sample.choices.copy()
        choices[width] = sample.rivals[width]
        with torch.no_grad():
            rival = self.compute_loss(SampledPath(choices), batch)
        return len(widths) * (rival - loss).cpu() * sample.rival_gates[width]

    @property
    def progress(self) -> float:
        """Share of the steps after the warm-up that are finished; negative in the warm-up."""
        config = self.config
        return (self.step - config.warm_up_steps) / max(config.steps - config.warm_up_steps, 1)

    @property
    def _is_fp16(self) -> bool:
        """True if gradients are computed in half precision."""
        return getattr(self.fabric.strategy.precision, "precision", "") == "16-mixed"

    def compute_loss(self, sample: SampledPath, batch: Batch) -> Tensor:
        """Return the cross-entropy (scalar) of a path on a batch, at the labels' resolution."""
        return self.average_loss(*self.compute_logits(sample, batch))

    def compute_logits(self, sample: SampledPath, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits of a path on a batch, [N, C, h, w], and its labels on the device, [N, H, W]."""
        images, labels = (part.to(self.fabric.device, non_blocking=True) for part in batch)
        with self.fabric.autocast():
            logits = self.net(images, sample)
        return logits, labels

    def average_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (scalar) of logits, at the labels' resolution."""
        return self._compute_losses([logits], labels)[0]

    def check(self, record: MetricsRecord) -> None:
        """Check that losses and gradients of a step are numbers.

        Raises:
            TrainingError: one is NaN or infinite.
        """
        values = cast("dict[str, object]", record)
        for key, name in _CHECKED.items():
            if isinstance(value := values.get(key), float) and not math.isfinite(value):
                raise TrainingError(
                    f"the {name} is {value} at step {record['step']}; the last checkpoint, if any, is kept. "
                    f"Lower the learning rate, or check the images of that step"
                )

    def _evaluate(self, sample: SampledPath, batch: Batch) -> SupernetRecord:
        """Return the path's mIoU on the batch (percent), and the most probable architecture as text."""
        with use_batch_statistics(self.net):
            images, labels = (part.to(self.fabric.device) for part in batch)
            with self.fabric.autocast():
                logits = self.net(images, SampledPath(sample.choices))
            confusion = count_confusions(logits, labels, get_geometry(self.net))
            choices = self.alphas.probabilities().argmax(dim=-1).tolist()
        names = tuple(str(index) for index in range(len(confusion)))
        return {
            "step": self.step,
            "miou": compute_scores(confusion.cpu().double(), names).miou,
            "most_likely": _format_choices(self.alphas.decisions, choices),
        }

    def snapshot(self) -> SupernetState:
        """Return the state that `restore` loads."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "alphas": self.alphas.state_dict(),
            **self._weights.snapshot(),
            "arch": self._adam.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "multiplier": self.objective.multiplier,
            "noise": self._noise.get_state(),
        }

    def continue_warm_up(self, state: SupernetState) -> None:
        """Load the snapshot of a warm-up for other targets, without its architecture parameters."""
        self.restore({**state, "alphas": self.alphas.state_dict()})

    def restore(self, state: SupernetState) -> None:
        """Load a snapshot, which stays unchanged: all points of a front start from the same one."""
        self.step, self.seconds = state["step"], float(state["seconds"])
        self.net.load_state_dict(state["net"])
        self.alphas.load_state_dict(state["alphas"])
        self._weights.restore(state)
        self._adam.load_state_dict(deepcopy(state["arch"]))
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.objective.multiplier = state["multiplier"]
        self._noise.set_state(state["noise"])


def _format_choices(decisions: BlockDecisions, choices: list[int]) -> str:
    """Format the choices of every block: `cell0: n0<in0 skip, ...`."""
    blocks, start = [], 0
    for block in decisions.blocks:
        chosen = choices[start : start + len(block.names)]
        rows = (f"{name} {block.choices[choice]}" for name, choice in zip(block.names, chosen, strict=True))
        blocks.append(f"{block.name}: {', '.join(rows)}")
        start += len(block.names)
    return "; ".join(blocks)
