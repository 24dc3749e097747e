"""How exact a backend's float32 is: dot products of 4096 random numbers each, held against float64.

Of inputs and weights that are standard normal, such a dot product has a standard deviation of 64. In units of that
deviation, rounding moves it by

    float32, 24 bits    2e-7 to 1e-6, by the order of the sum: the largest is one number after the other
    TF32, 11 bits       3e-4, and 8e-4 where it cuts the bits off instead of rounding them

`BOUND` lies ten times above the largest of the first and thirty times below the smallest of the others.
"""

import numpy as np
import torch
from torch import nn

from lgc.lut import Target
from lgc.profiler.backends import Workload, get_backend

CHANNELS, OUTPUTS, SIDE = 4096, 32, 16
BOUND = 1e-5


def layer():
    """A 1x1 convolution over all channels, of standard normal weights, without bias."""
    made = nn.Conv2d(CHANNELS, OUTPUTS, 1, bias=False).eval().requires_grad_(False)
    made.weight.copy_(torch.randn(made.weight.shape, generator=torch.Generator().manual_seed(0)))
    return made


WORKLOAD = Workload("wide dot", ((1, CHANNELS, SIDE, SIDE),), layer)


def relative_error(found, image, weight):
    """Root of the mean square of the errors of dot products, in units of their standard deviation."""
    true = np.einsum("oc,chw->ohw", weight[..., 0, 0].astype(np.float64), image[0].astype(np.float64))
    return float(np.sqrt(np.mean((found[0] - true) ** 2)) / CHANNELS**0.5)


def error_of(backend, device):
    """That of a backend's fp32 on a device."""
    runner = get_backend(backend).compile(WORKLOAD, Target(device, backend))
    (image,) = WORKLOAD.inputs()
    (found,) = runner.infer([image])
    runner.close()
    return relative_error(found, image, layer().weight.numpy())
