"""Accuracy of a backend's float32: dot products of 4096 random numbers, compared with float64.

For standard normal inputs and weights, such a dot product has a standard deviation of 64. In units of that deviation,
rounding changes it by

    float32, 24 bits    2e-7 to 1e-6, depending on the order of the sum; most for a sequential sum
    TF32, 11 bits       3e-4 with rounding, 8e-4 with truncation

`BOUND` is ten times above the largest error of float32 and thirty times below the smallest error of TF32.
"""

import numpy as np
import torch
from torch import nn

from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend

CHANNELS, OUTPUTS, SIDE = 4096, 32, 16
BOUND = 1e-5


def make_layer():
    """Return a 1x1 convolution over all channels with standard normal weights, without bias."""
    conv = nn.Conv2d(CHANNELS, OUTPUTS, 1, bias=False).eval().requires_grad_(False)
    conv.weight.copy_(torch.randn(conv.weight.shape, generator=torch.Generator().manual_seed(0)))
    return conv


WORKLOAD = Workload("wide dot", ((1, CHANNELS, SIDE, SIDE),), make_layer)


def compute_relative_error(outputs, image, weight):
    """Return the root mean square error of the dot products, in units of their standard deviation."""
    true = np.einsum("oc,chw->ohw", weight[..., 0, 0].astype(np.float64), image[0].astype(np.float64))
    return float(np.sqrt(np.mean((outputs[0] - true) ** 2)) / CHANNELS**0.5)


def measure_error(backend, device):
    """Return the relative error of a backend's fp32 on a device."""
    runner = get_backend(backend).compile(WORKLOAD, Target(device, backend))
    (image,) = WORKLOAD.inputs()
    (outputs,) = runner.infer([image])
    runner.close()
    return compute_relative_error(outputs, image, make_layer().weight.numpy())
