"""TensorRT's log, gathered instead of printed: its words belong into error messages, not on stderr."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from .trt_loader import Library

LONGEST = 400
"""Characters of TensorRT's words that an error message carries at most."""

_LAYERS = "Layers:\n"
_LAYER_NAME = re.compile(r"^Name: (.*?), LayerType: ", re.MULTILINE)


class Log:
    """What TensorRT said since the last `clear`: warnings, errors, and the layers of the engine just built.

    `logger` is what TensorRT's classes take. There is one per library and process, since TensorRT keeps the first.
    """

    def __init__(self, module: Any) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.layers: tuple[str, ...] = ()
        severity = module.ILogger.Severity
        failed, warned = (severity.INTERNAL_ERROR, severity.ERROR), severity.WARNING

        class Logger(module.ILogger):  # type: ignore[misc]
            def log(_, level: Any, message: str) -> None:  # noqa: N805 - `self` is the log around it
                if level in failed:
                    self.errors.append(message)
                elif level == warned:
                    self.warnings.append(message)
                elif message.startswith(_LAYERS):
                    self.layers = tuple(_LAYER_NAME.findall(message))

        self.logger = Logger()

    def clear(self) -> None:
        """Forget all that was said."""
        self.warnings.clear()
        self.errors.clear()
        self.layers = ()

    def why(self) -> str:
        """The errors as one line; says so if there are none."""
        return one_line("\n".join(self.errors)) or "it gave no reason"


@cache
def get_log(library: Library) -> Log:
    """The log of `library` in this process."""
    return Log(library.module)


def one_line(text: str) -> str:
    """TensorRT's words on one line: no line twice, at most `LONGEST` characters, no echo of a missing driver."""
    lines = (line.strip() for line in text.splitlines())
    words = "; ".join(dict.fromkeys(line for line in lines if line and "catchCudaError" not in line))
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
