"""Engines on disk: loaded, verified, rebuilt with a remark; the builder is simulated."""

import json
from dataclasses import replace

import pytest

from lgc.cache_folder import get_cache_folder
from lgc.errors import FileFormatError, MismatchError
from lgc.models.onnx.model import TensorSpec
from lgc.profiler.backends.cache import read_cache_file, write_cache_file
from lgc.profiler.backends.trt import engine_cache as trt_cache
from lgc.profiler.backends.trt import engine_files as trt_files
from lgc.profiler.backends.trt.engine import Engine, EngineBuilder
from lgc.profiler.backends.trt.engine_cache import load_or_build_engine
from lgc.profiler.backends.trt.engine_files import (
    get_description_path,
    read_engine_files,
    require_runnable,
    write_engine_files,
)
from lgc.profiler.backends.trt.layer_nodes import Layer
from lgc.profiler.backends.trt.loader import FULL, RTX, Library

ENGINE = Engine(
    data=b"plan\n\0of an engine",
    flavour=RTX,
    version="1.7.1",
    precision="fp16",
    compute_capability="8.9",
    assumed=False,
    layers=(Layer("/a/Conv_myl0_1", "correlation", ("/a/Conv", "/a/Relu"), "tactic", "fp16"), Layer("copy")),
    seconds=1.5,
    device=None,
    inputs=(TensorSpec("input_0", (1, 3, 8, 8), "float32"),),
    outputs=(TensorSpec("output_0", (1, 8, 8), "int64"),),
    metadata={"scope": "dense"},
)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Simulate the installed library and GPU; `built` counts the engines."""

    class Machine:
        flavour, version, capability, device, assumed, built = RTX, "1.7.1", "8.9", None, False, 0

        def builder(self, compute_capability=None):
            library = Library(None, self.flavour, self.version, can_build_without_gpu=self.flavour == RTX)
            return EngineBuilder(library, compute_capability or self.capability, self.assumed, self.device)

    simulated = Machine()

    def build(self, onnx_model, precision):
        simulated.built += 1
        return replace(
            ENGINE,
            data=onnx_model + b" built",
            flavour=self.library.flavour,
            version=self.library.version,
            precision=precision,
            compute_capability=self.capability,
            device=self.device,
            remarks=("timings are measured again",) if simulated.flavour == FULL else (),
        )

    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    monkeypatch.setattr(EngineBuilder, "build", build)
    monkeypatch.setattr(EngineBuilder, "for_device", simulated.builder)
    return simulated


def get_cached_file():
    (path,) = get_cache_folder("engines").iterdir()
    return path


def test_engine_is_built_once(machine):
    first, second = load_or_build_engine(b"model"), load_or_build_engine(b"model")
    assert machine.built == 1
    assert (first.cached, second.cached) == (False, True)
    assert first.remarks == second.remarks == ()
    assert second == replace(first, cached=True)


def test_models_and_precisions_have_own_entries(machine):
    data = {load_or_build_engine(model, precision=p).data for model in (b"a", b"b") for p in ("fp32", "fp16")}
    assert machine.built == 4
    assert len(data) == 2
    assert load_or_build_engine(b"b", precision="fp16").cached


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"\0"])
def test_damaged_file_is_rebuilt_and_replaced(machine, damage):
    load_or_build_engine(b"model")
    get_cached_file().write_bytes(damage(get_cached_file().read_bytes()))
    engine = load_or_build_engine(b"model")
    assert not engine.cached
    (remark,) = engine.remarks
    assert remark.startswith(str(get_cached_file()))
    assert remark.endswith(": the engine is rebuilt")
    assert load_or_build_engine(b"model").cached


def test_file_with_foreign_header_is_rebuilt(machine):
    load_or_build_engine(b"model")
    key = read_cache_file(get_cached_file())[0]["key"]
    write_cache_file(get_cached_file(), {"key": key, "engine": {"flavour": RTX}}, b"plan")
    engine = load_or_build_engine(b"model")
    assert engine.data == b"model built"
    assert ": version: is missing; " in engine.remarks[0]
    assert engine.remarks[0].endswith(": the engine is rebuilt")
    write_cache_file(get_cached_file(), {"of": "something"}, b"plan")
    engine = load_or_build_engine(b"model")
    assert engine.remarks[0].startswith("the cached engine is for an unknown target: rebuilt for")


def test_engine_of_different_version_is_rebuilt(machine):
    load_or_build_engine(b"model")
    machine.version = "1.8"
    engine = load_or_build_engine(b"model")
    assert engine.remarks == (
        "the cached engine is for TensorRT-RTX 1.7.1 for compute capability 8.9: rebuilt for "
        "TensorRT-RTX 1.8 for compute capability 8.9",
    )
    assert load_or_build_engine(b"model").cached
    assert get_cached_file()


def test_each_gpu_has_its_own_engine(machine):
    machine.flavour, machine.version, machine.device = FULL, "10.9", "NVIDIA L4"
    load_or_build_engine(b"model")
    machine.device = "NVIDIA L40"
    assert load_or_build_engine(b"model").remarks == (
        "the cached engine is for TensorRT 10.9 for compute capability 8.9 (NVIDIA L4): rebuilt for "
        "TensorRT 10.9 for compute capability 8.9 (NVIDIA L40)",
        "timings are measured again",
    )
    assert load_or_build_engine(b"model").device == "NVIDIA L40"
    machine.device = "NVIDIA L4"
    assert load_or_build_engine(b"model").cached
    assert machine.built == 2


def test_rejected_engine_is_removed_and_rebuilt(machine, monkeypatch):
    load_or_build_engine(b"model")
    engine = load_or_build_engine(b"model", rejection="TensorRT rejects it")
    assert (engine.cached, machine.built) == (False, 2)
    assert engine.remarks == ("the cached engine does not load (TensorRT rejects it): rebuilt",)
    again = load_or_build_engine(b"model")
    assert (again.cached, again.remarks) == (True, ())
    monkeypatch.setattr(EngineBuilder, "build", lambda *_: pytest.fail("the file was dropped"))
    with pytest.raises(pytest.fail.Exception):
        load_or_build_engine(b"model", rejection="again")
    assert not list(get_cache_folder("engines").iterdir())


def test_rejected_engine_in_readonly_folder_is_ignored(machine, monkeypatch):
    def locked(*_, **__):
        raise PermissionError

    load_or_build_engine(b"model")
    monkeypatch.setattr("pathlib.Path.unlink", locked)
    assert not load_or_build_engine(b"model", rejection="TensorRT rejects it").cached
    assert machine.built == 2


def test_changed_recipe_rebuilds(machine, monkeypatch):
    load_or_build_engine(b"model")
    monkeypatch.setattr(trt_cache, "RECIPE_VERSION", trt_cache.RECIPE_VERSION + 1)
    assert not load_or_build_engine(b"model").cached


def test_assumed_flag_is_of_current_call(machine):
    machine.assumed = True
    assert not load_or_build_engine(b"model", compute_capability="8.9").cached
    assert load_or_build_engine(b"model").assumed
    machine.assumed = False
    assert not load_or_build_engine(b"model").assumed
    assert machine.built == 1


def test_unwritable_cache_gives_remark(machine, tmp_path):
    (tmp_path / "engines").write_text("in the way")
    engine = load_or_build_engine(b"model")
    assert engine.data == b"model built"
    assert engine.remarks[0].startswith("the engine is not cached: cannot make the folder")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net-fp16-sm89.engine"


def test_file_round_trip(path):
    description_path = write_engine_files(ENGINE, path)
    assert path.read_bytes() == ENGINE.data  # raw, as trtexec reads it
    assert description_path == get_description_path(path) == path.with_name("net-fp16-sm89.engine.json")
    about = json.loads(description_path.read_text())
    assert about["schema_version"] == 1
    assert about["size_bytes"] == len(ENGINE.data)
    assert about["inputs"] == [{"name": "input_0", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert about["metadata"] == {"scope": "dense"}
    assert read_engine_files(path) == ENGINE


def test_missing_engine_is_reported(path):
    with pytest.raises(FileFormatError, match=r"no such file: .*\.engine"):
        read_engine_files(path)


def test_missing_description_is_reported(path):
    path.write_bytes(b"plan")
    with pytest.raises(
        FileFormatError, match=r"no such file: .*engine\.json, .*copy both files, or write them again with `lgc-"
    ):
        read_engine_files(path)


def test_mismatched_description_is_rejected(path):
    write_engine_files(ENGINE, path)
    path.write_bytes(ENGINE.data[:-1])
    with pytest.raises(FileFormatError, match=r"does not match .*: it is truncated or from another export"):
        read_engine_files(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read description of an engine .*: it is an empty file"),
        ("{", "is damaged"),
        ("[1]", "has no schema_version"),
        ('{"a": 1}', "has no schema_version"),
        ('{"schema_version": 99}', "has schema version 99, newer than the supported 1: update lgc"),
    ],
)
def test_invalid_descriptions_are_rejected(path, text, message):
    write_engine_files(ENGINE, path)
    get_description_path(path).write_text(text)
    with pytest.raises(FileFormatError, match=message):
        read_engine_files(path)


def test_field_of_wrong_type_is_named(path):
    write_engine_files(ENGINE, path)
    about = json.loads(get_description_path(path).read_text())
    about["layers"][1]["nodes"] = 3
    get_description_path(path).write_text(json.dumps(about))
    with pytest.raises(FileFormatError, match=r"invalid engine description .*: layers\.1\.nodes: must be a list"):
        read_engine_files(path)


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_engine_needs_inputs_and_outputs(path, machine, name):
    write_engine_files(replace(ENGINE, **{name: ()}), path)
    with pytest.raises(FileFormatError, match=rf"invalid engine description .*engine\.json: {name}: must not be empty"):
        read_engine_files(path)
    load_or_build_engine(b"model")
    header, data = read_cache_file(get_cached_file())
    header["engine"][name] = []
    write_cache_file(get_cached_file(), header, data)
    assert f".engine: {name}: must not be empty" in load_or_build_engine(b"model").remarks[0]


def test_full_tensorrt_engine_is_bound_to_gpu(machine):
    machine.flavour, machine.version, machine.device = FULL, "10.9", "NVIDIA L40"
    engine = replace(ENGINE, flavour=FULL, version="10.9", device="NVIDIA L4")
    require_runnable(replace(engine, device="NVIDIA L40"), "x.engine")
    with pytest.raises(MismatchError) as caught:
        require_runnable(engine, "x.engine")
    assert str(caught.value) == (
        "x.engine was built by TensorRT 10.9 for compute capability 8.9 (NVIDIA L4), this machine has TensorRT 10.9 "
        "for compute capability 8.9 (NVIDIA L40): engines are not portable, export it again on this machine with "
        "`lgc-export --trt`"
    )


def test_engines_are_not_portable(machine):
    require_runnable(ENGINE, "x.engine")
    for name, value in (("version", "1.8"), ("capability", "12.0"), ("flavour", FULL)):
        before = getattr(machine, name)
        setattr(machine, name, value)
        with pytest.raises(MismatchError) as caught:
            require_runnable(ENGINE, "x.engine")
        setattr(machine, name, before)
        assert str(caught.value).startswith(
            "x.engine was built by TensorRT-RTX 1.7.1 for compute capability 8.9, this machine has TensorRT"
        )
        assert str(caught.value).endswith(f"export it again on this machine with `{trt_files.EXPORT_COMMAND}`")
