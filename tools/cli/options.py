"""Options shared by several commands, with their help texts and parsers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import UsageError

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="Dataset folder: Cityscapes or CamVid.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images per batch and process.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, help="Data loader processes.")]
BalancedOption = Annotated[bool, typer.Option("--balanced", help="Give rare classes more weight in the loss.")]
TrainPrecisionOption = Annotated[
    str, typer.Option("--precision", help="Precision of the training: fp32, bf16 or fp16.")
]
NetworkPrecisionsOption = Annotated[
    list[str] | None,
    typer.Option("--precision", help="Precision: fp32, fp16, bf16 or int8; repeatable.", show_default="fp32"),
]
ExportScopeOption = Annotated[
    str,
    typer.Option(
        "--scope",
        help="Timed part of the network. core: input tensor to logits; dense: input tensor to class indices at "
        "input size; end-to-end: RGB bytes to class indices, preprocessing included.",
    ),
]
LutScopeOption = Annotated[str, typer.Option("--scope", help="Timed part of the network: dense or core.")]


def make_device_option(purpose: str = "", default: str | bool = True) -> Any:
    """Return the option `--device`.

    Args:
        purpose: completes "Device ...", e.g. "for training".
        default: description of a default that depends on other options.
    """
    return typer.Option("--device", help=f"Device{purpose and ' '}{purpose}: cpu or cuda:N.", show_default=default)


def make_threads_option(default: str | bool = True) -> Any:
    """Return the option `--threads`; `default` as in `make_device_option`."""
    return typer.Option("--threads", min=1, help="CPU threads per operator.", show_default=default)


def make_seed_option(purpose: str = "") -> Any:
    """Return the option `--seed`; `purpose` completes "Random seed ..."."""
    return typer.Option("--seed", min=0, help=f"Random seed{purpose and ' '}{purpose}.")


def make_space_option(default: str | bool = True) -> Any:
    """Return the option `--space`; `default` as in `make_device_option`."""
    return typer.Option("--space", help="Search space: preset name or YAML file.", show_default=default)


def make_steps_option(purpose: str, default: str) -> Any:
    """Return the option `--steps`; `purpose` completes "Optimizer steps ...", `default` as in `make_device_option`."""
    return typer.Option("--steps", min=1, help=f"Optimizer steps {purpose}.", show_default=default)


def make_crop_option(default: str) -> Any:
    """Return the option `--crop`; `default` as in `make_device_option`."""
    help_text = "Height and width of training crops in pixels."
    return typer.Option("--crop", metavar="HxW", help=help_text, show_default=default)


SeedOption = Annotated[int, make_seed_option()]
ThreadsOption = Annotated[int, make_threads_option()]


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
