"""The training of a supernet: first-order bi-level optimisation of its weights and of the architecture parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from ...errors import TrainingError
from ...models.space.plan import edge_name
from ..config import SearchConfig
from ..constraint.latency import DualAscent, FixedWeight, Latency, NoLatencyTerm
from ..data.datasets import SegmentationDataset
from ..data.labels import IGNORE
from ..decisions import Decisions
from ..runtime import checkpoint
from ..runtime.batches import Batch, load_batches
from ..runtime.fabric import average_gradients, average_over_processes, explain_out_of_memory, synchronise_norms
from ..runtime.metrics_log import MetricsLog
from ..runtime.run_folder import CHECKPOINT_S, OnStep, RunFolder
from ..training.losses import upsampled_loss
from ..training.scores import compute_scores
from .alphas import ArchitectureParameters, SampledPath
from .gumbel import anneal_temperature
from .supernet import Supernet, use_batch_statistics

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CLIP = 5.0
"""Largest norm of the weights' gradient."""
WEIGHT_MOMENTUM = 0.9
"""Of the weights' gradient descent. Assumption."""
LOG_EVERY = 25
"""Steps between entries of mIoU and of the most likely architecture in the journal."""
FP16_SCALE = 1024.0
"""Factor on the architecture's loss in fp16, whose gradients would be rounded to 0; taken out again after it."""


class SupernetTrainer:
    """A supernet, its architecture parameters, and what trains them.

    Args:
        blocks: the decisions.
        config: settings.
        fabric: where it runs.
        class_weights: of the loss, [C]; None weighs all classes alike.
    """

    def __init__(
        self, blocks: Decisions, config: SearchConfig, fabric: Fabric, class_weights: Tensor | None = None
    ) -> None:
        self.config = config
        self.fabric = fabric
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Supernet(blocks)
            self.alphas = ArchitectureParameters(blocks, config.informed_by, config.gamma, config.embedding)
        synchronise_norms(self.net, fabric)
        self.net.to(fabric.device)
        self._sgd = torch.optim.SGD(
            self.net.parameters(), config.weight_lr, WEIGHT_MOMENTUM, weight_decay=config.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._sgd, config.steps, config.weight_lr_end)
        weights = fabric.setup_optimizers(self._sgd)
        assert not isinstance(weights, tuple)  # one goes in, one comes out
        self._weights = weights
        groups = [
            {"params": list(self.alphas.alpha.parameters()), "lr": config.arch_rate},
            {"params": list(self.alphas.guides.parameters()), "lr": config.guide_rate},
        ]
        self._adam = torch.optim.Adam(groups, betas=(0.5, 0.999), weight_decay=config.arch_decay)
        self.constraint: FixedWeight | DualAscent | NoLatencyTerm = NoLatencyTerm()
        if config.latency_term:
            self.constraint = DualAscent(config.multiplier_lr) if config.targets_ms else FixedWeight(config.beta)
        self._noise = torch.Generator().manual_seed(config.seed)
        self._class_weights = class_weights
        self.step = 0
        self.seconds = 0.0

    def advance(
        self,
        stop: int,
        halves: tuple[SegmentationDataset, SegmentationDataset],
        latency: Latency,
        run: RunFolder,
        on_step: OnStep = lambda step, steps: None,
    ) -> None:
        """Train up to step `stop`, from wherever it is, with checkpoints and a journal in `run`.

        Args:
            stop: step before which it ends.
            halves: images for the weights, and for the architecture.
            latency: of architectures, for the loss.
            run: where to write.
            on_step: told the number of steps done, and `stop`.

        Raises:
            TrainingError: a loss is no number any more, or memory ran out; the last checkpoint is kept.
        """
        active = self.fabric.is_global_zero
        start, before, saved = time.monotonic(), self.seconds, time.monotonic()
        self.net.train()
        with MetricsLog(run.path, run.stage, self.step, active=active) as journal:
            for weight_batch, arch_batch in self._batches(halves, stop):
                with explain_out_of_memory("--batch or --crop"):
                    journal.add(self.train_step(weight_batch, arch_batch, latency))
                self.seconds = before + time.monotonic() - start
                if time.monotonic() - saved > CHECKPOINT_S or self.step == stop:
                    saved = time.monotonic()
                    journal.flush()
                    if active:
                        checkpoint.save(run.checkpoint, self.snapshot())
                on_step(self.step, stop)
        if active and not run.checkpoint.exists():  # nothing was left to do, as where all steps are shared
            checkpoint.save(run.checkpoint, self.snapshot())
        self.fabric.barrier()

    def _batches(
        self, halves: tuple[SegmentationDataset, SegmentationDataset], stop: int
    ) -> Iterator[tuple[Batch, Batch | None]]:
        """Batches of both halves from this step on; none for the architecture before the end of the warm-up."""
        config, warm = self.config, self.config.warm_up_steps
        share, pin = (self.fabric.global_rank, self.fabric.world_size), self.fabric.device.type == "cuda"
        common: dict[str, Any] = {"workers": config.workers, "share": share, "pin": pin}
        first = load_batches(halves[0], config.batch, config.seed, start=self.step, stop=stop, **common)
        later = max(self.step, warm)
        second = load_batches(halves[1], config.batch, config.seed + 1, start=later, stop=max(stop, later), **common)
        for step in range(self.step, stop):
            yield next(first), next(second) if step >= warm else None

    def train_step(self, weight_batch: Batch, arch_batch: Batch | None, latency: Latency) -> dict[str, Any]:
        """One step: a batch for the weights, then, after the warm-up, one for the architecture; its record."""
        config, step = self.config, self.step
        progress = (step - config.warm_up_steps) / max(config.steps - config.warm_up_steps, 1)
        temperature = anneal_temperature(progress, config.temperature, config.temperature_end)
        record: dict[str, Any] = {"step": step}
        with torch.no_grad():
            draw = self.alphas.draw(temperature, self._noise, 1.0 if arch_batch is None else config.explore)
        record["weight_loss"] = self._weights_step(draw, weight_batch)
        record["weight_lr"] = self._schedule.get_last_lr()[0]
        self._schedule.step()
        if arch_batch is not None:
            record |= {"temperature": temperature} | self._architecture_step(arch_batch, latency, temperature)
        record["entropy"] = self.alphas.entropies()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            record |= self._look(draw, weight_batch if arch_batch is None else arch_batch)
        self.step += 1
        return record

    def _weights_step(self, draw: SampledPath, batch: Batch) -> float:
        loss = self.loss(draw, batch)
        mean = self._require_number(average_over_processes(loss, self.fabric), "loss of the weights")
        self._weights.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        average_gradients(self.net.parameters(), self.fabric)
        norm = self.fabric.clip_gradients(self.net, self._weights, max_norm=CLIP, error_if_nonfinite=False)
        if norm is not None and not self._is_fp16:  # whose scaler leaves such a step out
            self._require_number(norm.item(), "gradient of the weights")
        self._weights.step()
        return mean

    def _architecture_step(self, batch: Batch, latency: Latency, temperature: float) -> dict[str, Any]:
        parameters = list(self.alphas.parameters())
        loss = self.loss(self.alphas.draw(temperature, self._noise), batch)
        mean = self._require_number(average_over_processes(loss, self.fabric), "loss of the architecture")
        expected_ms = latency.expected_ms(self.alphas.probabilities())
        load = latency.expected_load(expected_ms)
        scale = FP16_SCALE if self._is_fp16 else 1.0
        total = (loss.cpu() + self.constraint.penalty(load)) * scale
        self._adam.zero_grad(set_to_none=True)
        total.backward(inputs=parameters)  # type: ignore[no-untyped-call]
        average_gradients(parameters, self.fabric)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(scale)
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self._adam.step()
            self.constraint.update(load.item())
        return {
            "arch_loss": mean,
            "expected_ms": expected_ms.tolist(),
            "load": load.item(),
            "multiplier": self.constraint.multiplier,
        }

    @property
    def _is_fp16(self) -> bool:
        """Whether gradients pass through half precision."""
        return getattr(self.fabric.strategy.precision, "precision", "") == "16-mixed"

    def loss(self, draw: SampledPath, batch: Batch) -> Tensor:
        """Cross-entropy of a path on a batch, at the labels' resolution: scalar."""
        images, labels = (part.to(self.fabric.device, non_blocking=True) for part in batch)
        with self.fabric.autocast():
            logits = self.net(images, draw)
        return upsampled_loss(logits, labels, self.fabric, self._class_weights)

    def _require_number(self, value: float, what: str) -> float:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is {value} at step {self.step}; the last checkpoint is kept. "
                f"Lower the learning rate, or look at the images of that step"
            )
        return value

    def _look(self, draw: SampledPath, batch: Batch) -> dict[str, Any]:
        """The path's mIoU on the batch (percent), and the most likely architecture, cell by cell."""
        with use_batch_statistics(self.net):
            images, labels = (part.to(self.fabric.device) for part in batch)
            with self.fabric.autocast():
                logits = self.net(images, SampledPath(draw.picked))
            classes = F.interpolate(logits.float(), labels.shape[-2:], mode="bilinear").argmax(dim=1)
            confusion = multiclass_confusion_matrix(classes, labels, logits.shape[1], ignore_index=IGNORE)
            picked = self.alphas.probabilities().argmax(dim=-1).tolist()
        names = tuple(str(index) for index in range(len(confusion)))
        return {
            "miou": compute_scores(confusion.cpu().double(), names).miou,
            "most_likely": _format_choices(self.alphas.blocks, picked),
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "alphas": self.alphas.state_dict(),
            "weights": self._sgd.state_dict(),
            "schedule": self._schedule.state_dict(),
            "arch": self._adam.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "multiplier": self.constraint.multiplier,
            "noise": self._noise.get_state(),
        }

    def restore(self, before: dict[str, Any]) -> None:
        """Take a snapshot up again."""
        self.step, self.seconds = before["step"], float(before["seconds"])
        self.net.load_state_dict(before["net"])
        self.alphas.load_state_dict(before["alphas"])
        # Optimisers keep the tensors they are given, and a front takes one snapshot up many times.
        self._sgd.load_state_dict(deepcopy(before["weights"]))
        self._schedule.load_state_dict(before["schedule"])
        self._adam.load_state_dict(deepcopy(before["arch"]))
        self.fabric.strategy.precision.load_state_dict(before["precision"])
        self.constraint.multiplier = before["multiplier"]
        self._noise.set_state(before["noise"])


def _format_choices(blocks: Decisions, picked: list[int]) -> str:
    """Operators of every block in words: `cell0: n0<in0 skip, ...`."""
    lines, first = [], 0
    for block, size in zip(blocks.blocks, blocks.sizes, strict=True):
        names = (blocks.space.operators[choice] for choice in picked[first : first + size])
        edges = (f"{edge_name(block.plan, edge)} {name}" for edge, name in zip(block.plan.edges, names, strict=True))
        lines.append(f"{block.name}: {', '.join(edges)}")
        first += size
    return "; ".join(lines)
