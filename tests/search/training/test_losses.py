from __future__ import annotations

import math

import pytest
import torch
from PIL import ExifTags, Image
from torch.nn import functional as F

from lgc.errors import DataError
from lgc.search.data.cache.store import FileStore
from lgc.search.data.datasets import load_dataset
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training import losses
from lgc.search.training.losses import SegmentationLoss, compute_class_weights


def upsampled_loss(logits, labels, weights=None):
    return SegmentationLoss(False, weights=weights)([logits], labels)[0]


def ohem_loss(logits, labels, weights=None):
    return SegmentationLoss(True, weights=weights)([logits], labels)[0]


def build_logits(probabilities):
    """Return logits [1, 2, 1, W] and labels [1, 1, W] of class 0 with the given probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p, 1 - p]).log()[None, :, None], torch.zeros(1, 1, len(p), dtype=torch.int64)


def test_loss_is_mean_over_labelled_pixels():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 8, 10))
    labels[0, :5] = 255
    full = F.interpolate(logits, scale_factor=2, mode="bilinear")
    expected = F.cross_entropy(full, labels, ignore_index=255)
    assert upsampled_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("compute_loss", [upsampled_loss, ohem_loss])
def test_unlabelled_batch_has_zero_loss_and_gradient(compute_loss):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = compute_loss(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_hard_pixels_are_below_the_threshold():
    logits, labels = build_logits([0.95, 0.71, 0.69, 0.2])
    expected = -(math.log(0.69) + math.log(0.2)) / 2
    assert ohem_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_ignored_pixels_are_not_hard():
    logits, labels = build_logits([0.95, 0.3, 0.69, 0.2])
    labels[0, 0, 1] = labels[0, 0, 3] = 255
    assert ohem_loss(logits, labels).item() == pytest.approx(-math.log(0.69), rel=1e-5)


def test_ohem_keeps_at_least_a_sixteenth():
    easy = [0.9] * 30 + [0.8, 0.75]
    logits, labels = build_logits(easy)
    assert ohem_loss(logits, labels).item() == pytest.approx(-(math.log(0.8) + math.log(0.75)) / 2, rel=1e-5)
    logits, labels = build_logits([*easy, 0.1])  # 33 pixels: 3 are kept although 1 is hard
    expected = -(math.log(0.8) + math.log(0.75) + math.log(0.1)) / 3
    assert ohem_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_only_kept_pixels_have_gradients():
    logits, labels = build_logits([0.95, 0.71, 0.69, 0.2])
    logits.requires_grad_()
    ohem_loss(logits, labels).backward()
    assert (logits.grad.abs().sum(1)[0, 0] > 0).tolist() == [False, False, True, True]


def list_kept(losses_, labelled):
    """Return the pixels that OHEM keeps, by sorting."""
    hard = [index for index, loss in enumerate(losses_) if labelled[index] and loss > -math.log(0.7)]
    min_kept = math.ceil(sum(labelled) / 16)
    ranked = sorted((i for i in range(len(losses_)) if labelled[i]), key=lambda index: -losses_[index])
    return sorted(hard if len(hard) >= min_kept else ranked[:min_kept])


@pytest.mark.parametrize("may_wait", [True, False])
@pytest.mark.parametrize(("easy", "void"), [(0.1, 0.0), (0.97, 0.3), (1.0, 0.5), (1.0, 0.97), (1.0, 1.0), (0.0, 0.2)])
def test_hard_pixels_are_those_of_sorting(easy, void, may_wait, monkeypatch):
    monkeypatch.setattr(losses, "_may_wait", lambda tensor: may_wait)  # False: as on a GPU
    torch.manual_seed(0)
    values = torch.where(torch.rand(3, 7, 50) < easy, 0.3 * torch.rand(3, 7, 50), 2 + torch.rand(3, 7, 50))
    labelled = torch.rand(3, 7, 50) >= void
    values[~labelled] = 0.0
    kept = losses.select_hard_pixels(values, labelled)
    assert kept.flatten().nonzero().flatten().tolist() == list_kept(
        values.flatten().tolist(), labelled.flatten().tolist()
    )


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 3.0, 1.0])])
def test_outputs_share_labels(weights):
    torch.manual_seed(0)
    outputs, labels = [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)], torch.randint(0, 3, (2, 8, 8))
    labels[0, :5] = 255
    for ohem, compute_loss in ((True, ohem_loss), (False, upsampled_loss)):
        together = losses.SegmentationLoss(ohem, weights=weights)(outputs, labels)
        assert together == [compute_loss(logits, labels, weights=weights) for logits in outputs]


@pytest.mark.parametrize("compute_loss", [upsampled_loss, ohem_loss])
def test_nan_reaches_the_loss(compute_loss):
    logits, labels = build_logits([0.2] * 16)
    logits[0, 0, 0, 3] = float("nan")
    assert math.isnan(compute_loss(logits, labels).item())


@pytest.mark.parametrize("compute_loss", [upsampled_loss, ohem_loss])
def test_half_precision_logits_give_float32_loss(compute_loss):
    logits, labels = build_logits([0.2, 0.6])
    assert compute_loss(logits.bfloat16(), labels).dtype == torch.float32
    assert losses.pixel_losses(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("compute_loss", [upsampled_loss, ohem_loss])
def test_class_weights_apply_to_pixels(compute_loss):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 8, 10), torch.randint(0, 3, (2, 8, 10))
    labels[0, :5] = 255
    weights = torch.tensor([0.5, 3.0, 1.0])
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255)
    if compute_loss is ohem_loss:
        probability = logits.softmax(1).gather(1, labels.clamp(max=2)[:, None])[:, 0]
        expected = F.cross_entropy(logits, labels.masked_fill(probability >= 0.7, 255), weights, ignore_index=255)
    assert compute_loss(logits, labels, weights=weights).item() == pytest.approx(expected.item(), rel=1e-5)


def test_class_weights_match_enets(scenes):
    dataset = load_dataset(scenes, "train")
    labels = torch.cat([dataset[index][1].flatten() for index in range(len(dataset))])
    share = torch.bincount(labels[labels != 255], minlength=11) / (labels != 255).sum()
    weights = compute_class_weights(dataset)
    assert torch.allclose(weights / weights[0], (1.02 + share[0]).log() / (1.02 + share).log(), rtol=1e-4)
    assert (weights * share).sum().item() == pytest.approx(1.0, rel=1e-5)


def test_class_weights_refuse_turned_labels(tmp_path):
    scenes = write_scenes(tmp_path, "camvid-segnet", {"train": 1}, (32, 48)).directory
    path = load_dataset(scenes, "train").pairs[0].label
    with Image.open(path) as label:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        label.save(path, exif=exif)
    with pytest.raises(DataError, match="has the EXIF orientation 6"):
        compute_class_weights(load_dataset(scenes, "train"))


def make_void(scenes, keep):
    """Void all labels of the training images except those at the indices `keep`."""
    pairs = load_dataset(scenes, "train").pairs
    for index, pair in enumerate(pairs):
        if index not in keep:
            with Image.open(pair.label) as label:
                palette, size = label.getpalette(), label.size
            image = Image.new("P" if palette else "L", size, 11)  # the layout's void
            if palette:
                image.putpalette(palette)
            image.save(pair.label)


@pytest.mark.parametrize(("keep", "reads"), [({0, 1, 2}, 1), ({2}, 3)])
def test_labelled_split_is_read_up_to_first(tmp_path, monkeypatch, keep, reads):
    scenes = write_scenes(tmp_path, "camvid-segnet", {"train": 3}, (32, 48)).directory
    make_void(scenes, keep)
    calls, real = [], FileStore.count
    monkeypatch.setattr(FileStore, "count", lambda *arguments: calls.append(1) or real(*arguments))
    losses.require_labelled(load_dataset(scenes, "train"), "train")
    assert len(calls) == reads


def test_void_split_is_refused(tmp_path):
    scenes = write_scenes(tmp_path, "camvid-segnet", {"train": 3}, (32, 48)).directory
    make_void(scenes, ())
    with pytest.raises(DataError, match=r"nothing to train on: split train .* no labelled pixel in the labels of 3 im"):
        losses.require_labelled(load_dataset(scenes, "train"), "train")
