"""The built wheel holds every module of the package, its presets and its licence, and nothing else."""

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
ROOMS = ("profiler", "search", "lut", "models", "tools", "report")


@pytest.fixture(scope="module")
def sources():
    """Files of the working tree that are tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout, so what belongs to the sources is not known")
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The wheel, built of a copy, so that nothing is left behind and nothing stale gets in."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as opened:
        yield opened


def expected(sources):
    modules = {name for name in sources if name.endswith(".py") and ("/" not in name or name.split("/")[0] in ROOMS)}
    presets = {name for name in sources if name.startswith("models/space/presets/") and name.endswith(".yaml")}
    return {f"lgc/{name}" for name in modules | presets | {"py.typed"}}


def metadata(wheel, name):
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_it_holds_every_module_and_preset_and_nothing_else(wheel, sources):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected(sources)
    assert {f"lgc/models/space/presets/{name}.yaml" for name in lgc.models.PRESETS} <= held


def test_it_says_what_it_is_and_under_which_licence(wheel):
    fields = email.message_from_string(metadata(wheel, "METADATA"))
    assert (fields["Name"], fields["Version"]) == ("lgc", lgc.__version__)
    assert fields["License-Expression"] == "Apache-2.0"
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert set(fields.get_all("Provides-Extra")) == {"test", "tensorrt", "tensorrt-aot", "report", "video"}
    assert fields.get_payload().strip(), "the README is the description"


def test_its_commands_lead_to_modules_that_it_holds(wheel):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    points = metadata(wheel, "entry_points.txt")
    for name, target in scripts.items():
        assert f"{name} = {target}" in points
        assert target.partition(":")[0].replace(".", "/") + ".py" in wheel.namelist()
