"""What TensorRT, CUDA, torch or ONNX Runtime said where it failed, as an error of one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module

from ...errors import MeasurementError

MAX_MESSAGE_LENGTH = 400
"""Characters of their words that an error message carries at most."""

ExceptionTypes = tuple[type[Exception], ...]

_OUT_OF_MEMORY = re.compile(
    r"out[ _]?of[ _]?memory|insufficient memory|memoryallocation|gpu memory .*could not be allocated|"
    r"failed to allocate memory|smaller than requested bytes|status_alloc_failed|can't allocate memory|bad_alloc",
    re.IGNORECASE,
)
_NO_KERNEL = "could not find any implementation"
"""What TensorRT's error says where its warnings tell that no kernel got the memory it wants."""


class OutOfMemoryError(MeasurementError):
    """There is too little memory: the same may work with less, or later."""


def make_error(
    what: str, errors: Sequence[str], warnings: Sequence[str] = (), *, on_gpu: bool = True
) -> MeasurementError:
    """An error to raise: what happened, why by these words, and, where memory is short, what helps.

    Args:
        what: say `TensorRT 10.9 could not build the engine`.
        errors: the library's own words.
        warnings: likewise; they count where the errors give no reason.
        on_gpu: whether the memory is a GPU's.
    """
    words = join_lines("\n".join(errors))
    short = (
        [line for line in warnings if _OUT_OF_MEMORY.search(line)] if not words or _NO_KERNEL in words.lower() else []
    )
    if short or any(map(_OUT_OF_MEMORY.search, errors)):
        words = join_lines("\n".join([*errors, *short[:1]])).rstrip(".")
        gpu, there = (" GPU", " on the GPU") if on_gpu else ("", "")
        return OutOfMemoryError(
            f"too little{gpu} memory: {what}: {words}; take a smaller input size, or end other programs{there}"
        )
    return MeasurementError(f"{what}: {words or 'it gave no reason'}")


@contextmanager
def translate_torch_errors(*, on_gpu: bool) -> Iterator[None]:
    """Context, or decorator, out of which torch's errors come as our own; nothing of it is in a loop that is timed.

    Raises:
        MeasurementError: torch fails, or there is too little memory; the message says so.
    """
    with _translate_errors("torch", lambda: (RuntimeError,), on_gpu):
        yield


@contextmanager
def translate_ort_errors(*, on_gpu: bool, what: str = "ONNX Runtime") -> Iterator[None]:
    """Context, or decorator, out of which ONNX Runtime's errors come as our own, as `translate_torch_errors` does it.

    Raises:
        MeasurementError: ONNX Runtime fails, or there is too little memory; the message says so.
    """
    with _translate_errors(what, get_ort_exceptions, on_gpu):
        yield


@cache
def get_ort_exceptions() -> ExceptionTypes:
    """What ONNX Runtime raises: exceptions of its own, which share no base class, and what Python makes of C++'s."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, MemoryError, *own)


def join_lines(text: str) -> str:
    """Their words on one line: no line twice, at most `MAX_MESSAGE_LENGTH` characters, no echo of a missing driver."""
    lines = (line.strip() for line in text.splitlines())
    words = "; ".join(dict.fromkeys(line for line in lines if line and "catchCudaError" not in line))
    return words if len(words) <= MAX_MESSAGE_LENGTH else f"{words[:MAX_MESSAGE_LENGTH]}..."


@contextmanager
def _translate_errors(what: str, kinds: Callable[[], ExceptionTypes], on_gpu: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, kinds()) or isinstance(error, RecursionError):  # Python's own, and a bug of ours
            raise
        raise make_error(what, [str(error)], on_gpu=on_gpu and not isinstance(error, MemoryError)) from error
