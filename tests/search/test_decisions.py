"""Decisions that share a choice, or whose choice is fixed."""

from __future__ import annotations

import numpy as np
import pytest

from lgc.errors import UsageError
from lgc.search.decisions import Decisions

from ..spaces import RIGHT, ToySpace


def test_different_decisions_cannot_share():
    assignment = [0, 1, 2, 2, 3, 4]  # a width and an operator
    with pytest.raises(UsageError, match="decisions last and left of toy differ: they cannot share one"):
        Decisions(ToySpace(), assignment)


def test_fixed_choices_meet_requirements():
    assignment, fixed = [0, 1, 2, -1, -1, 3], np.zeros(6, int)  # both branches are zero
    with pytest.raises(UsageError, match="fixed choices are invalid in space toy: both branches are zero"):
        _ = Decisions(ToySpace(), assignment, fixed).requirements
    fixed[RIGHT] = 1
    assert len(Decisions(ToySpace(), assignment, fixed).requirements) == 0
