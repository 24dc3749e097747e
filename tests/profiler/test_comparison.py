"""Networks side by side: what can be compared, how it is timed, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from lgc.errors import BackendUnavailableError, FileFormatError, PluginError, UnknownNameError, UsageError
from lgc.files import hash_file
from lgc.lut import Target
from lgc.lut.statistics.measurement import Measurement, SampleBatch
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.sources import FactorySource, PeerSource
from lgc.models.space.protocol import CORE, DENSE
from lgc.profiler import comparison
from lgc.profiler.candidates import build_candidate, read_file_candidate, read_run_candidate
from lgc.profiler.comparison import time_candidates
from lgc.profiler.deployment.network import Network, write_onnx

from ..user_networks import Main

ORT = Target("cpu", "onnxruntime")
SIZE = (64, 128)


@pytest.fixture
def file(mini_space, tmp_path):
    return write_onnx(Network(mini_space.sample(0), None, DENSE), tmp_path)


@pytest.fixture
def architecture_file(mini_space, tmp_path):
    path = tmp_path / "a.json"
    mini_space.sample(1).save(path)
    return path


def test_files_runs_and_peers_are_timed_together(mini_space, file, architecture_file):
    entrants = [
        read_file_candidate(file),
        read_run_candidate(architecture_file, None, DENSE),
        build_candidate(PeerSource("fast-scnn"), mini_space.input, DENSE, mini_space.classes),
    ]
    rows = time_candidates(entrants, [ORT], 0.1)
    assert {row.name for row in rows} == {entrant.name for entrant in entrants}
    assert [row.relative for row in rows] == sorted(row.relative for row in rows)
    assert rows[0].relative == 1
    for row in rows:
        assert row.fps == pytest.approx(1000 / row.median_ms)
        assert row.median_ms <= row.p90_ms <= row.p99_ms
        assert row.runs >= 200
        assert row.argmax_agreement_pct is None if row.kind == "file" else row.argmax_agreement_pct >= 99.9
        assert row.macs > 0
    ours = next(row for row in rows if row.kind == "architecture")
    assert (ours.parameters, ours.macs) == (mini_space.sample(1).parameters, mini_space.sample(1).macs)


def test_waits_for_cpu_time_are_said(file, architecture_file, monkeypatch):
    """They change the frame rate, not the ratio: that is of undisturbed runs."""
    durations = {"0": [1.0, 8.0, 9.0], "1": [3.0, 29.0, 30.0]}
    batches = [SampleBatch(key, n, n + int(key) / 10, runs) for n in range(80) for key, runs in durations.items()]
    monkeypatch.setattr(comparison, "measure_seconds", lambda *_, **__: Measurement(batches, "minima"))
    candidates = [read_file_candidate(file), read_run_candidate(architecture_file, None, DENSE)]
    first, second = time_candidates(candidates, [ORT], 0.1)
    assert (second.relative, second.relative_low, second.relative_high) == pytest.approx((3, 3, 3))
    assert (second.fps, second.latency_ms) == pytest.approx((1000 / 29, 3))
    assert "29 ms, is 9.7 times the latency of undisturbed runs, 3 ms: the process waits" in second.remarks[-1]
    assert first.remarks[-1].startswith("the median of all runs, 8 ms, is 8.0 times")


def test_scope_is_read_from_the_file(file, mini_space, tmp_path):
    own = read_file_candidate(file)
    assert (own.kind, own.scope) == ("file", DENSE)
    model = onnx.load(file)
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    onnx.save(model, foreign)
    found = read_file_candidate(foreign)
    assert (found.scope, found.size, found.classes) == (DENSE, own.size, None)
    assert own.classes is not None
    logits = onnx.load(write_onnx(Network(mini_space.sample(0), None, CORE), tmp_path))
    del logits.metadata_props[:]
    onnx.save(logits, foreign)
    assert read_file_candidate(foreign).scope == "as is, to 1x3x8x8", "may be at any stride, or of a classifier"


def test_a_size_of_ones_own_or_another(mini_space, architecture_file):
    entrant = read_run_candidate(architecture_file, SIZE, DENSE)
    assert entrant.size == SIZE
    assert entrant.workload.input_shapes == ((1, 3, *SIZE),)
    architecture = mini_space.sample(1)
    definition = NetworkDefinition.of(architecture)
    assert definition.with_input(SIZE).architecture.choices == architecture.choices
    assert definition.with_input(mini_space.input) is definition
    assert entrant.group == (SIZE, DENSE, 1)
    assert read_run_candidate(architecture_file, None, DENSE).group == (mini_space.input, DENSE, 1)


class Tapped(Main):
    """Network whose forward reads a convolution's output before its normalisation."""

    def forward(self, x):
        features = []
        for layer in self.body:
            x = layer(x)
            features.append(x)
        return self.head(features[0] + x)


def test_tapped_convolutions_are_compared_unfolded():
    remarks = []
    source = FactorySource(Tapped, "mine.py:Tapped", "")
    candidate = build_candidate(source, SIZE, CORE, 4, remarks.append)
    assert "mine.py:Tapped: normalisations in nn.Sequential are not folded" in remarks[0]
    (inputs,) = candidate.workload.inputs()
    with torch.no_grad():
        output = candidate.workload.build()(torch.from_numpy(inputs)).numpy()
    (expected,) = candidate.run_reference([inputs])
    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert candidate.reference is not None
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in candidate.reference().modules())


def test_run_with_nan_logits_is_refused(mini_space, tmp_path):
    from lgc.models import LGCNet
    from lgc.models.nets.state.weights import save_weights

    architecture = mini_space.sample(2)
    architecture.save(tmp_path / "architecture.json")
    network = LGCNet(mini_space, architecture)
    next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)).running_var.fill_(-1)
    save_weights(network, tmp_path / "weights.safetensors")
    with pytest.raises(PluginError, match="NaN or infinite logits"):
        read_run_candidate(tmp_path, None, DENSE)


def test_run_candidate_has_weights_and_score(mini_space, tmp_path):
    from lgc.models import LGCNet
    from lgc.models.nets.state.weights import save_weights

    architecture = mini_space.sample(2)
    run = tmp_path / "street"
    architecture.save(run / "architecture.json")
    network = LGCNet(mini_space, architecture).eval()
    save_weights(network, run / "weights.safetensors")
    assert read_run_candidate(run, None, DENSE).miou is None
    result = {"miou": 61.5, "per_class": {"road": 61.5}, "scored_on": "val", "scored_at": [32, 48]}
    (run / "train-result.json").write_text(json.dumps(result))
    entrant = read_run_candidate(run, None, DENSE)
    assert (entrant.name, entrant.kind, entrant.miou, entrant.scored_on) == (
        "street",
        "run",
        61.5,
        "val, in fp32, labels at 32x48",
    )
    elsewhere = read_run_candidate(run, SIZE, DENSE)
    assert (elsewhere.miou, elsewhere.scored_on) == (None, None), "scored at another size"
    logits, others = (read_run_candidate(path, None, CORE) for path in (run, run / "architecture.json"))
    inputs = logits.workload.inputs()
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs[0])).numpy()
    np.testing.assert_allclose(logits.run_reference(inputs)[0], expected, atol=1e-5)
    assert not np.allclose(others.run_reference(inputs)[0], expected, atol=1e-5), "the weights of the run"
    remarks, digest = [], hash_file(run / "weights.safetensors")
    (run / "train-result.json").write_text(json.dumps(result | {"weights_digest": digest}))
    assert read_run_candidate(run, None, DENSE, log=remarks.append).miou == 61.5
    save_weights(LGCNet(mini_space, architecture), run / "weights.safetensors")
    assert read_run_candidate(run, None, DENSE, log=remarks.append).miou is None
    assert ["the mIoU in train-result.json is that of other weights" in remark for remark in remarks] == [True]
    (run / "train-result.json").write_text("{")
    with pytest.raises(FileFormatError, match="damaged training result"):
        read_run_candidate(run, None, DENSE)


def test_an_output_that_differs_shows(mini_space, file):
    """The reference of a workload with a module is the module's output, not the file's."""
    other = Network(mini_space.sample(5), None, DENSE)
    wrong = replace(read_file_candidate(file), workload=replace(other.workload(), file=file.read_bytes()))
    (row,) = time_candidates([wrong], [ORT], 0.05)
    assert row.argmax_agreement_pct < 99


def test_what_cannot_be_compared_is_refused(file, mini_space, tmp_path):
    entrant = read_file_candidate(file)
    with pytest.raises(UsageError, match="duplicate network names"):
        time_candidates([entrant, entrant], [ORT], 0.1)
    with pytest.raises(UsageError, match=r"the model is fp32, not int8: add --precision fp32"):
        time_candidates([entrant], [Target("cpu", "onnxruntime", "int8")], 0.1)
    with pytest.raises(UsageError, match=r"no network can run on .*int8.*: the model is fp32, not int8$"):
        time_candidates([entrant], [ORT, Target("cpu", "onnxruntime", "int8")], 0.1)
    with pytest.raises(BackendUnavailableError, match="cannot run on cpu"):
        time_candidates([entrant], [Target("cpu", "tensorrt")], 0.1)
    with pytest.raises(UnknownNameError, match="fast-scnn"):
        PeerSource("fast-scn")
    quantised = Network(mini_space.sample(0), None, DENSE, images=(np.zeros((*mini_space.input, 3), np.uint8),))
    named = read_file_candidate(write_onnx(quantised, tmp_path, "int8"))
    with pytest.raises(UsageError, match=r"the model is int8, not fp32: add --precision int8"):
        time_candidates([named], [ORT], 0.1)
