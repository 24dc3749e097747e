"""Colours of classes."""

import numpy as np
import pytest

from lgc.models.palettes import colourise_labels, distinct_palette


@pytest.mark.parametrize("count", [2, 11, 19, 150, 256])
def test_generated_colours_are_distinct_and_stable(count):
    colours = distinct_palette(count)
    assert len(set(colours)) == count
    assert colours == distinct_palette(256)[:count]
    steps = np.diff(np.array(colours, int), axis=0)
    assert np.sqrt((steps**2).sum(axis=1)).min() > 100, "neighbours are far apart"


def test_void_is_black():
    shown = colourise_labels(np.array([[0, 1, 255]], np.uint8), ((1, 2, 3), (4, 5, 6)))
    assert shown.tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]
