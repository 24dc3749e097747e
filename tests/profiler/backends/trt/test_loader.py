"""Choice of the installed TensorRT, and errors of missing or broken ones."""

import importlib.machinery
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

import lgc
from lgc.errors import BackendUnavailableError
from lgc.profiler.backends.trt import loader as trt_loader
from lgc.profiler.backends.trt.engine import diagnose_capability
from lgc.profiler.backends.trt.loader import Library, load_tensorrt

from .bindings import FULL


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Return a function that installs packages of given sources and hides all others: `packages(tensorrt="...")`."""
    path = str(tmp_path)
    monkeypatch.setattr(trt_loader, "is_jetson", lambda: False)
    finder = importlib.machinery.PathFinder
    monkeypatch.setattr(trt_loader, "find_spec", lambda name: finder.find_spec(name, [path]))
    monkeypatch.syspath_prepend(path)

    def install(**sources):
        for name, source in sources.items():
            (tmp_path / name).mkdir()
            if source is not None:
                (tmp_path / name / "__init__.py").write_text(source)
        return tmp_path

    return install


@pytest.fixture(autouse=True)
def forget_modules():
    names = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    removed = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in names]:
        del sys.modules[name]
    sys.modules.update(removed)


def test_missing_library_gives_install_commands(packages):
    for without_gpu in (False, True):
        with pytest.raises(BackendUnavailableError, match="not installed") as caught:
            load_tensorrt(without_gpu=without_gpu)
        assert 'pip install "lgc[tensorrt]"' in str(caught.value)
        assert 'pip install "lgc[tensorrt-aot]"' in str(caught.value)


def test_full_tensorrt_is_preferred_with_gpu(packages):
    packages(tensorrt="__version__ = '10.9.0'", tensorrt_rtx="__version__ = '1.7'")
    full, ahead = load_tensorrt(), load_tensorrt(without_gpu=True)
    assert (full.flavour, full.version, full.can_build_without_gpu) == ("TensorRT", "10.9.0", False)
    assert full.capabilities == {}
    assert (ahead.flavour, ahead.version, ahead.can_build_without_gpu) == ("TensorRT-RTX", "1.7", True)


def test_full_tensorrt_cannot_build_ahead(packages):
    packages(tensorrt="__version__ = '10.9.0'")
    with pytest.raises(BackendUnavailableError, match=r"only on a GPU.*lgc\[tensorrt-aot\]"):
        load_tensorrt(without_gpu=True)


def test_plain_folder_is_not_a_package(packages):
    packages(tensorrt=None, tensorrt_rtx="__version__ = '1.7'")
    assert load_tensorrt().flavour == "TensorRT-RTX"


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0.post1"])
def test_old_version_is_rejected(packages, version):
    packages(tensorrt=f"__version__ = '{version}'")
    with pytest.raises(BackendUnavailableError, match=rf"TensorRT {version} is too old, lgc needs 10\.3 or later"):
        load_tensorrt()


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_both_major_versions_are_supported(packages, version):
    packages(tensorrt=f"__version__ = '{version}'")
    assert load_tensorrt().version == version


def test_extra_has_the_supported_bounds():
    wanted = tomllib.loads((Path(lgc.__file__).parent / "pyproject.toml").read_text())
    (tensorrt,) = [
        entry
        for entry in map(Requirement, wanted["project"]["optional-dependencies"]["tensorrt"])
        if entry.name == "tensorrt"
    ]
    oldest = ".".join(map(str, trt_loader.MIN_FULL_VERSION))
    assert str(tensorrt.specifier) == f"<12,>={oldest}"
    assert all(tensorrt.specifier.contains(version) for version in FULL)
    marker = tensorrt.marker
    assert marker.evaluate({"platform_release": "6.8.0-45-generic"})
    assert not marker.evaluate({"platform_release": "5.15.148-tegra"}), "a Jetson's TensorRT is JetPack's"


@pytest.mark.parametrize(
    ("kernel", "release_file", "jetson"),
    [
        ("6.8.0-45-generic", False, False),
        ("5.15.148-tegra", False, True),
        ("6.8.0-45-generic", True, True),
    ],
)
def test_jetson_is_detected(monkeypatch, tmp_path, kernel, release_file, jetson):
    if release_file:
        (tmp_path / "nv_tegra_release").touch()
    monkeypatch.setattr(trt_loader, "_JETSON_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(trt_loader.platform, "release", lambda: kernel)
    assert trt_loader.is_jetson() is jetson
    assert trt_loader.get_install_hint() == (trt_loader.INSTALL_JETSON if jetson else trt_loader.INSTALL_FULL)


@pytest.mark.parametrize("source", [None, "__version__ = '8.6.1'", "raise OSError('no libnvinfer')"])
def test_jetson_errors_name_jetpack(packages, monkeypatch, source):
    packages(tensorrt=source)
    monkeypatch.setattr(trt_loader, "is_jetson", lambda: True)
    with pytest.raises(BackendUnavailableError, match=r"apt install python3-libnvinfer.*3\.10.*3\.11") as caught:
        load_tensorrt()
    assert "pip install" not in str(caught.value)


def test_jetson_builds_ahead_on_x86(packages, monkeypatch):
    packages(tensorrt="__version__ = '10.3.0'")
    monkeypatch.setattr(trt_loader, "is_jetson", lambda: True)
    with pytest.raises(BackendUnavailableError, match=r"lgc\[tensorrt-aot\]\", on an x86_64 machine"):
        load_tensorrt(without_gpu=True)


def test_broken_package_has_no_fallback(packages):
    packages(tensorrt="raise OSError('libnvinfer.so.10: cannot open')", tensorrt_rtx="__version__ = '1.7'")
    with pytest.raises(
        BackendUnavailableError,
        match=r"cannot load tensorrt, the package of TensorRT \(libnvinfer.*reinstall it: pip install",
    ):
        load_tensorrt()


def test_bindings_without_libraries_are_reported(packages):
    packages(tensorrt_rtx_bindings="__version__ = '1.7'")
    with pytest.raises(BackendUnavailableError, match=r"without its libraries.*pip install \"lgc\[tensorrt-aot\]\""):
        load_tensorrt()


def test_missing_library_file_is_reported(packages):
    packages(tensorrt_rtx_bindings="", onnxruntime_ep_nv_tensorrt_rtx="raise AssertionError('never imported')")
    with pytest.raises(BackendUnavailableError, match=r"no file libtensorrt_rtx\.so\.1\* in .*reinstall"):
        load_tensorrt()


def test_broken_library_file_is_reported(packages):
    folder = packages(tensorrt_rtx_bindings="", onnxruntime_ep_nv_tensorrt_rtx="")
    (folder / "onnxruntime_ep_nv_tensorrt_rtx" / "libtensorrt_rtx.so.1.7.1").write_bytes(b"no library")
    with pytest.raises(BackendUnavailableError, match=r"cannot load .*libtensorrt_rtx\.so\.1\.7\.1 \(.*reinstall"):
        load_tensorrt()


@pytest.mark.parametrize(
    ("functions", "version"),
    [
        ({"getInferLibVersion": 10701, "getInferLibBuildVersion": 116}, "1.7.1.116"),
        ({"getInferLibVersion": 101302}, "10.13.2"),
    ],
)
def test_version_is_read_from_library(functions, version):
    library = SimpleNamespace(**{name: lambda number=number: number for name, number in functions.items()})
    assert trt_loader.read_version(library) == version


def test_library_version_takes_precedence_over_bindings(packages, monkeypatch):
    folder = packages(tensorrt_rtx_bindings="__version__ = '1.7.1.116'", onnxruntime_ep_nv_tensorrt_rtx="")
    for name in ("libtensorrt_rtx.so.1.8.0", "libtensorrt_onnxparser_rtx.so.1.8.0"):
        (folder / "onnxruntime_ep_nv_tensorrt_rtx" / name).touch()
    loaded = []

    def load(path, *mode):
        loaded.append((Path(path).name, *mode))
        return SimpleNamespace(getInferLibVersion=lambda: 10800, getInferLibBuildVersion=lambda: 42)

    monkeypatch.setattr(trt_loader.ctypes, "CDLL", load)
    assert load_tensorrt().version == "1.8.0.42"
    assert loaded == [("libtensorrt_rtx.so.1.8.0",), ("libtensorrt_onnxparser_rtx.so.1.8.0",)]


def test_unsupported_capability_is_diagnosed():
    members = {"NONE": 0, "CURRENT": 1, "SM89": 89, "SM120": 120}
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members))
    library = Library(module, "TensorRT-RTX", "1.7.1", can_build_without_gpu=True)
    assert library.capabilities == {"8.9": 89, "12.0": 120}
    assert diagnose_capability(library, "12.0") is None
    assert "supports compute capabilities 8.9, 12.0, not this device's 9.0" in diagnose_capability(library, "9.0")
    assert diagnose_capability(Library(module, "TensorRT", "10.9", can_build_without_gpu=False), "9.0") is None
