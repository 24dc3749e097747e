"""Finding TensorRT: the full library, or TensorRT-RTX, whose engines are built on machines without a GPU too."""

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
"""Oldest version of full TensorRT served: JetPack 6.1's. The tests look up all that is used here in its Python API."""

_JETSON_RELEASE = Path("/etc/nv_tegra_release")

_BINDINGS, _LIBRARIES = "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"
_LIBRARY_FILES = ("libtensorrt_rtx.so.1*", "libtensorrt_onnxparser_rtx.so.1*")


@dataclass(frozen=True)
class Library:
    """A TensorRT ready for use.

    Attributes:
        module: its Python API; both flavours share the names used here.
        flavour: `TensorRT` or `TensorRT-RTX`; an engine of one does not run in the other.
        version: say `1.7.1.116`; the shared library's own where it comes from another package than the bindings.
        can_build_without_gpu: whether engines can be built ahead of time, for a device that is elsewhere.
    """

    module: Any
    flavour: str
    version: str
    can_build_without_gpu: bool

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    @property
    def capabilities(self) -> dict[str, Any]:
        """Compute capability, say `8.9` -> its enum member, for those that can be asked for; none in full TensorRT."""
        if not self.can_build_without_gpu:
            return {}
        members: dict[str, Any] = self.module.ComputeCapability.__members__
        return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}


def is_jetson() -> bool:
    """Return whether this machine is a Jetson: its kernel is one of JetPack's, or JetPack's release file is there."""
    return "tegra" in platform.release() or _JETSON_RELEASE.exists()


def get_install_hint() -> str:
    """Return how to install full TensorRT on this machine: from JetPack on a Jetson, else by pip."""
    return INSTALL_JETSON if is_jetson() else INSTALL_FULL


def load_tensorrt(*, without_gpu: bool = False) -> Library:
    """Return full TensorRT if it is installed, else TensorRT-RTX.

    Args:
        without_gpu: pass full TensorRT over, which builds engines only on the GPU that is to run them.

    Raises:
        BackendUnavailableError: none is installed (the message says how to), or one is that does not load.
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
            f"the TensorRT installed here builds engines only on a GPU; to build one ahead of time: {_get_ahead_of_time_hint()}"
        )
    if is_jetson():
        raise BackendUnavailableError(f"TensorRT is not installed: {get_install_hint()}")
    raise BackendUnavailableError(
        f"TensorRT is not installed: {get_install_hint()} (to run on a GPU here), or {INSTALL_AHEAD_OF_TIME} "
        "(to build engines ahead of time, without a GPU)"
    )


def _get_ahead_of_time_hint() -> str:
    """How to install what builds engines ahead of time; there are no wheels of it for a Jetson."""
    return f"{INSTALL_AHEAD_OF_TIME}, on an x86_64 machine" if is_jetson() else INSTALL_AHEAD_OF_TIME


def _is_installed(name: str) -> bool:
    """Whether there is such a package; a mere folder of that name, which Python takes for a package too, is none."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def _import_library(name: str, flavour: str, version: str | None = None) -> Library:
    """The library of a package; its version is the package's unless it is given."""
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        install = get_install_hint() if flavour == FULL else INSTALL_AHEAD_OF_TIME
        raise BackendUnavailableError(
            f"{flavour} is installed but its package {name} does not load ({error}); reinstall it: {install}"
        ) from error
    library = Library(module, flavour, version or str(module.__version__), can_build_without_gpu=flavour == RTX)
    if flavour == FULL and tuple(map(int, library.version.split(".")[:2])) < MIN_FULL_VERSION:
        oldest = ".".join(map(str, MIN_FULL_VERSION))
        raise BackendUnavailableError(f"{library} is too old, {oldest} is the oldest served: {get_install_hint()}")
    return library


def read_version(library: ctypes.CDLL) -> str:
    """The version that a shared library of TensorRT tells of itself, say `1.7.1.116`, as the bindings spell theirs.

    It tells 10701 of 1.7.1, and the build's number, 116 here, by a function that older ones lack.
    """
    number = library.getInferLibVersion()
    parts = [number // 10000, number // 100 % 100, number % 100]
    with suppress(AttributeError):
        parts.append(library.getInferLibBuildVersion())
    return ".".join(map(str, parts))


def _load_shared_libraries() -> ctypes.CDLL:
    """Load the libraries that the bindings need and do not bring, which another wheel's folder holds; the engine's.

    The bindings then find them by name. What they export stays out of the process's global names: full TensorRT, or
    ONNX Runtime's provider of it, exports the same names, and would be bound to these if it were loaded later.
    """
    spec = find_spec(_LIBRARIES)  # finds the folder; importing it would load ONNX Runtime's provider
    if spec is None or spec.origin is None:
        raise BackendUnavailableError(
            f"{RTX}'s bindings are installed without its libraries (package {_LIBRARIES}): {INSTALL_AHEAD_OF_TIME}"
        )
    folder = Path(spec.origin).parent
    engine, _ = [_load_shared_library(folder, pattern) for pattern in _LIBRARY_FILES]
    return engine


def _load_shared_library(folder: Path, pattern: str) -> ctypes.CDLL:
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise BackendUnavailableError(f"no {pattern} in {folder}; reinstall {RTX}: {INSTALL_AHEAD_OF_TIME}")
    path = paths[-1]
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        message = f"{path} does not load ({error}); reinstall {RTX}: {INSTALL_AHEAD_OF_TIME}"
        raise BackendUnavailableError(message) from error
