"""Check of a dataset: what is counted, and what is wrong."""

import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from lgc.errors import DataError
from lgc.search.data import check
from lgc.search.data.check import PROBLEMS, check_dataset
from lgc.search.data.description import read_dataset

DESCRIPTION = """
name: own
images: images/{split}
labels: labels/{split}
splits: [train, val, test]
classes: [road, sky, tree, car]
"""
SIZE = (8, 10)


class Own:
    """Dataset of 4 classes: 3 training and 2 validation images, whose left half is road and right half is sky."""

    def __init__(self, root):
        self.root = root
        self.rng = np.random.default_rng(0)
        for split, count in (("train", 3), ("val", 2)):
            for index in range(count):
                self.write(split, f"{split}{index}")
        (root / "dataset.yaml").write_text(DESCRIPTION)

    def image(self, split, name):
        return self.root / "images" / split / f"{name}.png"

    def label(self, split, name):
        return self.root / "labels" / split / f"{name}.png"

    def write(self, split, name, label=None, pixels=None):
        if label is None:
            label = np.repeat([[0] * 5 + [1] * 5], 8, axis=0)
        pixels = self.rng.integers(0, 256, (*SIZE, 3)) if pixels is None else pixels
        for path, content in ((self.image(split, name), pixels), (self.label(split, name), label)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(content, np.uint8)).save(path)

    def check(self, **options):
        return check_dataset(read_dataset(self.root), **options)


@pytest.fixture
def own(tmp_path):
    return Own(tmp_path / "own")


def list_kinds(result):
    return [problem.kind for problem in result.problems]


def test_splits_are_counted(own):
    label = np.zeros(SIZE)
    label[:2] = 2
    label[2] = 255
    own.write("val", "val1", label)
    train, val = own.check().splits
    assert (train.name, train.images, train.checked, train.labelled) == ("train", 3, 3, 3)
    assert train.sizes == {SIZE: 3}
    assert train.class_pixels.tolist() == [120, 120, 0, 0]
    assert train.class_images.tolist() == [3, 3, 0, 0]
    assert val.class_pixels.tolist() == [40 + 50, 40, 20, 0]
    assert val.class_images.tolist() == [2, 1, 1, 0]
    assert (val.void_pixels, val.unknown_pixels, val.pixels) == (10, 0, 160)
    assert val.share_pct(val.void_pixels) == pytest.approx(6.25)


def test_sound_data_have_no_problem(own):
    result = own.check()
    assert result.problems == ()
    assert result.remarks == ("classes in no label: tree, car",)


def test_missing_label_is_a_problem(own):
    own.label("train", "train1").unlink()
    (problem,) = own.check().problems
    assert (problem.kind, problem.splits, problem.files) == (
        "missing_labels",
        ("train",),
        (own.image("train", "train1"),),
    )
    assert str(own.label("train", "train1")) in problem.text


def test_test_split_may_lack_labels(own):
    own.write("test", "test0")
    own.label("test", "test0").unlink()
    result = own.check()
    assert result.problems == ()
    assert "test has no labels: it can be predicted, not scored" in result.remarks
    assert result.splits[2].labelled == 0
    assert result.splits[2].share_pct(0) is None


def test_partly_labelled_test_split_is_a_problem(own):
    own.write("test", "test0")
    own.write("test", "test1")
    own.label("test", "test0").unlink()
    assert list_kinds(own.check()) == ["missing_labels"]


def test_unknown_values_are_named_with_their_share(own):
    label = np.zeros(SIZE)
    label[0], label[1:3] = 7, 9
    own.write("val", "val0", label)
    (problem,) = (result := own.check()).problems
    assert problem.kind == "unknown_values"
    assert problem.text == (
        f"{own.label('val', 'val0')}: unknown values: 9 (25 % of its pixels), 7 (12.5 % of its pixels)"
    )
    assert result.splits[1].unknown_pixels == 30


def test_unknown_colours_are_named(own):
    (own.root / "dataset.yaml").write_text(
        DESCRIPTION.replace("[road, sky, tree, car]", "{road: [9, 9, 9], sky: [0, 0, 0]}")
    )
    for split, name in [("train", f"train{index}") for index in range(3)] + [("val", "val0")]:
        own.write(split, name, np.zeros((*SIZE, 3)))
    own.write("val", "val1", np.full((*SIZE, 3), 200))
    (problem,) = own.check().problems
    assert problem.text.endswith("unknown colours: (200, 200, 200) (100 % of its pixels)")


@pytest.mark.parametrize("part", ["image", "label"])
def test_damaged_file_is_a_problem(own, part):
    path = getattr(own, part)("val", "val1")
    path.write_bytes(path.read_bytes()[:60])
    result = own.check()
    (problem,) = result.problems
    assert (problem.kind, problem.files) == (f"damaged_{part}s", (path,))
    assert str(path) in problem.text
    assert result.splits[1].labelled == (2 if part == "image" else 1)


def test_classes_of_a_sample_are_called_so(own):
    own.write("train", "train1", np.full(SIZE, 3))
    own.write("val", "val0", np.full(SIZE, 3))
    assert "classes in no label of train of the sample: car" in own.check(sample=1).remarks
    assert not any("car" in remark for remark in own.check().remarks)


def test_size_mismatch_is_a_problem(own):
    own.write("train", "train0", np.zeros((4, 5)))
    (problem,) = own.check().problems
    assert problem.kind == "size_mismatches"
    assert "is 4x5 pixels, its image" in problem.text
    assert problem.text.endswith("8x10")


@pytest.mark.parametrize("full", [True, False])
def test_equal_file_in_two_splits_leaks(own, full):
    shutil.copy(own.image("train", "train2"), own.image("val", "val0"))
    (problem,) = own.check(full=full).problems
    assert (problem.kind, problem.splits) == ("leaks", ("train", "val"))
    assert problem.files == (own.image("train", "train2"), own.image("val", "val0"))


def test_equal_pixels_in_other_file_leak(own):
    with Image.open(own.image("train", "train2")) as image:
        image.save(own.image("val", "val0"), compress_level=0)
    assert list_kinds(own.check()) == ["leaks"]
    assert list_kinds(own.check(full=False)) == []


def test_equal_images_within_a_split_are_remarked(own):
    shutil.copy(own.image("train", "train2"), own.image("train", "train0"))
    result = own.check()
    assert result.problems == ()
    assert "repeated images in train: 1" in result.remarks


def test_untrained_class_is_a_remark(own):
    own.write("val", "val0", np.full(SIZE, 3))
    assert {"classes in no label: tree", "classes in no label of train: car"} <= set(own.check().remarks)


def test_label_without_image_is_a_remark(own):
    own.image("val", "val1").unlink()
    result = own.check()
    assert result.problems == ()
    assert "labels in labels/val/ without an image in any split: 1, e.g. val1.png" in result.remarks


def test_list_with_an_error_is_a_problem(own):
    text = DESCRIPTION.replace("splits: [train, val, test]", "splits: {train: , val: {list: val.txt}}")
    (own.root / "dataset.yaml").write_text(text)
    (own.root / "val.txt").write_text("nothing.png\n")
    result = own.check()
    assert list_kinds(result) == ["unusable_splits"]
    assert "val.txt, line 1: no image 'nothing.png'" in result.problems[0].text
    (own.root / "val.txt").write_text("\n")
    assert own.check().problems[0].text.endswith("val.txt lists no image")


def test_data_without_images_are_refused(own):
    shutil.rmtree(own.root / "images")
    with pytest.raises(DataError, match="own has no images: train needs images/train/; val needs images/val/"):
        own.check()


def test_sample_is_evenly_spaced(own):
    for index in range(3, 9):
        own.write("train", f"train{index}")
    own.label("train", "train4").unlink()
    result = own.check(sample=3)
    assert [(split.images, split.checked) for split in result.splits] == [(9, 3), (2, 2)]
    assert result.problems == (), "images 0, 3 and 6"


def test_quick_check_decodes_no_image(own, monkeypatch):
    monkeypatch.setattr("lgc.search.data.check.read_pixels", None)
    assert own.check(full=False).splits[0].sizes == {SIZE: 3}
    own.image("val", "val0").write_bytes(b"nothing")
    assert list_kinds(own.check(full=False)) == ["damaged_images"]


@pytest.mark.parametrize("full", [True, False])
def test_size_is_that_of_the_turned_image(own, full):
    path = own.image("train", "train0").with_suffix(".jpg")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", SIZE).save(path, exif=exif)  # (width, height): stored lying
    own.image("train", "train0").unlink()
    result = own.check(full=full)
    assert result.problems == ()
    assert result.splits[0].sizes == {SIZE: 3}


def test_examples_show_every_class(own):
    own.write("val", "val1", np.full(SIZE, 3))
    examples = own.check(examples=2).examples
    assert [(split, pair.image) for split, pair in examples] == [
        ("train", own.image("train", "train0")),
        ("val", own.image("val", "val1")),
    ]
    assert len(own.check(examples=4).examples) == 4
    assert len(own.check(examples=99).examples) == 5
    assert own.check().examples == ()


def test_every_kind_has_a_name():
    assert len(set(PROBLEMS.values())) == len(PROBLEMS) == 7


def test_progress_counts_every_image(own):
    seen = []
    own.check(on_start=lambda total: lambda: seen.append(total))
    assert seen == [5] * 5


def test_images_are_read_at_once_in_order(own, monkeypatch):
    own.write("train", "train3")
    barrier = threading.Barrier(2)

    def read(path):
        barrier.wait(10)
        raise DataError(f"no {path.name}")

    monkeypatch.setattr(check, "read_pixels", read)
    texts = [problem.text for problem in own.check().problems]
    assert texts == [f"no {name}.png" for name in ("train0", "train1", "train2", "train3", "val0", "val1")]


def test_unknown_values_are_ordered_by_share(own):
    label = np.zeros(SIZE)
    label[0, :6] = (99, 50, 70, 50, 99, 60)
    own.write("train", "train1", label)
    (problem,) = own.check().problems
    shares = "99 (2.5 % of its pixels), 50 (2.5 % of its pixels), 70 (1.25 % of its pixels), 60 (1.25 % of its pixels)"
    assert problem.text.endswith(f"unknown values: {shares}")
