"""`lgc-bench` from the command line: tables, plot and errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from lgc.models import LGCNet, SearchSpace
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.state.weights import save_weights
from lgc.models.space.protocol import DENSE
from lgc.profiler import candidates
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.layers.peak import DevicePeak
from lgc.tools.cli.console import print_tables
from lgc.tools.cli.tables.bench_table import make_bench_tables

from .. import onnx_files
from ..operators import pooled_attention
from ..timings import make_timing

SHORT = ("--seconds", "0.1s")


@pytest.fixture
def file(mini_space, tmp_path):
    return write_onnx(Network(mini_space.sample(0), None, DENSE), tmp_path)


@pytest.fixture
def architecture(mini_space, tmp_path):
    mini_space.sample(1).save(tmp_path / "other.json")
    return tmp_path / "other.json"


def test_files_architectures_and_peers_share_a_table(call, file, architecture, mini_space):
    arguments = ("lgc-bench", file, architecture, "--peer", "fast-scnn", *SHORT)
    result = json.loads(call(*arguments, "--json").out)
    assert {row["name"] for row in result["results"]} == {file.stem, "other", "fast-scnn"}
    assert {row["input"] for row in result["results"]} == {"x".join(map(str, mini_space.input))}
    assert result["environment"][0]["versions"]["onnxruntime"]
    shown = call(*arguments, "--published")
    assert shown.code == 0, shown.err
    assert "latency relative to the fastest" in shown.out
    before, _, after = shown.out.partition("published frame rates")
    assert "fast-scnn" in before
    assert "Fast-SCNN" in after
    assert "Titan Xp" not in before, "measured and published never share a table"


def test_run_with_module_operator_is_timed(call, mini_space, tmp_path):
    space = SearchSpace.check({**mini_space.to_dict(), "operators": ["zero", pooled_attention.__name__]}, "space")
    architecture = space.sample(0)
    architecture.save(tmp_path / "architecture.json")
    save_weights(LGCNet(space, architecture), tmp_path / "weights.safetensors")
    done = call("lgc-bench", tmp_path, *SHORT)
    assert done.code == 0, done.err


def test_each_input_size_has_its_own_table(call, architecture):
    done = call("lgc-bench", architecture, "--input", "32x32", "--input", "32x64", "--backend", "onnxruntime",
                "--backend", "torch", *SHORT, "--json")  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads(done.out)["results"]
    groups = {(row["backend"], row["input"]) for row in rows}
    assert groups == {(name, size) for name in ("onnxruntime", "torch") for size in ("32x32", "32x64")}
    assert "compare within a table only" in done.err
    for size in ("32x32", "32x64"):
        relative = [row["relative"] for row in rows if row["input"] == size]
        assert min(relative) == 1, "the fastest of all backends at that size"
        assert relative == sorted(relative)


def test_file_runs_only_in_its_precision(call, file, mini_space, tmp_path):
    """Compare an int8 file with its fp32 original; an fp16 file is never reported as fp32."""
    images = (np.zeros((*mini_space.input, 3), np.uint8),)
    network = Network(mini_space.sample(0), None, DENSE, images=images)
    quantised, half = (write_onnx(network, tmp_path, precision) for precision in ("int8", "fp16"))
    done = call("lgc-bench", file, quantised, "--precision", "fp32", "--precision", "int8", *SHORT)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if re.match(r"\S+-dense\S* ", line) and ":" not in line]
    assert {(row[0], row[1]) for row in rows} == {(file.stem, "fp32"), (quantised.stem, "int8")}
    assert "skipped" not in done.err
    assert "does not predict that of an int8 engine" in done.out
    assert "the model is fp16, not fp32" in call("lgc-bench", file, half).refusal("lgc-bench")


def test_foreign_int8_file_computes_in_int8(call, tmp_path):
    """ONNX Runtime's own quantiser writes int32 biases, so nothing is said about float32."""
    done = call("lgc-bench", onnx_files.quantise(tmp_path, "QDQ"), *SHORT)
    assert done.code == 0, done.err
    assert "int8" in done.out
    assert "float32" not in done.out + done.err


def test_values_quantised_around_float_products_stay_fp32(call, tmp_path):
    """They are neither int8 nor cast to fp16."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]), *onnx_files.net_nodes("d")]  # fmt: skip
    weights = onnx_files.WEIGHTS | {"s": np.array(0.1, "f4"), "z": np.array(128, "u1")}
    path = onnx_files.save(onnx_files.make(nodes, weights=weights), tmp_path / "m.onnx")
    done = call("lgc-bench", path, *SHORT, "--json")
    (row,) = json.loads(done.out)["results"]
    assert (row["precision"], row["quantisation"]) == ("fp32", None)
    assert "m: quantises values, but computes all products in fp32" in done.err
    refused = call("lgc-export", path, "--out", tmp_path / "out", "--precision", "fp16", "--ort")
    assert "quantises values: it cannot be converted to fp16" in refused.refusal("lgc-export")


@pytest.fixture
def known_peak(monkeypatch):
    """Give every target a known peak, and return the targets and whether it was to be measured again."""
    calls = []

    def load(target, *, refresh, on_progress):
        calls.append((target, refresh))
        return DevicePeak(str(target), "fp32", 5e10, ((2**18, 9e10), (2**28, 1e10)), "2026-01-01", 9.0), ("kept",)

    monkeypatch.setattr("lgc.profiler.layers.breakdown.load_peak", load)
    return calls


def test_layers_of_each_network_are_reported(call, file, architecture, known_peak):
    done = call("lgc-bench", file, architecture, "--layers", *SHORT, "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["results"]
    assert {row["name"] for row in rows} == {file.stem, "other"}
    for row in rows:
        assert sum(layer["ms"] for layer in row["layers"]) == pytest.approx(row["sum_ms"])
        assert sum(layer["macs"] for layer in row["layers"]) == row["macs"]
        assert row["network_ms"] > 0
        assert row["peak"]["macs_per_s"] == 5e10
        keys = ("name", "operator", "shape", "ms", "share_pct", "macs", "bytes", "intensity", "peak_pct")
        assert tuple(key for key in row["layers"][0] if key in keys) == keys


def test_layers_are_printed_below_the_networks(call, file, known_peak):
    shown = call("lgc-bench", file, "--layers", *SHORT, "--refresh-peak", "--backend", "onnxruntime")
    assert shown.code == 0, shown.err
    before, _, after = shown.out.partition(f"{file.stem}, ")
    assert "rel. latency" in before
    assert "sum of" in after
    assert "1. " in after
    assert "kept" in after
    assert [refresh for _, refresh in known_peak] == [True]
    assert "layers" not in json.loads(call("lgc-bench", file, *SHORT, "--json").out)["results"][0]


def test_backend_without_layers_is_skipped_or_refused(call, architecture, known_peak):
    both = ("--backend", "torch", "--backend", "onnxruntime")
    done = call("lgc-bench", architecture, "--layers", *both, *SHORT, "--json")
    assert done.code == 0, done.err
    assert "no layers on cpu, torch, fp32, 1 thread: backend torch does not report layer times" in done.err
    rows = {row["backend"]: row for row in json.loads(done.out)["results"]}
    assert "layers" in rows["onnxruntime"]
    assert "layers" not in rows["torch"]
    refused = call("lgc-bench", architecture, "--layers", "--backend", "torch").refusal("lgc-bench")
    assert refused.endswith("--layers: backend torch does not report layer times: use onnxruntime or tensorrt")


def test_file_has_no_agreement_with_itself(call, file):
    (row,) = json.loads(call("lgc-bench", file, *SHORT, "--json").out)["results"]
    assert (row["argmax_agreement_pct"], row["max_abs_diff"]) == (None, None)


def test_equal_remarks_are_printed_once():
    rows = [replace(make_timing(name, fps, None), remarks=("rebuilt",)) for name, fps in (("a", 9), ("b", 8), ("a", 7))]
    assert [line for line in make_bench_tables(rows) if "rebuilt" in str(line)] == [
        "a, fp32: rebuilt",
        "b, fp32: rebuilt",
    ]


def test_scores_on_different_data_are_named():
    same = [make_timing("a", 9, 60.0, dataset="scenes"), make_timing("b", 8, 50.0, dataset="scenes")]
    assert "mIoU: scenes, val" in make_bench_tables(same)
    other = [same[0], replace(same[1], dataset="shapes")]
    lines = make_bench_tables(other)
    assert [line for line in lines if str(line).startswith("mIoU")] == [
        "mIoU of a: scenes, val",
        "mIoU of b: shapes, val",
    ]


@pytest.mark.parametrize("width", [40, 80, 100, 132])
def test_table_is_whole_at_every_width(width):
    rows = [
        make_timing("street", 2900.6, 96.3, classes=4),
        replace(
            make_timing("pidnet-s-of-long-name", 36.04, None, classes=19), backend="torch", argmax_agreement_pct=99.5
        ),
    ]
    stream = StringIO()
    print_tables(Console(file=stream, width=width), make_bench_tables(rows))
    words = stream.getvalue().split()
    for text in ("2900.6", "36.0", "96.3", "0.345", "27.747", "99.50", "4", "19", "FPS", "p99", "mIoU", "classes"):
        assert text in words
    assert max(map(len, stream.getvalue().splitlines())) <= width


@pytest.fixture
def runs(mini_space, tmp_path):
    """Return two runs: of 3 classes, scored on scenes, and of 4 classes, scored on shapes."""
    paths = []
    for name, space in (("scenes", mini_space), ("shapes", mini_space.with_classes(4))):
        run = tmp_path / f"run-{name}"
        space.sample(0).save(run / "architecture.json")
        definition = replace(NetworkDefinition.of(space.sample(0)), dataset=name)
        definition.save(run)
        save_weights(definition.build(), run / "weights.safetensors")
        result = {"miou": 61.5, "per_class": {"road": 61.5}, "scored_on": "val", "scored_at": [32, 32]}
        (run / "train-result.json").write_text(json.dumps(result))
        paths.append(run)
    return paths


def test_classes_and_data_of_runs_are_reported(call, runs):
    assert (
        call("lgc-bench", *runs, "--peer", "fast-scnn", *SHORT)
        .refusal("lgc-bench")
        .endswith("the runs have 3 and 4 classes: choose those of fast-scnn with --classes N")
    )
    done = call("lgc-bench", *runs, "--peer", "fast-scnn", "--classes", 5, *SHORT, "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: (row["classes"], row["dataset"]) for row in json.loads(done.out)["results"]}
    assert rows == {"run-scenes": (3, "scenes"), "run-shapes": (4, "shapes"), "fast-scnn": (5, None)}
    assert "networks have 3 and 4 and 5 classes" in done.err
    assert "mIoUs are of different data, so they do not compare: scenes, val" in done.err


def test_classes_without_other_networks_are_said(call):
    done = call("lgc-bench", "--peer", "fast-scnn", "--input", "32x64", *SHORT)
    assert "fast-scnn: 19 classes are assumed, as for Cityscapes; --classes N builds others" in done.err
    assert "19 classes" in done.out
    done = call("lgc-bench", "--peer", "fast-scnn", "--input", "32x64", "--classes", 4, *SHORT)
    assert "are assumed" not in done.err
    assert "4 classes" in done.out


FOREIGN = {
    "axes": onnx_files.dynamic,
    "fixed": onnx_files.make,
    "heads": onnx_files.two_outputs,
    "last": onnx_files.channels_last,
    "pixels": onnx_files.pixels,
}


def test_files_of_every_kind_are_timed(call, tmp_path):
    paths = [onnx_files.save(make(), tmp_path / f"{name}.onnx") for name, make in FOREIGN.items()]
    paths += [onnx_files.quantise(tmp_path, kind) for kind in ("dynamic", "QOperator")]
    done = call("lgc-bench", *paths, "--input", "16x24", *SHORT, "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads(done.out)["results"]}
    assert {row["input"] for row in rows.values()} == {"16x24"}
    precisions = {name: (row["precision"], row["quantisation"]) for name, row in rows.items()}
    quantised = {kind: ("int8", kind) for kind in ("dynamic", "QOperator")}
    assert precisions == dict.fromkeys(FOREIGN, ("fp32", None)) | quantised
    assert "axes: input x [n, 3, h, w] bound to 1x3x16x24" in done.err
    assert "heads: computes all 2 outputs: aux" in done.err


def test_model_without_images_is_timed(call, tmp_path):
    path = onnx_files.save(onnx_files.tokens(), tmp_path / "m.onnx")
    done = call("lgc-bench", path, *SHORT)
    assert done.code == 0, done.err
    assert "1x5, as is, to 1x5x3, onnxruntime on cpu, fp32, 1 thread" in done.out


def test_files_are_bound_to_each_size(call, tmp_path):
    axes, fixed = (onnx_files.save(FOREIGN[name](), tmp_path / f"{name}.onnx") for name in ("axes", "fixed"))
    sizes = ("--input", "16x24", "--input", "32x32", *SHORT, "--json")
    rows = json.loads(call("lgc-bench", axes, fixed, *sizes).out)["results"]
    assert sorted((row["name"], row["input"]) for row in rows) == [
        ("axes", "16x24"),
        ("axes", "32x32"),
        ("fixed", "16x24"),
    ]


def test_fixed_file_keeps_its_size_among_runs(call, file, architecture):
    rows = json.loads(call("lgc-bench", file, architecture, "--input", "32x64", *SHORT, "--json").out)["results"]
    assert {(row["name"], row["input"]) for row in rows} == {(file.stem, "32x32"), ("other", "32x64")}


def test_chosen_output_is_the_only_one_computed(call, tmp_path):
    path = onnx_files.save(onnx_files.two_outputs(), tmp_path / "m.onnx")
    whole, cut = (
        json.loads(call("lgc-bench", path, *options, *SHORT, "--json").out)["results"][0]
        for options in ((), ("--output-name", "main"))
    )
    assert whole["macs"] > cut["macs"]
    assert (whole["scope"], cut["scope"]) == ("as is, to 2 of 1x4x8x12", "as is, to 1x4x8x12")


def make_scores(channels=19, *nodes, shape=(1, 19, 32, 64), kind=onnx_files.FLOAT, layout="NCHW", batch=1):
    """Return a network of scores, and what `nodes` compute from its scores `s`."""
    weights = {
        "w": np.random.default_rng(0).standard_normal((channels, 3, 1, 1), np.float32),
        "scale": np.float32(0.05),
        "zero": np.uint8(128),
        "none": np.float32(0),
    }
    first = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    conv = helper.make_node("Conv", ["t" if first else "x", "w"], ["s"])
    size = (batch, 32, 64, 3) if first else (batch, 3, 32, 64)
    used = {name for node in (conv, *nodes) for name in node.input}
    return onnx_files.make(
        [*first, conv, *nodes],
        [onnx_files.value("x", size)],
        [onnx_files.value(nodes[-1].output[0] if nodes else "s", shape, kind)],
        {name: array for name, array in weights.items() if name in used},
    )


TO_LAST = helper.make_node("Transpose", ["s"], ["l"], perm=[0, 2, 3, 1])
INT64, UINT8 = TensorProto.INT64, TensorProto.UINT8


@pytest.mark.parametrize(
    ("model", "metadata", "classes"),
    [
        (make_scores(7, TO_LAST, shape=(1, 32, 64, 7), layout="NHWC"), {}, 7),
        (make_scores(7, shape=(1, 7, 32, 64)), {"classes": json.dumps([f"c{n}" for n in range(25)])}, 7),
        (make_scores(7, shape=(1, 7, 32, 64)), {"classes": "25", "architecture": "unet", "scope": "dense"}, 7),
    ],
)
def test_peers_have_the_classes_of_the_scores(call, tmp_path, monkeypatch, model, metadata, classes):
    counts = spy_on_classes(monkeypatch)
    helper.set_model_props(model, metadata)
    done = call("lgc-bench", onnx_files.save(model, tmp_path / "m.onnx"), "--peer", "fast-scnn", *SHORT)
    assert done.code == 0, done.err
    assert counts == [classes]
    assert ("metadata `classes` is ignored" in done.err) == (metadata.get("classes") == "25")


def test_unknown_number_of_classes_is_said(call, tmp_path, monkeypatch):
    counts = spy_on_classes(monkeypatch)
    nodes = (TO_LAST, helper.make_node("ArgMax", ["l"], ["y"], axis=3))
    model = make_scores(7, *nodes, shape=(1, 32, 64, 1), kind=INT64)
    done = call("lgc-bench", onnx_files.save(model, tmp_path / "m.onnx"), "--peer", "fast-scnn", *SHORT)
    assert counts == [19]
    assert "fast-scnn: 19 classes are assumed, as for Cityscapes" in done.err


def spy_on_classes(monkeypatch):
    """Return a list of the numbers of classes that networks will be built with."""
    counts, build = [], candidates.build_candidate

    def record(network, size, scope, classes, log):
        counts.append(classes)
        return build(network, size, scope, classes, log)

    monkeypatch.setattr(candidates, "build_candidate", record)
    return counts


def test_outputs_of_other_kinds_share_no_table(call, tmp_path):
    argmax = helper.make_node("ArgMax", ["s"], ["y"], axis=1, keepdims=0)
    pooled = helper.make_node("AveragePool", ["s"], ["p"], kernel_shape=[8, 8], strides=[8, 8])
    greater = helper.make_node("Greater", ["s", "none"], ["g"])
    count = (helper.make_node("Cast", ["g"], ["i"], to=INT64), helper.make_node("ReduceSum", ["i"], ["y"], keepdims=0))
    models = {
        "labels": (make_scores(19, argmax, shape=(1, 32, 64), kind=INT64), "dense"),
        "small": (
            make_scores(19, pooled, helper.make_node("ArgMax", ["p"], ["y"], axis=1, keepdims=0), shape=(1, 4, 8),
                        kind=INT64),
            "as is, to int64 1x4x8",
        ),
        "stored": (
            make_scores(19, helper.make_node("QuantizeLinear", ["s", "scale", "zero"], ["y"]), kind=UINT8),
            "as is, to uint8 1x19x32x64",
        ),
        "count": (make_scores(19, greater, *count, shape=(), kind=INT64), "as is, to int64 scalar"),
        "batch": (make_scores(shape=(4, 19, 32, 64), batch=4), "as is, to 4x19x32x64"),
    }  # fmt: skip
    paths = [onnx_files.save(model, tmp_path / f"{name}.onnx") for name, (model, _) in models.items()]
    rows = {row["name"]: row for row in json.loads(call("lgc-bench", *paths, *SHORT, "--json").out)["results"]}
    assert {name: row["scope"] for name, row in rows.items()} == {name: scope for name, (_, scope) in models.items()}
    assert {row["relative"] for row in rows.values()} == {1}
    batch = rows["batch"]
    assert batch["batch"] == 4
    assert batch["fps"] == pytest.approx(4000 / batch["median_ms"])
    assert rows["labels"]["fps"] == pytest.approx(1000 / rows["labels"]["median_ms"])


def test_batch_is_in_title_and_legend():
    rows = [make_timing("one", 9, None), replace(make_timing("four", 8, None), batch=4)]
    titles = [table.title for table in make_bench_tables(rows) if not isinstance(table, str)]
    assert [", batch 4" in title for title in titles] == [False, True]
    legend = next(line for line in make_bench_tables(rows) if isinstance(line, str))
    assert "FPS = batch x 1000 / ms" in legend
    assert "batch 1" in next(line for line in make_bench_tables(rows[:1]) if isinstance(line, str))


def test_equal_names_are_told_apart(call, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [onnx_files.save(onnx_files.make(), tmp_path / folder / "model.onnx") for folder in "ab"]
    paths.append(onnx_files.quantise(tmp_path / "b", "QDQ"))
    paths[2] = paths[2].rename(tmp_path / "model.onnx")
    done = call("lgc-bench", *paths, *SHORT, "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["results"]
    assert {row["name"]: row["precision"] for row in rows} == {
        "a/model": "fp32",
        "b/model": "fp32",
        f"{tmp_path.name}/model": "int8",
    }
    assert "duplicate network names" in call("lgc-bench", paths[0], paths[0]).refusal("lgc-bench")


def test_fp16_file_gets_no_false_cpu_advice(call, tmp_path):
    path = onnx_files.save(onnx_files.half(True), tmp_path / "h.onnx")
    message = call("lgc-bench", path).refusal("lgc-bench")
    assert "the model is fp16, not fp32, and onnxruntime on cpu has no fp16" in message
    assert "--precision" not in message


def test_bad_input_exits_with_one_line(call, file, architecture, tmp_path):
    for arguments, message in (
        ((), "nothing to compare"),
        ((tmp_path / "missing.onnx",), "no such file"),
        ((tmp_path,), "is not a run folder (no architecture.json)"),
        ((file, "--peer", "bisenet"), "unknown peer 'bisenet'"),
        (("peer:pidnet-s",), "peer:pidnet-s is not a file: for a published network, use --peer pidnet-s"),
        ((file, "--backend", "tensorrt"), "TensorRT needs a CUDA device"),
        ((file, "--backend", "banana"), "'banana' is not one of"),
        ((file, "--device", "cuda:0"), "no device 'cuda:0' on this machine"),
        ((file, "--precision", "fp16"), "no precision 'fp16'"),
        ((file, "--precision", "int8"), "the model is fp32, not int8"),
        ((file, "--backend", "torch"), "backend torch does not run ONNX files"),
        ((architecture, "--backend", "torch", "--precision", "int8"), "torch has no precision 'int8'"),
        ((file, "--scope", "all"), "'all' is not one of"),
        ((file, "--scope", "dense"), "--scope is only for runs, architectures and peers"),
        ((file, "--seconds", "long"), "invalid duration"),
        ((architecture, "--input", "big"), "invalid size"),
        ((file, file), "duplicate network names"),
        ((architecture, *SHORT, "--plot", tmp_path / "p.html"), "no candidate has an mIoU"),
        ((file, "--input", "32x64"), "has a fixed input size of 32x32, not 32x64"),
        ((architecture, "--output-name", "y"), "--output-name and --layout are only for ONNX files"),
        ((file, "--output-name", "y"), "known: output_0"),
        ((file, "--refresh-peak"), "--refresh-peak is only for --layers"),
        ((file, "--classes", 4), "--classes is only for peers, and for --network without a run"),
    ):
        assert message in call("lgc-bench", *arguments).refusal("lgc-bench")
    assert not (tmp_path / "p.html").exists()
    assert call("lgc-bench", file, "--precision", "fp16").refusal("lgc-bench").endswith("choose from fp32")
