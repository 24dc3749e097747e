"""Git LFS pointers are called so by every command that reads a file."""

from __future__ import annotations

import pytest

from lgc.errors import LgcError
from lgc.models import SearchSpace
from lgc.models.images import read_pixels
from lgc.models.nets.network import LGCNet
from lgc.models.nets.state.weights import save_weights
from lgc.profiler.backends.trt.engine_files import read_engine_files
from lgc.profiler.inference.video import Clip
from lgc.search.data.lists import read_list

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
COMMANDS = {
    "model.onnx": ("lgc-bench", "{file}"),
    "table.lut": ("lgc-lut", "show", "{file}"),
    "table.npy": ("lgc-lut", "import", "{file}", "--out", "{folder}/t.csv", "--unit", "ms"),
    "space.yaml": ("lgc-profile", "--device", "cpu", "--space", "{file}", "--out", "{folder}/t.lut"),
    "plugin.py": ("lgc-profile", "--device", "cpu", "--plugin", "{file}", "--out", "{folder}/t.lut"),
    "network.py": ("lgc-bench", "--network", "{file}:build"),
    "architecture.json": ("lgc-export", "{file}", "--onnx", "--out", "{folder}/out"),
    "weights.safetensors": ("lgc-export", "{run}", "--onnx", "--out", "{folder}/out"),
}
READERS = [
    ("image.png", read_pixels),
    ("train.txt", lambda path: read_list(path, path.parent, None)),
    ("video.mp4", Clip.open),
    ("network.engine", read_engine_files),
]


@pytest.fixture
def run(tmp_path, mini_space: SearchSpace):
    """A run folder with an architecture and weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    architecture = mini_space.sample(0)
    architecture.save(folder / "architecture.json")
    save_weights(LGCNet(mini_space, architecture), folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_pointers_are_called_so(call, run, tmp_path, name):
    file = (run if name == "weights.safetensors" else tmp_path) / name
    file.write_text(POINTER)
    program, *arguments = (part.format(file=file, folder=tmp_path, run=run) for part in COMMANDS[name])
    assert f"{file}: it is a Git LFS pointer: run `git lfs pull`" in call(program, *arguments).refusal(program)


@pytest.mark.parametrize(("name", "read"), READERS)
def test_pointers_of_images_videos_and_engines(tmp_path, name, read):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(LgcError, match=rf"{name}: it is a Git LFS pointer: run `git lfs pull`"):
        read(tmp_path / name)
