"""Translation of errors of TensorRT, CUDA, torch and ONNX Runtime into one-line errors of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module

from ...errors import MeasurementError

MAX_MESSAGE_LENGTH = 400
"""Most characters of a library's message that an error quotes."""

ExceptionTypes = tuple[type[Exception], ...]

_OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|insufficient memory|memoryallocation|gpu memory .*could not be allocated|"
    r"failed to allocate memory|smaller than requested bytes|status_alloc_failed|can't allocate memory|bad_alloc",
    re.IGNORECASE,
)
_NO_KERNEL = "could not find any implementation"
"""TensorRT's error where its warnings report that no kernel got the memory it requires."""


class OutOfMemoryError(MeasurementError):
    """Not enough memory; the same call may succeed with a smaller input, or later."""


def make_error(
    summary: str, errors: Sequence[str], warnings: Sequence[str] = (), *, on_gpu: bool = True
) -> MeasurementError:
    """Return an error that joins a summary with a library's messages; where memory is short, with the fix.

    Args:
        summary: failed action, e.g. `TensorRT 10.9 could not build the engine`.
        errors: the library's error messages.
        warnings: the library's warnings; they count only where the errors give no reason.
        on_gpu: True if the memory is a GPU's.
    """
    reason = join_lines("\n".join(errors))
    no_reason = not reason or _NO_KERNEL in reason.lower()
    memory_warnings = [line for line in warnings if no_reason and _OUT_OF_MEMORY.search(line)]
    if memory_warnings or any(map(_OUT_OF_MEMORY.search, errors)):
        reason = join_lines("\n".join([*errors, *memory_warnings[:1]])).rstrip(".")
        gpu, location = (" GPU", " on the GPU") if on_gpu else ("", "")
        return OutOfMemoryError(
            f"not enough{gpu} memory: {summary}: {reason}; reduce the input size or close other programs{location}"
        )
    return MeasurementError(f"{summary}: {reason or 'no reason given'}")


@contextmanager
def translate_torch_errors(*, on_gpu: bool) -> Iterator[None]:
    """Translate torch's errors inside the context or decorated function; keep it out of timed loops.

    Raises:
        MeasurementError: torch fails, or memory is short; the message says which.
    """
    with _translate_errors("torch", lambda: (RuntimeError,), on_gpu):
        yield


@contextmanager
def translate_ort_errors(*, on_gpu: bool, summary: str = "ONNX Runtime") -> Iterator[None]:
    """Translate ONNX Runtime's errors inside the context or decorated function, as `translate_torch_errors` does.

    Raises:
        MeasurementError: ONNX Runtime fails, or memory is short; the message says which.
    """
    with _translate_errors(summary, get_ort_exceptions, on_gpu):
        yield


@cache
def get_ort_exceptions() -> ExceptionTypes:
    """Return ONNX Runtime's exceptions, which share no base class, and Python's types for C++ exceptions."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, MemoryError, *own)


def join_lines(text: str) -> str:
    """Return a message as one line of at most `MAX_MESSAGE_LENGTH` characters, without repeats and driver noise."""
    lines = (line.strip() for line in text.splitlines())
    joined = "; ".join(dict.fromkeys(line for line in lines if line and "catchCudaError" not in line))
    return joined if len(joined) <= MAX_MESSAGE_LENGTH else f"{joined[:MAX_MESSAGE_LENGTH]}..."


@contextmanager
def _translate_errors(summary: str, get_types: Callable[[], ExceptionTypes], on_gpu: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, get_types()) or isinstance(error, RecursionError):  # a bug in this package
            raise
        raise make_error(summary, [str(error)], on_gpu=on_gpu and not isinstance(error, MemoryError)) from error
