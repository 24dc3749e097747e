"""Metrics log: one line and TensorBoard event per step, also after interruptions."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgc.errors import TrainingError
from lgc.search.runtime.fabric import open_fabric
from lgc.search.runtime.metrics_log import MetricsLog

FABRIC = open_fabric("cpu")


def read_lines(folder):
    return [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]


def read_events(folder):
    events = EventAccumulator(str(folder / "tensorboard" / "search"))
    events.Reload()
    return events


def read_steps(folder, name):
    return [(event.step, event.value) for event in read_events(folder).Scalars(name)]


def write(folder, first, stop, **more):
    with MetricsLog(folder, "search", first, FABRIC) as log:
        for step in range(first, stop):
            log.add({"step": step, "loss": float(step), **more})


def test_record_is_line_and_events(tmp_path):
    record = {"step": 0, "loss": 0.5, "entropy": [1.0, 2.0], "most_likely": "cell0: n0<in0 skip", "miou": None}
    with MetricsLog(tmp_path, "search", 0, FABRIC) as log:
        log.add(record)
    assert read_lines(tmp_path) == [record]
    events = read_events(tmp_path)
    tags = events.Tags()
    assert tags["scalars"] == ["loss", "entropy/00", "entropy/01"]
    assert tags["tensors"] == ["most_likely/text_summary"]
    (text,) = events.Tensors("most_likely/text_summary")
    assert text.tensor_proto.string_val == [b"cell0: n0<in0 skip"]
    assert events.Scalars("entropy/01")[0].value == 2.0


@pytest.mark.parametrize("first", [0, 3])
def test_later_steps_of_a_crash_are_dropped(tmp_path, first):
    write(tmp_path, 0, 5)
    write(tmp_path, first, 7)
    assert [record["step"] for record in read_lines(tmp_path)] == list(range(7))
    assert read_steps(tmp_path, "loss") == [(step, float(step)) for step in range(7)]


def test_truncated_line_is_dropped(tmp_path):
    write(tmp_path, 0, 4)
    path = tmp_path / "search.jsonl"
    path.write_text(path.read_text()[:-9])
    write(tmp_path, 3, 5)
    assert [record["step"] for record in read_lines(tmp_path)] == list(range(5))


def test_records_are_written_on_flush(tmp_path):
    with MetricsLog(tmp_path, "search", 0, FABRIC) as log:
        log.add({"step": 0, "loss": 1.0})
        assert read_lines(tmp_path) == []
        log.flush()
        assert len(read_lines(tmp_path)) == 1
        log.flush()
        log.add({"step": 1, "loss": 2.0})
        assert len(read_lines(tmp_path)) == 1
    assert [record["loss"] for record in read_lines(tmp_path)] == [1.0, 2.0]


def test_steps_before_an_error_are_written(tmp_path):
    def fail():
        with MetricsLog(tmp_path, "search", 0, FABRIC) as log:
            log.add({"step": 0, "loss": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_lines(tmp_path) == [{"step": 0, "loss": 1.0}]
    assert read_steps(tmp_path, "loss") == [(0, 1.0)]


def refuse_infinite(record):
    if not math.isfinite(record["loss"]):
        raise TrainingError(f"loss {record['loss']} at step {record['step']}")


def test_tensors_are_read_together(tmp_path, monkeypatch):
    reads, real = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(self.shape) or real(self))
    monkeypatch.setattr(torch.Tensor, "item", None)
    with MetricsLog(tmp_path, "search", 0, FABRIC) as log:
        for step in range(3):
            log.add({"step": step, "loss": torch.tensor(step / 2), "aux_loss": torch.tensor(-1.0), "lr": 0.5})
    assert reads == [(6,)]
    assert read_lines(tmp_path) == [{"step": s, "loss": s / 2, "aux_loss": -1.0, "lr": 0.5} for s in range(3)]


def test_invalid_metrics_are_null(tmp_path):
    values = [math.nan, math.inf, 1.0]
    with MetricsLog(tmp_path, "search", 0, FABRIC) as log:
        for step, value in enumerate(values):
            log.add({"step": step, "gradient_norm": torch.tensor(value)})
    assert [record["gradient_norm"] for record in read_lines(tmp_path)] == [None, None, 1.0]
    assert [value for _, value in read_steps(tmp_path, "gradient_norm")] == pytest.approx(values, nan_ok=True)


def test_refused_record_ends_the_log(tmp_path):
    def write_nan():
        with MetricsLog(tmp_path, "search", 0, FABRIC, refuse_infinite) as log:
            for value in (1.0, 2.0, float("nan"), 3.0):
                log.add({"step": int(value) if value == value else 9, "loss": torch.tensor(value)})
            log.flush()

    with pytest.raises(TrainingError, match="loss nan at step 9"):
        write_nan()
    assert [record["loss"] for record in read_lines(tmp_path)] == [1.0, 2.0]


def test_invalid_loss_does_not_hide_an_error(tmp_path):
    def fail():
        with MetricsLog(tmp_path, "search", 0, FABRIC, refuse_infinite) as log:
            log.add({"step": 0, "loss": torch.tensor(1.0)})
            log.add({"step": 1, "loss": torch.tensor(float("inf"))})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_lines(tmp_path) == [{"step": 0, "loss": 1.0}]


def test_inactive_processes_write_nothing(tmp_path):
    other = SimpleNamespace(is_global_zero=False, world_size=1, device=torch.device("cpu"))
    with MetricsLog(tmp_path, "search", 0, other) as log:
        log.add({"step": 0, "loss": torch.tensor(1.0)})
        log.flush()
    assert list(tmp_path.iterdir()) == []
