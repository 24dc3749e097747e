from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from lgc.errors import DataError, UnknownNameError, UsageError
from lgc.models.images import IMAGE_MEAN, IMAGE_STD
from lgc.search.data.datasets import SegmentationDataset, load_dataset, split_halves
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.data.views import augment_pair

SIZE = (32, 48)


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("camvid"), "camvid-segnet", {"train": 5, "val": 2}, SIZE).directory


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A data set of one image: its folder, the image and the label."""
    write_scenes(tmp_path, "camvid-segnet", {"train": 1}, SIZE)
    pair = load_dataset(tmp_path, "train").pairs[0]
    return tmp_path, pair.image, pair.label


def _same(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_an_item_is_a_normalised_image_and_its_label(camvid: Path) -> None:
    data = load_dataset(camvid, "train")
    image, label = data[0]
    assert (image.shape, image.dtype) == ((3, *SIZE), torch.float32)
    assert (label.shape, label.dtype) == (SIZE, torch.int64)
    raw = np.asarray(Image.open(data.pairs[0].image)) / 255
    wanted = (raw - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    assert np.allclose(image.numpy().transpose(1, 2, 0), wanted, atol=1e-5)
    assert set(label.unique().tolist()) <= {*range(11), 255}


def test_attributes_say_what_the_data_set_is(camvid: Path, tmp_path: Path) -> None:
    data = load_dataset(camvid, "val")
    assert (data.layout, data.num_classes, data.ignore_index, len(data)) == ("camvid-segnet", 11, 255, 2)
    assert data.classes[0] == "sky"
    assert len(data.palette) == 11
    city = load_dataset(write_scenes(tmp_path, "cityscapes", {"val": 1}, SIZE).directory, "val")
    assert (city.layout, city.num_classes, city.classes[0]) == ("cityscapes", 19, "road")


def test_a_size_resizes_the_image_smoothly_and_the_label_by_picking(camvid: Path) -> None:
    own, half = load_dataset(camvid, "train")[0], load_dataset(camvid, "train", size=(16, 24))[0]
    assert half[0].shape == (3, 16, 24)
    assert half[1].shape == (16, 24)
    assert torch.equal(half[1], own[1][1::2, 1::2])
    assert torch.allclose(half[0].mean(), own[0].mean(), atol=0.05)


@pytest.mark.parametrize("coded", ["palette", "sixteen bits"])
def test_other_kinds_of_index_images_are_read_as_the_indices_they_hold(
    one: tuple[Path, Path, Path], coded: str
) -> None:
    root, _, label = one
    before = load_dataset(root, "train")[0][1]
    values = np.asarray(Image.open(label))
    if coded == "palette":
        file = Image.fromarray(values)
        file.putpalette([7 * i % 256 for i in range(768)])
    else:
        file = Image.fromarray(values.astype(np.uint16))
    file.save(label)
    assert torch.equal(load_dataset(root, "train")[0][1], before)


def test_train_ids_are_read_as_they_are(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    data = load_dataset(tmp_path, "train")
    wanted = data[0][1]
    path = data.pairs[0].label
    Image.fromarray(wanted.numpy().astype(np.uint8)).save(path.with_name(path.name.replace("Ids", "TrainIds")))
    path.unlink()
    assert torch.equal(load_dataset(tmp_path, "train")[0][1], wanted)


def test_a_label_of_another_size_is_named(one: tuple[Path, Path, Path]) -> None:
    root, _, label = one
    Image.new("L", (10, 20)).save(label)
    with pytest.raises(DataError, match=r"trainannot/scene_000000\.png is 20x10 pixels, its image .* 32x48"):
        load_dataset(root, "train", size=(8, 8))[0]


@pytest.mark.parametrize("value", [12, 77, 254])
def test_a_foreign_index_is_named_when_it_is_read(one: tuple[Path, Path, Path], value: int) -> None:
    root, _, label = one
    values = np.array(Image.open(label))
    values[3, 4] = value
    Image.fromarray(values).save(label)
    data = load_dataset(root, "train")
    with pytest.raises(DataError, match=rf"scene_000000\.png holds the value {value}, which is none of the CamVid"):
        data[0]


@pytest.mark.parametrize(("kind", "value"), [("labelIds", 34), ("labelTrainIds", 19)])
def test_a_foreign_id_is_named_when_it_is_read(tmp_path: Path, kind: str, value: int) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    path = load_dataset(tmp_path, "train").pairs[0].label
    path.unlink()
    Image.new("L", SIZE[::-1], value).save(path.with_name(path.name.replace("labelIds", kind)))
    with pytest.raises(DataError, match=f"{kind}.png holds the value {value}"):
        load_dataset(tmp_path, "train")[0]


def test_a_foreign_colour_is_named_when_it_is_read(one: tuple[Path, Path, Path]) -> None:
    root, _, label = one
    Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(label)
    with pytest.raises(DataError, match=r"holds colour \(1, 2, 3\), which is none of CamVid's 32"):
        load_dataset(root, "train")[0]


def test_colours_are_no_cityscapes_label(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 1}, SIZE)
    Image.new("RGB", SIZE[::-1]).save(load_dataset(tmp_path, "train").pairs[0].label)
    with pytest.raises(DataError, match="is a RGB image, not one of Cityscapes label ids"):
        load_dataset(tmp_path, "train")[0]


@pytest.mark.parametrize("which", [1, 2])
def test_a_file_that_is_no_image_is_named(one: tuple[Path, Path, Path], which: int) -> None:
    path = one[which]
    assert isinstance(path, Path)
    path.write_text("no pixels here")
    with pytest.raises(DataError, match="unknown format") as caught:
        load_dataset(one[0], "train")[0]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.85])
def test_a_truncated_file_is_named(one: tuple[Path, Path, Path], which: int, keep: float) -> None:
    path = one[which]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"truncated or damaged|unknown format") as caught:
        load_dataset(one[0], "train")[0]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_vanished_is_named(one: tuple[Path, Path, Path]) -> None:
    root, image, _ = one
    data = load_dataset(root, "train")
    image.unlink()
    with pytest.raises(DataError, match="no such file"):
        data[0]


@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, where: int, bit: int) -> None:
    root = tmp_path_factory.mktemp("bit")
    write_scenes(root, "camvid-segnet", {"train": 1}, SIZE)
    data = load_dataset(root, "train")
    path = data.pairs[0].label
    content = bytearray(path.read_bytes())
    content[where % len(content)] ^= 1 << bit
    path.write_bytes(content)
    problem = ""
    try:
        _, label = data[0]
    except DataError as error:
        problem = str(error)
    if problem:
        assert str(path) in problem
    else:
        assert label.shape == SIZE
        assert set(label.unique().tolist()) <= {*range(11), 255}


def test_a_view_follows_from_seed_epoch_and_index(camvid: Path) -> None:
    one = load_dataset(camvid, "train", size=SIZE, augment=True, seed=1)
    two = load_dataset(camvid, "train", size=SIZE, augment=True, seed=1)
    other = load_dataset(camvid, "train", size=SIZE, augment=True, seed=2)
    assert _same(one[3], two[3])
    assert not _same(one[3], other[3])
    first = one[3]
    one.set_epoch(1)
    assert not _same(one[3], first)
    one.set_epoch(0)
    assert _same(one[3], first)
    assert _same(one[-1], one[len(one) - 1])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_stay_alive_give_the_same_views(camvid: Path, workers: int) -> None:
    def views(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        data = load_dataset(camvid, "train", size=SIZE, augment=True)
        loader = DataLoader(data, batch_size=2, num_workers=count, persistent_workers=count > 0)
        batches = []
        for epoch in range(2):
            data.set_epoch(epoch)
            batches += [tuple(batch) for batch in loader]
        return batches

    alone, helped = views(0), views(workers)
    assert len(alone) == 6
    assert not _same(alone[0], alone[3])
    assert all(_same(a, b) for a, b in zip(alone, helped, strict=True))


def test_plain_items_do_not_change_with_the_epoch(camvid: Path) -> None:
    data = load_dataset(camvid, "val")
    before = data[0]
    data.set_epoch(5)
    assert data.epoch == 5
    assert _same(data[0], before)


@settings(max_examples=40, deadline=None)
@given(
    own=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 2**32),
)
def test_a_view_has_the_crops_size_and_keeps_image_and_label_together(
    own: tuple[int, int], size: tuple[int, int], crop: tuple[int, int], seed: int
) -> None:
    label = np.zeros(own, dtype=np.uint8)
    label[:, own[1] // 2 :] = 1
    image = Image.fromarray(np.repeat((label * 200)[..., None], 3, axis=2))
    pixels, classes = augment_pair(image, label, size, crop, np.random.default_rng(seed))
    assert pixels.shape == (*crop, 3)
    assert classes.shape == crop
    assert set(np.unique(classes)) <= {0, 1, 255}
    assert (classes != 255).any()
    assert (pixels[classes == 255] == (124, 116, 104)).all()


def test_views_are_flipped_scaled_and_cropped_in_step_with_their_labels() -> None:
    high, wide = 64, 96
    label = np.repeat(np.arange(8, dtype=np.uint8), 12)[None].repeat(high, 0)
    image = Image.fromarray(np.repeat((label * 30)[..., None], 3, axis=2))
    flips, padded, zoomed = set(), 0, 0
    for seed in range(60):
        pixels, classes = augment_pair(image, label, (high, wide), (high, wide), np.random.default_rng(seed))
        inside = classes != 255
        row = classes[inside.any(axis=1)][0]
        seen = row[row != 255].astype(int)
        flips.add(bool(seen[0] > seen[-1]))
        padded += not inside.all()
        zoomed += len(np.unique(seen)) < 8
        grey = pixels[inside].mean(axis=1)
        assert np.corrcoef(grey, classes[inside])[0, 1] > 0.97
    assert flips == {True, False}
    assert padded > 10
    assert zoomed > 10


def test_padding_is_ignored_and_looks_like_nothing(camvid: Path) -> None:
    data = load_dataset(camvid, "train", size=(16, 24), crop=(80, 80), augment=True)
    image, label = data[0]
    assert image.shape == (3, 80, 80)
    assert image[:, label == 255].abs().median() < 0.02


def test_halves_share_nothing_and_hold_everything(camvid: Path) -> None:
    data = load_dataset(camvid, "train")
    first, second = split_halves(data, seed=3)
    assert (len(first), len(second)) == (3, 2)
    assert {*first.pairs} | {*second.pairs} == {*data.pairs}
    assert not {*first.pairs} & {*second.pairs}


def test_halves_follow_from_the_seed(camvid: Path) -> None:
    data = load_dataset(camvid, "train")
    assert split_halves(data, 3)[0].pairs == split_halves(data, 3)[0].pairs
    assert len({split_halves(data, seed)[0].pairs for seed in range(20)}) > 3


def test_halves_keep_the_settings_and_the_epoch(camvid: Path) -> None:
    data = load_dataset(camvid, "train", size=(16, 24), augment=True, seed=4)
    first, second = split_halves(data)
    assert (first.size, first.augment, first.seed, first.layout) == ((16, 24), True, 4, "camvid-segnet")
    before = first[0]
    data.set_epoch(2)
    assert (first.epoch, second.epoch) == (2, 2)
    assert not _same(first[0], before)


def test_one_image_has_no_halves(one: tuple[Path, Path, Path]) -> None:
    with pytest.raises(DataError, match=r"at least 2 training images.*there is 1"):
        split_halves(load_dataset(one[0], "train"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": (0, 8)}, "size must be at least 1x1 pixel, got 0x8"),
        ({"crop": (8, -1), "augment": True}, "crop must be at least 1x1"),
        ({"crop": (8, 8)}, "augment=True"),
        ({"full_labels": True, "augment": True}, "leave out augment or full_labels"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_senseless_settings_are_refused(camvid: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_dataset(camvid, "train", **settings)  # type: ignore[arg-type]


def test_other_senseless_calls_are_refused(camvid: Path) -> None:
    data: SegmentationDataset = load_dataset(camvid, "train")
    with pytest.raises(UsageError, match="epoch must be 0 or more"):
        data.set_epoch(-1)
    with pytest.raises(UsageError, match="seed of the halves"):
        split_halves(data, seed=-2)
    with pytest.raises(UnknownNameError, match="unknown split 'trian'"):
        load_dataset(camvid, "trian")
    with pytest.raises(IndexError):
        data[len(data)]


def test_full_labels_keep_their_files_size(camvid: Path) -> None:
    data = load_dataset(camvid, "val", size=(16, 24), full_labels=True).select([1])
    image, label = data[0]
    assert image.shape == (3, 16, 24)
    assert torch.equal(label, load_dataset(camvid, "val")[1][1])
    assert torch.equal(image, load_dataset(camvid, "val", size=(16, 24))[1][0])


def test_any_epochs_view_can_be_asked_for(camvid: Path) -> None:
    data = load_dataset(camvid, "train", augment=True)
    views = [data.view(0, epoch) for epoch in (0, 3)]
    assert not _same(*views)
    assert _same(data[0], views[0])
    data.set_epoch(3)
    assert _same(data[0], views[1])
