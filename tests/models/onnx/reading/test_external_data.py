"""Weights in files next to the model are embedded; missing, short and foreign files are refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lgc.errors import FileFormatError
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.reading import external_data

from .... import onnx_files as files


@pytest.fixture
def path(tmp_path):
    """Return a model with its weights in `m.data`."""
    (tmp_path / "folder").mkdir()
    return files.save(files.make(), tmp_path / "folder" / "m.onnx", save_as_external_data=True, location="m.data",
                      size_threshold=0)  # fmt: skip


def relocate(path, location):
    """Write the model again with the weights in another place."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_are_embedded(path):
    model = OnnxModel.load(path)
    path.with_name("m.data").unlink()
    loaded = onnx.load_model_from_string(model.data)
    for tensor in loaded.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), files.WEIGHTS[tensor.name])
    assert model.costs.parameters == 256


def test_data_file_is_opened_once(path, monkeypatch):
    opened, resolved, read, resolve = [], [], Path.open, Path.resolve
    monkeypatch.setattr(Path, "open", lambda own, mode: opened.append(own.name) or read(own, mode))
    monkeypatch.setattr(Path, "resolve", lambda own: resolved.append(own.name) or resolve(own))
    OnnxModel.load(path)
    assert opened.count("m.data") <= 2, "once for the check, once for all weights"
    assert resolved.count("m.data") == 1


def test_bad_data_file_and_weight_are_named(path):
    data = path.with_name("m.data")
    content = data.read_bytes()
    data.write_bytes(content[:-10])
    with pytest.raises(FileFormatError, match=r"weight 'w2' needs bytes \d+ to \d+ of .*m.data, which has only"):
        OnnxModel.load(path)
    data.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n" + 4096 * " ")
    with pytest.raises(FileFormatError, match=r"weight 'w1' is in .*m.data: it is a Git LFS pointer"):
        OnnxModel.load(path)
    data.unlink()
    with pytest.raises(FileFormatError, match=r"weight 'w1' is in .*m.data, which is missing"):
        OnnxModel.load(path)
    data.mkdir()
    with pytest.raises(FileFormatError, match="which is a folder"):
        OnnxModel.load(path)
    with pytest.raises(FileFormatError, match="read the model from its folder"):
        OnnxModel.parse(path.read_bytes(), "bytes")


@pytest.mark.parametrize("place", ["../m.data", "absolute", "link"])
def test_data_outside_the_folder_is_refused(place, path):
    outside = path.parent.parent / "m.data"
    path.with_name("m.data").rename(outside)
    if place == "link":
        path.with_name("link").symlink_to(outside)
    relocate(path, str(outside) if place == "absolute" else place)
    fix = "replace the link by a copy" if place == "link" else "copy the file into the folder"
    with pytest.raises(FileFormatError, match=f"outside the model's folder, which is not allowed: {fix}"):
        OnnxModel.load(path)


@pytest.mark.parametrize("location", ["C:\\\\m.data", "..\\\\m.data", "\\\\\\\\host\\\\m.data", "sub/../../m.data"])
def test_foreign_separators_do_not_leave_the_folder(location, path):
    path.with_name("m.data").rename(path.parent.parent / "m.data")
    with pytest.raises(FileFormatError, match="outside the model's folder"):
        OnnxModel.load(relocate(path, location.replace("\\\\", "\\")))


def test_separators_of_windows_are_read(path):
    (path.parent / "sub").mkdir()
    path.with_name("m.data").rename(path.parent / "sub" / "m.data")
    model = OnnxModel.load(relocate(path, "sub\\m.data"))
    assert model.costs.parameters == 256
    assert [remark for remark in model.remarks if "separators of Windows" in remark] == list(model.remarks)
    assert len(model.remarks) == 1


def link_as_in_a_cache(path, folder, blobs):
    """Return the model as a link into `blobs`, beside a link to its weights."""
    for place in (folder, *blobs):
        place.mkdir(parents=True, exist_ok=True)
    for name, target, blob in zip((path.name, "m.data"), ("111", "222"), blobs, strict=True):
        path.with_name(name).rename(blob / target)
        (folder / name).symlink_to(blob / target)
    return folder / path.name


def test_links_to_neighbouring_files_are_read(path, tmp_path):
    """Caches of downloads have links to files named by their digests."""
    linked = link_as_in_a_cache(path, tmp_path / "snapshots", (tmp_path / "blobs",) * 2)
    assert OnnxModel.load(linked).costs.parameters == 256


def test_links_to_different_folders_are_refused(path, tmp_path):
    linked = link_as_in_a_cache(path, tmp_path / "snapshots", (tmp_path / "blobs", tmp_path / "blobs" / "private"))
    with pytest.raises(FileFormatError, match=r"a link to .*222, outside the model's folder.*replace the link"):
        OnnxModel.load(linked)


def test_data_inside_a_linked_folder_is_read(path, tmp_path):
    (tmp_path / "alias").symlink_to(path.parent)
    assert OnnxModel.load(tmp_path / "alias" / path.name).costs.parameters == 256


def test_weights_above_two_gigabytes_are_refused(path, monkeypatch):
    monkeypatch.setattr(external_data, "MAX_MODEL_BYTES", 1000)
    with pytest.raises(FileFormatError, match="must be below 2 GB"):
        OnnxModel.load(path)


def test_wrong_length_is_refused(path):
    model = onnx.load(path, load_external_data=False)
    lengths = [entry for entry in model.graph.initializer[0].external_data if entry.key == "length"]
    lengths[0].value = "4"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="weight 'w1' has 864 bytes, but 4 bytes"):
        OnnxModel.load(path)
