"""Cache files: their pixels are those of the files; incomplete and foreign ones are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from lgc.errors import DataError, FileFormatError
from lgc.search.data.cache import files
from lgc.search.data.cache.files import PixelCache, make_key, measure_pixels, write_pixels
from lgc.search.data.cache.store import FileStore
from lgc.search.data.datasets import load_dataset


@pytest.fixture
def pairs(scenes):
    return load_dataset(scenes, "train").pairs


@pytest.fixture
def make(pairs, tmp_path):
    """Write a cache of the scenes and return its path and key."""
    path, key = tmp_path / "cache.pixels", make_key(pairs)

    def write(on_step=lambda step, steps: None):
        file = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            write_pixels(file, pairs, measure_pixels(pairs), key, on_step)
        finally:
            os.close(file)
        return path, key

    return write


def test_cache_has_the_pixels_of_the_files(make, pairs):
    steps = []
    cache = PixelCache(*make(lambda *step: steps.append(step)))
    assert steps == [(count + 1, len(pairs)) for count in range(len(pairs))]
    for store in (cache, pickle.loads(pickle.dumps(cache))):
        for pair in pairs:
            for own, decoded in zip(store.read(pair), FileStore().read(pair), strict=True):
                np.testing.assert_array_equal(own, decoded)
                assert not own.flags.writeable
            np.testing.assert_array_equal(store.count(pair), FileStore().count(pair))


def test_cache_without_a_name_can_be_passed_on(make, pairs):
    path, key = make()
    cache = PixelCache(path, key)
    path.unlink()
    for other in (pickle.loads(pickle.dumps(cache)), PixelCache(cache.name_file(), key)):
        np.testing.assert_array_equal(other.read(pairs[1])[0], cache.read(pairs[1])[0])
        assert other.name_file() != cache.name_file()


def test_items_and_views_are_the_same_bits(make, scenes):
    store = PixelCache(*make())
    for options in ({}, {"augment": True, "seed": 4, "crop": (16, 24)}, {"full_labels": True}):
        dataset = load_dataset(scenes, "train", (24, 32), **options)
        cached = dataset.use_store(store)
        for index in range(len(dataset)):
            for epoch in (0, 3):
                for a, b in zip(dataset.view(index, epoch), cached.view(index, epoch), strict=True):
                    assert torch.equal(a, b)
        half = cached.select([1, 3])
        assert half.store is store
        assert torch.equal(half[1][0], dataset.select([1, 3])[1][0])


def test_unlabelled_images_are_void(tmp_path, make_unlabelled):
    dataset = make_unlabelled
    path, key = tmp_path / "test.pixels", make_key(dataset.pairs)
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    write_pixels(file, dataset.pairs, measure_pixels(dataset.pairs), key, lambda step, steps: None)
    os.close(file)
    _, classes = PixelCache(path, key).read(dataset.pairs[0])
    assert (classes == 255).all()


@pytest.fixture
def make_unlabelled(scenes):
    dataset = load_dataset(scenes, "val")
    pairs = [type(pair)(pair.image, None, pair.coding) for pair in dataset.pairs]
    return type(dataset)(dataset.spec, pairs)


@pytest.mark.parametrize("removed", [1, 20, 1000])
def test_half_written_file_is_refused(make, removed):
    path, key = make()
    os.truncate(path, path.stat().st_size - removed)
    with pytest.raises(FileFormatError, match=r"cache\.pixels is not a complete cache"):
        PixelCache(path, key)


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 77
    path.write_bytes(content)


@pytest.mark.parametrize("position", [0, 3 * 32 * 32, 4 * 32 * 32 - 1])
def test_damaged_pixels_are_noticed(make, pairs, position):
    path, key = make()
    flip_byte(path, position)
    cache = PixelCache(path, key)
    for store in (cache, cache, pickle.loads(pickle.dumps(cache))):
        with pytest.raises(DataError, match=rf"{path} is damaged at {pairs[0].image}: delete it .*--cache off"):
            store.read(pairs[0])
    assert cache.read(pairs[1])[0].shape == (32, 32, 3)


def test_file_that_shrinks_is_noticed(make, pairs):
    path, key = make()
    cache = PixelCache(path, key)
    cache.read(pairs[0])
    os.truncate(path, 0)  # reading the mapped pixels would be a bus error
    for pair in pairs[:2]:
        with pytest.raises(DataError, match=f"{path} is damaged at {pair.image}"):
            cache.read(pair)


@pytest.mark.parametrize("distance", [10, 15, 20, 21, 100, 300])
def test_damaged_index_is_refused(make, distance):
    path, key = make()
    flip_byte(path, -distance)
    with pytest.raises(FileFormatError, match=r"cache\.pixels is (damaged|not a complete cache)"):
        PixelCache(path, key)


def test_foreign_files_are_refused(make, foreign_files):
    path, key = make()
    with pytest.raises(FileFormatError, match="the cache of other images"):
        PixelCache(path, "another key")
    for other in foreign_files.values():
        with pytest.raises(FileFormatError, match=r"not a complete cache|cannot read|other images"):
            PixelCache(other, key)


def test_key_follows_files_and_meaning(pairs, scenes, monkeypatch):
    keys = {make_key(pairs), make_key(pairs[1:]), make_key(load_dataset(scenes, "val").pairs)}
    assert make_key(load_dataset(scenes, "train").pairs) in keys
    for path in (pairs[2].image, pairs[2].label):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        keys.add(make_key(pairs))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    coding = pairs[0].coding
    changed = type(coding)(coding.name, {**coding.values, 3: 4}, coding.colours, coding.kind)
    keys.add(make_key([type(pair)(pair.image, pair.label, changed) for pair in pairs]))
    monkeypatch.setattr(files, "VERSION", 0)
    keys.add(make_key(pairs))
    assert len(keys) == 7


def test_key_is_the_same_in_another_process(pairs, scenes):
    code = f"""
from lgc.search.data.cache.files import make_key
from lgc.search.data.datasets import load_dataset
print(make_key(load_dataset({str(scenes)!r}, "train").pairs))"""
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == make_key(pairs)


def test_changes_while_decoding_are_noticed(pairs, tmp_path):
    file = os.open(tmp_path / "cache.pixels", os.O_CREAT | os.O_RDWR)
    status = pairs[0].image.stat()

    def touch(step, steps):
        os.utime(pairs[0].image, ns=(status.st_atime_ns, status.st_mtime_ns + step))

    try:
        with pytest.raises(DataError, match="have changed while they were read"):
            write_pixels(file, pairs, measure_pixels(pairs), make_key(pairs), touch)
    finally:
        os.close(file)
        os.utime(pairs[0].image, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_damaged_image_is_named(scenes, tmp_path, copy_scenes):
    pairs = load_dataset(copy_scenes, "train").pairs
    sizes, key = measure_pixels(pairs), make_key(pairs)
    content = pairs[5].image.read_bytes()
    pairs[5].image.write_bytes(content[: len(content) // 2])
    file = os.open(tmp_path / "cache.pixels", os.O_CREAT | os.O_RDWR)
    try:
        with pytest.raises(DataError, match=pairs[5].image.name):
            write_pixels(file, pairs, sizes, key, lambda step, steps: None)
    finally:
        os.close(file)


@pytest.fixture
def copy_scenes(scenes, tmp_path):
    from shutil import copytree

    return copytree(scenes, tmp_path / "copy")
