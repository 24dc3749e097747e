"""TensorRT's Python API without TensorRT: its bindings, imported over a stub of the libraries that they are linked to.

Run as a script, this prints the API of the module it is given as JSON: class -> member -> the numbers of arguments that
it takes, or null where it is no method. The module's own names stand under the empty class.
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
"""Versions of full TensorRT whose bindings `make` installs, one folder each."""
RTX = "TensorRT-RTX"
FOLDER = Path(sys.prefix) / "bindings"
TOOLS = ("gcc", "nm", "readelf")


def missing():
    """Why the API cannot be looked at here; None if it can."""
    tools = [tool for tool in TOOLS if shutil.which(tool) is None]
    if tools:
        return f"the stub of TensorRT needs {', '.join(tools)}"
    absent = [version for version in FULL if not (FOLDER / version / "tensorrt_bindings").is_dir()]
    if absent:
        return f"no bindings of TensorRT {', '.join(absent)} in {FOLDER}: `make {FOLDER.parent.name}/.bindings`"
    return None


def environments(make_folder):
    """Version -> name of the bindings' module, and the environment variables with which Python imports it over a stub.

    TensorRT-RTX, whose bindings are installed, is one of them; `make_folder` gives a new folder for a name.
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
    """Build the libraries of TensorRT that `binary` needs into `folder`, with every function that it imports."""
    undefined = [line.split() for line in output("nm", "-D", "--undefined-only", binary).splitlines()]
    ours = [name for kind, name in undefined if kind == "U" and not re.search(r"@|^_?Py|^dl", name)]
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in ours)
    needed = re.findall(r"NEEDED.*\[(lib(?:nv|tensorrt)[^]]*)\]", output("readelf", "-d", binary))
    first, *others = [folder / name for name in needed]
    output("gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", first, input=source)
    for path in others:
        path.symlink_to(first)


def output(*words, **options):
    """What a command prints."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout


def api(module):
    """Class -> member -> numbers of arguments, of `module` and all classes inside."""
    classes = {}

    def visit(owner, path):
        members = classes[path] = {}
        for name in dir(owner):
            value = getattr(owner, name)
            if inspect.isclass(value) and not name.startswith("_"):
                members[name] = counts(value.__init__, "__init__")
                visit(value, f"{path}.{name}".lstrip("."))
            elif not name.startswith("__"):
                members[name] = counts(value, name)

    visit(module, "")
    return classes


def counts(method, name):
    """The numbers of arguments that the overloads of a method take, from its documentation; None if it has none."""
    found = set()
    for arguments in re.findall(
        rf"^(?:\d+\. )?{name}\((.*)\) -> ", getattr(method, "__doc__", None) or "", re.MULTILINE
    ):
        flat = re.sub(r"\[[^][]*\]|<[^>]*>", "", re.sub(r"\[[^][]*\]", "", arguments))
        parts = [part for part in flat.split(", ") if not part.startswith("self:")]
        if any(part.startswith("*") for part in parts):
            return None
        found.update(range(sum(" = " not in part for part in parts), len(parts) + 1))
    return sorted(found) or None


if __name__ == "__main__":
    json.dump(api(import_module(sys.argv[1])), sys.stdout)
