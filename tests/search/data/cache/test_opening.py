"""Where a cache is made, who shares it, and what is said if it cannot be made."""

from __future__ import annotations

import errno
import fcntl
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

import pytest

from lgc import cache_folder, files
from lgc.errors import OutputError, UsageError
from lgc.search.data.cache import opening
from lgc.search.data.cache.files import PixelCache
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.cache.store import FileStore
from lgc.search.data.datasets import load_dataset

Usage = namedtuple("Usage", ["total", "used", "free"])
SIZE = 4 * 32 * 32
"""Bytes of a scene, decoded."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture
def datasets(scenes):
    return [load_dataset(scenes, split) for split in ("train", "val")]


@pytest.fixture
def free(monkeypatch):
    """Return a function that sets the free bytes of memory and disk."""

    def set_free(memory, disk):
        monkeypatch.setattr(opening, "read_free_memory", lambda: memory)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(disk, 0, disk))

    return set_free


def open_cache(datasets, mode=None, views=1000):
    """Return the stores and the remarks."""
    lines = []
    return [dataset.store for dataset in cache_datasets(datasets, mode, views=views, log=lines.append)], lines


def name_places(stores):
    return [
        "off" if isinstance(store, FileStore) else "ram" if str(store.path).startswith("/proc") else "disk"
        for store in stores
    ]


@pytest.mark.parametrize(
    ("memory", "disk", "place"),
    [(22 * SIZE, 0, "ram"), (21 * SIZE, 22 * SIZE, "disk"), (21 * SIZE, 21 * SIZE, "off")],
)
def test_default_is_what_fits(datasets, folder, free, memory, disk, place):
    free(memory, disk)
    stores, lines = open_cache(datasets)
    assert name_places(stores) == [place] * 2
    (line,) = lines
    assert line.startswith("no cache: " if place == "off" else "cache: decoding 11 images once, 45 kB in ")
    assert ("LGC_CACHE" in line) == (place == "off")


def test_nothing_is_cached_that_is_read_once(datasets, folder, free):
    free(1e12, 1e12)
    assert open_cache(datasets, views=15) == ([dataset.store for dataset in datasets], [])
    assert not folder.exists()
    assert name_places(open_cache(datasets, views=16)[0]) == ["ram"] * 2


def test_existing_cache_is_used_and_reported_once(datasets, folder, free):
    free(0, 1e12)
    steps = []
    cache_datasets(datasets, "disk", views=1, on_step=lambda *step: steps.append(step), log=lambda line: None)
    assert steps == [(count + 1, 11) for count in range(11)]
    for mode in (None, "disk"):
        stores, lines = open_cache(datasets, mode, views=1)
        assert (name_places(stores), lines) == (["disk"] * 2, [])
    assert len([*folder.glob("*.pixels")]) == 2


def test_off_reads_files(datasets, folder):
    open_cache(datasets, "disk")
    assert name_places(open_cache(datasets, "off")[0]) == ["off"] * 2


def test_changed_file_gets_a_new_cache(scenes, folder, tmp_path):
    copy = shutil.copytree(scenes, tmp_path / "copy")
    first, _ = open_cache([load_dataset(copy, "train")], "disk")
    dataset = load_dataset(copy, "train")
    shutil.copyfile(dataset.pairs[1].image, dataset.pairs[0].image)
    second, lines = open_cache([dataset], "disk")
    assert first[0].key != second[0].key
    assert len(lines) == 1
    assert (second[0].read(dataset.pairs[0])[0] == second[0].read(dataset.pairs[1])[0]).all()


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_cache_is_shared_from_every_working_folder(scenes, datasets, folder, monkeypatch, mode):
    (scenes.parent / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(scenes.parent / "elsewhere")
    relative = load_dataset(type(scenes)("..") / scenes.name, "train")
    assert not relative.pairs[0].image.is_absolute()
    maker, _ = open_cache([relative], mode)
    monkeypatch.chdir("/")
    (second,), lines = open_cache(datasets[:1], mode)
    assert (len(maker), lines) == (1, [])
    assert (second.read(datasets[0].pairs[1])[0] == FileStore().read(datasets[0].pairs[1])[0]).all()


@pytest.mark.parametrize("kept", [0, 5000, -1])
def test_half_written_cache_is_made_again(datasets, folder, kept):
    (store, _), _ = open_cache(datasets, "disk")
    path = store.path
    del store
    os.truncate(path, path.stat().st_size - 1 if kept < 0 else kept)
    (store, _), lines = open_cache(datasets, "disk")
    assert len(lines) == 1
    assert store.read(datasets[0].pairs[0])[0].shape == (32, 32, 3)


def test_cache_with_damaged_index_is_made_again(datasets, folder):
    (store, _), _ = open_cache(datasets, "disk")
    content = bytearray(store.path.read_bytes())
    content[-30] ^= 255
    store.path.write_bytes(content)
    assert [len(open_cache(datasets, "disk")[1]) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize(("memory", "fits"), [(10, False), (12, False), (13, True)])
def test_small_memory_is_refused(datasets, folder, free, memory, fits):
    free(memory * SIZE, 1e12)  # a tenth is kept; 11 are needed
    if fits:
        assert name_places(open_cache(datasets, "ram")[0]) == ["ram"] * 2
        return
    with pytest.raises(UsageError, match=r"--cache ram: .* need 45 kB, .* 90% at most: use --cache disk or off"):
        open_cache(datasets, "ram")


def test_temporary_cache_is_said(datasets, tmp_path, monkeypatch, free):
    for name in ("LGC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache_folder, "_find_home", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    _, lines = open_cache(datasets, "disk")
    assert [line.partition(":")[0] for line in lines] == ["no home folder", "cache"]
    assert f"the cache is temporary, in {tmp_path}" in lines[0]


@pytest.mark.parametrize(("size", "text"), [(29.2e9, "29.2 GB"), (253e6, "253 MB"), (45056, "45 kB")])
def test_sizes_have_units(size, text):
    assert opening._format_bytes(size) == text


def test_full_disk_is_refused(datasets, folder, free):
    free(1e12, 10 * SIZE)
    with pytest.raises(OutputError, match=r"--cache disk: .* need 45 kB, .* has 41 kB free: .*LGC_CACHE.*--cache off"):
        open_cache(datasets, "disk")
    assert not [*folder.glob("*.pixels")]


def test_disk_that_fills_up_leaves_nothing(datasets, folder, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OutputError, match=r"cannot write the cache .*: No space left on device: set LGC_CACHE"):
        open_cache(datasets, "disk")
    assert {path.suffix for path in folder.iterdir()} == {".lock"}


def use_file_as_folder(tmp_path, monkeypatch):
    """Let the cache folder be one that cannot be made."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("LGC_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("mode", ["disk", "ram", None])
def test_folder_that_cannot_be_made(datasets, tmp_path, monkeypatch, free, mode):
    free(1e12, 1e12)
    use_file_as_folder(tmp_path, monkeypatch)
    if mode == "disk":
        with pytest.raises(OutputError, match=r"--cache disk: cannot make the folder .*LGC_CACHE.*--cache ram or off"):
            open_cache(datasets, mode)
    else:
        assert name_places(open_cache(datasets, mode)[0]) == ["ram"] * 2


def test_default_without_folder_and_memory_is_off(datasets, tmp_path, monkeypatch, free):
    free(0, 1e12)
    use_file_as_folder(tmp_path, monkeypatch)
    stores, (line,) = open_cache(datasets)
    assert name_places(stores) == ["off"] * 2
    assert "cannot make the folder" in line


def test_killed_process_leaves_a_part_that_goes(datasets, scenes, folder):
    code = f"""
import os, signal
from lgc.search.data.cache import files
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.datasets import load_dataset
cache_datasets([load_dataset({str(scenes)!r}, "train")], "disk", views=1,
               on_step=lambda step, steps: step == 5 and os.kill(os.getpid(), signal.SIGKILL))"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert killed.returncode == -9
    assert [path for path in folder.iterdir() if path.name.startswith(".")]
    open_cache(datasets, "disk")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_processes_without_locks_share_the_memory(datasets, tmp_path, monkeypatch, free):
    use_file_as_folder(tmp_path, monkeypatch)
    (tmp_path / f"lgc-cache-{os.getuid()}").touch()
    for processes, place in (("1", "ram"), ("2", "off")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        free(22 * SIZE, 0)
        assert name_places(open_cache(datasets)[0]) == [place] * 2


@pytest.mark.parametrize("mode", ["disk", None])
def test_parts_of_killed_processes_make_room(datasets, folder, monkeypatch, mode):
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(opening, "read_free_memory", lambda: 0)
    parts = [folder / f".{name}.pixels.{files._HOST}-{ended.pid}-0" for name in ("this", "other")]
    for part in parts:
        part.write_bytes(bytes(SIZE))

    def measure(path):
        return Usage(0, 0, 0 if any(part.exists() for part in parts) else 30 * SIZE)

    monkeypatch.setattr(shutil, "disk_usage", measure)
    assert name_places(open_cache(datasets, mode)[0]) == ["disk"] * 2


@pytest.fixture
def hold_cache(scenes):
    """Return a function that opens the cache in another process and returns it; leaving its input ends it."""
    code = f"""
import sys
from lgc.search.data.cache.opening import cache_datasets
from lgc.search.data.datasets import load_dataset
stores = cache_datasets([load_dataset({str(scenes)!r}, "train")], "ram", views=1)
print("ready", flush=True)
sys.stdin.read()"""
    processes = []

    def hold():
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None
        return process

    yield hold
    for process in processes:
        if process.poll() is None:
            process.communicate()


def test_memory_is_shared_while_its_process_lives(datasets, folder, hold_cache):
    process = hold_cache()
    (store,), lines = open_cache(datasets[:1], "ram")
    assert lines == []
    assert f"/proc/{process.pid}/" in str(store.path)
    process.communicate()
    assert store.read(datasets[0].pairs[0])[0].shape == (32, 32, 3)  # it lives as long as its users
    del store
    gc.collect()
    (own,), lines = open_cache(datasets[:1], "ram")
    assert f"/proc/{os.getpid()}/" in str(own.path)
    assert len(lines) == 1
    (pointer,) = folder.glob("*.memory")  # those of the ended are gone
    assert f"-{os.getpid()}-" in pointer.name


def test_users_pass_on_memory_of_ended_processes(datasets, folder, hold_cache):
    maker, user = hold_cache(), hold_cache()
    maker.communicate()
    (store,), lines = open_cache(datasets[:1], "ram")
    assert lines == []
    assert f"/proc/{user.pid}/" in str(store.path)


def test_folder_that_cannot_be_written_shares_memory(datasets, tmp_path, monkeypatch, hold_cache):
    use_file_as_folder(tmp_path, monkeypatch)
    process = hold_cache()
    (store,), lines = open_cache(datasets[:1], "ram")
    assert lines == []
    assert f"/proc/{process.pid}/" in str(store.path)


def test_pointers_of_other_machines_are_kept(datasets, folder):
    folder.mkdir(parents=True)
    names = {"a-999999999-5@elsewhere.memory", "unknown@here.memory"}
    for name in names:
        (folder / name).touch()
    open_cache(datasets[:1], "ram")
    assert {path.name for path in folder.glob("*.memory")} >= names


def test_waiting_for_another_maker_is_said(datasets, folder, monkeypatch):
    folder.mkdir(parents=True)
    other = os.open(folder / "making.lock", os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    flock, lines = fcntl.flock, []

    def end_other(file, operation):
        if operation == fcntl.LOCK_EX:  # it would wait for ever
            assert lines == ["waiting for the cache that another process makes"]
            os.close(other)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", end_other)
    cache_datasets(datasets[:1], "ram", views=1, log=lines.append)
    assert [line.partition(" ")[0] for line in lines] == ["waiting", "cache:"]


def make_at_once(scenes, mode, queue, start):
    start.wait()
    lines = []
    (dataset,) = cache_datasets([load_dataset(scenes, "train")], mode, views=1, log=lines.append)
    queue.put((sum("decoding" in line for line in lines), dataset.store.read(dataset.pairs[0])[0].tobytes()))
    start.wait()


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_processes_make_one_cache(scenes, folder, mode):
    context = multiprocessing.get_context("spawn")
    queue, start = context.Queue(), context.Barrier(3)
    processes = [context.Process(target=make_at_once, args=(scenes, mode, queue, start)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sorted(made for made, _ in results) == [0, 0, 1]
    assert len({pixels for _, pixels in results}) == 1


def test_unused_and_oldest_caches_are_evicted(datasets, folder, monkeypatch, free):
    folder.mkdir(parents=True)
    now = time.time()
    for name, age in (("unused", 40 * 86_400), ("oldest", 900), ("older", 800), ("newest", 10)):
        path = folder / f"{name}.pixels"
        path.write_bytes(bytes(5 * SIZE))
        os.utime(path, (now - age, now - age))
    free(0, 4 * SIZE)
    (store, _), _ = open_cache(datasets, "disk")  # needs 11
    assert {path.stem for path in folder.glob("*.pixels")} >= {"older", "newest"}
    assert not {path.stem for path in folder.glob("*.pixels")} & {"unused", "oldest"}
    assert isinstance(store, PixelCache)


def test_nothing_is_evicted_in_vain(datasets, folder, free):
    folder.mkdir(parents=True)
    path = folder / "other.pixels"
    path.write_bytes(bytes(2 * SIZE))
    free(0, 2 * SIZE)
    assert name_places(open_cache(datasets)[0]) == ["off"] * 2
    assert path.exists()
    used = folder / "used.pixels"  # large enough, but it cannot be removed
    used.write_bytes(bytes(50 * SIZE))
    with used.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert name_places(open_cache(datasets)[0]) == ["off"] * 2
    assert path.exists()


def test_cache_in_use_is_kept(datasets, folder, free):
    (store, _), _ = open_cache(datasets[:1] * 2, "disk")
    free(0, 0)
    os.utime(store.path, (1, 1))
    opening._evict(folder, 10)
    assert store.path.exists()
    path = store.path
    del store
    gc.collect()
    opening._evict(folder, 10)
    assert not path.exists()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.EDQUOT])
def test_space_is_reserved_where_possible(datasets, folder, monkeypatch, code):
    def fail(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    if code == errno.EDQUOT:
        with pytest.raises(OutputError, match=r"cannot write the cache .*quota"):
            open_cache(datasets, "disk")
    else:
        assert name_places(open_cache(datasets, "disk")[0]) == ["disk"] * 2
