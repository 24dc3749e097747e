"""TensorRT's Python API without TensorRT: its bindings, imported with a stub of the libraries they are linked to.

As a script, it prints the API of the given module as JSON: class -> member -> possible numbers of arguments, or null if
it is not a method. The module's own names are under the empty class.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

FULL = {line.partition("==")[2]: line for line in Path(__file__).with_name("bindings.txt").read_text().split()}
"""Versions of full TensorRT whose bindings `make` installs, each in a folder."""
RTX = "TensorRT-RTX"
FOLDER = Path(sys.prefix) / "bindings"
TOOLS = ("gcc", "nm", "readelf")


def diagnose():
    """Return None if the API can be inspected on this machine, else the reason."""
    tools = [tool for tool in TOOLS if shutil.which(tool) is None]
    if tools:
        return f"the stub of TensorRT needs {', '.join(tools)}"
    absent = [version for version in FULL if not (FOLDER / version / "tensorrt_bindings").is_dir()]
    if absent:
        return f"no bindings of TensorRT {', '.join(absent)} in {FOLDER}: `make {FOLDER.parent.name}/.bindings`"
    return None


def make_environments(make_folder):
    """Return version -> name of the bindings' module, and the environment in which Python imports it with a stub.

    The installed TensorRT-RTX is included; `make_folder` returns a new folder for a name.
    """
    packages = {version: FOLDER / version / "tensorrt_bindings" for version in FULL}
    rtx = find_spec("tensorrt_rtx_bindings")
    if rtx is not None:
        packages[RTX] = Path(rtx.origin).parent
    result = {}
    for version, package in packages.items():
        stub = make_folder(version)
        (binary,) = package.glob("tensorrt*.so")
        build_stub(binary, stub)
        paths = [str(package.parent)] if version in FULL else []
        variables = {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
        result[version] = package.name, {**os.environ, **variables, "LD_LIBRARY_PATH": str(stub)}
    return result


def build_stub(binary, folder):
    """Build stubs of the TensorRT libraries of `binary` in `folder`, with every function that it imports."""
    undefined = [line.split() for line in run_command("nm", "-D", "--undefined-only", binary).splitlines()]
    symbols = [name for kind, name in undefined if kind == "U" and not re.search(r"@|^_?Py|^dl", name)]
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in symbols)
    needed = re.findall(r"NEEDED.*\[(lib(?:nv|tensorrt)[^]]*)\]", run_command("readelf", "-d", binary))
    first, *others = [folder / name for name in needed]
    run_command("gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", first, input=source)
    for path in others:
        path.symlink_to(first)


def run_command(*command, **options):
    """Return the output of a command."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
    return done.stdout


def read_api(module):
    """Return class -> member -> numbers of arguments, for `module` and all its classes."""
    classes = {}

    def visit(owner, path):
        members = classes[path] = {}
        for name in dir(owner):
            value = getattr(owner, name)
            if inspect.isclass(value) and not name.startswith("_"):
                members[name] = count_arguments(value.__init__, "__init__")
                visit(value, f"{path}.{name}".lstrip("."))
            elif not name.startswith("__"):
                members[name] = count_arguments(value, name)

    visit(module, "")
    return classes


def count_arguments(method, name):
    """Return the numbers of arguments of a method's overloads, from its documentation; None without one."""
    numbers = set()
    for arguments in re.findall(
        rf"^(?:\d+\. )?{name}\((.*)\) -> ", getattr(method, "__doc__", None) or "", re.MULTILINE
    ):
        flat = re.sub(r"\[[^][]*\]|<[^>]*>", "", re.sub(r"\[[^][]*\]", "", arguments))
        parts = [part for part in flat.split(", ") if not part.startswith("self:")]
        if any(part.startswith("*") for part in parts):
            return None
        numbers.update(range(sum(" = " not in part for part in parts), len(parts) + 1))
    return sorted(numbers) or None


if __name__ == "__main__":
    json.dump(read_api(import_module(sys.argv[1])), sys.stdout)
