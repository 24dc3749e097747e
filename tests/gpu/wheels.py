"""Collect the packages that an offline GPU machine lacks in one folder, unpacked for its PYTHONPATH.

    python tests/gpu/wheels.py [--site .gpu-site] [--constraints constraints.txt]

The machine has CPython 3.12 on Linux x86_64, no network and no pip; `machine-packages.txt` lists its packages. Wheels
come from the package index. pycuda has no wheel: it is compiled with a Python 3.12 (GPU_PYTHON, else python3.12)
against the index's CUDA 13 headers and an empty libcuda. Run the same command again to resume. If a package fails, the
others are still collected and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
COLLECTED = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",  # pydantic requires a recent version
    "onnxslim",
    "lightning-fabric",
    "pytools",
    "platformdirs",
    "siphash24",
    "mako",
    "pycuda",
)
"""Distributions to collect; each is imported by its name with underscores."""
HEADERS = ("nvidia-cuda-runtime==13.0.*", "nvidia-cuda-profiler-api==13.0.*")
"""cuda.h and cudaProfiler.h of the first CUDA 13: every driver of that major version has all functions pycuda calls."""
GLIBC = 35
"""Newest glibc 2.x that a binary may require: Ubuntu 22.04's."""
PLATFORMS = (
    "linux_x86_64",
    *(f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)),
    *(f"manylinux{year}_x86_64" for year in (2014, 2010, 1)),
)
MACHINE = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: str | Path, **environment: str) -> str:
    """Run a command and return its output.

    Raises:
        RuntimeError: the command failed; the message quotes it.
    """
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line.strip() for line in lines if re.search(r"\berror: |Error: ", line, re.IGNORECASE)]
        raise RuntimeError("; ".join(dict.fromkeys(errors[:4])) or lines[-1].strip())
    return done.stdout


def install(requirements: Sequence[str | Path], target: Path, constraints: Path) -> None:
    """Unpack wheels for the machine's Python into `target`, without dependencies."""
    options = [
        "--only-binary=:all:",
        "--implementation=cp",
        "--python-version=3.12",
        *map("--platform={}".format, PLATFORMS),
    ]
    run(*PIP, "install", "-c", constraints, "--no-deps", "--no-compile", "--target", target, *options, *requirements)


def find_python312() -> Path:
    """Return a Python 3.12 with headers: GPU_PYTHON, else python3.12 from PATH or pyenv.

    Raises:
        RuntimeError: no such Python.
    """
    check = """import os, sys, sysconfig
assert sys.version_info[:2] == (3, 12), "its version is " + sys.version
assert os.path.exists(sysconfig.get_path("include") + "/Python.h"), "it lacks Python.h"
print(sys.executable)"""
    try:
        return Path(run(os.environ.get("GPU_PYTHON", "python3.12"), "-c", check, PYENV_VERSION="3.12").strip())
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"no Python 3.12 with headers ({error}): set GPU_PYTHON to one") from error


def build_pycuda(scratch: Path, constraints: Path) -> Path:
    """Compile pycuda without cuRAND and return its wheel."""
    python = find_python312()
    run(*PIP, "download", "-c", constraints, "--no-deps", "--no-binary=pycuda", "--dest", scratch, "pycuda")
    with tarfile.open(next(scratch.glob("pycuda-*.tar.gz"))) as archive:
        archive.extractall(scratch, filter="data")
    source = next(path for path in scratch.glob("pycuda-*") if path.is_dir())
    install(HEADERS, scratch / "cuda", constraints)
    # Only the name of the driver's library matters: its functions are resolved on the machine.
    run("gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-o", scratch / "libcuda.so", "-x", "c", os.devnull)
    includes = [str(path.parent) for path in (scratch / "cuda").rglob("cuda.h")]
    settings = {
        "CUDA_ENABLE_CURAND": False,
        "CUDA_INC_DIR": includes,
        "CUDADRV_LIB_DIR": [str(scratch)],
        "CXXFLAGS": ["-g0"],
    }
    (source / "siteconf.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    flags = "-s -Wl,--no-as-needed"  # keeps libcuda, from which no symbol was resolved
    run(*PIP, "--python", python, "wheel", "--no-deps", "--wheel-dir", scratch, source, LDFLAGS=flags)
    return next(scratch.glob("pycuda-*.whl"))


def check_driver(package: Path) -> None:
    """Raise RuntimeError unless the machine can load pycuda's extension."""
    content = (package / "_driver.cpython-312-x86_64-linux-gnu.so").read_bytes()
    if b"libcuda.so.1\0" not in content:
        raise RuntimeError("the compiled extension does not load libcuda.so.1")
    newest = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", content))
    if newest > GLIBC:
        raise RuntimeError(f"compiled against glibc 2.{newest}, newer than 2.{GLIBC}: build on an older Linux")


def collect(name: str, site: Path, constraints: Path) -> None:
    """Put a distribution into `site` in place of any other version; its metadata is moved last."""
    with TemporaryDirectory(dir=site, prefix="scratch-") as folder:
        scratch, unpacked = Path(folder), Path(folder, "unpacked")
        install([build_pycuda(scratch, constraints) if name == "pycuda" else name], unpacked, constraints)
        if name == "pycuda":
            check_driver(unpacked / "pycuda")
        for old in site.glob("*.dist-info"):
            if canonicalize_name(old.name.split("-")[0]) == name:
                shutil.rmtree(old)
        for new in sorted(unpacked.iterdir(), key=lambda path: path.suffix == ".dist-info"):
            if new.name != "bin":
                shutil.rmtree(site / new.name, ignore_errors=True)
                new.replace(site / new.name)


def machine_packages() -> dict[str, tuple[str, str]]:
    """Return version (empty if unknown) and import name of each package of the machine, by canonical name."""
    lines = (HERE / "machine-packages.txt").read_text().splitlines()
    packages = {}
    for requirement, *module in (line.split() for line in lines if not line.startswith("#")):
        name, _, version = requirement.partition("==")
        packages[canonicalize_name(name)] = version, module[0] if module else name
    return packages


def versions(site: Path) -> dict[str, str]:
    """Return canonical name -> version of each distribution in `site`."""
    return {canonicalize_name(item.name): item.version for item in distributions(path=[str(site)])}


def find_unmet(site: Path) -> list[str]:
    """Return a message for each requirement in `site` that neither it nor the machine meets."""
    present = {name: version for name, (version, _) in machine_packages().items()} | versions(site)
    lines = []
    for item in distributions(path=[str(site)]):
        for needed in map(Requirement, item.requires or ()):
            name = canonicalize_name(needed.name)
            if needed.marker and not needed.marker.evaluate(MACHINE):
                continue
            if name not in present:
                lines.append(f"{item.name} needs {needed}: add {name} to COLLECTED")
            elif present[name] and not needed.specifier.contains(present[name]):
                lines.append(f"{item.name} needs {needed}, and {name} is {present[name]}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect all packages, print versions and size, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=Path(".gpu-site"))
    parser.add_argument("--constraints", type=Path, default=Path("constraints.txt"))
    options = parser.parse_args(arguments)
    site, constraints = options.site.resolve(), options.constraints.resolve()
    site.mkdir(exist_ok=True)
    for leftover in site.glob("scratch-*"):
        shutil.rmtree(leftover)
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", constraints.read_text(), re.MULTILINE))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    problems = []
    for name in COLLECTED:
        version = versions(site).get(name)
        if version and version == pins.get(name, version):
            continue
        print(f"collecting {name}", flush=True)
        try:
            collect(name, site, constraints)
        except (OSError, RuntimeError) as error:
            problems.append(f"cannot collect {name}: {error}")
    problems += find_unmet(site)
    for name, version in sorted(versions(site).items()):
        print(f"{name} {version}")
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print(f"{options.site}: {size / 1e6:.1f} MB")
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
