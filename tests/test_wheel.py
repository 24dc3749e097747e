"""The built wheel contains the modules of the package, its presets and its licence, and nothing else."""

import email
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lgc

ROOT = Path(lgc.__file__).parent
PACKAGES = ("profiler", "search", "lut", "models", "tools", "report")


@pytest.fixture(scope="module")
def sources():
    """Return the files of the checkout, tracked or not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("needs a git checkout to list the sources")
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """Build the wheel from a copy of the sources, so that no build files are left behind or reused."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as opened:
        yield opened


def expected(sources):
    modules = {name for name in sources if name.endswith(".py") and ("/" not in name or name.split("/")[0] in PACKAGES)}
    folders = ("models/space/presets/", "search/data/layouts/")
    presets = {name for name in sources if name.startswith(folders) and name.endswith(".yaml")}
    return {f"lgc/{name}" for name in modules | presets | {"py.typed"}}


def metadata(wheel, name):
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_wheel_contains_modules_and_presets_only(wheel, sources):
    contents = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert contents == expected(sources)
    assert {f"lgc/models/space/presets/{name}.yaml" for name in lgc.models.PRESETS} <= contents


def test_metadata_names_version_and_licence(wheel):
    fields = email.message_from_string(metadata(wheel, "METADATA"))
    assert (fields["Name"], fields["Version"]) == ("lgc", lgc.__version__)
    assert fields["License-Expression"] == "Apache-2.0"
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert set(fields.get_all("Provides-Extra")) == {"test", "tensorrt", "tensorrt-aot", "report", "video"}
    assert fields.get_payload().strip(), "README missing from the description"


def test_commands_point_to_packaged_modules(wheel):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entry_points = metadata(wheel, "entry_points.txt")
    for name, target in scripts.items():
        assert f"{name} = {target}" in entry_points
        assert target.partition(":")[0].replace(".", "/") + ".py" in wheel.namelist()
