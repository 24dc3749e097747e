"""Options shared by several commands: their choices, help texts and parsers, each defined once."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError


class BackendName(StrEnum):
    """Backends of the registry `profiler.backends.BACKENDS`."""

    ONNXRUNTIME = "onnxruntime"
    ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"
    TENSORRT = "tensorrt"
    TORCH = "torch"


class Precision(StrEnum):
    """Floating-point precisions: of latency tables, and of training."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class ExportPrecision(StrEnum):
    """Precisions of exported networks."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Scope(StrEnum):
    """Scopes that latency tables predict."""

    CORE = "core"
    DENSE = "dense"


class ExportScope(StrEnum):
    """Scopes of exported networks."""

    CORE = "core"
    DENSE = "dense"
    END_TO_END = "end-to-end"


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="CPU threads per operator.")]
DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="Data set folder: Cityscapes or CamVid.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images per batch and process.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, help="Data loader processes.")]
BalancedOption = Annotated[bool, typer.Option("--balanced", help="Give rare classes more weight in the loss.")]
TrainPrecisionOption = Annotated[Precision, typer.Option("--precision", help="Precision of the training.")]
ScopeOption = Annotated[
    ExportScope,
    typer.Option(
        "--scope",
        help="Output of the network. core: logits; dense: class of each pixel; end-to-end: dense from RGB bytes, "
        "preprocessing included.",
    ),
]
PrecisionListOption = Annotated[
    list[ExportPrecision] | None,
    typer.Option("--precision", help="Precision of the network; repeatable.", show_default="fp32"),
]


def get_options(context: typer.Context) -> dict[str, Any]:
    """Return the values of a command's options by name, choices as plain strings."""
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in context.params.items()}


def make_device_option(default: str | bool = True, purpose: str = "") -> Any:
    """Return the option `--device`.

    Args:
        default: description of the default where it depends on other options; False to show none.
        purpose: infinitive of the work on the device.
    """
    return typer.Option("--device", help=f"Device{purpose and f' {purpose}'}: cpu or cuda:N.", show_default=default)


def make_backend_option(purpose: str, default: str | bool = True) -> Any:
    """Return the option `--backend`; `purpose` completes "Backend ...", `default` is as in `make_device_option`."""
    return typer.Option("--backend", help=f"Backend {purpose}.", show_default=default)


def make_seed_option(scope: str = "") -> Any:
    """Return the option `--seed`; `scope` names the random choices where they are few."""
    return typer.Option("--seed", min=0, help=f"Random seed{scope and f' of {scope}'}.")


def make_space_option(default: str | bool = True) -> Any:
    """Return the option `--space`; `default` is as in `make_device_option`."""
    return typer.Option("--space", help="Search space: name of a preset, or a YAML file.", show_default=default)


def make_steps_option(purpose: str, default: str) -> Any:
    """Return the option `--steps`; `purpose` completes "Steps of ...", `default` is as in `make_device_option`."""
    return typer.Option("--steps", min=1, help=f"Steps of {purpose}.", show_default=default)


def make_crop_option(default: str) -> Any:
    """Return the option `--crop`; `default` is as in `make_device_option`."""
    return typer.Option("--crop", metavar="HxW", help="Height and width of training crops in pixels.",
                        show_default=default)  # fmt: skip


SeedOption = Annotated[int, make_seed_option()]


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) in pixels from `HxW`.

    Raises:
        UsageError: the text has another form, or a side is 0.
    """
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise UsageError(f"invalid size {text!r}: write height and width, e.g. 720x960")
    return int(match[1]), int(match[2])


def parse_seconds(text: str) -> float:
    """Return seconds from `90`, `90s`, `4m` or `1.5h`.

    Raises:
        UsageError: the text has another form, or is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"invalid duration {text!r}: write e.g. 90s, 4m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_percent(text: str) -> float:
    """Return percent from `5%` or `5`.

    Raises:
        UsageError: the text has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if match is None:
        raise UsageError(f"invalid percentage {text!r}: write e.g. 5%")
    return float(match[1])
