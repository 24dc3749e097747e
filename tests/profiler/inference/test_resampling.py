"""Resampling, compared with torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lgc.profiler.inference.resampling import resize_labels, upsample


@pytest.mark.parametrize("size", [(5, 7), (32, 48), (33, 20)])
def test_resampling_equals_torch(size):
    rng = np.random.default_rng(1)
    channel = rng.standard_normal((9, 14), dtype=np.float32)
    reference = F.interpolate(torch.from_numpy(channel)[None, None], size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(upsample(channel, size), reference[0, 0].numpy(), atol=1e-5)
    labels = rng.integers(0, 9, (9, 14)).astype(np.uint8)
    nearest = F.interpolate(torch.from_numpy(labels)[None, None].float(), size, mode="nearest-exact")[0, 0].numpy()
    assert np.array_equal(resize_labels(labels, size), nearest.astype(np.uint8))
