"""Errors of TensorRT, CUDA, torch and ONNX Runtime become one line, with the fix where memory is short."""

import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as state

from lgc.errors import LgcError, MeasurementError
from lgc.profiler.backends.error_translation import (
    MAX_MESSAGE_LENGTH,
    OutOfMemoryError,
    make_error,
    translate_ort_errors,
    translate_torch_errors,
)

FIX = "; reduce the input size or close other programs on the GPU"


@pytest.mark.parametrize(
    "text",
    [
        "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "Cuda failure: cudaErrorMemoryAllocation",
        "cuMemHostAlloc failed: out of memory",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB",
        "bfc_arena.cc:360 AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 43980465",
        "bfc_arena.cc:340 Extend(size_t) Available memory of 12 is smaller than requested bytes of 4398046511",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    ],
)
def test_out_of_memory_errors_suggest_fix(text):
    assert str(make_error("TensorRT 10 cannot create a context", [text])) == (
        f"not enough GPU memory: TensorRT 10 cannot create a context: {text}{FIX}"
    )


def test_warnings_explain_missing_kernel():
    errors = ["Error Code 10: Internal Error (Could not find any implementation for node /a/Conv.)"]
    warnings = [
        "Unused input",
        "Requested amount of GPU memory (17179869184 bytes) could not be allocated. There may not be enough.",
        "Skipping tactic 8 due to insufficient memory on requested size of 17179869184 detected for tactic 0x3c.",
    ]
    message = str(make_error("TensorRT 10 could not build the engine", errors, warnings))
    assert message.startswith("not enough GPU memory: TensorRT 10 could not build the engine: Error Code 10")
    assert "; Requested amount of GPU memory (17179869184 bytes)" in message
    assert message.endswith(FIX)
    assert "\n" not in message


def test_memory_warnings_do_not_hide_errors():
    warnings = ["Skipping tactic 8 due to insufficient memory on requested size of 1 detected for tactic 0x3c."]
    assert (
        str(make_error("it failed", ["Error Code 4: wrong shape"], warnings)) == "it failed: Error Code 4: wrong shape"
    )
    assert str(make_error("it failed", [], warnings)).startswith("not enough GPU memory: it failed: Skipping tactic")


def test_missing_and_long_reasons():
    assert str(make_error("it failed", [])) == "it failed: no reason given"
    message = str(make_error("it failed", ["x" * 999, "(cudaError in catchCudaError)"]))
    assert message == f"it failed: {'x' * MAX_MESSAGE_LENGTH}..."


def test_host_memory_is_not_gpu_memory():
    message = make_error(
        "torch", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"], on_gpu=False
    )
    assert isinstance(message, OutOfMemoryError)
    assert str(message) == (
        "not enough memory: torch: DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes; "
        "reduce the input size or close other programs"
    )


def test_out_of_memory_recognised_in_long_message():
    text = f"while running Conv node. Name:'{'/cell' * 100}' Failed to allocate memory for requested buffer"
    assert str(make_error("ONNX Runtime", [text])).startswith("not enough GPU memory: ONNX Runtime: while running Conv")


OWN = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_ort_exceptions_share_no_base():
    assert len(OWN) > 10
    assert not any(issubclass(kind, RuntimeError) for kind in OWN)


@pytest.mark.parametrize("kind", [*OWN, RuntimeError], ids=lambda kind: kind.__name__)
def test_every_ort_error_is_translated(kind):
    with (
        pytest.raises(MeasurementError, match=r"^ONNX Runtime: first; second$") as caught,
        translate_ort_errors(on_gpu=True),
    ):
        raise kind("first\nsecond")
    assert isinstance(caught.value.__cause__, kind)


def test_memory_error_means_host_memory():
    message = r"^not enough memory: ONNX Runtime: std::bad_alloc; reduce the input"
    with pytest.raises(OutOfMemoryError, match=message), translate_ort_errors(on_gpu=True):
        raise MemoryError("std::bad_alloc")


def test_every_torch_error_is_translated():
    @translate_torch_errors(on_gpu=True)
    def work(error):
        raise error

    with pytest.raises(MeasurementError, match=r'^torch: "max_pool2d" not implemented$'):
        work(NotImplementedError('"max_pool2d" not implemented'))
    for _ in range(2):  # the decorator is reusable
        with pytest.raises(OutOfMemoryError, match=r"^not enough GPU memory: torch: CUDA out of memory; reduce"):
            work(RuntimeError("CUDA out of memory."))


@pytest.mark.parametrize("context", [translate_torch_errors, translate_ort_errors])
@pytest.mark.parametrize("kind", [TypeError, ValueError, RecursionError, KeyError, LgcError])
def test_bugs_keep_their_traceback(context, kind):
    with pytest.raises(kind, match="ours"), context(on_gpu=False):
        raise kind("ours")
