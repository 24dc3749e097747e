"""Options of the commands that run networks: precisions, scopes, and what ONNX files of other programs need."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...errors import UsageError
from ...models.onnx.signature import LAYOUT_OPTION as LAYOUT_OPTION
from ...models.onnx.signature import OUTPUT_OPTION as OUTPUT_OPTION
from ...models.space.protocol import EXPORT_SCOPES
from ...precisions import EXPORT_PRECISIONS
from .options import make_choice_option


def make_network_option(rest: str = ".") -> Any:
    """Return the option `--network`; `rest` ends the help's sentence, e.g. `; repeatable.`."""
    text = "peer:NAME, or your function build(classes) -> torch module: FILE.py:NAME or package.module:NAME"
    return typer.Option("--network", metavar="REF", help=f"{text}{rest}", show_default=False)


NetworkOption = Annotated[str | None, make_network_option()]
PrecisionListOption = Annotated[
    list[str] | None,
    make_choice_option("--precision", EXPORT_PRECISIONS, "Precision of the network; repeatable.", "fp32"),
]
ScopeOption = Annotated[
    str,
    make_choice_option(
        "--scope",
        EXPORT_SCOPES,
        "Output of the network. core: logits; dense: label map; end-to-end: dense from RGB bytes, "
        "preprocessing included.",
    ),
]
OutputNameOption = Annotated[
    str | None,
    typer.Option(OUTPUT_OPTION, metavar="NAME", help="Output of an ONNX file to compute; cuts off the rest."),
]
LayoutOption = Annotated[
    str | None,
    make_choice_option(
        LAYOUT_OPTION,
        ("nchw", "nhwc"),
        "Order of the axes of an ONNX file's image.",
        "by the axis of three channels",
    ),
]
VALUE_RANGE_NAMES = ("0..1", "0..255")
"""Names of `preprocessing.VALUE_RANGES`, which imports NumPy."""


def make_channels_option(flag: str, help: str) -> Any:
    """Return an option with a value per channel, or one value for all three; `parse_channels` reads it."""
    return typer.Option(flag, metavar="R,G,B", help=f"{help}: red, green, blue, also with --bgr; or one for all.")


MeanOption = Annotated[str | None, make_channels_option("--mean", "Mean to subtract from the pixels")]
StdOption = Annotated[str | None, make_channels_option("--std", "Standard deviation to divide by")]
RangeOption = Annotated[
    str | None,
    make_choice_option(
        "--range",
        VALUE_RANGE_NAMES,
        "Range of pixel values before --mean and --std, or of the input itself without them. Inferred where all of "
        "their values other than 0 and 1 are below 1 or all are above it; required otherwise.",
        False,
    ),
]
BgrOption = Annotated[
    bool, typer.Option("--bgr", help="The input's channels are blue, green, red instead of red, green, blue.")
]


def parse_channels(flag: str, text: str | None) -> tuple[float, float, float] | None:
    """Return the values of red, green and blue from `R,G,B` or a single number; None for None.

    Raises:
        UsageError: the text has another form.
    """
    if text is None:
        return None
    parts = text.split(",")
    try:
        red, green, blue = map(float, parts * 3 if len(parts) == 1 else parts)
    except ValueError as error:
        raise UsageError(f"invalid {flag} {text!r}: write R,G,B or one number for all channels") from error
    return red, green, blue
