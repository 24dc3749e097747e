"""Provenance of a search, which suffices to repeat it."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
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


def write_and_read(out, predictors, data):
    write_provenance(out, predictors, split_halves(load_dataset(data, "train", (32, 32)), 0))
    return json.loads((out / "provenance.json").read_text())


def test_provenance_has_command_versions_and_machine(street, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lgc-search", "--lut", "a b.lut"])
    provenance = write_and_read(tmp_path / "run", [street], data)
    assert provenance["command"] == ["lgc-search", "--lut", "a b.lut"]
    assert provenance["packages"]["torch"] == version("torch")
    assert provenance["packages"]["lgc"]
    assert (provenance["python"], provenance["machine"]) == (platform.python_version(), platform.platform())
    assert (provenance["threads"], len(provenance["gpus"])) == (torch.get_num_threads(), torch.cuda.device_count())


def test_copied_tables_predict_the_same(predict, deep_space, data, tmp_path):
    predictors = [predict(deep_space, seed) for seed in (0, 1)]
    rows = write_and_read(tmp_path / "run", predictors, data)["tables"]
    before = [predictor.table_path.read_bytes() for predictor in predictors]
    for predictor in predictors:
        predictor.table_path.unlink()
    for row, predictor, content in zip(rows, predictors, before, strict=True):
        copy = tmp_path / "run" / row["file"]
        assert copy.read_bytes() == content
        with LatencyTable.open(copy) as table:
            assert Predictor(deep_space, table).fingerprint == predictor.fingerprint == row["fingerprint"]
    assert rows[0]["fingerprint"] != rows[1]["fingerprint"]


def test_images_are_listed_by_half(street, data, tmp_path):
    images = write_and_read(tmp_path / "run", [street], data)["images"]
    everything = {pair.image.name for pair in load_dataset(data, "train").pairs}
    assert images["weights"]["count"] == images["architecture"]["count"] == len(everything) // 2
    assert {*images["weights"]["names"]} | {*images["architecture"]["names"]} == everything
    assert write_and_read(tmp_path / "again", [street], data)["images"] == images


def test_resumed_search_adds_its_command(street, data, tmp_path, monkeypatch):
    first = write_and_read(tmp_path / "run", [street], data)
    monkeypatch.setattr(sys, "argv", ["lgc-search", "--again"])
    second = write_and_read(tmp_path / "run", [street], data)
    assert second.pop("resumed")[0]["command"] == ["lgc-search", "--again"]
    assert second == first
    other = write_and_read(tmp_path / "run", [street, street], data)
    assert len(other["tables"]) == 2
    assert "resumed" not in other


@pytest.mark.parametrize("kind", ["image", "label"])
def test_digest_changes_with_a_file(street, data, tmp_path, kind):
    before = write_and_read(tmp_path / "run", [street], data)["images"]
    path = getattr(split_halves(load_dataset(data, "train"), 0)[1].pairs[0], kind)
    Image.new("RGB" if kind == "image" else "L", (32, 32)).save(path)
    after = write_and_read(tmp_path / "run", [street], data)["images"]  # a new provenance, not a resumed one
    assert after["weights"] == before["weights"]
    assert after["architecture"]["digest"] != before["architecture"]["digest"]
    assert after["architecture"]["names"] == before["architecture"]["names"]
