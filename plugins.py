"""Python code of the user's, loaded only where the command line or a Python call names it.

A reference is a file or a module, `FILE.py` or `package.module`; `FILE.py:NAME` names an object in it. Nothing that is
named inside a table, a run folder or a YAML file is ever passed to this module.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import LgcError, PluginError
from .files import LFS_POINTER, hash_file, is_lfs_pointer
from .plugin_imports import ImportScope, list_folders

_PACKAGES = ("lut", "models", "profiler", "report", "search", "tools", "plugins.py", "plugin_imports.py")
_OWN_SOURCES = tuple(str(Path(__file__).parent / name) for name in _PACKAGES)
_TORCH_FOLDER = f"{os.sep}site-packages{os.sep}torch{os.sep}"

_loaded: dict[str, None] = {}
"""References of the plugins from `load_plugins`, in order; files are absolute paths."""


@dataclass(frozen=True)
class Plugin:
    """Loaded module of the user's.

    Attributes:
        reference: File or module, as named by the user.
        module: The module.
        path: Its source file; None for a module without one, e.g. a compiled extension.
        digest: 12 hexadecimal digits of the SHA-256 of the source file; empty without one.
        scope: Where its code imports from.
    """

    reference: str
    module: ModuleType
    path: Path | None
    digest: str
    scope: ImportScope


def load_plugin(reference: str) -> Plugin:
    """Import a file or a module, once in a process.

    A file imports modules of its own folder before installed ones, also later, when its functions run. It imports
    modules of the current folder after installed ones if it is below that folder, as modules do; see `ImportScope`.

    Raises:
        PluginError: There is no such file or module, or it raises an error; the message has its line.
    """
    if reference.endswith(".py"):
        path = Path(reference).resolve()
        if not path.is_file():
            raise PluginError(f"no such file: {reference}")
        if is_lfs_pointer(path):
            raise PluginError(f"{path}: it is {LFS_POINTER}")
        digest = hash_file(path)
        scope = ImportScope.of_file(path)
        with _explain_errors(str(path), scope):
            module = scope.load_file()
        return Plugin(reference, module, path, digest, scope)
    if not all(part.isidentifier() for part in reference.split(".")):
        raise PluginError(f"{reference!r} is neither a Python file (FILE.py) nor a module (package.module)")
    scope = ImportScope.of_packages()
    with _explain_errors(reference, scope):
        module = importlib.import_module(reference)
    source = Path(module.__file__) if module.__file__ and module.__file__.endswith(".py") else None
    return Plugin(reference, module, source, "" if source is None else hash_file(source), scope)


def load_plugins(references: Iterable[str]) -> None:
    """Load plugins that register operators, in order; see `load_plugin`."""
    for reference in references:
        plugin = load_plugin(reference)
        _loaded[str(plugin.path) if reference.endswith(".py") else reference] = None


def list_plugins() -> tuple[str, ...]:
    """Return the references that `load_plugins` loaded, with which another process of this machine loads them too."""
    return tuple(_loaded)


@cache
def load_entry_points(group: str) -> tuple[str, ...]:
    """Load the entry points of a group from the installed packages, once in a process.

    Returns:
        A message for each one that cannot be loaded.
    """
    from importlib.metadata import entry_points  # 20 ms

    failures = []
    for entry in entry_points(group=group):
        source = f"entry point {entry.value} of package {entry.dist.name if entry.dist else 'unknown'}"
        try:
            with _explain_errors(source):
                entry.load()
        except PluginError as error:
            failures.append(str(error))
    return tuple(failures)


def load_object(reference: str) -> tuple[object, Plugin]:
    """Return the object named by `FILE.py:NAME` or `package.module:NAME`, and its module.

    Raises:
        PluginError: See `load_plugin`; or the module has no such object.
    """
    source, colon, name = reference.rpartition(":")
    if not colon or not source or not name:
        raise PluginError(f"{reference!r} names no object: write FILE.py:NAME or package.module:NAME")
    plugin = load_plugin(source)
    value: object = plugin.module
    for part in name.split("."):
        if not hasattr(value, part):
            public = ", ".join(sorted(key for key in vars(plugin.module) if not key.startswith("_"))) or "nothing"
            raise PluginError(f"{source} has no {name!r}; it has {public}")
        value = getattr(value, part)
    return value, plugin


@contextmanager
def _explain_errors(reference: str, scope: ImportScope | None = None) -> Iterator[None]:
    """Turn an error of the user's code into a PluginError with the line that raised it; see `isolate_user_code`."""
    try:
        with isolate_user_code(reference, scope):
            yield
    except ModuleNotFoundError as error:
        if error.name is not None and (reference == error.name or reference.startswith(f"{error.name}.")):
            raise PluginError(
                f"no module {reference!r}: install it, or run the command in the folder that holds it"
            ) from error
        raise PluginError(f"cannot load {reference}: {error}") from error
    except (Exception, SystemExit) as error:
        text = describe_error(error)
        if isinstance(error, LgcError):
            text = text.removeprefix(f"{type(error).__name__}: ")
        raise PluginError(f"cannot load {reference}: {text}{_explain_import(error)}") from error


def _explain_import(error: BaseException) -> str:
    """Return how to fix an import that Python cannot make from a file; empty for other errors."""
    if not isinstance(error, ImportError):
        return ""
    if "no known parent package" in str(error):
        return (
            "; a file has no package to import from: pass package.module instead of FILE.py, and run the command in "
            "the folder that holds the package, or add that folder to PYTHONPATH"
        )
    for folder in list_folders() if error.name and error.path else ():
        own = folder / f"{error.name}.py"
        if own.is_file() and not own.samefile(str(error.path)):
            return f"; {own} has the name of a module that is installed: rename it"
    return ""


@contextmanager
def isolate_user_code(name: str, scope: ImportScope | None = None) -> Iterator[None]:
    """Send what code of the user's prints to stderr, hide the command line's options, and import from its places."""
    arguments = sys.argv
    sys.argv = [name]
    try:
        with redirect_stdout(sys.stderr), scope.activate() if scope is not None else nullcontext():
            yield
    finally:
        sys.argv = arguments


def describe_error(error: BaseException) -> str:
    """Return type, message and line of an error, in one line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    message = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        message = f"the code ends the program with exit code {message or 0}"
    place = locate_error(error)
    return f"{type(error).__name__}{': ' * bool(message)}{message}{place and f' ({place})'}"


def locate_error(error: BaseException) -> str:
    """Return file and line of the innermost code of the user's that an error passed, else of its origin."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    frames = [frame for frame in frames if is_user_file(frame.filename)] or frames
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def is_user_file(name: str) -> bool:
    """Return False for sources that are not the user's: torch's, lgc's, and generated code."""
    return not name.startswith(("<", *_OWN_SOURCES)) and _TORCH_FOLDER not in name
