"""Loading of TensorRT: the full library, or TensorRT-RTX, which also builds engines on machines without a GPU."""

from __future__ import annotations

import ctypes
import platform
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....errors import BackendUnavailableError

FULL, RTX = "TensorRT", "TensorRT-RTX"

INSTALL_FULL = 'pip install "lgc[tensorrt]"'
INSTALL_AHEAD_OF_TIME = 'pip install "lgc[tensorrt-aot]"'

INSTALL_JETSON = (
    "sudo apt install python3-libnvinfer (JetPack's own TensorRT, not a server's wheel; it loads in JetPack's Python, "
    "so create the environment with python3 -m venv --system-site-packages. JetPack 7 has Python 3.12, but JetPack 6 "
    "has 3.10, below lgc's 3.11)"
)

MIN_FULL_VERSION = (10, 3)
"""Oldest supported version of full TensorRT, that of JetPack 6.1; tests check each use of its Python API."""

_JETSON_RELEASE = Path("/etc/nv_tegra_release")

_BINDINGS, _LIBRARIES = "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"
_LIBRARY_FILES = ("libtensorrt_rtx.so.1*", "libtensorrt_onnxparser_rtx.so.1*")


@dataclass(frozen=True)
class Library:
    """Loaded TensorRT library.

    Attributes:
        module: Python API; both flavours share the names that this package uses.
        flavour: `TensorRT` or `TensorRT-RTX`; an engine of one does not run in the other.
        version: version, e.g. `1.7.1.116`; that of the shared library where the bindings are in another package.
        can_build_without_gpu: True if it builds engines ahead of time, for a device of another machine.
    """

    module: Any
    flavour: str
    version: str
    can_build_without_gpu: bool

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    @property
    def capabilities(self) -> dict[str, Any]:
        """Target compute capability, e.g. `8.9` -> its enum member; empty for full TensorRT."""
        if not self.can_build_without_gpu:
            return {}
        members: dict[str, Any] = self.module.ComputeCapability.__members__
        return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}


def is_jetson() -> bool:
    """Return True on a Jetson: the kernel is JetPack's, or JetPack's release file exists."""
    return "tegra" in platform.release() or _JETSON_RELEASE.exists()


def get_install_hint() -> str:
    """Return the command that installs full TensorRT on this machine: from JetPack on a Jetson, else with pip."""
    return INSTALL_JETSON if is_jetson() else INSTALL_FULL


def load_tensorrt(*, without_gpu: bool = False) -> Library:
    """Return full TensorRT if it is installed, else TensorRT-RTX.

    Args:
        without_gpu: skip full TensorRT, which builds engines only on the GPU that will run them.

    Raises:
        BackendUnavailableError: TensorRT is not installed (the message gives the command) or does not load.
    """
    full = _is_installed("tensorrt")
    if full and not without_gpu:
        return _import_library("tensorrt", FULL)
    if _is_installed("tensorrt_rtx"):
        return _import_library("tensorrt_rtx", RTX)
    if _is_installed(_BINDINGS):
        return _import_library(_BINDINGS, RTX, read_version(_load_shared_libraries()))
    if full:
        raise BackendUnavailableError(
            "the installed TensorRT builds engines only on a GPU; to build one ahead of time: "
            f"{_get_ahead_of_time_hint()}"
        )
    if is_jetson():
        raise BackendUnavailableError(f"TensorRT is not installed: {get_install_hint()}")
    raise BackendUnavailableError(
        f"TensorRT is not installed: {get_install_hint()} (to run on a GPU), or {INSTALL_AHEAD_OF_TIME} "
        "(to build engines ahead of time, without a GPU)"
    )


def _get_ahead_of_time_hint() -> str:
    """Return the command that installs the ahead-of-time builder, which has no wheels for a Jetson."""
    return f"{INSTALL_AHEAD_OF_TIME}, on an x86_64 machine" if is_jetson() else INSTALL_AHEAD_OF_TIME


def _is_installed(name: str) -> bool:
    """Return True if the package is installed; a plain folder, a namespace package to Python, does not count."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def _import_library(name: str, flavour: str, version: str | None = None) -> Library:
    """Return the library of a package; the version defaults to the package's."""
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        install = get_install_hint() if flavour == FULL else INSTALL_AHEAD_OF_TIME
        raise BackendUnavailableError(
            f"cannot load {name}, the package of {flavour} ({error}); reinstall it: {install}"
        ) from error
    library = Library(module, flavour, version or str(module.__version__), can_build_without_gpu=flavour == RTX)
    if flavour == FULL and tuple(map(int, library.version.split(".")[:2])) < MIN_FULL_VERSION:
        min_version = ".".join(map(str, MIN_FULL_VERSION))
        raise BackendUnavailableError(f"{library} is too old, lgc needs {min_version} or later: {get_install_hint()}")
    return library


def read_version(library: ctypes.CDLL) -> str:
    """Return the version that a shared library of TensorRT reports, e.g. `1.7.1.116`, in the form of the bindings.

    The library reports 10701 for 1.7.1, and the build number 116 by a function that older libraries lack.
    """
    number = library.getInferLibVersion()
    parts = [number // 10000, number // 100 % 100, number % 100]
    with suppress(AttributeError):
        parts.append(library.getInferLibBuildVersion())
    return ".".join(map(str, parts))


def _load_shared_libraries() -> ctypes.CDLL:
    """Load the shared libraries that the bindings need, from the folder of another wheel; return the engine's.

    The bindings then find them by name. Their symbols stay out of the process's global namespace: full TensorRT and
    ONNX Runtime's TensorRT provider export the same names, and would be bound to these if they were loaded later.
    """
    spec = find_spec(_LIBRARIES)  # finds the folder without importing it, which would load ONNX Runtime's provider
    if spec is None or spec.origin is None:
        raise BackendUnavailableError(
            f"the bindings of {RTX} are installed without its libraries (package {_LIBRARIES}): {INSTALL_AHEAD_OF_TIME}"
        )
    folder = Path(spec.origin).parent
    engine, _ = [_load_shared_library(folder, pattern) for pattern in _LIBRARY_FILES]
    return engine


def _load_shared_library(folder: Path, pattern: str) -> ctypes.CDLL:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise BackendUnavailableError(f"no file {pattern} in {folder}; reinstall {RTX}: {INSTALL_AHEAD_OF_TIME}")
    path = paths[-1]
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        message = f"cannot load {path} ({error}); reinstall {RTX}: {INSTALL_AHEAD_OF_TIME}"
        raise BackendUnavailableError(message) from error
