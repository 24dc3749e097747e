"""Settings of a training, validated once: the recipe of docs/training.md."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from ...errors import UsageError
from ...precisions import Precision
from ..data.cache import CacheMode

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

# Fields of both SearchConfig and TrainConfig.
Batch = Annotated[int, Field(ge=1, description="Images per step, over all processes.")]
Crop = Annotated[
    tuple[Count, Count] | None,
    Field(description="Height and width of training crops in pixels; by default the space's input size."),
]
Balanced = Annotated[bool, Field(description="Give rare classes more weight in the loss.")]
Workers = Annotated[
    Annotated[int, Field(ge=0)] | None,
    Field(description="Data-loading processes of each training process: up to 8 on a GPU, 0 on a CPU."),
]
Cache = Annotated[
    CacheMode | None,
    Field(description="Decode images only once, into memory (ram) or the cache folder (disk)."),
]
HOST_FIELDS = {"workers", "cache"}
"""Fields that depend on the machine and change no result."""
Seed = Annotated[int, Field(ge=0, description="Random seed.")]

MIN_LOCAL_BATCH = 4
"""Fewest images over which a process may normalise on its own."""
Optimiser = Literal["adamw", "sgd"]
ADAMW: Optimiser = "adamw"
LEARNING_RATES: dict[str, float] = {ADAMW: 4e-3, "sgd": 0.01}
"""Optimiser -> default learning rate."""
WEIGHT_DECAYS: dict[str, float] = {ADAMW: 0.01, "sgd": 5e-4}
"""Optimiser -> default weight decay."""
SCRATCH, SUPERNET = "scratch", "supernet"
Heads = Literal["linear", "single"]
SINGLE: Heads = "single"
"""Auxiliary heads of earlier versions."""
DISTILLATION_FIELDS = {"teacher", "teacher_weight", "temperature"}
"""Fields of `TrainConfig` that only a training with a teacher has."""


class TrainConfig(BaseModel):
    """Settings of `train`. The texts below the fields are also the help of `lgc-train`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: Count
    """Steps of the training."""
    batch: Batch = 8
    crop: Crop = None
    seed: Seed = 0
    optimiser: Optimiser = ADAMW
    """Optimiser; SGD has momentum 0.9."""
    lr: Positive = Field(default_factory=lambda settings: LEARNING_RATES[settings.get("optimiser", ADAMW)])
    """Learning rate after the warm-up."""  # the decay is polynomial, of power 0.9
    warm_up: Natural = 1000
    """LR warm-up steps, capped at 10 % of --steps."""
    weight_decay: NonNegative = Field(default_factory=lambda settings: WEIGHT_DECAYS[settings.get("optimiser", ADAMW)])
    """Weight decay of convolutions; norms and biases have none."""
    ohem: bool = True
    """Train on hard pixels only."""
    balanced: Balanced = True
    aux: NonNegative = 0.4
    """Weight of the auxiliary losses; 0 disables them."""
    aux_heads: Heads = "linear"
    """Auxiliary heads: `linear`, 1x1 classifiers on two resolutions of LGCNet and on a peer's own features; `single`, a
    3x3 convolution and a classifier on one resolution of LGCNet, none on peers."""
    ema: Share = 0.999
    """EMA decay; the EMA weights are evaluated and saved; 0 disables EMA."""
    sync_bn: bool = True
    """Normalise over the images of all processes in batch norms; off needs 4 images per process."""
    precision: Precision = "fp32"  # weights and their updates are float32 in all of them
    """Precision of the training."""
    init: str = SCRATCH
    """Initial weights: `scratch` (random), `supernet` (of the search), or a file (safetensors or torch)."""
    teacher: str | None = None
    """Run folder of a trained network with the same classes, to learn from too (distillation)."""
    teacher_weight: Positive = 1.0  # CIRKD's --lambda-kd (arXiv 2204.06986)
    """Weight of the distillation loss, with --teacher."""
    temperature: Positive = 1.0  # CIRKD's; above 1, small probabilities count more (arXiv 1503.02531)
    """Temperature of the softmax in the distillation loss, with --teacher."""
    train_split: Literal["train", "train_extra"] = "train"
    """Split to train on; train_extra is Cityscapes' coarsely labelled one."""
    val_interval: Count | None = None
    """Steps between two validations; there is another after the last step."""
    keep: Literal["best", "last"] = "best"
    """Weights to keep: those of the validation with the best mIoU, or of the last step."""
    workers: Workers = None
    cache: Cache = None

    @property
    def heads(self) -> Heads | None:
        """Kind of the auxiliary heads; None without."""
        return self.aux_heads if self.aux else None

    def list_settings(self, *, exclude: Collection[str] = ()) -> dict[str, JsonValue]:
        """Return the settings that identify a training, as JSON values, without those that have no effect."""
        unused = (DISTILLATION_FIELDS if self.teacher is None else set()) | (set() if self.aux else {"aux_heads"})
        content: dict[str, JsonValue] = self.model_dump(mode="json", exclude={*HOST_FIELDS, *unused, *exclude})
        return content

    def divide_batch(self, processes: int) -> int:
        """Return the images of each process in a step.

        Raises:
            UsageError: the batch cannot be divided, or leaves too few images for batch norms without `sync_bn`.
        """
        share = divide_batch(self.batch, processes)
        if processes > 1 and not self.sync_bn and share < MIN_LOCAL_BATCH:
            raise UsageError(
                f"--no-sync-bn needs at least {MIN_LOCAL_BATCH} images per process, but --batch {self.batch} gives "
                f"{share} to each of {processes}: use --batch {MIN_LOCAL_BATCH * processes} or more, or fewer processes"
            )
        return share

    def factor(self, step: int) -> float:
        """Return the share of `lr` at a step counted from 0: it rises in the warm-up, then decays, and is never 0."""
        warm_up = min(self.warm_up, self.steps // 10)
        rise = (step + 1) / warm_up if step < warm_up else 1.0
        return float(rise * (1 - step / self.steps) ** 0.9)


def divide_batch(batch: int, processes: int) -> int:
    """Return the images of each process in a step.

    Args:
        batch: images per step, over all processes.
        processes: number of processes.

    Raises:
        UsageError: the batch cannot be divided into equal parts.
    """
    share, rest = divmod(batch, processes)
    if rest:
        nearest = [str(fitting) for fitting in (batch - rest, batch - rest + processes) if fitting]
        raise UsageError(
            f"--batch {batch} cannot be divided equally among {processes} processes: use --batch {' or '.join(nearest)}"
        )
    return share
