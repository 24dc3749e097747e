"""Timing cache of simulated full TensorRT: shared by builds and get_timing_file on disk."""

from types import SimpleNamespace

import pytest

from lgc.cache_folder import get_cache_folder
from lgc.profiler.backends.cache import read_cache_file, write_cache_file
from lgc.profiler.backends.trt import timing_cache as trt_timings
from lgc.profiler.backends.trt.loader import FULL, RTX, Library
from lgc.profiler.backends.trt.timing_cache import share_timings

LIBRARY = Library(None, FULL, "10.13", can_build_without_gpu=False)


class Config:
    """Simulated build configuration that records the timings it gets and adds `+2` in the build."""

    def __init__(self, refused=()):
        self.refused, self.given = refused, []

    def create_timing_cache(self, data):
        self.given.append(data)
        return SimpleNamespace(data=data, serialize=lambda: data + b"+2")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        return cache.data not in self.refused


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    monkeypatch.setattr(trt_timings, "_timings", {})


def build(device="L4", **options):
    """Return the timings that a build on the device gets, and its remarks."""
    config, remarks = Config(**options), []
    with share_timings(LIBRARY, device, config, remarks):
        pass
    return config.given, remarks


def another_process(monkeypatch):
    monkeypatch.setattr(trt_timings, "_timings", {})


def get_timing_file():
    (path,) = get_cache_folder("timings").iterdir()
    return path


def test_builds_on_one_device_share_timings():
    given = [build(device)[0] for device in ("L4", "L4", "H100", "L4")]
    assert given == [[b""], [b"+2"], [b""], [b"+2+2"]]


def test_new_process_reads_timings(monkeypatch):
    build()
    another_process(monkeypatch)
    assert build() == ([b"+2"], [])


def test_damaged_file_is_replaced(monkeypatch):
    build()
    get_timing_file().write_bytes(get_timing_file().read_bytes()[:-1])
    another_process(monkeypatch)
    given, (remark,) = build()
    assert given == [b""]
    assert remark == f"{get_timing_file()} is damaged: timings are measured again"
    assert read_cache_file(get_timing_file())[1] == b"+2"


def test_foreign_file_is_rejected(monkeypatch):
    build()
    write_cache_file(get_timing_file(), {"place": "TensorRT 9, T4"}, b"other")
    another_process(monkeypatch)
    given, (remark,) = build()
    assert given == [b""]
    assert remark.endswith("holds timings for TensorRT 9, T4, not for TensorRT 10.13, L4: measured again")


def test_rejected_timings_are_measured_again(monkeypatch):
    build()
    another_process(monkeypatch)
    assert build(refused=(b"+2",)) == (
        [b"+2", b""],
        ["TensorRT 10.13 rejects the cached timings of earlier builds: measured again"],
    )


def test_unwritable_disk_does_not_stop_build(monkeypatch, tmp_path):
    (tmp_path / "timings").write_text("in the way")
    given, (remark,) = build()
    assert given == [b""]
    assert remark.startswith("the timings are not cached: cannot make the folder")


def test_tensorrt_rtx_has_no_timing_cache():
    remarks = []
    with share_timings(Library(None, RTX, "1.7", can_build_without_gpu=True), None, None, remarks):
        pass
    assert trt_timings._timings == {}
    assert not get_cache_folder("timings").exists()
