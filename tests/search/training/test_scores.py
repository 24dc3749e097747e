"""Scores are taken at the labels' own resolution, whatever the layout, and agree with Cityscapes' own scorer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgc.errors import DataError, OutputError, UnknownNameError, UsageError
from lgc.models import LGCNet
from lgc.models.nets.weights import save_weights
from lgc.search.data.datasets import load_dataset
from lgc.search.data.labels import ID_TO_TRAIN_ID
from lgc.search.data.layouts import list_pairs
from lgc.search.data.reading import CAMVID, CITYSCAPES_IDS, read_label
from lgc.search.data.synthetic.writers import SCENE_FORMATS, write_scenes
from lgc.search.training.config import TrainConfig
from lgc.search.training.evaluation import evaluate_run
from lgc.search.training.scores import evaluate, scores
from lgc.search.training.train import train

SIZE = (48, 80)
"""Of the images on disk; the network runs at 32x32."""
QUICK = TrainConfig(steps=2, batch=2)


@pytest.fixture
def make_run(mini_space, tmp_path):
    """Makes a folder with a network of so many classes and random weights that tell many of them apart."""

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
        for _ in range(50):  # statistics of the features, without which one class wins everywhere
            network(blurred)
        network.head[1].bias.data.zero_()
        save_weights(network, run / "weights.safetensors")
        return run

    return make


@pytest.fixture
def scenes_of(tmp_path):
    """Writes a few scenes in a layout."""

    def write(layout, **counts):
        write_scenes(tmp_path / layout, layout, counts or {"train": 4, "val": 3}, SIZE, 0)
        return tmp_path / layout

    return write


def classes_of(layout):
    return 19 if layout == "cityscapes" else 11


def test_miou_by_hand():
    confusion = torch.tensor([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]])
    found = scores(confusion, ("road", "car", "pole", "sky"))
    assert found.per_class == {
        "road": pytest.approx(100 * 6 / 13),
        "car": pytest.approx(100 * 3 / 6),
        "pole": None,
        "sky": pytest.approx(0.0),
    }
    assert found.miou == pytest.approx((100 * 6 / 13 + 50 + 0) / 3)
    assert found.pixel_accuracy == pytest.approx(100 * 9 / 16)


def test_nothing_labelled_is_no_score():
    assert scores(torch.zeros(2, 2), ("road", "car")).miou is None


class Oracle(torch.nn.Module):
    """Answers with the labels themselves, at a resolution of its own."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        classes = next(self.answers).clamp(max=10)
        return torch.nn.functional.one_hot(classes, 11).permute(2, 0, 1)[None].float()


def test_logits_are_brought_to_the_labels_size_and_void_is_left_out(scenes_of):
    data = load_dataset(scenes_of("camvid-lists"), "val", (32, 32), full_labels=True)
    images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
    assert {tuple(image.shape) for image in images} == {(3, 32, 32)}
    assert {tuple(label.shape) for label in labels} == {SIZE}
    assert any((label == 255).any() for label in labels)
    found, size = evaluate(Oracle(labels), data)
    assert (found.miou, found.pixel_accuracy, size) == (pytest.approx(100.0), pytest.approx(100.0), SIZE)
    halved, _ = evaluate(Oracle([label[::2, ::2] for label in labels]), data)
    assert 50 < halved.pixel_accuracy < 100  # what half the resolution costs is seen at the full one


@pytest.mark.parametrize("layout", SCENE_FORMATS)
def test_every_layout_is_trained_scored_and_predicted(layout, make_run, scenes_of, tmp_path):
    run, data = make_run(classes_of(layout)), scenes_of(layout)
    out, seen = tmp_path / "out", tmp_path / "seen"
    trained = train(run, data, QUICK, out=out)
    assert (trained["scored_at"], trained["scored_images"]) == (list(SIZE), 3)
    found = evaluate_run(out, data, predictions=seen)
    assert found["miou"] == trained["miou"]
    coding = CITYSCAPES_IDS if layout == "cityscapes" else CAMVID
    right = total = 0
    for pair in list_pairs(data, "val")[1]:
        stem = f"{pair.image.stem}_pred" if layout == "cityscapes" else pair.label.stem
        predicted, truth = read_label(seen / f"{stem}.png", coding), read_label(pair.label, pair.coding)
        assert predicted.shape == SIZE
        right += int((predicted == truth)[truth != 255].sum())
        total += int((truth != 255).sum())
    assert len(list(seen.iterdir())) == 3
    assert found["pixel_accuracy"] == pytest.approx(100 * right / total)
    assert Image.open(next(seen.iterdir())).mode == ("RGB" if layout == "camvid" else "L")


def to_train_ids(data: Path) -> None:
    for path in data.rglob("*_labelIds.png"):
        Image.fromarray(ID_TO_TRAIN_ID[np.asarray(Image.open(path))]).save(
            path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        )
        path.unlink()


def test_train_ids_give_the_same_scores(make_run, scenes_of):
    run, data = make_run(19), scenes_of("cityscapes")
    by_ids = evaluate_run(run, data)
    to_train_ids(data)
    assert evaluate_run(run, data)["per_class"] == by_ids["per_class"]


def test_coarse_labels_are_trained_on(make_run, scenes_of, tmp_path):
    data = scenes_of("cityscapes")
    for kind in ("leftImg8bit", "gtFine"):
        (data / kind / "train").rename(data / kind / "train_extra")
    (data / "gtCoarse").mkdir()
    (data / "gtFine" / "train_extra").rename(data / "gtCoarse" / "train_extra")
    for path in (data / "gtCoarse").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    config = QUICK.model_copy(update={"train_split": "train_extra"})
    result = train(make_run(19), data, config, out=tmp_path / "out")
    assert (result["train_split"], result["images"]) == ("train_extra", 4)


@pytest.mark.parametrize("predict", [False, True])
def test_a_benchmarks_test_images_have_no_labels(make_run, scenes_of, tmp_path, predict):
    data = scenes_of("cityscapes", test=2)
    for path in (data / "gtFine").rglob("*.png"):
        path.unlink()
    run, seen = make_run(19), tmp_path / "seen"
    if predict:
        found = evaluate_run(run, data, "test", predictions=seen)
        assert found["miou"] is found["pixel_accuracy"] is None
        assert {Image.open(path).size[::-1] for path in seen.iterdir()} == {SIZE}
    else:
        with pytest.raises(DataError, match="no labelled pixel in test"):
            evaluate_run(run, data, "test")


def test_cityscapes_own_scorer_agrees(make_run, scenes_of, tmp_path, monkeypatch):
    scorer = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    data, seen = scenes_of("cityscapes", val=2), tmp_path / "seen"
    truths = sorted(map(str, (data / "gtFine" / "val").glob("*/*_gtFine_labelIds.png")))
    for path in truths:  # no road anywhere, which the network predicts all the same
        ids = np.asarray(Image.open(path)).copy()
        ids[ids == 7] = 8
        Image.fromarray(ids).save(path)
    found = evaluate_run(make_run(19), data, predictions=seen)
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(seen))
    for name, value in {
        "evalInstLevelScore": False,  # the scenes have no instances
        "JSONOutput": False,
        "quiet": True,
        "predictionPath": None,
        "predictionWalk": None,
    }.items():
        monkeypatch.setattr(scorer.args, name, value)
    theirs = scorer.evaluateImgLists(
        [scorer.getPrediction(scorer.args, truth) for truth in truths], truths, scorer.args
    )
    for name, iou in found["per_class"].items():
        wanted = theirs["classScores"][name]
        assert np.isnan(wanted) if iou is None else iou / 100 == pytest.approx(wanted, abs=1e-6), name
    assert found["miou"] / 100 == pytest.approx(theirs["averageScoreClasses"], abs=1e-6)
    # The cases that a mean can treat in several ways are all there: a class predicted but nowhere true (an IoU of 0
    # that counts), classes in neither (none, which does not), and classes found.
    predicted = {int(value) for path in seen.iterdir() for value in np.unique(np.asarray(Image.open(path)))}
    assert 7 in predicted
    assert found["per_class"]["road"] == 0
    assert None in found["per_class"].values()
    assert max(iou or 0 for iou in found["per_class"].values()) > 1


def test_labels_of_several_sizes(make_run, scenes_of):
    data = scenes_of("camvid-segnet")
    pair = list_pairs(data, "val")[1][0]
    for path in (pair.image, pair.label):
        Image.open(path).resize((64, 40), Image.Resampling.NEAREST).save(path)
    assert evaluate_run(make_run(11), data)["scored_at"] == "each label's own"


def test_predictions_never_replace_labels(make_run, scenes_of):
    data = scenes_of("camvid-segnet")
    label = list_pairs(data, "val")[1][0].label
    before = label.read_bytes()
    with pytest.raises(OutputError, match="files of the dataset"):
        evaluate_run(make_run(11), data, predictions=label.parent)
    assert label.read_bytes() == before


def test_what_cannot_be_scored(make_run, scenes_of):
    run, data = make_run(11), scenes_of("camvid-segnet")
    with pytest.raises(UnknownNameError, match="did you mean 'val'"):
        evaluate_run(run, data, "vall")
    (run / "weights.safetensors").unlink()
    with pytest.raises(UsageError, match="train first"):
        evaluate_run(run, data)
    with pytest.raises(DataError, match="has 19 classes, space street11 has 11"):
        train(run, scenes_of("cityscapes"), QUICK)


def test_an_image_without_label_counts_nowhere(make_run, scenes_of):
    run, data = make_run(11), scenes_of("camvid-segnet")
    before = evaluate_run(run, data)
    extra = list_pairs(data, "val")[1][0]
    for path in (extra.image, extra.label):
        copied = path.with_name(f"z{path.name}")
        copied.write_bytes(path.read_bytes())
    Image.fromarray(np.full(SIZE, 11, np.uint8)).save(copied)
    after = evaluate_run(run, data)
    assert after["scored_images"] == 4
    assert json.dumps(after["per_class"]) == json.dumps(before["per_class"])
