"""Imports of the user's files: each folder has modules of its own, as in a process of its own.

`exp1/net.py` and `exp2/net.py` may both import `layers.block` of their folder, at once or later, when a function runs.
These modules are named `lgc_plugin_<hash of the folder>.layers.block` in `sys.modules`. Only code of the folder gets
them, as its `__import__` looks there first; lgc, torch and installed packages never see them. As an exception, names
that such a package imports for the user's code, e.g. in `torch.load`, are looked up there after all other places.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

PREFIX = "lgc_plugin_"
"""Start of the names of the user's modules."""
_COMMON = {*sys.stdlib_module_names, __name__.partition(".")[0], "torch", "numpy"}
"""Modules that a folder cannot replace: the standard library, and those whose objects are exchanged with lgc."""

_folders: dict[str, Folder] = {}
"""Folders of the files that were loaded, by the name of their package."""
_aliases: set[str] = set()
"""Names that `_AliasLoader` gave to modules of a folder."""


class Folder:
    """Folder of the user's files.

    Attributes:
        package: Name of the package that holds its modules.
        paths: Places of these modules: the folder, and what its code adds to `sys.path`.
    """

    @classmethod
    def of(cls, path: Path) -> Folder:
        """Return the folder with this path, the same one on every call."""
        package = f"{PREFIX}{_hash(path)}"
        if package not in _folders:
            _folders[package] = cls(path, package)
        return _folders[package]

    def __init__(self, path: Path, package: str) -> None:
        self.package, self.paths = package, [str(path)]
        self._first, self._appended = [str(path)], list[str]()
        self._places: Sequence[str] = ()
        self._known: set[str] = set()
        self._foreign: set[str] = set()
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._importlib = _Importlib(self)
        module = module_from_spec(ModuleSpec(package, None, is_package=True))
        module.__path__ = self.paths
        sys.modules[package] = module
        if _FIRST not in sys.meta_path:
            sys.meta_path[:] = [_FIRST, *sys.meta_path, _LAST]

    def load_file(self, path: Path) -> ModuleType:
        """Import a file of the folder, once. Modules are also looked up in the current folder, after all other places.

        What the file adds to `sys.path` is a place of the folder's modules from then on, and of no others.
        """
        name = f"{PREFIX}{path.stem}_{_hash(path)}"
        if name in sys.modules:
            return sys.modules[name]
        loader = self.make_loader(name, str(path))
        spec = spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        module = sys.modules[name] = module_from_spec(spec)
        self._places = (*sys.path,)
        try:
            with current_folder():
                self.exclude_entries({*sys.path})
                loader.exec_module(module)
                self._adopt_paths()
        except BaseException:
            del sys.modules[name]
            raise
        return module

    def make_loader(self, name: str, path: str) -> SourceFileLoader:
        """Return the loader of a source file whose imports look in the folder first."""
        return _SourceLoader(name, path, self._builtins)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """Import a module for code of the folder, as `importlib.import_module` does."""
        if self.has(name.partition(".")[0]):
            name = f"{self.package}.{name}"
        return importlib.import_module(name, package)

    def exclude_entries(self, places: set[str]) -> None:
        """Treat these entries of `sys.path` as others' from now on."""
        self._known |= places

    def has(self, name: str, importer: object = None) -> bool:
        """Return True if the folder's code gets a top-level module from the folder.

        Args:
            name: Name of the module; empty for a relative import.
            importer: File of the code that imports it; never this module itself: `unet.py` may import an installed
                package `unet`.
        """
        if not name or name in _COMMON:
            return False
        self._adopt_paths()
        full = f"{self.package}.{name}"
        if full in sys.modules:
            return importer is None or getattr(sys.modules[full], "__file__", None) != importer
        if name in self._foreign and name in sys.modules:
            return False
        spec = PathFinder.find_spec(full, self.paths)
        if spec is None or (importer is not None and spec.origin == importer):
            return False
        if not self._is_common(name, spec):
            return True
        self._foreign.add(name)
        return False

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import a module for a statement of the folder's code; see `builtins.__import__`."""
        # C code, e.g. `pickle`, passes a list and then takes the module from `sys.modules`: `_LastFinder` serves it
        top = "" if level or isinstance(fromlist, list) else name.partition(".")[0]
        if self.has(top, (globals or {}).get("__file__")):
            module = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or ())
            return module if fromlist else sys.modules[f"{self.package}.{top}"]
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        return self._importlib if module is importlib else module

    def _adopt_paths(self) -> None:
        """Add what the folder's code has added to `sys.path` to the places of the folder's modules."""
        added = [place for place in sys.path if place not in self._known and isinstance(place, str)]
        if not added:
            return
        start = next((index for index, place in enumerate(sys.path) if place in self._known), 0)
        for place in added:
            places = self._first if place in sys.path[:start] else self._appended
            if (resolved := _resolve(place)) not in self.paths:
                places.append(resolved)
        self._known.update(added)
        self.paths[:] = [*self._first, *self._appended]

    def _is_common(self, name: str, own: ModuleSpec) -> bool:
        """Return True if the folder's code gets a module by its name as all other code does.

        It is the same file, e.g. with PYTHONPATH; or another one, and the folder's is in a place that its code has
        appended to `sys.path`, or has no `__init__.py`, as a folder of data.
        """
        other = _find_elsewhere(name, sys.path if own.origin is None else self._places)
        if other is None:
            return False
        if PathFinder.find_spec(f"{self.package}.{name}", self._first) is None:
            return True
        if own.origin is None:
            return other.origin is not None
        return other.origin is not None and os.path.realpath(other.origin) == os.path.realpath(own.origin)


class _SourceLoader(SourceFileLoader):
    """Loader of a source file whose code has builtins of its own."""

    def __init__(self, name: str, path: str, own_builtins: dict[str, object]) -> None:
        super().__init__(name, path)
        self._builtins = own_builtins

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)


class _Importlib(ModuleType):
    """`importlib` of a folder's code."""

    def __init__(self, folder: Folder) -> None:
        super().__init__("importlib")
        self.import_module = folder.import_module

    def __getattr__(self, name: str) -> object:
        return getattr(importlib, name)


class _AliasLoader(Loader):
    """Loader that gives a second name to a module of a folder."""

    def __init__(self, target: str) -> None:
        self._target = target

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._target)
        _aliases.add(module.__name__)


class _FirstFinder(MetaPathFinder):
    """Finder of the modules of folders, by their own names, and below an alias."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, last = fullname.rpartition(".")
        name = getattr(sys.modules.get(parent), "__name__", parent)
        folder = _folders.get(name.partition(".")[0])
        if folder is None:
            return None
        if name != parent:
            return ModuleSpec(fullname, _AliasLoader(f"{name}.{last}"))
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = folder.make_loader(fullname, spec.origin)
        return spec


class _LastFinder(MetaPathFinder):
    """Finder of a module that no other finder knows, for installed code that the user's code calls."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        frame = sys._getframe(1) if path is None else None
        while frame is not None:
            folder = getattr(frame.f_builtins.get("__import__"), "__self__", None)
            if isinstance(folder, Folder):
                return (
                    ModuleSpec(fullname, _AliasLoader(f"{folder.package}.{fullname}")) if folder.has(fullname) else None
                )
            frame = frame.f_back
        return None


_FIRST, _LAST = _FirstFinder(), _LastFinder()


@contextmanager
def isolate_folders() -> Iterator[None]:
    """Undo at the end what a call of the user's code imports by way of other code, and what it adds to `sys.path`."""
    places = {*sys.path}
    for folder in _folders.values():
        folder.exclude_entries(places)
    _forget_aliases()
    try:
        yield
    finally:
        _forget_aliases()
        own = {path for folder in _folders.values() for path in folder.paths}
        sys.path[:] = [place for place in sys.path if place in places or _resolve(place) not in own]


def _forget_aliases() -> None:
    while _aliases:
        sys.modules.pop(_aliases.pop(), None)


@contextmanager
def current_folder() -> Iterator[None]:
    """Look modules up in the current folder too, after all other places."""
    folder = str(Path.cwd())
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def list_folders() -> list[Path]:
    """Return the places of all modules of the user's files."""
    return [Path(path) for folder in _folders.values() for path in folder.paths]


def strip_packages(text: str) -> str:
    """Return a message with the names of the user's modules as their code has them."""
    return re.sub(rf"\b{PREFIX}[0-9a-f]{{8}}\.", "", text)


def _find_elsewhere(name: str, places: Sequence[str]) -> ModuleSpec | None:
    """Return the module that code outside of all folders gets; None without one."""
    loaded = None if name in _aliases else sys.modules.get(name)
    if loaded is not None and loaded.__spec__ is not None:
        return loaded.__spec__
    for finder in sys.meta_path:
        if finder is PathFinder:
            spec = PathFinder.find_spec(name, places)
        elif finder in (_FIRST, _LAST):
            continue
        else:
            spec = finder.find_spec(name, None)
        if spec is not None:
            return spec
    return None


def _resolve(place: str) -> str:
    return str(Path(place).resolve())


def _hash(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:8]
