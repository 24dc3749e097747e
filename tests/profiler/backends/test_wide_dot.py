"""Bound that separates fp32 from TF32, checked on the CPU; the GPU is tested in tests/gpu."""

import numpy as np
import torch

from .wide_dot import BOUND, WORKLOAD, compute_relative_error, make_layer, measure_error


def rounded_to_tf32(array):
    """Return the nearest TF32 values, with ten bits after the leading one."""
    bits = array.view(np.uint32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def test_fp32_is_within_bound(cpu_backend):
    assert 1e-8 < measure_error(cpu_backend.name, "cpu") < BOUND / 5


def test_tf32_exceeds_bound():
    (image,) = WORKLOAD.inputs()
    conv, weight = make_layer(), make_layer().weight.numpy()
    conv.weight.copy_(torch.from_numpy(rounded_to_tf32(weight)))
    outputs = conv(torch.from_numpy(rounded_to_tf32(image))).numpy()
    assert 25 * BOUND < compute_relative_error(outputs, image, weight) < 35 * BOUND
