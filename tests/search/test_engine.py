from __future__ import annotations

import json

import pytest
import torch

from lgc.errors import DataError, FileFormatError, OutputError, TrainingError, UsageError
from lgc.models import Architecture
from lgc.search import engine
from lgc.search.engine import search


class KilledError(Exception):
    """Stands for a `kill` at a step."""


def result_of(out):
    checkpoint = torch.load(out / "search.ckpt", weights_only=True)
    log = [json.loads(line) for line in (out / "search.jsonl").read_text().splitlines()]
    return checkpoint, log, Architecture.load(out / "architecture.json")


def test_a_search_leaves_a_run_folder(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    found = search(street, scenes, out, short)
    checkpoint, log, architecture = result_of(out)
    assert found["predicted_ms"] == pytest.approx(street.predict(architecture))
    assert checkpoint["step"] == short.steps
    assert [record["step"] for record in log] == list(range(short.steps))
    assert ["arch_loss" in record for record in log] == [False, False, True, True, True, True]
    assert architecture.provenance["predicted_ms"] == found["predicted_ms"]


def test_a_target_is_met(street, scenes, short, tmp_path):
    low, high = street.predict(street.fastest), street.predict(street.slowest)
    target = (low + high) / 2
    found = search(street, scenes, tmp_path / "run", short.model_copy(update={"target_ms": target}))
    assert 0.9 * target <= found["predicted_ms"] <= target
    assert (found["fastest_ms"], found["slowest_ms"]) == (low, high)


def test_killed_and_resumed_gives_the_same_bits(street, scenes, short, tmp_path, monkeypatch):
    search(street, scenes, tmp_path / "whole", short)
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)

    def die(step, steps):
        if step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        search(street, scenes, tmp_path / "cut", short, on_step=die)
    assert not (tmp_path / "cut" / "architecture.json").exists()
    steps = []
    search(street, scenes, tmp_path / "cut", short, on_step=lambda step, _: steps.append(step))
    assert steps[0] == 4  # the step it died in was not saved
    whole, cut = result_of(tmp_path / "whole"), result_of(tmp_path / "cut")
    for name, value in whole[0]["net"].items():
        assert torch.equal(value, cut[0]["net"][name]), name
    assert whole[1] == cut[1]
    assert whole[2].choices == cut[2].choices


def test_the_seed_decides(street, scenes, short, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search(street, scenes, tmp_path / name, short.model_copy(update={"seed": seed}))
    a, b, c = (result_of(tmp_path / name)[1] for name in "abc")
    assert a == b
    assert a != c


def test_a_finished_search_is_not_repeated(street, scenes, short, tmp_path):
    first = search(street, scenes, tmp_path / "run", short)
    assert search(street, scenes, tmp_path / "run", short, on_step=lambda *_: pytest.fail("searched again")) == first


def test_another_search_is_not_overwritten(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    search(street, scenes, out, short)
    before = (out / "architecture.json").read_bytes()
    with pytest.raises(OutputError, match="seed 0, not 1"):
        search(street, scenes, out, short.model_copy(update={"seed": 1}))
    assert (out / "architecture.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="something else"):
        search(street, scenes, out, short)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_damaged_checkpoint_is_named(street, scenes, short, tmp_path):
    out = tmp_path / "run"
    search(street, scenes, out, short)
    (out / "search-result.json").unlink()
    whole = (out / "search.ckpt").read_bytes()
    (out / "search.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"search\.ckpt"):
        search(street, scenes, out, short)


def test_data_of_other_classes_are_refused(predictor, scenes, short, tmp_path):
    with pytest.raises(DataError, match="has 11 classes, space mini has 3"):
        search(predictor, scenes, tmp_path / "run", short)
    assert not (tmp_path / "run").exists()


def test_an_unreachable_target_is_refused_first(street, tmp_path, short):
    with pytest.raises(UsageError, match="above the slowest"):
        search(street, tmp_path / "nowhere", tmp_path / "run", short.model_copy(update={"target_ms": 1e6}))


def test_a_loss_that_is_no_number_stops_with_the_checkpoint_kept(street, scenes, short, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CHECKPOINT_S", 0.0)
    real, calls = engine.upsampled_loss, 0

    def broken(logits, labels):
        nonlocal calls
        calls += 1
        return real(logits, labels) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr(engine, "upsampled_loss", broken)
    with pytest.raises(TrainingError, match="nan at step 2"):
        search(street, scenes, tmp_path / "run", short)
    kept = torch.load(tmp_path / "run" / "search.ckpt", weights_only=True)
    assert kept["step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in kept["net"].values())
