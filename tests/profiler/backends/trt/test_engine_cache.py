"""Engines on the disk: found again, never trusted, rebuilt with a remark; the builder is simulated."""

import json
from dataclasses import replace

import pytest

from lgc.errors import FileFormatError, MismatchError
from lgc.models.onnx.model import Tensor
from lgc.profiler.backends.cache import cache_folder, read_cache_file, write_cache_file
from lgc.profiler.backends.trt import engine_cache as trt_cache
from lgc.profiler.backends.trt import engine_files as trt_files
from lgc.profiler.backends.trt.engine import Builder, Engine
from lgc.profiler.backends.trt.engine_cache import cached_engine
from lgc.profiler.backends.trt.engine_files import about_path, read_engine_files, require_runnable, write_engine_files
from lgc.profiler.backends.trt.layers import Layer
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
    inputs=(Tensor("input_0", (1, 3, 8, 8), "float32"),),
    outputs=(Tensor("output_0", (1, 8, 8), "int64"),),
    metadata={"scope": "dense"},
)


@pytest.fixture
def world(monkeypatch, tmp_path):
    """What is installed and plugged in; `built` counts the engines."""

    class World:
        flavour, version, capability, device, assumed, built = RTX, "1.7.1", "8.9", None, False, 0

        def builder(self, compute_capability=None):
            library = Library(None, self.flavour, self.version, can_build_without_gpu=self.flavour == RTX)
            return Builder(library, compute_capability or self.capability, self.assumed, self.device)

    found = World()

    def build(self, onnx_model, precision):
        found.built += 1
        return replace(
            ENGINE,
            data=onnx_model + b" built",
            flavour=self.library.flavour,
            version=self.library.version,
            precision=precision,
            compute_capability=self.capability,
            device=self.device,
            remarks=("timings are made anew",) if found.flavour == FULL else (),
        )

    monkeypatch.setenv("LGC_CACHE", str(tmp_path))
    monkeypatch.setattr(Builder, "build", build)
    monkeypatch.setattr(Builder, "find", found.builder)
    return found


def kept():
    (path,) = cache_folder("engines").iterdir()
    return path


def test_an_engine_is_built_once(world):
    first, second = cached_engine(b"model"), cached_engine(b"model")
    assert world.built == 1
    assert (first.cached, second.cached) == (False, True)
    assert first.remarks == second.remarks == ()
    assert second == replace(first, cached=True)


def test_models_and_precisions_are_told_apart(world):
    data = {cached_engine(model, precision=p).data for model in (b"a", b"b") for p in ("fp32", "fp16")}
    assert world.built == 4
    assert len(data) == 2
    assert cached_engine(b"b", precision="fp16").cached


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"\0"])
def test_a_damaged_file_is_rebuilt_and_replaced(world, damage):
    cached_engine(b"model")
    kept().write_bytes(damage(kept().read_bytes()))
    engine = cached_engine(b"model")
    assert not engine.cached
    (remark,) = engine.remarks
    assert remark.startswith(str(kept()))
    assert remark.endswith(": the engine is built anew")
    assert cached_engine(b"model").cached


def test_a_file_with_a_header_of_another_kind_is_rebuilt(world):
    cached_engine(b"model")
    key = read_cache_file(kept())[0]["key"]
    write_cache_file(kept(), {"key": key, "engine": {"flavour": RTX}}, b"plan")
    engine = cached_engine(b"model")
    assert engine.data == b"model built"
    assert "describes no engine: version: Field required: the engine is built anew" in engine.remarks[0]
    write_cache_file(kept(), {"of": "something"}, b"plan")
    engine = cached_engine(b"model")
    assert engine.remarks[0].startswith("the engine kept on this machine is of something else: built anew for")


def test_an_engine_of_another_version_is_rebuilt(world):
    cached_engine(b"model")
    world.version = "1.8"
    engine = cached_engine(b"model")
    assert engine.remarks == (
        "the engine kept on this machine is of TensorRT-RTX 1.7.1 for compute capability 8.9: built anew for "
        "TensorRT-RTX 1.8 for compute capability 8.9",
    )
    assert cached_engine(b"model").cached
    assert kept()


def test_an_engine_of_another_gpu_is_rebuilt_and_both_are_kept(world):
    world.flavour, world.version, world.device = FULL, "10.9", "NVIDIA L4"
    cached_engine(b"model")
    world.device = "NVIDIA L40"
    assert cached_engine(b"model").remarks == (
        "the engine kept on this machine is of TensorRT 10.9 for compute capability 8.9 (NVIDIA L4): built anew for "
        "TensorRT 10.9 for compute capability 8.9 (NVIDIA L40)",
        "timings are made anew",
    )
    assert cached_engine(b"model").device == "NVIDIA L40"
    world.device = "NVIDIA L4"
    assert cached_engine(b"model").cached
    assert world.built == 2


def test_an_engine_that_did_not_load_is_thrown_away_and_built_anew(world, monkeypatch):
    cached_engine(b"model")
    engine = cached_engine(b"model", refused="TensorRT refuses it")
    assert (engine.cached, world.built) == (False, 2)
    assert engine.remarks == ("the engine kept on this machine did not load (TensorRT refuses it): built anew",)
    again = cached_engine(b"model")
    assert (again.cached, again.remarks) == (True, ())
    monkeypatch.setattr(Builder, "build", lambda *_: pytest.fail("the file was dropped"))
    with pytest.raises(pytest.fail.Exception):
        cached_engine(b"model", refused="again")
    assert not list(cache_folder("engines").iterdir())


def test_an_engine_that_cannot_be_thrown_away_is_passed_over(world, monkeypatch):
    def locked(*_, **__):
        raise PermissionError

    cached_engine(b"model")
    monkeypatch.setattr("pathlib.Path.unlink", locked)
    assert not cached_engine(b"model", refused="TensorRT refuses it").cached
    assert world.built == 2


def test_a_changed_recipe_builds_anew(world, monkeypatch):
    cached_engine(b"model")
    monkeypatch.setattr(trt_cache, "RECIPE", trt_cache.RECIPE + 1)
    assert not cached_engine(b"model").cached


def test_whether_the_device_is_assumed_is_of_this_call(world):
    world.assumed = True
    assert not cached_engine(b"model", compute_capability="8.9").cached
    assert cached_engine(b"model").assumed
    world.assumed = False
    assert not cached_engine(b"model").assumed
    assert world.built == 1


def test_a_cache_that_takes_nothing_is_remarked(world, tmp_path):
    (tmp_path / "engines").write_text("in the way")
    engine = cached_engine(b"model")
    assert engine.data == b"model built"
    assert engine.remarks[0].startswith("the engine is not kept for later: cannot write")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net-fp16-sm89.engine"


def test_files_there_and_back(path):
    beside = write_engine_files(ENGINE, path)
    assert path.read_bytes() == ENGINE.data  # plain, as trtexec reads it
    assert beside == about_path(path) == path.with_name("net-fp16-sm89.engine.json")
    about = json.loads(beside.read_text())
    assert about["schema_version"] == 1
    assert about["size_bytes"] == len(ENGINE.data)
    assert about["inputs"] == [{"name": "input_0", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert about["metadata"] == {"scope": "dense"}
    assert read_engine_files(path) == ENGINE


def test_no_engine(path):
    with pytest.raises(FileFormatError, match="is no engine but nothing: there is no such file"):
        read_engine_files(path)


def test_the_description_is_missing(path):
    path.write_bytes(b"plan")
    with pytest.raises(
        FileFormatError, match=r"engine\.json is missing, .*copy both files, or write them again with lgc-"
    ):
        read_engine_files(path)


def test_an_engine_that_is_not_the_one_described(path):
    write_engine_files(ENGINE, path)
    path.write_bytes(ENGINE.data[:-1])
    with pytest.raises(FileFormatError, match=r"is not the engine that .* describes: cut off, or of another export"):
        read_engine_files(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot read description of an engine .*: it is an empty file"),
        ("{", "is damaged"),
        ("[1]", "has no schema_version"),
        ('{"a": 1}', "has no schema_version"),
        ('{"schema_version": 99}', "has schema version 99, known is 1: update lgc"),
    ],
)
def test_descriptions_of_no_use(path, text, told):
    write_engine_files(ENGINE, path)
    about_path(path).write_text(text)
    with pytest.raises(FileFormatError, match=told):
        read_engine_files(path)


def test_a_field_of_the_wrong_type_is_named(path):
    write_engine_files(ENGINE, path)
    about = json.loads(about_path(path).read_text())
    about["layers"][1]["nodes"] = 3
    about_path(path).write_text(json.dumps(about))
    with pytest.raises(FileFormatError, match=r"describes no engine: layers\.1\.nodes: Input should be a valid tuple"):
        read_engine_files(path)


@pytest.mark.parametrize("name", ["inputs", "outputs"])
def test_an_engine_without_inputs_or_outputs_is_none(path, world, name):
    write_engine_files(replace(ENGINE, **{name: ()}), path)
    with pytest.raises(FileFormatError, match=rf"engine\.json describes no engine: {name}: there are none"):
        read_engine_files(path)
    cached_engine(b"model")
    header, data = read_cache_file(kept())
    header["engine"][name] = []
    write_cache_file(kept(), header, data)
    assert f"describes no engine: {name}: there are none" in cached_engine(b"model").remarks[0]


def test_full_tensorrts_engines_are_of_one_model_of_gpu(world):
    world.flavour, world.version, world.device = FULL, "10.9", "NVIDIA L40"
    engine = replace(ENGINE, flavour=FULL, version="10.9", device="NVIDIA L4")
    require_runnable(replace(engine, device="NVIDIA L40"), "x.engine")
    with pytest.raises(MismatchError) as caught:
        require_runnable(engine, "x.engine")
    assert str(caught.value) == (
        "x.engine was built by TensorRT 10.9 for compute capability 8.9 (NVIDIA L4), here is TensorRT 10.9 for compute "
        "capability 8.9 (NVIDIA L40): engines do not travel, export it here with lgc-export --trt"
    )


def test_engines_do_not_travel(world):
    require_runnable(ENGINE, "x.engine")
    for name, value in (("version", "1.8"), ("capability", "12.0"), ("flavour", FULL)):
        before = getattr(world, name)
        setattr(world, name, value)
        with pytest.raises(MismatchError) as caught:
            require_runnable(ENGINE, "x.engine")
        setattr(world, name, before)
        assert str(caught.value).startswith(
            "x.engine was built by TensorRT-RTX 1.7.1 for compute capability 8.9, here is TensorRT"
        )
        assert str(caught.value).endswith(f"export it here with {trt_files.EXPORT_AGAIN}")
