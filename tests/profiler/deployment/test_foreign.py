"""Foreign ONNX files are written self-contained and compared with the original."""

from __future__ import annotations

import weakref
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from lgc.errors import MeasurementError, UsageError
from lgc.models.images import normalise_image
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.ort_probe import OrtProbe
from lgc.profiler.deployment.export import ExportSettings
from lgc.profiler.deployment.foreign import ForeignOptions, export_foreign
from lgc.profiler.deployment.foreign_parity import Original, compare_with_original
from lgc.profiler.deployment.parity import is_within_tolerance
from lgc.profiler.inference.preprocessing import InputOptions
from lgc.profiler.output_differences import OutputDifferences

from ... import onnx_files as files

SIZE = ForeignOptions(input_size=files.SIZE)


@pytest.fixture
def settings(tmp_path):
    return ExportSettings(tmp_path / "m.onnx", tmp_path / "out", backends=("onnxruntime",), precisions=(), seconds=0.05)


@pytest.fixture
def pictures(tmp_path):
    """Return paths of noisy images."""
    rng, paths = np.random.default_rng(2), [tmp_path / f"{index}.png" for index in range(4)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (*files.SIZE, 3), np.uint8)).save(path)
    return paths


def export(model, settings, options=None, log=lambda _: None):
    files.save(model, settings.source)
    return export_foreign(settings, options or ForeignOptions(), log=log)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (files.dynamic, SIZE),
        (files.two_outputs, ForeignOptions()),
        (files.two_outputs, ForeignOptions(output="main")),
        (files.two_outputs, ForeignOptions(output="r")),
        (files.channels_last, ForeignOptions()),
        (files.pixels, ForeignOptions()),
        (files.tokens, ForeignOptions()),
        (files.branch, ForeignOptions()),
        (files.with_function, ForeignOptions()),
        (lambda: files.old(9), ForeignOptions()),
        (files.weights_as_inputs, ForeignOptions()),
    ],
)
def test_written_file_equals_the_original(make, options, settings):
    remarks = []
    result = export(make(), settings, options, remarks.append)
    (file,), (target,) = result.files, result.targets
    assert file.parity[0].max_abs_diff <= 1e-6 * file.parity[0].scale
    assert file.passes
    assert target.equals_torch()
    assert target.measured_ms > 0
    assert target.parity.reference == "the original"
    assert (target.predicted_ms, result.list_failures(5.0)) == (None, [])
    assert "no prediction for an ONNX file: export its run or architecture instead" in remarks
    written = OnnxModel.load(Path(file.onnx))
    assert written.remarks == () or len(written.outputs) > 1, "nothing left to bind or choose"


def test_external_data_is_inside_the_written_file(settings):
    files.save(files.make(), settings.source, save_as_external_data=True, location="m.data", size_threshold=0)
    (file,) = export_foreign(settings, ForeignOptions(), log=lambda _: None).files
    settings.source.with_name("m.data").unlink()
    assert onnx.load(file.onnx).graph.initializer[0].raw_data
    assert file.onnx.endswith("out/m-16x24.onnx")


def test_difference_from_the_original_fails(settings, monkeypatch):
    """A simplifier that changes the outputs is noticed."""
    other = files.make(weights={name: 2 * array for name, array in files.WEIGHTS.items()})
    monkeypatch.setattr("lgc.models.onnx.export.simplify", lambda _: other.SerializeToString())
    result = export(files.make(), settings)
    assert not result.files[0].passes
    assert "outputs differ from the original by more than fp32 allows" in result.list_failures(None)[0]
    assert len(result.list_failures(None)) == 2, "file and target"


def test_infinite_outputs_of_the_original_are_equal():
    exact = [[np.float32([1, np.inf, np.nan])]]
    parity = compare_with_original(exact, [[np.float32([1.5, np.inf, np.nan])]], "random", [OutputDifferences()])
    assert (parity.max_abs_diff, parity.scale) == (0.5, 1)
    with pytest.raises(MeasurementError, match="NaN or infinite where the original's is not"):
        compare_with_original(exact, [[np.float32([np.nan, np.inf, np.nan])]], "random", [OutputDifferences()])


def test_each_output_has_its_own_scale():
    """A small output that is lost shows beside a large one."""
    large, small = np.full((1, 2, 8, 8), 1e6, np.float32), np.linspace(0, 1e-2, 64, dtype=np.float32)
    exact = [[large, small]]
    same = compare_with_original(exact, [[large + 1, small]], "random", [OutputDifferences(), OutputDifferences()])
    assert is_within_tolerance("fp32", same, trained=False)
    lost = compare_with_original(exact, [[large, 0 * small]], "random", [OutputDifferences(), OutputDifferences()])
    assert (lost.max_abs_diff, lost.scale) == (pytest.approx(1e-2), pytest.approx(1e-2))
    assert not is_within_tolerance("fp32", lost, trained=False)


def test_classes_of_channels_last_are_compared(settings, pictures):
    """The agreement is that of the channels, whichever axis they are on."""
    nodes = [*files.net_nodes(y="z"), onnx.helper.make_node("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1])]
    model = files.make(nodes, outputs=[files.value("y", (1, 8, 12, 4))])
    chosen = replace(settings, precisions=("int8",), calibration_images=pictures[:1], comparison_images=pictures[1:2])
    result = export(model, chosen)
    image = normalise_image(np.asarray(Image.open(pictures[1])))[None]
    sessions = [onnxruntime.InferenceSession(str(path)) for path in (settings.source, result.files[0].onnx)]
    original, quantised = (session.run(None, {"x": image})[0].argmax(-1) for session in sessions)
    agreement = 100 * (original == quantised).mean()
    assert result.files[0].parity[1].argmax_agreement_pct == pytest.approx(agreement)


@pytest.mark.parametrize(("operator", "agreement_pct"), [("Identity", 100), ("Greater", 0)])
def test_integers_are_scores_unless_masks(operator, agreement_pct, tmp_path):
    inputs = {"Identity": ["b"], "Greater": ["z", "zero"]}[operator]
    nodes = [
        *files.net_nodes(y="z"),
        onnx.helper.make_node(operator, inputs, ["m"]),
        onnx.helper.make_node("Cast", ["m"], ["y"], to=onnx.TensorProto.UINT8),
    ]
    nodes.insert(3, onnx.helper.make_node("Cast", ["z"], ["b"], to=onnx.TensorProto.UINT8))
    output = files.value("y", (1, 4, 8, 12), onnx.TensorProto.UINT8)
    path = tmp_path / "m.onnx"
    files.save(files.make(nodes, outputs=[output], weights=files.WEIGHTS | {"zero": np.float32(0)}), path)
    (comparison,) = Original(path, OnnxModel.load(path)).start_comparisons()
    scores = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1)
    comparison.add(scores + np.uint8(1), scores)
    assert comparison.agreement_pct == agreement_pct


@pytest.mark.parametrize(
    ("nodes", "channels"),
    [
        ([onnx.helper.make_node("ArgMax", ["z"], ["m"], axis=1)], 1),
        ([onnx.helper.make_node("Greater", ["z", "zero"], ["m"])], 4),
    ],
)
def test_float_label_maps_are_judged_by_agreement(nodes, channels, settings):
    """Their numbers are classes, so that the class 3 in place of 0 is no worse than the class 1."""
    cast = onnx.helper.make_node("Cast", ["m"], ["y"], to=onnx.TensorProto.FLOAT)
    model = files.make(
        [*files.net_nodes(y="z"), *nodes, cast],
        outputs=[files.value("y", (1, channels, 8, 12))],
        weights=files.WEIGHTS | {"zero": np.float32(0)},
    )
    (file,) = export(model, settings).files
    assert (file.parity[0].max_abs_diff, file.parity[0].argmax_agreement_pct) == (None, 100)


def test_outputs_of_few_images_are_held(settings, pictures, monkeypatch):
    alive, counts, run = [], [], OrtProbe.run

    def record(*arguments):
        outputs = run(*arguments)
        alive.extend(map(weakref.ref, outputs))
        counts.append(sum(each() is not None for each in alive))
        return outputs

    monkeypatch.setattr(OrtProbe, "run", record)
    chosen = replace(settings, precisions=("fp32",), comparison_images=pictures)
    assert export(files.make(), chosen).files[0].parity[1].images == 4
    assert max(counts) <= 4, "this pair and the last"


def test_frame_rate_counts_images_of_a_batch(settings):
    model = files.make(inputs=[files.value("x", (4, 3, *files.SIZE))], outputs=[files.value("y", (4, 4, 8, 12))])
    (target,) = export(model, settings).targets
    assert target.batch == 4
    assert target.fps == pytest.approx(4 * 1000 / target.median_ms)


def test_model_beyond_simplification_is_written_unchanged(settings, monkeypatch):
    def fail(_):
        raise KeyError("node")

    monkeypatch.setattr("lgc.models.onnx.export.simplify", fail)
    remarks = []
    assert export(files.make(), settings, log=remarks.append).files[0].passes
    assert "not simplified: KeyError: 'node'" in remarks


@pytest.mark.parametrize("opset", [11, 17])
def test_int8_takes_ranges_from_images(opset, settings, pictures):
    settings = replace(settings, precisions=("fp32", "int8"), calibration_images=pictures[:2])
    settings = replace(settings, comparison_images=pictures[2:])
    remarks = []
    result = export(files.old(opset), settings, log=remarks.append)
    plain, quantised = result.files
    assert OnnxModel.load(Path(quantised.onnx)).quantisation == "QDQ"
    assert [parity.source for parity in plain.parity] == ["random", "images"]
    assert any("ImageNet's mean and std is assumed" in remark for remark in remarks)
    options = ForeignOptions(preprocessing=InputOptions(mean=(0.5,) * 3, std=(0.5,) * 3))
    remarks.clear()
    export(files.old(opset), settings, options, remarks.append)
    assert not any("assumed" in remark for remark in remarks)


@pytest.mark.parametrize(("factor", "value_range"), [(1.0, "0..255"), (255.0, "0..1")])
def test_int8_of_raw_pixels_passes(factor, value_range, settings, pictures):
    """Random values around 0 would be clipped, so the random input has the range of the images."""
    nodes = [onnx.helper.make_node("Mul", ["x", "f"], ["s"]), *files.net_nodes("s")]
    model = files.make(nodes, weights=files.WEIGHTS | {"f": np.float32(factor)})
    settings = replace(settings, precisions=("int8",), calibration_images=pictures[:2], comparison_images=pictures[2:])
    result = export(model, settings, ForeignOptions(preprocessing=InputOptions(value_range=value_range)))
    assert [parity.source for parity in result.files[0].parity] == ["random", "images"]
    assert result.files[0].passes


def test_quantised_file_keeps_its_precision(settings, tmp_path):
    settings = replace(settings, source=files.quantise(tmp_path, "dynamic"))
    result = export_foreign(settings, ForeignOptions(), log=lambda _: None)
    assert (result.files[0].precision, result.targets[0].precision) == ("int8", "int8")
    assert Path(result.files[0].onnx).read_bytes() == settings.source.read_bytes()
    with pytest.raises(UsageError, match="is int8: it cannot be converted to fp16"):
        export_foreign(replace(settings, precisions=("fp16",)), ForeignOptions())
    with pytest.raises(UsageError, match="dynamic quantisation, which TensorRT does not run"):
        export_foreign(replace(settings, backends=("tensorrt",)), ForeignOptions())


def test_partly_quantised_file_has_int8_tolerance(settings, tmp_path):
    """Kernels of other roundings differ by a quantisation step, in a file that mostly computes in fp32 too."""
    settings = replace(settings, source=files.quantise(tmp_path, "QDQ", nodes=["last"]))
    result = export_foreign(settings, ForeignOptions(), log=lambda _: None)
    (file,), (target,) = result.files, result.targets
    assert (file.precision, target.precision) == ("fp32", "fp32")
    step = replace(target.parity, max_abs_diff=0.01, relative_diff=0.01, scale=1.0)
    assert replace(target, parity=step).equals_torch()
    wrong = replace(result, targets=(replace(target, parity=replace(step, relative_diff=0.2)),))
    assert "by more than int8 allows" in wrong.list_failures(None)[0]


@pytest.mark.parametrize("precisions", [("bf16",), ("bf16", "fp32")])
def test_bf16_has_no_file_of_its_own(precisions, settings):
    remarks = []
    result = export(files.make(), replace(settings, precisions=precisions, backends=()), log=remarks.append)
    assert [file.precision for file in result.files] == ["fp32"]
    assert sum(remark.startswith("bf16 has no file of its own: the fp32 file is written") for remark in remarks) == 1


def test_contradictions_are_refused_before_writing(settings):
    for changes, options, message in (
        ({"backends": ("torch",)}, SIZE, "torch does not run ONNX files"),
        ({"precisions": ("int8",)}, SIZE, "int8 needs images"),
        ({"precisions": ("fp16",)}, SIZE, "no precision 'fp16'"),
        ({"backends": (), "device": "cpu"}, SIZE, "need a backend"),
    ):
        with pytest.raises(UsageError, match=message):
            export(files.dynamic(), replace(settings, **changes), options)
    with pytest.raises(UsageError, match=r"is fp16: backend onnxruntime has no precision 'fp16' on cpu$"):
        export(files.half(keep_io=True), settings)
    assert not settings.out.exists()


def test_source_is_never_overwritten(settings):
    settings = replace(settings, source=settings.source.with_name("m-16x24.onnx"), out=settings.source.parent)
    export(files.make(), settings)
    content = settings.source.read_bytes()
    written = settings.source.with_name("m-16x24-16x24.onnx")
    assert written.exists()
    written.unlink()
    written.symlink_to(settings.source)
    with pytest.raises(UsageError, match="is the source and would be overwritten"):
        export_foreign(settings, ForeignOptions(), log=lambda _: None)
    assert settings.source.read_bytes() == content


@pytest.mark.parametrize("make", [files.dynamic, files.two_outputs, files.branch, files.tokens, files.pixels])
def test_engines_are_built_ahead_of_time(make, settings):
    if find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip('TensorRT-RTX is missing: pip install "lgc[tensorrt-aot]"')
    settings = replace(settings, backends=("tensorrt",), precisions=("fp32",), compute_capability="8.9")
    (result,) = export(make(), settings, SIZE if make is files.dynamic else ForeignOptions()).targets
    assert Path(result.engine).stat().st_size > 1000
    assert "not run" in result.note
