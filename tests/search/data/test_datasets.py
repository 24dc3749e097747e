"""Items, views and halves of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgc.errors import DataError, UnknownNameError, UsageError
from lgc.models.images import IMAGENET
from lgc.search.data.datasets import SegmentationDataset, load_dataset, require_classes, split_halves
from lgc.search.data.synthetic.writers import write_scenes

SIZE = (32, 48)


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("camvid"), "camvid-segnet", {"train": 5, "val": 2}, SIZE).directory


@pytest.fixture
def sample(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return folder, image and label of a dataset with one image."""
    write_scenes(tmp_path, "camvid-segnet", {"train": 1}, SIZE)
    pair = load_dataset(tmp_path, "train").pairs[0]
    return tmp_path, pair.image, pair.label


def _same(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_item_is_normalised_image_and_label(camvid: Path) -> None:
    data = load_dataset(camvid, "train")
    image, label = data[0]
    assert (image.shape, image.dtype) == ((3, *SIZE), torch.float32)
    assert (label.shape, label.dtype) == (SIZE, torch.int64)
    raw = np.asarray(Image.open(data.pairs[0].image)) / 255
    expected = (raw - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    assert np.allclose(image.numpy().transpose(1, 2, 0), expected, atol=1e-5)
    assert set(label.unique().tolist()) <= {*range(11), 255}


def test_attributes_describe_the_dataset(camvid: Path, tmp_path: Path) -> None:
    data = load_dataset(camvid, "val")
    assert (data.name, data.num_classes, data.ignore_index, len(data)) == ("camvid-segnet", 11, 255, 2)
    assert data.classes[0] == "sky"
    assert len(data.palette) == 11
    city = load_dataset(write_scenes(tmp_path, "cityscapes", {"val": 1}, SIZE).directory, "val")
    assert (city.name, city.num_classes, city.classes[0]) == ("cityscapes", 19, "road")


def test_other_class_count_names_a_fix(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "own", "four-classes", {"train": 1}, SIZE).directory
    data = load_dataset(folder, "train")
    require_classes(data, 4, "tiny")
    with pytest.raises(DataError) as caught:
        require_classes(data, 11, "tiny")
    assert str(caught.value) == (
        "the dataset four-classes has 4 classes, the network's space tiny has 11: search a network for this dataset "
        "with lgc-search --data, and a table from lgc-profile --classes 4"
    )


def test_resizing_is_bilinear_and_nearest(camvid: Path) -> None:
    own, half = load_dataset(camvid, "train")[0], load_dataset(camvid, "train", size=(16, 24))[0]
    assert half[0].shape == (3, 16, 24)
    assert half[1].shape == (16, 24)
    assert torch.equal(half[1], own[1][1::2, 1::2])
    assert torch.allclose(half[0].mean(), own[0].mean(), atol=0.05)


def test_label_of_different_size_is_reported(sample: tuple[Path, Path, Path]) -> None:
    root, _, label = sample
    Image.new("L", (10, 20), 1).save(label)
    with pytest.raises(DataError, match=r"trainannot/scene_000000\.png is 20x10 pixels, its image .* 32x48"):
        load_dataset(root, "train", size=(8, 8))[0]


def test_views_depend_on_seed_epoch_index(camvid: Path) -> None:
    one = load_dataset(camvid, "train", size=SIZE, augment=True, seed=1)
    two = load_dataset(camvid, "train", size=SIZE, augment=True, seed=1)
    other = load_dataset(camvid, "train", size=SIZE, augment=True, seed=2)
    assert _same(one[3], two[3])
    assert not _same(one[3], other[3])
    assert _same(one[3], one.view(3, 0))
    assert not _same(one[3], one.view(3, 1))
    assert _same(one[-1], one[len(one) - 1])


def test_epoch_does_not_change_plain_items(camvid: Path) -> None:
    data = load_dataset(camvid, "val")
    assert _same(data[0], data.view(0, 5))


def test_padding_is_void_and_zero(camvid: Path) -> None:
    data = load_dataset(camvid, "train", size=(16, 24), crop=(80, 80), augment=True)
    image, label = data[0]
    assert image.shape == (3, 80, 80)
    assert image[:, label == 255].abs().median() < 0.02


@pytest.mark.parametrize("contiguous", [False, True])
def test_halves_partition_the_dataset(camvid: Path, contiguous: bool) -> None:
    data = load_dataset(camvid, "train")
    first, second = split_halves(data, seed=3, contiguous=contiguous)
    assert (len(first), len(second)) == (3, 2)
    assert {*first.pairs} | {*second.pairs} == {*data.pairs}
    assert not {*first.pairs} & {*second.pairs}


@pytest.mark.parametrize("contiguous", [False, True])
def test_seed_determines_the_halves(camvid: Path, contiguous: bool) -> None:
    data = load_dataset(camvid, "train")
    first, again = (split_halves(data, 3, contiguous=contiguous)[0].pairs for _ in range(2))
    assert first == again
    assert len({split_halves(data, seed, contiguous=contiguous)[0].pairs for seed in range(20)}) > 3


def test_contiguous_halves_keep_neighbours_together(camvid: Path) -> None:
    data = load_dataset(camvid, "train")
    starts = set()
    for seed in range(40):
        first, _ = split_halves(data, seed)
        positions = [data.pairs.index(pair) for pair in first.pairs]
        assert positions == sorted(positions)
        assert any({(start + step) % 5 for step in range(3)} == {*positions} for start in range(5))
        starts.add(tuple(positions))
    assert len(starts) == 5


def test_halves_share_settings(camvid: Path) -> None:
    data = load_dataset(camvid, "train", size=(16, 24), augment=True, seed=4)
    for half in split_halves(data):
        assert (half.size, half.augment, half.seed, half.name) == ((16, 24), True, 4, "camvid-segnet")


def test_split_of_one_image_is_rejected(sample: tuple[Path, Path, Path]) -> None:
    with pytest.raises(DataError, match=r"at least 2 training images.*got 1"):
        split_halves(load_dataset(sample[0], "train"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": (0, 8)}, "size must be at least 1x1 pixel, got 0x8"),
        ({"crop": (8, -1), "augment": True}, "crop must be at least 1x1"),
        ({"crop": (8, 8)}, "requires augment=True"),
        ({"full_labels": True, "augment": True}, "cannot be combined with augment"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_invalid_settings_are_rejected(camvid: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_dataset(camvid, "train", **settings)  # type: ignore[arg-type]


def test_invalid_calls_are_rejected(camvid: Path) -> None:
    data: SegmentationDataset = load_dataset(camvid, "train")
    with pytest.raises(UsageError, match="seed of the split"):
        split_halves(data, seed=-2)
    with pytest.raises(UnknownNameError, match="unknown split 'trian'"):
        load_dataset(camvid, "trian")
    with pytest.raises(IndexError):
        data[len(data)]


def test_full_labels_keep_the_file_size(camvid: Path) -> None:
    data = load_dataset(camvid, "val", size=(16, 24), full_labels=True).select([1])
    image, label = data[0]
    assert image.shape == (3, 16, 24)
    assert torch.equal(label, load_dataset(camvid, "val")[1][1])
    assert torch.equal(image, load_dataset(camvid, "val", size=(16, 24))[1][0])
