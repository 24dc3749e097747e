"""What is kept to repeat a search."""

from __future__ import annotations

import json
import platform
import sys
from shutil import copytree

import pytest
import torch
from PIL import Image

from lgc.lut import LatencyTable, Predictor
from lgc.search.data.datasets import load_dataset, split_halves
from lgc.search.runtime.provenance import write_provenance


@pytest.fixture
def data(scenes, tmp_path):
    return copytree(scenes, tmp_path / "data")


def provenance_of(out, predictors, data):
    write_provenance(out, predictors, split_halves(load_dataset(data, "train", (32, 32)), 0))
    return json.loads((out / "provenance.json").read_text())


def test_machine_command_and_versions(street, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lgc-search", "--lut", "a b.lut"])
    found = provenance_of(tmp_path / "run", [street], data)
    assert found["command"] == ["lgc-search", "--lut", "a b.lut"]
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["lgc"]
    assert (found["python"], found["machine"]) == (platform.python_version(), platform.platform())
    assert (found["threads"], len(found["gpus"])) == (torch.get_num_threads(), torch.cuda.device_count())


def test_tables_are_copied_and_predict_the_same(predict, deep_space, data, tmp_path):
    predictors = [predict(deep_space, seed) for seed in (0, 1)]
    rows = provenance_of(tmp_path / "run", predictors, data)["tables"]
    before = [predictor.table_path.read_bytes() for predictor in predictors]
    for predictor in predictors:
        predictor.table_path.unlink()
    for row, predictor, content in zip(rows, predictors, before, strict=True):
        copy = tmp_path / "run" / row["file"]
        assert copy.read_bytes() == content
        with LatencyTable.open(copy) as table:
            assert Predictor(deep_space, table).fingerprint == predictor.fingerprint == row["fingerprint"]
    assert rows[0]["fingerprint"] != rows[1]["fingerprint"]


def test_images_are_named_by_half(street, data, tmp_path):
    images = provenance_of(tmp_path / "run", [street], data)["images"]
    everything = {pair.image.name for pair in load_dataset(data, "train").pairs}
    assert images["weights"]["count"] == images["architecture"]["count"] == len(everything) // 2
    assert {*images["weights"]["names"]} | {*images["architecture"]["names"]} == everything
    assert provenance_of(tmp_path / "again", [street], data)["images"] == images


def test_a_search_that_is_gone_on_with_adds_what_went_on(street, data, tmp_path, monkeypatch):
    first = provenance_of(tmp_path / "run", [street], data)
    monkeypatch.setattr(sys, "argv", ["lgc-search", "--again"])
    second = provenance_of(tmp_path / "run", [street], data)
    assert second.pop("resumed")[0]["command"] == ["lgc-search", "--again"]
    assert second == first
    other = provenance_of(tmp_path / "run", [street, street], data)
    assert len(other["tables"]) == 2
    assert "resumed" not in other


@pytest.mark.parametrize("kind", ["image", "label"])
def test_the_digest_changes_with_a_file(street, data, tmp_path, kind):
    before = provenance_of(tmp_path / "run", [street], data)["images"]
    path = getattr(split_halves(load_dataset(data, "train"), 0)[1].pairs[0], kind)
    Image.new("RGB" if kind == "image" else "L", (32, 32)).save(path)
    after = provenance_of(tmp_path / "run", [street], data)["images"]  # not the earlier one's, gone on with
    assert after["weights"] == before["weights"]
    assert after["architecture"]["digest"] != before["architecture"]["digest"]
    assert after["architecture"]["names"] == before["architecture"]["names"]
