"""Imports of the user's files: each file has a search path and modules of its own, as in a process of its own.

`exp1/net.py` and `exp2/net.py` may both import `layers.block` of their folder. While code of a file runs, `sys.path`
begins with its folder, and `sys.modules` holds its modules under their plain names, so that every way of importing
works: statements, `importlib`, pickles, `torch.hub`. Afterwards both are as before; only modules whose names nothing
else has stay until another file runs. Code of a file has an `__import__` of its own, so that a function that imports
when it runs later, e.g. `forward`, gets the file's modules too.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

PREFIX = "lgc_plugin_"
"""Start of the names of the user's files."""
_COMMON = {*sys.stdlib_module_names, __name__.partition(".")[0], "torch", "numpy"}
"""Modules that a file cannot replace: the standard library, and those whose objects are exchanged with lgc."""


class ImportScope:
    """Search path and modules of a file of the user's, or of the packages in the current folder.

    Attributes:
        file: The file; None for packages.
        modules: Its modules by their names.
    """

    @classmethod
    def of_file(cls, file: Path) -> ImportScope:
        """Return the scope of a file: its folder first, and the current folder last if the file is below it."""
        folder = Path.cwd()
        return _scopes.setdefault(file, cls(file, [str(file.parent)], [str(folder)] * file.is_relative_to(folder)))

    @classmethod
    def of_packages(cls) -> ImportScope:
        """Return the scope of packages in the current folder, which are found after installed ones."""
        folder = Path.cwd()
        return _scopes.setdefault(folder, cls(None, [], [str(folder)]))

    def __init__(self, file: Path | None, first: Sequence[str], last: Sequence[str]) -> None:
        self.file, self.modules = file, dict[str, ModuleType]()
        self._first, self._last, self._base = [*first], [*last], list[str]()
        self._names: dict[str, bool] = {}  # top-level module of the scope -> whether other code gets another one
        self._foreign: set[str] = set()  # top-level modules of other code that functions of the scope import
        self._hidden: dict[str, ModuleType] = {}
        self._builtins = {**vars(builtins), "__import__": self._import}

    def load_file(self) -> ModuleType:
        """Import the file, once."""
        assert self.file is not None
        if self._file_name in sys.modules:
            return sys.modules[self._file_name]
        loader = _SourceLoader(self._file_name, str(self.file), self._builtins)
        spec = spec_from_file_location(self._file_name, self.file, loader=loader)
        assert spec is not None
        module = sys.modules[self._file_name] = module_from_spec(spec)
        try:
            with self.activate():
                loader.exec_module(module)
        except BaseException:
            del sys.modules[self._file_name]
            raise
        return module

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Import as the file does: its search path and its modules, which hide others of these names."""
        outer = _state.active
        if outer is self:
            yield
            return
        if outer is not None:
            outer._leave()
        self._enter()
        try:
            yield
        finally:
            self._leave()
            if outer is not None:
                outer._enter()

    def find_spec(self, name: str) -> ModuleSpec | None:
        """Find a top-level module for code of the scope; None if other code gets the same one, or there is none."""
        if name in _COMMON:
            return PathFinder.find_spec(name, self._base)
        first, last = self._split_path()
        other = _find_elsewhere(name, self._base)
        spec = _find_code(name, [*first, *self._base]) or (None if other else _find_code(name, last))
        if spec is None or (other is not None and (spec.origin is None or _are_same(spec, other))):
            return None
        if spec.origin == str(self.file):
            if other is not None:  # `unet.py` imports the installed package `unet`
                return other
            spec.loader = _AliasLoader(sys.modules[self._file_name])
        self._names[name] = other is not None
        return self.adopt(spec)

    def find_submodule(self, name: str, places: Sequence[str]) -> ModuleSpec | None:
        """Find a module in a package of the scope; None if the package is not the scope's."""
        return self.adopt(PathFinder.find_spec(name, places)) if name.partition(".")[0] in self._names else None

    def adopt(self, spec: ModuleSpec | None) -> ModuleSpec | None:
        """Give the code of a source file the imports of this scope."""
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(spec.loader.name, spec.loader.path, self._builtins)
        return spec

    def list_folders(self) -> list[Path]:
        """Return the places of the scope's modules."""
        return [Path(place) for place in (*self._first, *self._last)]

    @property
    def _file_name(self) -> str:
        """Name of the file's own module."""
        assert self.file is not None
        return f"{PREFIX}{self.file.stem}_{hashlib.sha256(str(self.file).encode()).hexdigest()[:8]}"

    def _enter(self) -> None:
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        if _state.latest is not None:
            _take_modules(_state.latest._list_unknown())
        self._base, _state.active, _state.latest = [*sys.path], self, None
        sys.path[:] = [*self._first, *self._base, *self._last]
        loaded = {name for name in sys.modules if "." not in name} - self._names.keys() - _COMMON
        for place in self._first:
            for name in loaded.intersection(_list_modules(place)):
                self.find_spec(name)
        self._hidden = _take_modules(self._names)
        sys.modules.update(self.modules)

    def _leave(self) -> None:
        self._first, self._last = self._split_path()
        sys.path[:] = self._base
        self.modules = _take_modules(self._names)
        unknown = self._list_unknown()
        sys.modules.update({name: module for name, module in self.modules.items() if name.partition(".")[0] in unknown})
        sys.modules.update(self._hidden)
        _state.active, _state.latest = None, self

    def _list_unknown(self) -> set[str]:
        """Return the top-level modules of the scope whose names are unknown to other code."""
        return {name for name, is_known in self._names.items() if not is_known}

    def _split_path(self) -> tuple[list[str], list[str]]:
        """Return the places of the scope in `sys.path`: before and after those of other code."""
        start = next((index for index, place in enumerate(sys.path) if place in self._base), len(sys.path))
        return sys.path[:start], [place for place in sys.path[start:] if place not in self._base]

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import a module for a statement of the scope's code; see `builtins.__import__`."""
        top = name.partition(".")[0]
        is_foreign = not level and (top in _COMMON or top in self._foreign)
        is_present = _state.latest is self and not any(self._names.values()) and (level > 0 or top in self._names)
        if is_foreign or is_present:  # quick, as `forward` may import at every call
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        with self.activate():
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if not level and top not in self._names:
            self._foreign.add(top)
        return module


class _State:
    """Scope that imports now.

    Attributes:
        active: Scope whose code runs; None for other code.
        latest: Scope whose modules are still in `sys.modules`, while none is active.
    """

    active: ImportScope | None = None
    latest: ImportScope | None = None


class _SourceLoader(SourceFileLoader):
    """Loader of a source file whose code has builtins of its own."""

    def __init__(self, name: str, path: str, own_builtins: dict[str, object]) -> None:
        super().__init__(name, path)
        self._builtins = own_builtins

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)


class _AliasLoader(Loader):
    """Loader of a module that has been loaded under another name."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is."""


class _ScopeFinder(MetaPathFinder):
    """Finder of the modules of the active scope."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module for the code that runs; None if other code gets the same one, or none runs."""
        scope = _state.active
        if scope is None:
            return None
        return scope.find_spec(fullname) if path is None else scope.find_submodule(fullname, path)


_scopes: dict[Path, ImportScope] = {}
"""Scopes by their file, or by the current folder of packages."""
_state = _State()
_FINDER = _ScopeFinder()


def list_folders() -> list[Path]:
    """Return the places of all modules of the user's."""
    return [place for scope in _scopes.values() for place in scope.list_folders()]


def _take_modules(names: Container[str]) -> dict[str, ModuleType]:
    """Remove top-level modules and those below them from `sys.modules`, and return them."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in names}


def _list_modules(place: str) -> set[str]:
    """Return the names in a folder that may be modules."""
    try:
        return {path.name.partition(".")[0] for path in Path(place).iterdir()}
    except OSError:
        return set()


def _find_code(name: str, places: Sequence[str]) -> ModuleSpec | None:
    """Return a top-level module in one of some places; None without one, and for folders without modules."""
    spec = PathFinder.find_spec(name, places)
    if spec is None or spec.origin is not None:
        return spec
    folders = map(Path, spec.submodule_search_locations or ())
    return (
        spec if any(path.suffix == ".py" or path.is_dir() for folder in folders for path in folder.iterdir()) else None
    )


def _find_elsewhere(name: str, places: Sequence[str]) -> ModuleSpec | None:
    """Return the module that code outside of all scopes gets; None without one."""
    for finder in sys.meta_path:
        if finder is _FINDER:
            continue
        spec = PathFinder.find_spec(name, places) if finder is PathFinder else finder.find_spec(name, None)
        if spec is not None:
            return spec
    return None


def _are_same(spec: ModuleSpec, other: ModuleSpec) -> bool:
    """Return True for one file, or for a package without a file."""
    origins = [each.origin for each in (spec, other)]
    return None in origins or os.path.realpath(str(origins[0])) == os.path.realpath(str(origins[1]))
