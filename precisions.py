"""Names of the precisions that networks are computed in, and TF32, which would replace fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

Precision = Literal["fp32", "fp16", "bf16"]
"""Floating-point precision: of a latency table, and of a training."""
PRECISIONS: tuple[str, ...] = get_args(Precision)
INT8 = "int8"
EXPORT_PRECISIONS = (*PRECISIONS, INT8)
"""Precisions of exported networks."""


def disable_tf32() -> bool:
    """Turn TF32 off in torch's convolutions and matrix products, and return True if torch still reports it on.

    Never use `allow_tf32`: once `fp32_precision` is set, torch refuses to read it, and `torch.backends.cudnn.flags`
    reads it.
    """
    import torch

    cudnn: Any = torch.backends.cudnn  # its stub lacks these attributes
    # also sets `matmul.fp32_precision`, and the value that cuBLAS's kernels compare it with
    torch.set_float32_matmul_precision("highest")
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    return "tf32" in (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Turn TF32 off inside the context, and restore torch's switches after it."""
    import torch

    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:  # the switch of `cuda.matmul` contradicts it, which torch refuses to read
        matmul = "highest"
    try:
        disable_tf32()
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)  # also sets both switches of matrix products
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
