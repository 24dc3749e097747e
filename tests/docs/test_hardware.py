"""Tables of tested hardware match the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import hardware

LINE = {
    "part": 3,
    "name": "torch backend",
    "status": "passed",
    "device_name": "NVIDIA H100",
    "date": "2027-01-02T03:04",
}


@pytest.fixture
def results(tmp_path):
    """Return a function that writes GPU check lines and JSON results into a folder like docs/benchmarks."""

    def write(*lines: dict, **files: dict) -> Path:
        text = "\n".join(json.dumps(LINE | {"commit": "abc1234"} | line) for line in lines)
        (tmp_path / "gpu-check-h100.jsonl").write_text(text)
        for name, content in files.items():
            environment = {"device_name": content.pop("device", "NVIDIA L4")}
            common = {"name": [name], "date": "2027-02-03", "commit": "def5678", "environment": environment}
            (tmp_path / f"{name}.json").write_text(json.dumps(common | content))
        return tmp_path

    return write


def component_hardware(folder: Path) -> dict[str, str]:
    """Return the column "tested on" of the README's table by component."""
    rows = hardware.block(hardware.ROWS, folder, "benchmarks").splitlines()[4:-2]
    return dict(row.split(" | ")[:2] for row in (row.removeprefix("| ") for row in rows))


@pytest.mark.parametrize("page", hardware.PAGES, ids=str)
def test_pages_are_current(page):
    path = hardware.ROOT / page
    assert path.read_text() == hardware.render_pages()[path], "run `make docs`"


def test_no_claims_without_results(results):
    rows = component_hardware(results())
    for row in hardware.ROWS:
        assert rows[row.component] == {"cpu": "never run", "cuda": "never run on a GPU"}[row.kind]


def test_passed_gpu_check_is_listed(results):
    folder = results({}, {"part": 10, "status": "failed"}, {"part": 1, "status": "skipped"})
    rows = component_hardware(folder)
    assert rows["torch as CUDA graphs"] == "NVIDIA H100, 2027-01-02, abc1234"
    assert rows["Search and training on a GPU (CUDA)"] == (
        "never passed on a GPU; failed on NVIDIA H100, 2027-01-02, abc1234"
    )
    assert rows["GPU monitoring (NVML)"] == rows["TensorRT engines"] == "never run on a GPU"
    assert "[GPU check, torch backend](benchmarks/gpu-check-h100.jsonl)" in hardware.block(
        hardware.ROWS, folder, "benchmarks"
    )
    (folder / "gpu-check-h100.md").touch()
    assert "(benchmarks/gpu-check-h100.md)" in hardware.block(hardware.ROWS, folder, "benchmarks")


def test_later_pass_replaces_a_failure(results):
    rows = component_hardware(results({"status": "failed"}, {"date": "2027-01-03", "commit": "fixed00"}))
    assert rows["torch as CUDA graphs"] == "NVIDIA H100, 2027-01-03, fixed00"


def test_benchmarks_on_a_gpu_count(results):
    rows = component_hardware(
        results(
            table={"target": "cuda:0, torch, fp16", "verify": {"mape_pct": 1.0}},
            engine={"target": "cuda:0, tensorrt, fp16", "scopes": {"dense": {"refused": "why"}, "core": {"fps": 9.0}}},
            provider={"target": "cuda:0, onnxruntime, fp32", "scopes": {"dense": {"refused": "why"}}},
        )
    )
    expected = "NVIDIA L4, 2027-02-03, def5678"
    assert rows["Latency tables and predictions on a GPU"] == rows["torch as CUDA graphs"] == expected
    assert rows["TensorRT engines"] == expected
    assert rows["ONNX Runtime on CUDA"] == "never run on a GPU"


def test_sections_keep_their_own_commit(results):
    made = {"ahead": {"date": "2026-05-06", "commit": "older00"}}
    rows = component_hardware(results(deployment={"device": "CPU", "ahead": {"rows": [1]}, "made": made}))
    assert rows["TensorRT-RTX engines, built ahead of time without a GPU"] == "CPU, 2026-05-06, older00"


def test_page_without_markers_is_rejected():
    with pytest.raises(ValueError, match=r"README\.md must have one <!-- hardware:begin -->"):
        hardware.insert_table("text", "table", Path("README.md"))
