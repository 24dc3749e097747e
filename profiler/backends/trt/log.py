"""TensorRT's log, gathered instead of printed: its words belong into error messages, not on stderr."""

from __future__ import annotations

from functools import cache
from typing import Any

from ....errors import MeasurementError
from ..error_translation import make_error
from .layer_nodes import Layer, parse_log
from .loader import Library

_LAYERS = "Layers:\n"


class Log:
    """What TensorRT said since the last `clear`: warnings, errors, and the layers of the engine just built.

    `logger` is what TensorRT's classes take. There is one per library and process, since TensorRT keeps the first.
    """

    def __init__(self, module: Any) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.layers: tuple[Layer, ...] = ()
        severity = module.ILogger.Severity
        failed, warned = (severity.INTERNAL_ERROR, severity.ERROR), severity.WARNING

        class Logger(module.ILogger):  # type: ignore[misc]
            def log(_, level: Any, message: str) -> None:  # noqa: N805 - `self` is the log around it
                if level in failed:
                    self.errors.append(message)
                elif level == warned:
                    self.warnings.append(message)
                elif message.startswith(_LAYERS):
                    self.layers = parse_log(message)

        self.logger = Logger()

    def clear(self) -> None:
        """Forget all that was said."""
        self.warnings.clear()
        self.errors.clear()
        self.layers = ()

    def make_error(self, what: str) -> MeasurementError:
        """The error to raise where `what` happened; its reason is what was said."""
        return make_error(what, self.errors, self.warnings)


@cache
def get_log(library: Library) -> Log:
    """The log of `library` in this process."""
    return Log(library.module)
