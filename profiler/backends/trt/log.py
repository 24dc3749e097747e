"""Log of TensorRT, collected instead of printed: its messages belong into errors, not on stderr."""

from __future__ import annotations

from functools import cache
from typing import Any

from ....errors import MeasurementError
from ..error_translation import make_error
from .layer_nodes import Layer, parse_log
from .loader import Library

_LAYERS = "Layers:\n"


class Log:
    """Messages of TensorRT since the last `clear`: warnings, errors, and the layers of the last built engine.

    There is one log per library and process, since TensorRT keeps the first logger.

    Attributes:
        logger: logger for TensorRT's classes.
        warnings: warnings since the last `clear`.
        errors: errors since the last `clear`.
        layers: layers of the last engine built since then.
    """

    def __init__(self, module: Any) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.layers: tuple[Layer, ...] = ()
        severity = module.ILogger.Severity
        error_levels, warning_level = (severity.INTERNAL_ERROR, severity.ERROR), severity.WARNING

        class Logger(module.ILogger):  # type: ignore[misc]
            def log(_, level: Any, message: str) -> None:  # noqa: N805 - `self` is the enclosing log
                if level in error_levels:
                    self.errors.append(message)
                elif level == warning_level:
                    self.warnings.append(message)
                elif message.startswith(_LAYERS):
                    self.layers = parse_log(message)

        self.logger = Logger()

    def clear(self) -> None:
        """Forget all messages."""
        self.warnings.clear()
        self.errors.clear()
        self.layers = ()

    def make_error(self, summary: str) -> MeasurementError:
        """Return an error that joins a summary with the logged messages."""
        return make_error(summary, self.errors, self.warnings)


@cache
def get_log(library: Library) -> Log:
    """Return the log of `library` in this process."""
    return Log(library.module)
