"""Scores at the labels' own resolution, in every layout, and compared with Cityscapes' own scorer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from lgc.errors import DataError, OutputError, UnknownNameError, UsageError
from lgc.models import LGCNet
from lgc.models.nets.state.weights import save_weights
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.labels import CITYSCAPES_REGULAR_IDS
from lgc.search.data.predictions import PredictionWriter
from lgc.search.data.reading import read_label
from lgc.search.data.synthetic.writers import SCENE_FORMATS, write_scenes
from lgc.search.training import scores
from lgc.search.training.config import TrainConfig
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.scores import compute_scores, evaluate_network, find_classes
from lgc.search.training.train import train

SIZE = (48, 80)
"""Size of the image files; the network runs at 32x32."""
QUICK = TrainConfig(steps=2, batch=2)


@pytest.fixture
def make_run(mini_space, tmp_path):
    """Make a run folder with random weights that predict many of the given number of classes."""

    def make(classes):
        content = {**mini_space.model_dump(mode="json"), "name": f"street{classes}", "classes": classes}
        architecture = mini_space.check(content, "street").sample(0)
        run = tmp_path / "run"
        run.mkdir()
        architecture.save(run / "architecture.json")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = LGCNet(architecture.space, architecture)
            blurred = torch.nn.functional.interpolate(torch.randn(8, 3, 4, 4), scale_factor=8, mode="bilinear")
        for _ in range(50):  # without running statistics, a single class wins everywhere
            network(blurred)
        network.head[1].bias.data.zero_()
        save_weights(network, run / "weights.safetensors")
        return run

    return make


@pytest.fixture
def make_scenes(tmp_path):
    """Write a few scenes in a layout."""

    def write(layout, **counts):
        write_scenes(tmp_path / layout, layout, counts or {"train": 4, "val": 3}, SIZE, 0)
        return tmp_path / layout

    return write


def count_classes(layout):
    return {"cityscapes": 19, "four-classes": 4}.get(layout, 11)


def test_scores_match_their_definition():
    confusion = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]])
    result = compute_scores(confusion, ("road", "car", "pole", "sky"))
    assert result.per_class == {
        "road": pytest.approx(100 * 6 / 13),
        "car": pytest.approx(100 * 3 / 6),
        "pole": None,
        "sky": pytest.approx(0.0),
    }
    assert result.miou == pytest.approx((100 * 6 / 13 + 50 + 0) / 3)
    assert result.pixel_accuracy == pytest.approx(100 * 9 / 16)


def test_unlabelled_data_have_no_score():
    assert compute_scores(torch.zeros(2, 2), ("road", "car")).miou is None


class Oracle(torch.nn.Module):
    """A network that returns given labels, at any resolution."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        classes = next(self.answers).clamp(max=10)
        return torch.nn.functional.one_hot(classes, 11).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(33, 47), (5, 7), (131, 97)])
@pytest.mark.parametrize("channels", [3, 35, 45])
def test_large_images_are_classified_in_parts(channels, size, order, monkeypatch):
    """They are those of all upsampled logits, of which only some exist at a time; the first of equal logits wins."""
    logits = torch.randn(1, channels, 17, 23, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([logits, logits[:, : channels // 2]], dim=1)[:, -channels:]
    logits = logits.contiguous(memory_format=order)
    upsampled = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    parts, interpolate = [], functional.interpolate

    def record(*arguments, **options):
        part = interpolate(*arguments, **options)
        parts.append(part)
        return part

    monkeypatch.setattr(functional, "interpolate", record)
    assert torch.equal(find_classes(logits, size), upsampled.argmax(1))
    assert len(parts) == 1, "small images at once"
    parts.clear()
    monkeypatch.setattr(scores, "MAX_UPSAMPLED", 1)
    assert torch.equal(find_classes(logits, size), upsampled.argmax(1))
    assert torch.equal(torch.cat(parts, dim=1), upsampled)
    assert [part.shape[1] for part in parts] == {3: [3], 35: [16, 19], 45: [16, 16, 13]}[channels]


def test_scores_use_label_resolution_without_void(make_scenes):
    data = load_dataset(make_scenes("camvid-lists"), "val", (32, 32), full_labels=True)
    images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
    assert {tuple(image.shape) for image in images} == {(3, 32, 32)}
    assert {tuple(label.shape) for label in labels} == {SIZE}
    assert any((label == 255).any() for label in labels)
    result, size = evaluate_network(Oracle(labels), data)
    assert (result.miou, result.pixel_accuracy, size) == (pytest.approx(100.0), pytest.approx(100.0), SIZE)
    halved, _ = evaluate_network(Oracle([label[::2, ::2] for label in labels]), data)
    assert 50 < halved.pixel_accuracy < 100  # half the resolution loses accuracy at the full one


class Watcher(Oracle):
    """Oracle that notes TF32 in each call."""

    def forward(self, image):
        self.noted = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
        return super().forward(image)


def test_scores_are_computed_without_tf32(make_scenes, fp32_precision):
    for switch in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        switch.fp32_precision = "tf32"
    data = load_dataset(make_scenes("camvid-lists"), "val", (32, 32), full_labels=True)
    watcher = Watcher([label for _, label in (data[index] for index in range(len(data)))])
    evaluate_network(watcher, data)
    assert watcher.noted == ("ieee", "ieee")
    assert (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == ("tf32", "tf32")


@pytest.mark.parametrize("layout", SCENE_FORMATS)
def test_every_layout_is_trained_and_scored(layout, make_run, make_scenes, tmp_path):
    run, data = make_run(count_classes(layout)), make_scenes(layout)
    out, predictions = tmp_path / "out", tmp_path / "predictions"
    trained = train(run, data, QUICK, out=out)
    assert (trained.scored_at, trained.scored_images) == (SIZE, 3)
    result = evaluate_run(out, data, predictions=predictions)
    assert result.miou == trained.miou
    right = total = 0
    for pair in read_dataset(data).pairs("val"):
        stem = f"{pair.image.stem}_pred" if layout == "cityscapes" else pair.label.stem
        predicted, truth = read_label(predictions / f"{stem}.png", pair.coding), read_label(pair.label, pair.coding)
        assert predicted.shape == SIZE
        right += int((predicted == truth)[truth != 255].sum())
        total += int((truth != 255).sum())
    assert len(list(predictions.iterdir())) == 3
    assert result.pixel_accuracy == pytest.approx(100 * right / total)
    with Image.open(next(predictions.iterdir())) as image:
        assert image.mode == ("RGB" if layout == "camvid" else "L")


def convert_to_train_ids(data: Path) -> None:
    table = np.full(256, 255, np.uint8)
    table[[*CITYSCAPES_REGULAR_IDS]] = range(19)
    for path in data.rglob("*_labelIds.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(
            path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        )
        path.unlink()


def test_train_ids_give_equal_scores(make_run, make_scenes):
    run, data = make_run(19), make_scenes("cityscapes")
    by_ids = evaluate_run(run, data)
    convert_to_train_ids(data)
    assert evaluate_run(run, data).per_class == by_ids.per_class


def test_training_accepts_coarse_labels(make_run, make_scenes, tmp_path):
    data = make_scenes("cityscapes")
    for kind in ("leftImg8bit", "gtFine"):
        (data / kind / "train").rename(data / kind / "train_extra")
    (data / "gtCoarse").mkdir()
    (data / "gtFine" / "train_extra").rename(data / "gtCoarse" / "train_extra")
    for path in (data / "gtCoarse").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    config = QUICK.model_copy(update={"train_split": "train_extra"})
    result = train(make_run(19), data, config, out=tmp_path / "out")
    assert (result.config.train_split, result.images) == ("train_extra", 4)


@pytest.mark.parametrize("predict", [False, True])
def test_unlabelled_split_allows_only_predictions(make_run, make_scenes, tmp_path, predict):
    data = make_scenes("cityscapes", test=2)
    for path in (data / "gtFine").rglob("*.png"):
        path.unlink()
    run, predictions = make_run(19), tmp_path / "predictions"
    if predict:
        result = evaluate_run(run, data, "test", predictions=predictions)
        assert result.miou is result.pixel_accuracy is None
        assert {np.asarray(Image.open(path)).shape[:2] for path in predictions.iterdir()} == {SIZE}
    else:
        with pytest.raises(DataError, match="no labelled pixel in test"):
            evaluate_run(run, data, "test")


def test_scores_equal_cityscapes_scripts(make_run, make_scenes, tmp_path, monkeypatch):
    scorer = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    data, predictions = make_scenes("cityscapes", val=2), tmp_path / "predictions"
    truths = sorted(map(str, (data / "gtFine" / "val").glob("*/*_gtFine_labelIds.png")))
    for path in truths:  # labels have no road, but the network predicts it
        ids = np.asarray(Image.open(path)).copy()
        ids[ids == 7] = 8
        Image.fromarray(ids).save(path)
    result = evaluate_run(make_run(19), data, predictions=predictions)
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(predictions))
    for name, value in {
        "evalInstLevelScore": False,  # the scenes have no instances
        "JSONOutput": False,
        "quiet": True,
        "predictionPath": None,
        "predictionWalk": None,
    }.items():
        monkeypatch.setattr(scorer.args, name, value)
    reference = scorer.evaluateImgLists(
        [scorer.getPrediction(scorer.args, truth) for truth in truths], truths, scorer.args
    )
    for name, iou in result.per_class.items():
        expected = reference["classScores"][name]
        assert np.isnan(expected) if iou is None else iou / 100 == pytest.approx(expected, abs=1e-6), name
    assert result.miou / 100 == pytest.approx(reference["averageScoreClasses"], abs=1e-6)
    # All cases that means treat differently: a class only in predictions (an IoU of 0, which counts), classes in
    # neither (no IoU), and correctly predicted classes.
    predicted = {int(value) for path in predictions.iterdir() for value in np.unique(np.asarray(Image.open(path)))}
    assert 7 in predicted
    assert result.per_class["road"] == 0
    assert None in result.per_class.values()
    assert max(iou or 0 for iou in result.per_class.values()) > 1


def test_labels_may_have_several_sizes(make_run, make_scenes):
    data = make_scenes("camvid-segnet")
    pair = read_dataset(data).pairs("val")[0]
    for path in (pair.image, pair.label):
        Image.open(path).resize((64, 40), Image.Resampling.NEAREST).save(path)
    assert evaluate_run(make_run(11), data).scored_at == "each label's own"


def test_predictions_never_overwrite_labels(make_run, make_scenes):
    data = make_scenes("camvid-segnet")
    label = read_dataset(data).pairs("val")[0].label
    before = label.read_bytes()
    with pytest.raises(OutputError, match="files of the dataset"):
        PredictionWriter(label.parent, load_dataset(data, "val", (32, 32)))
    assert label.read_bytes() == before


@pytest.mark.parametrize("folder", ["", "new/masks"])
def test_predictions_stay_outside_the_dataset(make_run, make_scenes, folder):
    data = make_scenes("camvid-segnet")
    before = sorted(data.rglob("*"))
    with pytest.raises(OutputError, match=r"is inside the dataset .*: choose another folder"):
        evaluate_run(make_run(11), data, predictions=data / folder)
    assert sorted(data.rglob("*")) == before


def test_invalid_evaluations_are_refused(make_run, make_scenes):
    run, data = make_run(11), make_scenes("camvid-segnet")
    with pytest.raises(UnknownNameError, match="did you mean 'val'"):
        evaluate_run(run, data, "vall")
    (run / "weights.safetensors").unlink()
    with pytest.raises(UsageError, match="train first"):
        evaluate_run(run, data)
    with pytest.raises(DataError, match="has 19 classes, the network's space street11 has 11"):
        train(run, make_scenes("cityscapes"), QUICK)


def test_void_label_does_not_change_scores(make_run, make_scenes):
    run, data = make_run(11), make_scenes("camvid-segnet")
    before = evaluate_run(run, data)
    extra = read_dataset(data).pairs("val")[0]
    for path in (extra.image, extra.label):
        copied = path.with_name(f"z{path.name}")
        copied.write_bytes(path.read_bytes())
    Image.fromarray(np.full(SIZE, 11, np.uint8)).save(copied)
    after = evaluate_run(run, data)
    assert after.scored_images == 4
    assert json.dumps(after.per_class) == json.dumps(before.per_class)
