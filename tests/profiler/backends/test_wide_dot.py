"""That the bound by which fp32 is told from TF32 on a GPU does so; the GPU itself is asked in tests/gpu."""

import numpy as np
import pytest
import torch

from lgc.device import Device
from lgc.profiler.backends import get_backend

from .wide_dot import BOUND, WORKLOAD, error_of, layer, relative_error


def rounded_to_tf32(array):
    """The nearest numbers of TF32, which has ten bits behind the first."""
    bits = array.view(np.uint32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_fp32_is_within_the_bound(name):
    if get_backend(name).unavailable(Device("cpu")) is not None:
        pytest.skip(f"no {name} here")
    assert 1e-8 < error_of(name, "cpu") < BOUND / 5


def test_tf32_is_not():
    (image,) = WORKLOAD.inputs()
    made, weight = layer(), layer().weight.numpy()
    made.weight.copy_(torch.from_numpy(rounded_to_tf32(weight)))
    found = made(torch.from_numpy(rounded_to_tf32(image))).numpy()
    assert 25 * BOUND < relative_error(found, image, weight) < 35 * BOUND
