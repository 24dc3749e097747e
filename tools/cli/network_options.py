"""Options of the commands that run exported networks: backends, precisions and scopes."""

from __future__ import annotations

from typing import Annotated

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
