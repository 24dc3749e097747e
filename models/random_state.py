"""States of the random number generators of torch, NumPy and Python that the user's code draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_random_state() -> tuple[Any, ...]:
    """Return a value that changes when Python or NumPy draws a random number."""
    name, _, *position = np.random.get_state(legacy=True)
    return random.getstate(), name, *position


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the random states of torch, Python and NumPy at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def seed_generators(seed: int) -> Iterator[None]:
    """Seed torch, Python and NumPy, e.g. to draw initial weights, and restore their states at the end."""
    with keep_random_state():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
