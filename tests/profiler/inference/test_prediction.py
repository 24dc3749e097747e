"""Segmentation into files: statistics and the choice of the exported file."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lgc.errors import UsageError
from lgc.profiler.inference.painting import Legend
from lgc.profiler.inference.prediction import Prediction, find_exported_file
from lgc.profiler.inference.segmenter import SegmentationTime

LEGEND = Legend(("road", "sky", "tree"), ((0, 0, 0),) * 3)


def test_shares_and_medians_over_images():
    prediction = Prediction()
    prediction.add(np.array([[0, 0], [0, 1]], np.uint8), 10.0, SegmentationTime(1.0, 2.0, 1.0), 20.0)
    prediction.add(np.array([[1, 1], [1, 1]], np.uint8), 12.0, SegmentationTime(1.0, 4.0, 1.0), 20.0)
    prediction.add(np.array([[0, 0], [7, 7]], np.uint8), 14.0, SegmentationTime(1.0, 3.0, 1.0), 50.0)
    result = prediction.as_dict(LEGEND)
    assert result["images"] == 3
    assert list(result["classes"]) == ["road", "sky", "tree", "class 7"]
    assert list(result["classes"].values()) == pytest.approx([500 / 12, 500 / 12, 0, 200 / 12])
    assert result["ms_per_image"] == {"read": 12, "before": 1, "network": 3, "after": 1, "write": 20}
    assert result["fps"] == pytest.approx(1000 / 5), "reading and writing are not included"


def test_newest_dense_file_is_preferred(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(UsageError, match="run lgc-export"):
        find_exported_file(tmp_path)
    for seconds, name in enumerate(("a-dense", "b-dense", "c-core")):
        path = tmp_path / "export" / f"{name}.onnx"
        path.touch()
        os.utime(path, (10**9 + seconds, 10**9 + seconds))
    assert find_exported_file(tmp_path).stem == "b-dense"
    assert find_exported_file(tmp_path / "export" / "a-dense.onnx").stem == "a-dense"
