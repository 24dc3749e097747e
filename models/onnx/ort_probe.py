"""ONNX Runtime as the judge of a model: whether it loads, and the shapes of its outputs. Not for timing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import FileFormatError
from .signature import OUTPUT_OPTION
from .tensors import generate_array, is_parameter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .signature import TensorSpec

IR_FIX = "export it with an older IR version (in Python: set model.ir_version, then onnx.save)"
"""Fix of a file in a newer format than a library reads."""
_IR_VERSION = re.compile("ir.version", re.IGNORECASE)
_CODES = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+\.\w+:\d+ .*?\) (?=[A-Z]))?|^\[\w+Error\] ")
"""Codes of an error, and the source line and function of ONNX Runtime that it is from."""
_FATAL = 4
"""Severity of ONNX Runtime's log from which it prints."""


class DynamicOutputError(FileFormatError):
    """An output that is not a tensor of a static shape."""


class OrtProbe:
    """Session of a model on the CPU, without optimisations.

    Attributes:
        session: ONNX Runtime's session.
    """

    def __init__(self, model: bytes | str, where: str) -> None:
        """Load a model from its content, or from the path of its file.

        Raises:
            FileFormatError: ONNX Runtime rejects the model; the message quotes it.
        """
        import onnxruntime

        self._where = where
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise FileFormatError(f"{where}: ONNX Runtime rejects the model: {quote_error(error)}") from error

    def run(self, inputs: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Return the outputs, all or those with the names.

        Raises:
            FileFormatError: The model fails, e.g. at this size; the message quotes ONNX Runtime.
        """
        try:
            return list(self.session.run(names, inputs))
        except MemoryError:
            raise
        except Exception as error:
            names = self._list_value_inputs()
            fault = "ONNX Runtime fails to run the model"
            if names:
                fault = f"the model needs values of input {names}, not random 0 and 1: make it a constant of the model"
            raise FileFormatError(f"{self._where}: {fault}: {quote_error(error)}") from error

    def _list_value_inputs(self) -> str:
        """Return the names of the inputs that are single numbers or lists of integers, such as a size."""
        inputs = self.session.get_inputs()
        return ", ".join(each.name for each in inputs if is_parameter(each.shape, each.type[len("tensor(") : -1]))

    def measure_outputs(self, inputs: tuple[TensorSpec, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return name -> shape and type of each output, which must not depend on the values of the inputs.

        Raises:
            DynamicOutputError: An output is not a tensor, or its shape depends on the values of the inputs.
            FileFormatError: The model fails.
        """
        names = [output.name for output in self.session.get_outputs()]
        rng = np.random.default_rng(0)
        results = [
            self.run({spec.name: generate_array(rng, spec.shape, spec.dtype) for spec in inputs}) for _ in range(2)
        ]
        for name, first, second in zip(names, *results, strict=True):
            if not hasattr(first, "shape"):
                raise DynamicOutputError(
                    f"{self._where}: output {name} is a {type(first).__name__}, not a tensor: choose another with "
                    f"{OUTPUT_OPTION}"
                )
            if first.shape != second.shape or 0 in first.shape:
                parameters = self._list_value_inputs()
                advice = f"make input {parameters} a constant" if parameters else f"choose another with {OUTPUT_OPTION}"
                raise DynamicOutputError(
                    f"{self._where}: the shape of output {name} depends on the values of the input, {first.shape} or "
                    f"{second.shape}, but must be static: {advice}"
                )
        return {name: (array.shape, str(array.dtype)) for name, array in zip(names, results[0], strict=True)}


def quote_error(error: Exception) -> str:
    """Return the message of an error of ONNX or ONNX Runtime as one line, without codes, and with the fix if known.

    Further lines list other errors, unless the first ends in a colon.
    """
    lines = str(error).strip().partition("\n\n")[0].splitlines() or [type(error).__name__]
    text = " ".join(map(str.strip, lines)) if lines[0].rstrip().endswith(":") else lines[0]
    text = _CODES.sub("", text)
    return f"{text.rstrip('.')}: {IR_FIX}" if mentions_ir(text) else text


def mentions_ir(message: str) -> bool:
    """Return True for a message on the version of the file format, which is newer than the library."""
    return _IR_VERSION.search(message) is not None
