"""The journal: a line a step, and the same for TensorBoard, whatever was interrupted."""

from __future__ import annotations

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgc.search.runtime.metrics_log import MetricsLog


def lines_of(folder):
    return [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]


def events_of(folder):
    events = EventAccumulator(str(folder / "tensorboard" / "search"))
    events.Reload()
    return events


def steps_of(folder, name):
    return [(event.step, event.value) for event in events_of(folder).Scalars(name)]


def write(folder, first, stop, **more):
    with MetricsLog(folder, "search", first) as journal:
        for step in range(first, stop):
            journal.add({"step": step, "loss": float(step), **more})


def test_a_record_is_a_line_and_an_event_of_each_name(tmp_path):
    record = {"step": 0, "loss": 0.5, "entropy": [1.0, 2.0], "most_likely": "cell0: n0<in0 skip", "miou": None}
    with MetricsLog(tmp_path, "search", 0) as journal:
        journal.add(record)
    assert lines_of(tmp_path) == [record]
    events = events_of(tmp_path)
    tags = events.Tags()
    assert tags["scalars"] == ["loss", "entropy/00", "entropy/01"]
    assert tags["tensors"] == ["most_likely/text_summary"]
    (text,) = events.Tensors("most_likely/text_summary")
    assert text.tensor_proto.string_val == [b"cell0: n0<in0 skip"]
    assert events.Scalars("entropy/01")[0].value == 2.0


@pytest.mark.parametrize("first", [0, 3])
def test_what_a_crash_left_of_later_steps_is_dropped(tmp_path, first):
    write(tmp_path, 0, 5)
    write(tmp_path, first, 7)
    assert [record["step"] for record in lines_of(tmp_path)] == list(range(7))
    assert steps_of(tmp_path, "loss") == [(step, float(step)) for step in range(7)]


def test_a_line_that_was_cut_ends_what_is_kept(tmp_path):
    write(tmp_path, 0, 4)
    path = tmp_path / "search.jsonl"
    path.write_text(path.read_text()[:-9])
    write(tmp_path, 3, 5)
    assert [record["step"] for record in lines_of(tmp_path)] == list(range(5))


def test_nothing_is_written_before_it_is_flushed(tmp_path):
    with MetricsLog(tmp_path, "search", 0) as journal:
        journal.add({"step": 0, "loss": 1.0})
        assert lines_of(tmp_path) == []
        journal.flush()
        assert len(lines_of(tmp_path)) == 1
        journal.flush()
        journal.add({"step": 1, "loss": 2.0})
        assert len(lines_of(tmp_path)) == 1
    assert [record["loss"] for record in lines_of(tmp_path)] == [1.0, 2.0]


def test_steps_before_an_error_are_written(tmp_path):
    def fail():
        with MetricsLog(tmp_path, "search", 0) as journal:
            journal.add({"step": 0, "loss": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lines_of(tmp_path) == [{"step": 0, "loss": 1.0}]
    assert steps_of(tmp_path, "loss") == [(0, 1.0)]


def test_other_processes_write_nothing(tmp_path):
    with MetricsLog(tmp_path, "search", 0, active=False) as journal:
        journal.add({"step": 0, "loss": 1.0})
        journal.flush()
    assert list(tmp_path.iterdir()) == []
