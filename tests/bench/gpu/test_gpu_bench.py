"""GPU part of the deployment benchmark, without a GPU: trtexec's output, pages, skipped and failed parts."""

import json
from argparse import Namespace
from types import SimpleNamespace

import pytest

from lgc.errors import MeasurementError
from lgc.lut import Target
from lgc.models import SearchSpace
from lgc.profiler.backends.trt.loader import FULL, RTX

from ..common import paired_timing
from . import deployment, measure, rtx_support
from . import trtexec as trtexec_module
from .page import render_page

PASSED = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=net.engine --useCudaGraph
[11/26/2026-09:12:41] [I] === Model Options ===
[11/26/2026-09:12:41] [I] Warmup: 500ms
[11/26/2026-09:12:44] [I] === Trace details ===
[11/26/2026-09:12:44] [I] Average on 10 runs - GPU latency: 0.616 ms - Host latency: 0.616 ms (enqueue 0.00712891 ms)
[11/26/2026-09:12:44] [I] === Performance summary ===
[11/26/2026-09:12:44] [I] Throughput: 1612.34 qps
[11/26/2026-09:12:44] [I] Latency: min = 0.613281 ms, max = 0.7 ms, mean = 0.62 ms, median = 0.617 ms, percentile(99%) = 0.7 ms
[11/26/2026-09:12:44] [I] Enqueue Time: min = 0.006 ms, max = 0.05 ms, mean = 0.007 ms, median = 0.0071 ms, percentile(99%) = 0.01 ms
[11/26/2026-09:12:44] [I] H2D Latency: min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms, percentile(99%) = 0 ms
[11/26/2026-09:12:44] [I] GPU Compute Time: min = 0.6 ms, max = 0.7 ms, mean = 0.6177 ms, median = 0.616455 ms, percentile(99%) = 0.65 ms
[11/26/2026-09:12:44] [I] Total GPU Compute Time: 2.00137 s
[11/26/2026-09:12:44] [W] * GPU compute time is unstable, with coefficient of variance = 1.6%.
&&&& PASSED TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=net.engine --useCudaGraph
"""  # noqa: E501
REFUSED = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=net.engine
[11/26/2026-09:12:41] [E] Error[6]: The engine plan file is not compatible with this version of TensorRT
[11/26/2026-09:12:41] [E] Engine could not be created
&&&& FAILED TensorRT.trtexec [TensorRT v101601] [b11] # trtexec --loadEngine=net.engine
"""
TRT_TARGET = Target("cuda:0", "tensorrt", "fp16")
ROW = {
    "fps": 1600.0,
    "median_ms": 0.625,
    "p90_ms": 0.63,
    "p99_ms": 0.64,
    "iqr_ms": 0.01,
    "runs": 16000,
    "max_abs_diff": 1e-3,
    "relative_diff": 2e-4,
    "argmax_agreement_pct": 99.98,
    "equals_torch": True,
    "engine": {"made_for": "TensorRT 10.16 for 8.9", "bytes": 2_500_000, "layers": 40, "fused": 30, "build_seconds": 9},
}
TURNS = {"rounds": 7, "ours_ms": 0.62, "theirs_ms": 0.616, "ratio": 1.0065, "ratio_q25": 1.001, "ratio_q75": 1.01}
RESULT = {
    "name": ["deployment-gpu", "tiny", "192x256"],
    "commit": "abc",
    "date": "2026-11-26",
    "target": str(TRT_TARGET),
    "seconds": 10.0,
    "environment": {
        "device_name": "NVIDIA L4",
        "system": "Linux",
        "lgc": "0.1.0",
        "python": "3.11.7",
        "versions": {"TensorRT": "10.16.1.11"},
        "gpu": {"uuid": "GPU-0", "driver": "580.1", "power_limit_w": 72.0},
    },
    "scopes": {"dense": ROW, "end-to-end": {"refused": "too little GPU memory"}},
    "clock": TURNS | {"runs_a_round": 200},
    "trtexec": TURNS | {"command": "trtexec --loadEngine=net.engine", "version": "101601", "warnings": ["unstable"]},
    "left_out": {"onnxruntime-tensorrt": "no libnvinfer.so.10"},
    "installation": ["full TensorRT could not be installed: no route"],
    "tensorrt_rtx": "failed: SM 9.0 is not supported",
}


@pytest.fixture
def trtexec(tmp_path, monkeypatch):
    """Return the module with a program that prints the content of a file and logs its calls."""
    program, output, calls = tmp_path / "trtexec", tmp_path / "output", tmp_path / "calls"
    program.write_text(f'#!/bin/sh\necho "$@" >>{calls}\ncat {output}\n')
    program.chmod(0o755)
    monkeypatch.setenv("TRTEXEC", str(program))
    runs = []

    class Runner:
        def prepare(self):
            runs.append("prepare")

        def run(self, repeats):
            runs.append(repeats)
            return [0.62 * 40] * repeats

        def run_untimed(self, repeats):
            runs.append("warm up")

        def close(self):
            runs.append("close")

    monkeypatch.setattr(trtexec_module, "get_backend", lambda name: SimpleNamespace(open=lambda path, device: Runner()))
    return SimpleNamespace(module=trtexec_module, output=output, calls=calls, runs=runs)


def test_median_is_of_gpu_compute_time():
    assert trtexec_module.parse_median_ms(PASSED) == 0.616455
    notes = trtexec_module.parse_notes(PASSED)
    assert notes["version"] == "101601"
    assert notes["warnings"] == ["* GPU compute time is unstable, with coefficient of variance = 1.6%."]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            REFUSED,
            r"GPU Compute Time: Error\[6\]: The engine plan file is not compatible.*; Engine could not be created$",
        ),
        (
            "trtexec: error while loading shared libraries: libnvinfer.so.10",
            "GPU Compute Time: trtexec: error while loading",
        ),
        ("", "GPU Compute Time: no output$"),
    ],
)
def test_trtexec_errors_are_reported(output, message):
    with pytest.raises(MeasurementError, match=message):
        trtexec_module.parse_median_ms(output)


def test_trtexec_alternates_with_lgc(trtexec, tmp_path):
    trtexec.output.write_text(PASSED)
    found = trtexec.module.against_trtexec(tmp_path / "net.engine", FULL, "cuda:1", seconds=14.0)
    calls = trtexec.calls.read_text().splitlines()
    assert len(calls) == found["rounds"] == trtexec.module.ROUNDS >= 5
    assert calls[0].split() == [
        f"--loadEngine={tmp_path / 'net.engine'}",
        "--device=1",
        "--useCudaGraph",
        "--noDataTransfers",
        "--useSpinWait",
        "--warmUp=500",
        "--duration=2",
    ]
    assert found["ratio"] == pytest.approx(0.62 * 40 / 0.616455)
    assert found["command"].startswith("trtexec --loadEngine=net.engine ")
    assert (trtexec.runs[0], trtexec.runs[-1]) == ("prepare", "close")


def test_runner_is_closed_after_a_failure(trtexec, tmp_path):
    trtexec.output.write_text(REFUSED)
    with pytest.raises(MeasurementError, match="not compatible"):
        trtexec.module.against_trtexec(tmp_path / "net.engine", FULL, "cuda:0", seconds=1.0)
    assert trtexec.runs[-1] == "close"


@pytest.mark.parametrize(("flavour", "name"), [(FULL, "trtexec"), (RTX, "tensorrt_rtx")])
def test_missing_trtexec_is_reported(flavour, name, tmp_path, monkeypatch):
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = trtexec_module.against_trtexec(tmp_path / "net.engine", flavour, "cuda:0", seconds=1.0)
    assert found == {"left_out": f"{name} is not on PATH, and TRTEXEC is not set"}


def test_order_alternates_and_ratio_is_per_round():
    order, speed = [], iter([1.0, 1.0, 2.0, 2.0, 4.0, 4.0])

    def run(kind, factor):
        order.append(kind)
        return factor * next(speed)

    found = paired_timing.time_alternately(lambda: run("ours", 1.5), lambda: run("theirs", 1.0), 3)
    assert order == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert (found["ratio"], found["ratio_q25"], found["ratio_q75"]) == (1.5, 1.5, 1.5)
    assert (found["ours_ms"], found["theirs_ms"]) == (3.0, 2.0)


def test_page_has_all_results():
    text = render_page(RESULT)
    for part in (
        "# Deployment, tiny 192x256 on cuda:0, tensorrt, fp16",
        "NVIDIA L4, Linux, TensorRT 10.16.1.11",
        "driver 580.1, power_limit_w 72.0.",
        "| dense | 1600.0 | 0.625 | 0.630 | 0.640 | 0.010 | 16000 | 1.0e-03 | 2.0e-04 | 99.980 | yes |",
        "- end-to-end, failed: too little GPU memory",
        "| dense | 2.50 | 40 | 30 | 9.0 | TensorRT 10.16 for 8.9 |",
        "| 0.6200 | 0.6160 | 1.0065 | 1.0010 to 1.0100 | 7 |",
        "(`trtexec --loadEngine=net.engine`, version 101601)",
        "- trtexec warning: unstable",
        "- onnxruntime-tensorrt: no libnvinfer.so.10",
        "- full TensorRT could not be installed: no route",
        "- TensorRT-RTX on this GPU: failed: SM 9.0 is not supported",
    ):
        assert part in text
    assert "\n\n\n" not in text


def test_failures_are_in_the_files(tmp_path, monkeypatch):
    broken = SimpleNamespace(returncode=-11, stderr="before\nFatal: all is lost\n")
    monkeypatch.setattr(deployment.subprocess, "run", lambda *arguments, **options: broken)
    monkeypatch.setattr(deployment, "stamp", lambda: {"commit": "abc", "date": "today"})
    refused = deployment.find_unavailable("cpu", ["tensorrt", "torch"])
    assert refused == {"tensorrt": "TensorRT needs a CUDA device"}
    (target,) = deployment.list_targets("cpu", ["tensorrt", "torch"], refused, None)
    assert target == Target("cpu", "torch")
    context = {"left_out": refused, "installation": ["pycuda could not be installed: x"], "tensorrt_rtx": None}
    arguments = Namespace(space="tiny", input=None, seconds=1.0, out=tmp_path)
    results = deployment.measure_all(arguments, [target], context)
    (file,) = tmp_path.glob("deployment-cpu-tiny-192x256-*-torch-fp32.json")
    found = json.loads(file.read_text())
    assert found["left_out"] == refused
    assert found["refused"] == "Fatal: all is lost (ended by signal 11)"
    text = file.with_suffix(".md").read_text()
    assert "Failed: Fatal: all is lost (ended by signal 11)" in text
    assert "- tensorrt: TensorRT needs a CUDA device" in text
    assert "- pycuda could not be installed: x" in text
    lines = deployment.summarise("cpu", results, context).splitlines()
    assert "run on cpu: nothing" in lines
    assert "failed: cpu, torch, fp32, 1 thread: Fatal: all is lost (ended by signal 11)" in lines
    assert lines[-1] == "NOT RUN UNDER TENSORRT: TensorRT needs a CUDA device"


def test_last_line_states_whether_tensorrt_ran():
    context = {"left_out": {}, "installation": [], "tensorrt_rtx": None}
    ran = deployment.summarise("cuda:0", {TRT_TARGET: RESULT}, context).splitlines()
    assert ran[-1] == "run under TensorRT: fp16"
    assert "failed: cuda:0, tensorrt, fp16: end-to-end: too little GPU memory" in ran
    failed = RESULT | {"scopes": {"dense": {"refused": "no"}}}
    assert deployment.summarise("cuda:0", {TRT_TARGET: failed}, context).splitlines()[-1] == (
        "NOT RUN UNDER TENSORRT: no engine ran, see above"
    )
    wrong = RESULT | {"scopes": {"dense": ROW | {"equals_torch": False}}}
    assert deployment.list_failures(wrong) == ["dense: outputs differ from torch"]


def test_failed_part_keeps_the_others(mini_space, tmp_path, monkeypatch):
    monkeypatch.setattr(paired_timing, "ROUNDS", 2)
    monkeypatch.setattr(paired_timing, "ROUND_MS", 1.0)
    time_network = measure.time_network

    def only_dense(network, *arguments, **options):
        if network.scope != "dense":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return time_network(network, *arguments, **options)

    monkeypatch.setattr(measure, "time_network", only_dense)
    found = measure.measure_target(
        Target("cpu", "onnxruntime"), measure.median_architecture(mini_space), 0.05, tmp_path
    )
    assert found["scopes"]["dense"]["fps"] > 0
    assert found["scopes"]["dense"]["equals_torch"]
    assert found["scopes"]["end-to-end"] == {"refused": "CUDA error: an illegal memory access was encountered"}
    assert found["clock"]["rounds"] == 2
    assert {"torch", "onnxruntime"} <= set(found["environment"]["versions"])
    assert "trtexec" not in found
    json.dumps(found)


def test_median_architecture_is_between_the_extremes():
    space = SearchSpace.load("tiny")
    spread = sorted(architecture.macs for architecture in space.spread(measure.SPREAD, measure.SEED))
    assert spread[0] < measure.median_architecture(space).macs < spread[-1]


def test_last_line_has_the_exit_code():
    assert rtx_support.last_line(0, "log\nfailed: x\n") == "failed: x"
    assert rtx_support.last_line(1, "Traceback\nValueError: x\n") == "ValueError: x (exit code 1)"
    assert rtx_support.last_line(-6, "") == "no output (ended by signal 6)"
    assert rtx_support.query_rtx("cpu") is None
