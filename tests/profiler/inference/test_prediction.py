"""Segmentation into files: statistics and the choice of the exported file."""

from __future__ import annotations

import itertools
import os

import numpy as np
import onnx
import pytest

from lgc.errors import FileFormatError, UsageError
from lgc.files import LFS_HEADER, hash_file
from lgc.models.nets.definition import WEIGHTS_FILE
from lgc.models.onnx.export import replace_metadata
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.signature import DIGEST_KEY
from lgc.profiler.inference import prediction
from lgc.profiler.inference.painting import Legend
from lgc.profiler.inference.prediction import Prediction, find_exported_file
from lgc.profiler.inference.segmenter import SegmentationTime

from ... import onnx_files as files

LEGEND = Legend(("road", "sky", "tree"), ((0, 0, 0),) * 3)


def test_shares_and_medians_over_images():
    outputs = Prediction()
    outputs.add(np.array([[0, 0], [0, 1]], np.uint8), 10.0, SegmentationTime(1.0, 2.0, 1.0), 20.0)
    outputs.add(np.array([[1, 1], [1, 1]], np.uint8), 12.0, SegmentationTime(1.0, 4.0, 1.0), 20.0)
    outputs.add(np.array([[0, 0], [7, 7]], np.uint8), 14.0, SegmentationTime(1.0, 3.0, 1.0), 50.0)
    result = outputs.as_dict(LEGEND)
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


@pytest.fixture
def run_folder(tmp_path):
    """Return a run folder with weights, a function that exports them, and the messages."""
    weights = tmp_path / WEIGHTS_FILE
    weights.write_bytes(b"weights")
    (tmp_path / "export").mkdir()
    seconds = itertools.count(10**9)

    def export(name, digest=None, content=None):
        path = tmp_path / "export" / f"{name}.onnx"
        data = replace_metadata(files.make().SerializeToString(), {DIGEST_KEY: digest or hash_file(weights)})
        path.write_bytes(data if content is None else content)
        age = next(seconds)
        os.utime(path, (age, age))
        return path

    return export


def test_only_metadata_is_read_once(run_folder, tmp_path, monkeypatch):
    """Neither older files nor graphs are read to choose a file, and the weights once."""
    run_folder("older")
    newest, hashes, decoded = run_folder("newest"), [], []
    run_folder("stale-dense", "other")
    monkeypatch.setattr(OnnxModel, "load", None)
    monkeypatch.setattr(prediction, "hash_file", lambda path: hashes.append(path) or hash_file(path))
    read = onnx.load_model_from_string
    monkeypatch.setattr(onnx, "load_model_from_string", lambda data: decoded.append(data) or read(data))
    assert find_exported_file(tmp_path, [].append) == newest
    assert (len(hashes), len(decoded)) == (1, 2)


def test_weights_that_are_a_pointer_are_named(run_folder, tmp_path):
    run_folder("good")
    (tmp_path / WEIGHTS_FILE).write_bytes(LFS_HEADER + b"v1\noid sha256:0\nsize 9\n")
    with pytest.raises(FileFormatError, match=rf"{WEIGHTS_FILE}: it is a Git LFS pointer: run `git lfs pull`"):
        find_exported_file(tmp_path)


def test_damaged_file_is_skipped_with_a_line(run_folder, tmp_path):
    run_folder("broken-dense", content=b"damaged")
    good, lines = run_folder("good-dense"), []
    assert find_exported_file(tmp_path, lines.append) == good
    assert lines == [], "older files are not read"
    broken = run_folder("new-dense", content=b"damaged")
    assert find_exported_file(tmp_path, lines.append) == good
    assert lines == [f"skipped: cannot read ONNX model {broken}: it is text that begins with 'damaged'"]
    good.unlink()
    with pytest.raises(FileFormatError, match=r"new-dense.onnx: it is text"):
        find_exported_file(tmp_path)
    run_folder("stale-core", "other")
    with pytest.raises(UsageError, match=r"stale-core.onnx has other weights.*run lgc-export"):
        find_exported_file(tmp_path)
