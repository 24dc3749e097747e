"""Make the fixtures in `files/`: what lgc wrote at commit 99bd0e6, which every later version must read.

    git worktree add ../lgc-99bd0e6 99bd0e6      # and an environment that imports lgc from that folder
    python tests/compat/make.py files

Do not run this with a later version: fixtures written by the code under test prove nothing. Add new files instead.
Tables and checkpoints are packed with gzip, which keeps every byte of them and takes a fifth of the space. The console
commands below run in a scratch folder with relative paths; where lgc writes absolute paths into JSON files, the scratch
folder is cut off. Contents of `files/`:

    spaces/*.yaml              small.yaml; old.yaml without the keys that the first version lacked; deep.yaml with many
                               resolutions
    scenes                     lgc-scenes: four training images, two validation images
    tables/tiny.lut            preset tiny, ONNX Runtime, context carriers, calibrated and verified
    tables/small.lut           small.yaml, ONNX Runtime, context carriers, calibrated and verified
    tables/torch.lut           small.yaml, torch, context isolated, calibrated and verified
    tables/unfinished.lut      deep.yaml with entries of every status, see INTERRUPTED
    tables/schema-1.lut        old.yaml, by commit 4b26704; lut/ stayed so until schema 2
    tables/schema-2-first.lut  old.yaml, by commit 84da9b7, an early version of schema 2
    run                        lgc-search and lgc-train on tables/torch.lut, with checkpoints
    architectures/*.json       faster, slower: lgc-search with two targets; old-*: by commit 4b26704; head-widths: by
                               commit 4aabe62, the first with heads of several widths. The format has one schema, 1.
    export                     lgc-export of the run: ONNX in fp32 and int8, and the description of the TensorRT-RTX
                               engine. The engine itself is left out: 0.7 MB.
    foreign                    tables of FasterSeg and once-for-all, a few rows each
    outputs/*.json             --json output of a command, with its words, the commands before it, and its exit code.
                               `repeatable`: it neither measures nor trains, so every number must be the same again.
    values.json                values of tables, architectures and presets in Python
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]
SCHEMA_1, FIRST_SCHEMA_2, HEAD_WIDTHS = "4b26704", "84da9b7", "4aabe62"
PACKED = (".lut", ".ckpt")
STATUSES = {"pending", "noisy", "measured", "interpolated", "failed"}

OLD = """\
name: small
input: [32, 32]
classes: 11
operators: [zero, skip, conv_3x3]
cells: 2
reductions: [1]
channels: 2
nodes: 1
stem: {channels: 2, strides: [2, 2]}
fusion: {nodes: 1, channels: 2, level: 3}
head_channels: 4
"""
DEEP = """\
name: deep
input: [256, 256]
classes: 11
operators: [skip, max_pool_3x3, conv_3x3]
cells: 6
reductions: [1, 2, 3, 4, 5]
channels: 2
nodes: 1
stem: {channels: 2, strides: [2, 2]}
fusion: {nodes: 1, channels: 2, level: 3}
head_channels: 4
"""
FASTERSEG = {
    "ConvNorm_H1024_W2048_Cin3_Cout32_kernel3_stride2": 0.75,
    "BasicResidual1x_H128_W256_Cin64_Cout96_stride1_dilation1": 0.25,
    "BasicResidual2x_H128_W256_Cin64_Cout64_stride1_dilation1": 0.5,
    "ff_H128_W256_C64": 0.3,
}
ONCE_FOR_ALL = {
    "Conv-input:224x224x3-output:112x112x32": {"count": 100, "mean": 3.25, "var": 0.04},
    "expanded_conv-input:7x7x192-output:7x7x320-expand:6-kernel:5-stride:1-idskip:0": {"count": 9, "mean": 5.5},
}

INTERRUPTED = """
import sys, time
from lgc.errors import MeasurementError
from lgc.profiler.backends.ort import OnnxRuntimeBackend, OnnxRuntimeRunner
from lgc.tools.profile import main

compiled, run, calls = OnnxRuntimeBackend.compile, OnnxRuntimeRunner.run, []

def compile_most(self, workload, target):
    if "max_pool_3x3/c2-2/64x64" in workload.name:
        raise MeasurementError("refused when this file was made")
    runner = compiled(self, workload, target)
    runner.slow = "argmax" in workload.name
    return runner

def run_slowly(self, repeats):
    calls.extend([repeats] if self.slow else [])
    time.sleep(8 if self.slow and len(calls) == 5 else 0)
    return run(self, repeats)

OnnxRuntimeBackend.compile, OnnxRuntimeRunner.run = compile_most, run_slowly
main()
"""
"""lgc-profile whose budget ends within the last round, with a backend that refuses one operator."""

CPU = ("--device", "cpu")
FEW = ("--networks", "4", "--rounds", "4")
SHORT = ("--data", "scenes", "--steps", "4", "--batch", "2")
ORT = ("--backend", "onnxruntime")
TORCH = ("--backend", "torch", "--context", "isolated")
EXPORTED = "export/small.onnx"
VAL = "scenes/CamVid/val/scene_000000.png"

OUTPUTS: dict[str, tuple[bool, str]] = {
    "profile": (False, "lgc-profile --device cpu --space spaces/small.yaml --networks 4 --rounds 4 --out new.lut"),
    "profile-torch": (
        False,
        "lgc-profile --device cpu --backend torch --context isolated --space spaces/small.yaml --networks 0 "
        "--rounds 4 --out new.lut",
    ),
    "profile-finished": (False, "lgc-profile --device cpu --space tiny --networks 4 --rounds 4 --out tables/tiny.lut"),
    "profile-unfinished": (
        False,
        "lgc-profile --device cpu --context isolated --space spaces/deep.yaml --networks 0 --rounds 4 "
        "--out tables/unfinished.lut",
    ),
    "show-tiny": (True, "lgc-lut show tables/tiny.lut --subjects"),
    "show-small": (True, "lgc-lut show tables/small.lut --subjects"),
    "show-torch": (True, "lgc-lut show tables/torch.lut --subjects"),
    "show-unfinished": (True, "lgc-lut show tables/unfinished.lut --subjects"),
    "show-schema-2-first": (True, "lgc-lut show tables/schema-2-first.lut --subjects"),
    "show-schema-1": (True, "lgc-lut show tables/schema-1.lut"),
    "show-chosen": (True, "lgc-lut show tables/tiny.lut --operator conv_3x3 --status noisy --sort latency"),
    "verify": (False, "lgc-lut verify tables/torch.lut --networks 4 --rounds 4 --seed 1"),
    "diff": (
        True,
        "lgc-lut upgrade tables/schema-1.lut && lgc-lut diff tables/schema-1.lut tables/torch.lut --threshold 1%",
    ),
    "diff-same": (True, "lgc-lut diff tables/tiny.lut tables/tiny.lut"),
    "calibrate-tiny": (True, "lgc-lut calibrate tables/tiny.lut"),
    "calibrate-form": (True, "lgc-lut calibrate tables/torch.lut --form offset"),
    "merge": (True, "lgc-lut merge tables/small.lut tables/small.lut --out new.lut"),
    "export-table": (True, "lgc-lut export tables/tiny.lut --out new.csv"),
    "import-fasterseg": (True, "lgc-lut import foreign/fasterseg.npy --out new.csv"),
    "import-table": (
        True,
        "lgc-lut import foreign/fasterseg.npy --space tiny --device cuda:0 --backend torch --out new.lut",
    ),
    "import-once-for-all-yaml": (True, "lgc-lut import foreign/once-for-all.yaml --out new.csv"),
    "import-once-for-all-json": (True, "lgc-lut import foreign/once-for-all.json --out new.csv"),
    "upgrade": (True, "lgc-lut upgrade tables/schema-1.lut"),
    "show-upgraded": (True, "lgc-lut upgrade tables/schema-1.lut && lgc-lut show tables/schema-1.lut --subjects"),
    "calibrate-upgraded": (True, "lgc-lut upgrade tables/schema-1.lut && lgc-lut calibrate tables/schema-1.lut"),
    "upgrade-current": (True, "lgc-lut upgrade tables/tiny.lut"),
    "scenes": (True, "lgc-scenes --train 1 --val 1 --test 0 --size 32x32 --out new"),
    "search": (False, "lgc-search --lut tables/torch.lut --data scenes --steps 4 --batch 2 --out new"),
    "search-front": (
        False,
        "lgc-search --lut tables/torch.lut --data scenes --steps 2 --batch 2 --trials 0 --target-ms TARGET "
        "--target-ms LATER --out new",
    ),
    "search-tables": (
        False,
        "lgc-search --lut tables/torch.lut --lut run/tables/0-torch.lut --data scenes --steps 2 --batch 2 --trials 0 "
        "--target-ms TARGET --target-ms LATER --out new",
    ),
    "train": (False, "lgc-train run --data scenes --steps 2 --batch 2 --init supernet --out new"),
    "train-evaluate": (False, "lgc-train run --data scenes --evaluate --predictions new"),
    "export": (
        False,
        "lgc-export run --lut tables/torch.lut --torch --layers --seconds 0.1 --tolerance 0.0001% --out new",
    ),
    "export-architecture": (False, "lgc-export architectures/tiny.json --onnx --scope core --out new"),
    "export-int8": (False, "lgc-export run --onnx --data scenes --precision int8 --scope end-to-end --out new"),
    "bench": (False, "lgc-bench export/small.onnx run --seconds 0.1s"),
    "bench-published": (False, "lgc-bench export/small-int8.onnx --precision int8 --seconds 0.1s --published"),
    "predict": (False, f"lgc-predict {EXPORTED} {VAL} --ids --out new"),
    "missing": (True, "lgc-lut show tables/missing.lut"),
}
"""Name -> (repeatable, commands). TARGET and LATER stand for latencies that the space can reach, milliseconds."""


def main(out: Path) -> None:
    """Make all files in a scratch folder, and copy them to `out`."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_sources(work)
        make_tables(work)
        make_runs(work)
        forget_folders(work)
        make_exports(work)
        (work / "outputs").mkdir()
        for number, (key, (repeatable, text)) in enumerate(OUTPUTS.items(), start=1):
            print(f"{number}/{len(OUTPUTS)} {text}", file=sys.stderr)
            save_output(work, key, repeatable, text)
        (work / "values.json").write_text(json.dumps(values(work), indent=1) + "\n")
        clean(work)
        shutil.copytree(work, out)


def command(words: Sequence[str], work: Path, code: int = 0, package: Path | None = None) -> str:
    """Run a console command in `work` and return its stdout; with the lgc in `package` where it is given."""
    program = [str(Path(sys.executable).with_name(words[0]))] if words[0].startswith("lgc-") else [words[0]]
    path = {} if package is None else {"PYTHONPATH": str(package)}
    done = subprocess.run([*program, *words[1:]], cwd=work, capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stderr}"
    return done.stdout


def write_sources(work: Path) -> None:
    """Write spaces, images and tables of other projects."""
    for name in ("spaces", "tables", "architectures", "foreign"):
        (work / name).mkdir()
    (work / "spaces/old.yaml").write_text(OLD)
    (work / "spaces/small.yaml").write_text(f"{OLD}head_widths: [2]\n")
    (work / "spaces/deep.yaml").write_text(DEEP)
    np.save(work / "foreign/fasterseg.npy", np.array(FASTERSEG, dtype=object))
    (work / "foreign/once-for-all.json").write_text(json.dumps(ONCE_FOR_ALL))
    rows = (f"{key}:\n" + "".join(f"  {k}: {v}\n" for k, v in row.items()) for key, row in ONCE_FOR_ALL.items())
    (work / "foreign/once-for-all.yaml").write_text("".join(rows))
    counts = ("--train", "4", "--val", "2", "--test", "0")
    command(["lgc-scenes", *counts, "--size", "32x32", "--out", "scenes"], work)


def make_tables(work: Path) -> None:
    """Measure the tables."""
    small = ("--space", "spaces/small.yaml")
    command(["lgc-profile", *CPU, *ORT, "--space", "tiny", *FEW, "--out", "tables/tiny.lut"], work)
    command(["lgc-profile", *CPU, *ORT, *small, *FEW, "--out", "tables/small.lut"], work)
    command(["lgc-profile", *CPU, *TORCH, *small, *FEW, "--out", "tables/torch.lut"], work)
    for commit, name in ((SCHEMA_1, "schema-1"), (FIRST_SCHEMA_2, "schema-2-first")):
        words = ["lgc-profile", *CPU, *ORT, "--space", "spaces/old.yaml", *FEW, "--out", f"tables/{name}.lut"]
        command(words, work, package=older(commit, work))
    make_unfinished(work)


def make_unfinished(work: Path) -> None:
    """Measure a table with a budget that is too short; repeat until it has every status, which depends on chance."""
    path = "tables/unfinished.lut"
    words = [*CPU, *ORT, "--context", "isolated", "--space", "spaces/deep.yaml", "--networks", "0", "--rounds", "4"]
    for seed in range(5):
        (work / path).unlink(missing_ok=True)
        options = ["--budget", "8s", "--seed", str(seed), "--out", path]
        command([sys.executable, "-c", INTERRUPTED, *words, *options], work, code=1)
        shown = json.loads(command(["lgc-lut", "show", path, "--json"], work))
        if {entry["status"] for entry in shown["entries"]} == STATUSES:
            return
    raise RuntimeError("no table has every status")


def older(commit: str, work: Path) -> Path:
    """Return a folder to import the lgc of a commit from."""
    folder = work / "older" / commit
    if not folder.exists():
        (folder / "lgc").mkdir(parents=True)
        archive = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder / "lgc")], input=archive, check=True)
    return folder


def make_runs(work: Path) -> None:
    """Search and train, and gather architectures."""
    search = ["lgc-search", "--lut", "tables/torch.lut", *SHORT]
    command([*search, "--out", "run"], work)
    command(["lgc-train", "run", *SHORT], work)
    low, high = reach(work)
    targets = [f"{low + share * (high - low):.4f}" for share in (0.4, 0.8)]
    command([*search, "--target-ms", targets[0], "--target-ms", targets[1], "--out", "front"], work)
    for name, folder in zip(("faster", "slower"), sorted((work / "front").glob("target-*")), strict=True):
        shutil.copy(folder / "architecture.json", work / f"architectures/{name}.json")
    sample = "import sys; from lgc.models import SearchSpace; SearchSpace.load(sys.argv[1]).sample(0).save(sys.argv[2])"
    for name, space, commit in (
        ("small", "spaces/small.yaml", None),
        ("tiny", "tiny", None),
        ("lgcnet-camvid", "lgcnet-camvid", None),
        ("old-small", "spaces/old.yaml", SCHEMA_1),
        ("old-tiny", "tiny", SCHEMA_1),
        ("head-widths", "tiny", HEAD_WIDTHS),
    ):
        package = None if commit is None else older(commit, work)
        command([sys.executable, "-c", sample, space, f"architectures/{name}.json"], work, package=package)


def reach(work: Path) -> tuple[float, float]:
    """Return the least and the greatest latency of the run's space, milliseconds."""
    result = json.loads((work / "run/search-result.json").read_text())
    return result["fastest_ms"], result["slowest_ms"]


def make_exports(work: Path) -> None:
    """Export the run, and give the files short names."""
    words = ["lgc-export", "run", "--lut", "tables/torch.lut", "--data", "scenes", "--precision", "fp32"]
    command([*words, "--precision", "int8", "--trt", "--compute-capability", "8.9", "--out", "exported"], work)
    (work / "export").mkdir()
    for path in sorted((work / "exported").iterdir()):
        if path.name.endswith(".engine.json") and "fp32" in path.name:
            shutil.copy(path, work / "export/small.engine.json")
        elif path.suffix == ".onnx":
            shutil.copy(path, work / ("export/small-int8.onnx" if "int8" in path.name else EXPORTED))


def save_output(work: Path, key: str, repeatable: bool, text: str) -> None:
    """Run commands on a copy of the files, and save the output of the last one."""
    low, high = reach(work)
    for name, share in (("TARGET", 0.5), ("LATER", 0.9)):
        text = text.replace(name, f"{low + share * (high - low):.4f}")
    commands = [[*part.split(), "--json"] for part in text.split(" && ")]
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(work, Path(name) / "files", ignore=shutil.ignore_patterns("older")))
        for program, *words in commands:
            script = str(Path(sys.executable).with_name(program))
            done = subprocess.run([script, *words], cwd=copy, capture_output=True, text=True)
    output = json.loads(done.stdout) if done.stdout else None
    content = {"commands": commands, "repeatable": repeatable, "code": done.returncode, "output": output}
    (work / f"outputs/{key}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def hash_first_geometry(preset: str) -> str:
    """Return the fingerprint of a preset in the geometry that it had when the files were written."""
    from lgc.models import SearchSpace

    return SearchSpace.check({**SearchSpace.load(preset).to_dict(), "geometry": 1}, preset).fingerprint


def values(folder: Path) -> dict[str, Any]:
    """Return values of the files in `folder`, read in Python; the tests compare them with `values.json`."""
    from lgc.models import PRESETS, Architecture

    files = sorted([*folder.glob("architectures/*.json"), folder / "run/architecture.json"])
    return {
        "presets": {name: hash_first_geometry(name) for name in sorted(PRESETS)},
        "architectures": {
            str(path.relative_to(folder)): architecture_values(Architecture.load(path)) for path in files
        },
        "tables": {
            str(path.relative_to(folder)): table_values(path, folder)
            for path in sorted(folder.glob("tables/*.lut"))
            if path.name not in ("schema-1.lut", "unfinished.lut")
        },
    }


def architecture_values(architecture: Any) -> dict[str, Any]:
    """Return choices, costs and space of an architecture."""
    return {
        "space": architecture.space.fingerprint,
        "choices": list(architecture.choices[: architecture.space.edges]),
        "head": architecture.choices[-1],
        "macs": architecture.macs,
        "parameters": architecture.parameters,
    }


def table_values(path: Path, folder: Path) -> dict[str, Any]:
    """Return fingerprints of a table and its predictions for the architectures of its space."""
    from lgc.lut import LatencyTable, Predictor
    from lgc.models import Architecture

    with LatencyTable.open(path) as table:
        predictors = {scope: Predictor(table.space, table, scope) for scope in ("core", "dense")}
    space = predictors["dense"].space
    files = sorted([*folder.glob("architectures/*.json"), folder / "run/architecture.json"])
    members = {str(file.relative_to(folder)): Architecture.load(file) for file in files}
    members = {name: one for name, one in members.items() if one.space.fingerprint == space.fingerprint}
    assert members, f"no architecture of {path}"
    return {
        "space": space.fingerprint,
        "fingerprints": {scope: predictor.fingerprint for scope, predictor in predictors.items()},
        "fastest_ms": predictors["dense"].predict(predictors["dense"].fastest),
        "slowest_ms": predictors["dense"].predict(predictors["dense"].slowest),
        "predictions": {
            name: {scope: prediction(predictor, one) for scope, predictor in predictors.items()}
            for name, one in members.items()
        },
    }


def prediction(predictor: Any, architecture: Any) -> list[float]:
    """Return the prediction and its interval, milliseconds."""
    interval = predictor.interval(architecture)
    return [predictor.predict(architecture), interval.low_ms, interval.high_ms]


def clean(work: Path) -> None:
    """Remove intermediate folders, and compress tables and checkpoints."""
    for name in ("older", "front", "exported"):
        shutil.rmtree(work / name)
    for path in [path for path in work.rglob("*") if path.suffix in PACKED]:
        packed = path.with_name(f"{path.name}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()


def forget_folders(work: Path) -> None:
    """Cut folders of this machine off the paths in JSON files."""
    for path in work.rglob("*.json"):
        text = path.read_text().replace(f"{Path(sys.executable).parent}/", "").replace(f"{work.resolve()}/", "")
        path.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
