"""Options of the commands that run exported networks: backends, precisions and scopes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

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
