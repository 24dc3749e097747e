"""All uses of TensorRT's Python API exist in every supported version: real bindings, without the library."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from lgc.profiler.backends.trt import engine as trt_engine
from lgc.profiler.backends.trt import runner as trt_runner

from . import bindings as trt_bindings
from .bindings import RTX, diagnose, run_command

MODULES = sorted(Path(trt_engine.__file__).parent.glob("*.py"))
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
"""Name of variables and attributes that hold a TensorRT object -> class of the object."""
RTX_ONLY = {
    ("", "ComputeCapability"),
    ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}
"""Members used with TensorRT-RTX only, after `hasattr` or a check of `Library.capabilities`."""

SUBCLASSES = """
import importlib, sys
from lgc.profiler.backends.trt.layers import EngineLayerTimer
from lgc.profiler.backends.trt.log import Log
module = importlib.import_module(sys.argv[1])
log = Log(module)
timer = EngineLayerTimer(module, lambda: timer.profiler.report_layer_time("conv", 0.5), tuple)
assert isinstance(log.logger, module.ILogger) and isinstance(timer.profiler, module.IProfiler)
log.logger.log(module.ILogger.Severity.ERROR, "too large")
log.logger.log(module.ILogger.Severity.INFO, "no matter")
timer.run(1)
runs = timer.finish()
print(log.errors, log.warnings, [(layer.name, ms) for layer, ms in zip(runs.layers, runs.durations_ms[0].tolist())])
"""


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """Return version -> name of the bindings' module, and the environment to import it."""
    reason = diagnose()
    if reason is not None:
        pytest.skip(reason)
    return trt_bindings.make_environments(tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def apis(environments):
    """Return version -> API, see `trt_bindings.read_api`."""
    return {
        version: json.loads(run_command(sys.executable, trt_bindings.__file__, module, env=variables))
        for version, (module, variables) in environments.items()
    }


class Scan(ast.NodeVisitor):
    """Scanner of the attributes that a module uses.

    Attributes:
        known: line, class and name of attributes of TensorRT's module and of variables named in `OBJECTS`.
        others: line and name of all other attributes.
        calls: line, class, name and number of arguments of the calls in `known`.
        own: names of the attributes and methods that the module's classes define.
    """

    def __init__(self, source):
        self.known, self.others, self.calls, self.own = [], [], [], set()
        self._aliases = {"module": ""}
        self.visit(ast.parse(source))

    def visit_Assign(self, node):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            for name, value in pairs:
                path = self._path(value)
                if isinstance(name, ast.Name) and path is not None:
                    self._aliases[name.id] = path
        self.generic_visit(node)

    def visit_ClassDef(self, node):
        for entry in ast.walk(node):
            if isinstance(entry, ast.FunctionDef):
                self.own.add(entry.name)
            elif isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                self.own.add(entry.target.id)
            elif isinstance(entry, ast.Attribute) and isinstance(entry.ctx, ast.Store):
                self.own.update([entry.attr] if getattr(entry.value, "id", "") == "self" else [])
        self.generic_visit(node)

    def visit_Attribute(self, node):
        owner = self._owner(node.value)
        if not node.attr.startswith("__") and self._path(node) != "":
            use = (node.lineno, node.attr) if owner is None else (node.lineno, owner, node.attr)
            (self.others if owner is None else self.known).append(use)
        self.generic_visit(node)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute) and not any(isinstance(entry, ast.Starred) for entry in node.args):
            owner = self._owner(node.func.value)
            if owner is not None:
                self.calls.append((node.lineno, owner, node.func.attr, len(node.args) + len(node.keywords)))
        self.generic_visit(node)

    def _owner(self, node):
        """Return the TensorRT class that `node` is, or is an object of; None for anything else."""
        path = self._path(node)
        return OBJECTS.get(getattr(node, "attr", getattr(node, "id", "")).lstrip("_")) if path is None else path

    def _path(self, node):
        """Return `node` as a path inside TensorRT's module, empty for the module itself; None for anything else."""
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        if node.attr == "module":
            return ""
        path = self._path(node.value)
        return None if path is None else f"{path}.{node.attr}".lstrip(".")


def find_faults(scan, apis, own):
    """Yield a message for each use in `scan` that a version lacks; `own` are attributes that the package defines."""
    names = {name for classes in apis.values() for members in classes.values() for name in members}
    for line, owner, name in scan.known:
        versions = [version for version in apis if version == RTX or (owner, name) not in RTX_ONLY]
        lacking = [version for version in versions if name not in apis[version].get(owner, {})]
        if lacking and not (lacking == versions and name in own):
            yield f"line {line}: {owner}.{name} is not in {', '.join(lacking)}"
    for line, name in scan.others:
        holders = [{owner for owner, members in classes.items() if name in members} for classes in apis.values()]
        if name in names and name not in own and not set.intersection(*holders):
            yield f"line {line}: {name} is not on the same class in every version"
    for line, owner, name, number in scan.calls:
        for version, classes in apis.items():
            taken = classes.get(owner, {}).get(name)
            if taken is not None and number not in taken:
                yield f"line {line}: {owner}.{name} takes {taken} arguments in {version}, not {number}"


@pytest.fixture(scope="module")
def scans():
    return {path.name: Scan(path.read_text()) for path in MODULES}


@pytest.fixture(scope="module")
def own():
    """Return the names of the attributes and methods that the backends' classes define."""
    paths = Path(trt_engine.__file__).parents[1].rglob("*.py")
    return {name for path in paths for name in Scan(path.read_text()).own}


def test_every_version_has_the_used_api(scans, own, apis):
    assert [f"{name}, {fault}" for name, scan in scans.items() for fault in find_faults(scan, apis, own)] == []


def test_scan_finds_api_in_sources(scans):
    used = {(owner, name) for scan in scans.values() for _, owner, name in scan.known}
    assert used >= RTX_ONLY, "an exception is no longer needed"
    assert used >= {
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("BuilderFlag", "TF32"),
        ("ILogger.Severity", "WARNING"),
        ("", "IProfiler"),
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("IExecutionContext", "execute_async_v3"),
    }
    calls = {(owner, name, number) for scan in scans.values() for _, owner, name, number in scan.calls}
    assert calls >= {("", "Builder", 1), ("IBuilderConfig", "set_timing_cache", 2)}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("library.module.BuilderFlag.FP16", "BuilderFlag.FP16 is not in 11.4.0.106"),
        ("trt = self.library.module\ntrt.IInt8Calibrator", ".IInt8Calibrator is not in 11.4.0.106"),
        (
            "trt, other = library.module, 1\ntrt.BuilderFlag.DISTRIBUTIVE_INDEPENDENCE",
            "DISTRIBUTIVE_INDEPENDENCE is not in 10.3.0",
        ),
        (
            "severity = module.ILogger.Severity\nseverity.FATAL",
            "ILogger.Severity.FATAL is not in 10.3.0, 10.16.1.11, 11.4",
        ),
        ("config.int8_calibrator = None", "IBuilderConfig.int8_calibrator is not in 11.4.0.106"),
        ("self._engine.device_memory_size", "ICudaEngine.device_memory_size is not in 11.4.0.106"),
        ("self._engine.create_runtime_config()", "ICudaEngine.create_runtime_config is not in 10.3.0"),
        ("network.num_bindings", "INetworkDefinition.num_bindings is not in 10.3.0, 10.16.1.11, 11.4.0.106"),
        ("layer.precision_is_set", "precision_is_set is not on the same class in every version"),
        ("context.execute_async_v3()", r"IExecutionContext.execute_async_v3 takes \[1\] arguments in 10.3.0, not 0"),
        ("config.set_timing_cache(cache, ignore_mismatch=False)", None),
    ],
)
def test_api_missing_in_a_version_is_reported(source, fault, apis):
    messages = list(find_faults(Scan(source), apis, set()))
    assert (messages == []) if fault is None else re.search(fault, messages[0])


def test_data_types_have_these_names(apis):
    for classes in apis.values():
        assert classes["DataType"].keys() >= trt_engine.DTYPE_NAMES.keys() | trt_runner.NUMPY_DTYPES.keys()


def test_subclasses_work_with_real_bindings(environments):
    for module, variables in environments.values():
        printed = run_command(sys.executable, "-c", SUBCLASSES, module, env=variables)
        assert printed == "['too large'] [] [('conv', 0.5)]\n"
