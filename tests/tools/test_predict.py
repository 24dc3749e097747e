"""`lgc-predict` from the command line: written files and errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import lgc
from lgc.models import SearchSpace
from lgc.models.images import read_pixels
from lgc.profiler.deployment.network import Network, write_onnx
from lgc.profiler.inference.painting import Legend
from lgc.profiler.inference.segmenter import Segmenter
from lgc.report.overlays import draw_overlays
from lgc.search.data.layouts import load_layout
from lgc.search.data.synthetic.writers import write_scenes

from ..profiler.inference.graphs import SIZE, list_halves, make_halves, make_value, write_copy, write_mask

CAMVID = load_layout("camvid").classes


@pytest.fixture(scope="module")
def street():
    return SearchSpace.load("tiny").with_input(32, 48)


@pytest.fixture(scope="module")
def file(street, tmp_path_factory):
    return write_onnx(Network(street.sample(0), None, "dense"), tmp_path_factory.mktemp("onnx"))


def noise(*size):
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    for name, size in (("a.png", (20, 31)), ("deep/a.jpg", (64, 40)), ("deep/er/b.v2.PNG", (33, 48))):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(*size)).save(path)
    (tmp_path / "photos/notes.txt").write_text("not an image")
    return tmp_path / "photos"


def test_folder_gives_masks_and_overlays(call, file, photos, tmp_path):
    out = tmp_path / "out"
    done = call("lgc-predict", file, photos, "--out", out, "--ids", "--alpha", 0.25, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    stems = ("a", "deep/a", "deep/er/b.v2")
    names = {f"{stem}-{kind}.png" for stem in stems for kind in ("mask", "overlay", "ids")}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {*names, "legend.png"}
    assert result["legend"] == str(out / "legend.png")
    assert sorted(result["files"]) == sorted(str(out / name) for name in names)
    assert result["images"] == 3
    assert list(result["classes"]) == list(CAMVID)
    counts = sum(np.bincount(np.asarray(Image.open(out / f"{stem}-ids.png")).ravel(), minlength=11) for stem in stems)
    assert list(result["classes"].values()) == pytest.approx(list(100 * counts / counts.sum()))
    took = result["ms_per_image"]
    assert list(took) == ["read", "before", "network", "after", "write"]
    assert result["fps"] == pytest.approx(1000 / (took["before"] + took["network"] + took["after"]))
    ids, mask, overlay = (np.asarray(Image.open(out / f"deep/a-{kind}.png")) for kind in ("ids", "mask", "overlay"))
    pixels = read_pixels(photos / "deep/a.jpg")
    with Segmenter.open(file) as segmenter:
        assert np.array_equal(ids, segmenter.segment(pixels))
    with Image.open(out / "deep/a-ids.png") as image:
        assert image.mode == "L"
    assert np.array_equal(mask, np.array([*CAMVID.values()], np.uint8)[ids])
    assert np.abs(overlay - (0.75 * pixels + 0.25 * mask)).max() < 1


def test_repeated_command_writes_identical_files(call, file, photos, tmp_path):
    out = photos / "predicted"
    calls = [call("lgc-predict", file, photos, "--out", out) for _ in range(2)]
    assert [done.code for done in calls] == [0, 0], calls[1].err
    assert len(list(out.rglob("*-*.png"))) == 6, "outputs of the first call are not inputs of the second"
    assert f"3 images; 6 files written to {out}" in calls[1].out
    refused = call("lgc-predict", file, out, "--out", out)
    assert "holds the input images" in refused.refusal("lgc-predict")


def test_dataset_is_segmented_without_its_labels(call, file, tmp_path):
    out = tmp_path / "out"
    scenes = tmp_path / "scenes"
    write_scenes(scenes, "camvid-segnet", {"train": 2, "val": 1}, (32, 48), 0)
    done = call("lgc-predict", file, scenes, "--out", out, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["images"] == 3
    assert (
        f"{scenes} is a dataset (camvid-segnet): its images are segmented, not its labels: train 2, val 1" in done.err
    )
    assert not list(out.rglob("*annot*"))


def test_images_outside_the_dataset_folder_are_counted(call, file, photos, tmp_path):
    (photos / "dataset.yaml").write_text(
        "name: own\nroot: ..\nclasses: [a, b]\nlabels: labels\n"
        "splits: {train: {images: photos/deep}, val: {images: elsewhere}}\n"
    )
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere/c.png")
    done = call("lgc-predict", file, photos, "--out", tmp_path / "out", "--json")
    assert json.loads(done.out)["images"] == 2
    lines = done.err.splitlines()
    assert f"{photos} is a dataset (own): its images are segmented, not its labels: train 2" in lines
    (line,) = (line for line in lines if "outside the folder not segmented" in line)
    assert line.startswith(f"{photos}: 1 image of the dataset ")
    assert line.endswith("elsewhere/c.png")


def test_label_maps_among_images_are_skipped(call, file, photos, tmp_path):
    Image.fromarray(np.eye(20, 31, dtype=np.uint8)).save(photos / "a_mask.png")
    done = call("lgc-predict", file, photos, "--out", tmp_path / "out", "--json")
    assert f"skipped in folder {photos}, labels: 1 in ./, e.g. a_mask.png" in done.err.splitlines()
    assert json.loads(done.out)["images"] == 3


def test_output_beside_input_is_rejected(call, file, photos):
    before = sorted(photos.rglob("*"))
    refused = call("lgc-predict", file, photos / "a.png", "--out", photos)
    assert refused.refusal("lgc-predict") == f"--out {photos} holds the input images: choose another folder"
    assert sorted(photos.rglob("*")) == before


def test_refusal_is_the_only_line(call, file, tmp_path):
    (tmp_path / "run" / "export").mkdir(parents=True)
    shutil.copy(file, tmp_path / "run" / "export")
    refused = call("lgc-predict", tmp_path / "run", tmp_path / "missing", "--out", tmp_path / "out")
    assert refused.err == f"lgc-predict: no such file or folder: {tmp_path / 'missing'}\n"


def test_legend_lists_classes_and_shares(call, file, photos, tmp_path):
    done = call("lgc-predict", file, photos, "--out", tmp_path / "out")
    rows = [line.split() for line in done.out.splitlines() if "#" in line]
    assert rows
    for index, name, *_, colour, share, percent in rows:
        expected, rgb = list(CAMVID.items())[int(index)]
        assert expected.startswith(name)
        assert colour == "#{:02x}{:02x}{:02x}".format(*rgb)
        assert (0 <= float(share) <= 100, percent) == (True, "%")
    assert "images per second on cpu, onnxruntime, fp32, 1 thread" in done.out
    assert "not included:" in done.out


def test_run_folder_selects_newest_dense_file(call, street, photos, tmp_path):
    run = tmp_path / "run"
    made = [write_onnx(Network(street.sample(seed), None, "dense"), run / "export") for seed in (1, 2)]
    core = write_onnx(Network(street.sample(1), None, "core"), run / "export")
    for seconds, path in enumerate((*made, core)):
        os.utime(path, (10**9 + seconds, 10**9 + seconds))
    done = call("lgc-predict", run, photos / "a.png", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert f"using {made[1]}" in done.err, "the newest in scope dense"
    shutil.rmtree(run / "export")
    assert f"run lgc-export {run}" in call("lgc-predict", run, photos, "--out", tmp_path).refusal("lgc-predict")


def test_damaged_input_keeps_complete_files_only(call, file, photos, tmp_path):
    broken = photos / "deep/z.png"
    Image.fromarray(noise(90, 90)).save(broken)
    broken.write_bytes(broken.read_bytes()[:9000])
    out = tmp_path / "out"
    done = call("lgc-predict", file, photos, "--out", out)
    assert done.code == 1
    assert f"not segmented: 1 input\ncannot read image {broken}: truncated or damaged" in done.err
    assert len([path for path in out.rglob("*-*") if path.is_file()]) == 6


def test_photo_folder_with_bad_files(call, file, photos, tmp_path, monkeypatch):
    """Hidden files are skipped, bad ones are named at the end, the others are segmented."""
    for name in (".DS_Store", "._a.png", "Thumbs.db"):
        (photos / name).write_bytes(b"\0\5\x16\7")
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("text")
    (photos / "disk").symlink_to("/nowhere/disk")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    Image.new("RGB", (200, 101)).save(photos / "huge.png")
    out = tmp_path / "out"
    done = call("lgc-predict", file, photos, "--out", out, "--json")
    assert done.code == 1
    assert json.loads(done.out)["images"] == 3
    *_, title, disk, empty, huge, text = done.err.splitlines()
    assert title == "not segmented: 4 inputs"
    assert empty == f"cannot read image {photos}/empty.png: it is an empty file"
    assert huge.startswith(f"cannot read image {photos}/huge.png: too large: 20200 pixels")
    assert text == f"cannot read image {photos}/text.jpg: it is text that begins with 'text'"
    assert disk == f"cannot read {photos}/disk: broken link to /nowhere/disk"
    failed = {line.split()[3][:-1]: line for line in (empty, huge, text)}
    assert json.loads(done.out)["failed"] == {str(photos / "disk"): disk, **failed}
    assert len(list(out.rglob("*-*.png"))) == 6


def test_single_bad_file_exits_with_2(call, file, photos, tmp_path):
    (photos / "half.png").write_bytes((photos / "a.png").read_bytes()[:1000])
    refused = call("lgc-predict", file, photos / "half.png", "--out", tmp_path / "out")
    assert f"cannot read image {photos}/half.png: truncated or damaged" in refused.refusal("lgc-predict")
    refused = call("lgc-predict", file, photos / "half.png", photos / "half.png", "--out", tmp_path / "out")
    assert "half.png: truncated or damaged" in refused.refusal("lgc-predict")


def test_remarks_on_images_are_counted(call, file, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in "abc":
        Image.new("RGBA", (20, 30), (1, 2, 3, 4)).save(tmp_path / f"photos/{name}.png")
    done = call("lgc-predict", file, tmp_path / "photos", "--out", tmp_path / "out")
    assert done.code == 0
    assert f"{tmp_path}/photos/a.png and 2 more: transparency is ignored" in done.err.splitlines()


class TestForeignFile:
    """Files of other programs: what is assumed is reported, what is unknown is asked for."""

    @pytest.fixture
    def halves(self, tmp_path):
        Image.fromarray(make_halves()).save(tmp_path / "halves.png")
        return tmp_path / "halves.png"

    @pytest.fixture
    def predict(self, call, halves, tmp_path):
        def run(path, *options):
            return call("lgc-predict", path, halves, "--out", tmp_path / "out", "--ids", *options)

        return run

    @pytest.mark.parametrize(
        ("options", "classes", "remark"),
        [
            ((), (3, 3), "ImageNet's mean and std is assumed; change it with --mean, --std, --range and --bgr"),
            (("--range", "0..255"), (0, 2), "input: RGB, pixels in 0..255, mean 0, std 1"),
            (("--range", "0..255", "--bgr"), (2, 0), "input: BGR, pixels in 0..255, mean 0, std 1"),
            (("--mean", "123.7,116.3,103.5", "--bgr"), (2, 0), "mean red 123.7, green 116.3, blue 103.5, std 1"),
            (("--mean", "0.5", "--std", "0.001"), (0, 2), "input: RGB, pixels in 0..1, mean 0.5, std 0.001"),
        ],
    )
    def test_normalisation_options(self, predict, tmp_path, options, classes, remark):
        done = predict(write_copy(tmp_path / "x.onnx", none_above=100), *options)
        assert done.code == 0, done.err
        assert remark in done.err
        assert list_halves(np.asarray(Image.open(tmp_path / "out/halves-ids.png"))) == classes

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--mean", "0", "--std", "1"), "add --range 0..1 or --range 0..255"),
            (("--mean", "1,2"), "invalid --mean '1,2': write R,G,B or one number"),
            (("--std", "0.2", "--mean", "x"), "invalid --mean 'x'"),
            (("--std", "0", "--range", "0..1"), "std must be above 0"),
            (("--threshold", "0.3"), "--output-values and --threshold are for one channel"),
            (("--threshold", "1"), "--threshold must be above 0 and below 1"),
            (("--layout", "nhwc"), "no input is an image in NHWC: x [1, 3, 32, 64]: omit --layout"),
            (("--input", "8x8"), "fixed input size of 32x64"),
        ],
    )
    def test_invalid_options_are_rejected(self, predict, tmp_path, options, message):
        refused = predict(write_copy(tmp_path / "x.onnx"), *options)
        assert message in refused.refusal("lgc-predict")
        assert not (tmp_path / "out").exists()

    def test_own_files_reject_other_statistics(self, predict, file):
        assert "was trained with mean" in predict(file, "--mean", "0.5").refusal("lgc-predict")
        assert "takes red, green, blue: omit --bgr" in predict(file, "--bgr").refusal("lgc-predict")
        assert "ImageNet" not in predict(file).err

    def test_several_outputs_need_a_name(self, predict, tmp_path):
        model = onnx.load(write_copy(tmp_path / "x.onnx"))
        model.graph.node.add(op_type="Neg", input=["scores"], output=["other"])
        model.graph.output.append(make_value("other", (1, 4, *SIZE)))
        onnx.save(model, tmp_path / "x.onnx")
        message = predict(tmp_path / "x.onnx").refusal("lgc-predict")
        assert "scores float32 1x4x32x64, other float32 1x4x32x64; choose one with --output-name NAME" in message
        done = predict(tmp_path / "x.onnx", "--output-name", "scores", "--range", "0..1")
        assert done.code == 0, done.err
        assert list_halves(np.asarray(Image.open(tmp_path / "out/halves-ids.png"))) == (0, 2)

    def test_dynamic_axes_are_bound(self, predict, tmp_path):
        model = onnx.load(write_copy(tmp_path / "x.onnx"))
        for value in (*model.graph.input, *model.graph.output):
            for axis, name in ((0, "n"), (2, "h"), (3, "w")):
                value.type.tensor_type.shape.dim[axis].dim_param = name
        onnx.save(model, tmp_path / "x.onnx")
        assert "add --input HxW" in predict(tmp_path / "x.onnx").refusal("lgc-predict")
        done = predict(tmp_path / "x.onnx", "--input", "16x40", "--range", "0..1")
        assert "bound to 1x3x16x40" in done.err
        assert list_halves(np.asarray(Image.open(tmp_path / "out/halves-ids.png"))) == (0, 2)

    def test_names_and_colours_of_the_file(self, predict, tmp_path):
        model = onnx.load(write_copy(tmp_path / "x.onnx"))
        palette = [[9, 8, 7], [1, 1, 1], [3, 2, 1], [0, 0, 0]]
        values = {
            "classes": json.dumps(["wall", "floor", "door", "none"]),
            "palette": json.dumps(palette),
            "normalisation": json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1]}),
        }
        onnx.helper.set_model_props(model, values)
        onnx.save(model, tmp_path / "x.onnx")
        done = predict(tmp_path / "x.onnx")
        assert done.code == 0
        assert done.err.splitlines() == [
            "input: RGB, normalised as in the file's metadata: pixels in 0..1, mean 0, std 1 (change it with --mean, "
            "--std and --range)"
        ]
        mask = np.asarray(Image.open(tmp_path / "out/halves-mask.png"))
        assert np.array_equal(mask[0, [0, -1]], [palette[0], palette[2]])
        assert re.search(r"wall .*#090807 +50.0 %", done.out)

    def test_palette_file_is_used(self, predict, tmp_path):
        (tmp_path / "p.yaml").write_text("\n".join(f"{name}: [{index}, 0, 9]" for index, name in enumerate("abcd")))
        done = predict(write_copy(tmp_path / "x.onnx"), "--range", "0..1", "--palette", tmp_path / "p.yaml")
        assert done.code == 0, done.err
        mask = np.asarray(Image.open(tmp_path / "out/halves-mask.png"))
        assert np.array_equal(mask[0, [0, -1]], [[0, 0, 9], [2, 0, 9]])
        (tmp_path / "p.yaml").write_text("a: [0, 0, 0]")
        refused = predict(tmp_path / "x.onnx", "--palette", tmp_path / "p.yaml")
        assert "has 4 classes, the palette 1" in refused.refusal("lgc-predict")

    def test_legend_picture_keeps_class_ids(self, predict, tmp_path):
        colours = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]]
        (tmp_path / "p.yaml").write_text(json.dumps(dict(zip(("道路", "天空", "树木", "x"), colours, strict=True))))
        done = predict(write_copy(tmp_path / "x.onnx"), "--range", "0..1", "--palette", tmp_path / "p.yaml")
        assert done.code == 0, done.err
        legend = Legend(("class 0", "class 2"), ((200, 0, 0), (0, 0, 200)))
        shown = np.asarray(Image.open(tmp_path / "out/legend.png"))
        assert np.array_equal(shown, draw_overlays([], legend, ["50.0 %"] * 2))

    def test_palette_keeps_mask_background_transparent(self, predict, halves, tmp_path):
        (tmp_path / "p.yaml").write_text("none: [0, 0, 0]\nred: [0, 200, 0]")
        file = write_mask(tmp_path / "x.onnx", onnx.helper.make_node("Sigmoid", ["l"], ["output"]))
        done = predict(file, "--range", "0..1", "--palette", tmp_path / "p.yaml")
        assert done.code == 0, done.err
        image, overlay, ids = (
            np.asarray(Image.open(path))
            for path in (halves, tmp_path / "out/halves-overlay.png", tmp_path / "out/halves-ids.png")
        )
        assert {0, 1} == {*ids.ravel().tolist()}
        assert np.array_equal((overlay == image).all(-1), ids == 0)

    def test_assumed_dataset_is_reported(self, call, photos, file, tmp_path):
        done = call("lgc-predict", file, photos, "--out", tmp_path / "out")
        assert "does not name its 11 classes: those of CamVid are assumed" in done.err


@pytest.mark.parametrize("classes", ["sky, road", "{}", "[]", "[1, 2]", "19"])
def test_invalid_class_names(call, file, photos, tmp_path, classes):
    """Those of lgc are refused, those of other programs ignored."""
    model = onnx.load(file)
    model.metadata_props.add(key="classes", value=classes)
    onnx.save(model, tmp_path / "x.onnx")
    refused = call("lgc-predict", tmp_path / "x.onnx", photos, "--out", tmp_path / "out")
    assert "metadata `classes` must be a JSON list of names" in refused.refusal("lgc-predict")
    del model.metadata_props[:]
    model.metadata_props.add(key="classes", value=classes)
    onnx.save(model, tmp_path / "x.onnx")
    done = call("lgc-predict", tmp_path / "x.onnx", photos, "--out", tmp_path / "out")
    assert done.code == 0
    assert "metadata `classes` is ignored: it is not a JSON list of names" in done.err


def test_bad_input_exits_with_one_line(call, file, photos, tmp_path):
    dynamic = onnx.load(file)
    dynamic.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(dynamic, tmp_path / "dynamic.onnx")
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:2000])
    for name in ("text.png", "notes.doc", "no.mp4", "x.engine"):
        (tmp_path / name).write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.png", "two/c.png", "two/c.bmp"):
        shutil.copy(photos / "a.png", tmp_path / name)
    out = tmp_path / "out"
    for arguments, message in (
        ((tmp_path / "broken.onnx", photos), "cannot read ONNX model"),
        ((photos / "a.png", photos), "a.png: it is a PNG image"),
        ((tmp_path / "dynamic.onnx", photos), 'input_0 has a dynamic shape [1, 3, "height", 48]'),
        ((tmp_path / "missing.onnx", photos), "no such file"),
        ((tmp_path / "empty", photos), "run lgc-export"),
        ((file, tmp_path / "missing"), "no such file or folder"),
        ((file, tmp_path / "empty"), "no images in folder"),
        ((file, tmp_path / "text.png"), "text.png: it is text that begins with 'text'"),
        ((file, tmp_path / "notes.doc"), "notes.doc: it is text that begins with 'text'; suffixes of videos: .mp4, "),
        ((file, tmp_path / "no.mp4"), "cannot read video"),
        ((file, photos / "a.png", tmp_path / "a.png"), "have the same output files"),
        ((file, tmp_path / "two"), "c.png have the same output files"),
        ((file, photos, "--device", "cuda:7"), "no device 'cuda:7' on this machine"),
        ((file, photos, "--backend", "tensorrt"), "TensorRT needs a CUDA device"),
        ((file, photos, "--backend", "torch"), "is an ONNX file, which torch cannot run"),
        ((file, photos, "--backend", "banana"), "'banana' is not one of"),
        ((file, photos, "--alpha", "2"), "--alpha"),
        ((tmp_path / "x.engine", photos), "x.engine.json, the description of x.engine"),
    ):
        assert message in call("lgc-predict", *arguments, "--out", out).refusal("lgc-predict")
        assert not out.exists(), "nothing is written"
    for place in (tmp_path / "a.png", "/proc/nowhere"):
        refused = call("lgc-predict", file, photos, "--out", place)
        assert "cannot make the folder" in refused.refusal("lgc-predict")


def test_documented_python_example_runs(file, photos, tmp_path):
    page = (Path(lgc.__file__).parent / "docs" / "predict.md").read_text()
    (python,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shutil.copy(file, tmp_path / "street.onnx")
    shutil.copy(photos / "deep/a.jpg", tmp_path / "photo.jpg")
    program = f"{python}\nprint(classes.shape, classes.dtype)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "(64, 40) uint8\n", done.stderr
