"""What is told of TensorRT's and CUDA's failures: one line, and of memory that is short what to lower."""

import pytest

from lgc.profiler.backends.failure import LONGEST, failure

MEND = "; take a smaller input size, or end other programs on the GPU"


@pytest.mark.parametrize(
    "words",
    [
        "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "Cuda failure: cudaErrorMemoryAllocation",
        "cuMemHostAlloc failed: out of memory",
        "CUDA_ERROR_OUT_OF_MEMORY",
    ],
)
def test_memory_is_short(words):
    assert str(failure("TensorRT 10 makes no context", [words])) == (
        f"too little GPU memory: TensorRT 10 makes no context: {words}{MEND}"
    )


def test_warnings_tell_why_no_kernel_was_found():
    errors = ["Error Code 10: Internal Error (Could not find any implementation for node /a/Conv.)"]
    warnings = [
        "Unused input",
        "Requested amount of GPU memory (17179869184 bytes) could not be allocated. There may not be enough.",
        "Skipping tactic 8 due to insufficient memory on requested size of 17179869184 detected for tactic 0x3c.",
    ]
    told = str(failure("TensorRT 10 could not build the engine", errors, warnings))
    assert told.startswith("too little GPU memory: TensorRT 10 could not build the engine: Error Code 10")
    assert "; Requested amount of GPU memory (17179869184 bytes)" in told
    assert told.endswith(MEND)
    assert "\n" not in told


def test_warnings_of_memory_do_not_hide_another_error():
    warnings = ["Skipping tactic 8 due to insufficient memory on requested size of 1 detected for tactic 0x3c."]
    assert str(failure("it failed", ["Error Code 4: wrong shape"], warnings)) == "it failed: Error Code 4: wrong shape"
    assert str(failure("it failed", [], warnings)).startswith("too little GPU memory: it failed: Skipping tactic")


def test_no_reason_and_long_ones():
    assert str(failure("it failed", [])) == "it failed: it gave no reason"
    told = str(failure("it failed", ["x" * 999, "(cudaError in catchCudaError)"]))
    assert told == f"it failed: {'x' * LONGEST}..."
