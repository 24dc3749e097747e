"""Options of the commands that run exported networks: backends, precisions and scopes."""

from __future__ import annotations

from typing import Annotated

import typer

from ...models.space.protocol import EXPORT_SCOPES
from ...precisions import EXPORT_PRECISIONS
from .options import make_choice_option

NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="REF",
        help="peer:NAME, or your own function build(classes) that returns a torch module: FILE.py:NAME or "
        "package.module:NAME.",
        show_default=False,
    ),
]
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
