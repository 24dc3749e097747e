"""Memory that a cache may take."""

from __future__ import annotations

import pytest

from lgc import control_groups
from lgc.search.data.cache import limits
from lgc.search.data.cache.limits import read_free_memory


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that writes memory and control groups of a machine."""
    monkeypatch.setattr(control_groups, "_PROC_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(limits, "_MEMORY", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")

    def write(lines, folder, **content):
        (tmp_path / "cgroup").write_text(lines)
        group = tmp_path / "fs" / folder
        group.mkdir(parents=True)
        for name, text in content.items():
            (group / name.replace("_", ".", 1)).write_text(text)

    return write


def test_machine_without_limits_has_its_free_memory(machine):
    machine("0::/a\n", "a", memory_max="max\n", memory_current="5\n")
    assert read_free_memory() == 1_024_000


def test_container_limit_counts(machine):
    machine(
        "0::/a/b\n", "a", memory_max="300000\n", memory_current="200000\n", memory_stat="anon 7\ninactive_file 50000\n"
    )
    assert read_free_memory() == 150_000


def test_limit_of_version_1_counts(machine):
    machine(
        "4:memory:/x\n",
        "memory/x",
        memory_limit_in_bytes="90000\n",
        memory_usage_in_bytes="95000\n",
    )
    assert read_free_memory() == 0


def test_unknown_memory_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "_MEMORY", tmp_path / "nothing")
    monkeypatch.setattr(control_groups, "_PROC_CGROUP", tmp_path / "nothing")
    assert read_free_memory() == 0
