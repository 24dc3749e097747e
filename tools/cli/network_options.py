"""Options of the commands that run networks: precisions, scopes, and what ONNX files of other programs need."""

from __future__ import annotations

from typing import Annotated

import typer

from ...models.onnx.signature import LAYOUT_OPTION, LAYOUTS, OUTPUT_OPTION
from ...models.space.protocol import EXPORT_SCOPES
from ...precisions import EXPORT_PRECISIONS
from .options import make_choice_option

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
        [name.lower() for name in LAYOUTS],
        "Order of the axes of an ONNX file's image.",
        "by the axis of three channels",
    ),
]
