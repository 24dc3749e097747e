"""Count violations of the rules for structure and language in a checkout, for docs/benchmarks/house.md.

    python tests/bench/house.py [ROOT] [--before FILE] [--save FILE] [--out DIR] [--places COUNT]

It needs the standard library only; if ruff is installed, D401 (imperative docstrings) is counted too.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "docs"))
import phrases  # noqa: E402

MAX_LINES, MAX_PARAMETERS, MAX_MODULES, MAX_WORDS = 60, 8, 12, 7
FLOORS = {"errors": -1, "files": 0, "models": 1, "lut": 2, "profiler": 3, "search": 3, "report": 4, "tools": 5}
"""Floor of each package; imports between packages must point to a lower floor."""
Function = ast.FunctionDef | ast.AsyncFunctionDef
Places = list[str]
"""Positions of a count: `file:line description`."""


class Module:
    """A parsed source file.

    Attributes:
        file: Path relative to the checkout.
        name: Dotted name inside lgc, e.g. `lut.table`; for `__init__.py`, that of the package.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.path, self.file = path, path.relative_to(root).as_posix()
        self.package = path.relative_to(root).parts[:-1]
        self.name = ".".join([*self.package, *([] if path.stem == "__init__" else [path.stem])])
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def functions(self) -> Iterator[Function]:
        return (node for node in self.nodes if isinstance(node, Function))

    def place(self, node: ast.AST, text: str = "") -> str:
        return f"{self.file}:{getattr(node, 'lineno', 1)} {text}".rstrip()


def long_functions(module: Module) -> Places:
    lengths = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in module.functions]
    return [module.place(node, f"{node.name}: {length} lines") for node, length in lengths if length > MAX_LINES]


def many_parameters(module: Module) -> Places:
    counts = []
    for node in module.functions:
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        counts.append((node, len([argument for argument in every if argument.arg not in {"self", "cls"}])))
    return [module.place(node, f"{node.name}: {count}") for node, count in counts if count > MAX_PARAMETERS]


def many_arguments(module: Module) -> Places:
    calls = [(node, len(node.args) + len(node.keywords)) for node in module.nodes if isinstance(node, ast.Call)]
    return [module.place(node, f"{ast.unparse(node.func)}: {count}") for node, count in calls if count > MAX_PARAMETERS]


def cpu_comparisons(module: Module) -> Places:
    """Find comparisons with the string "cpu": ==, !=, `in` and `case`."""
    hits = []
    for node in module.nodes:
        if isinstance(node, ast.Compare):
            sides: list[ast.expr] = [node.left, *node.comparators]
            sides += [item for side in sides if isinstance(side, ast.Tuple | ast.List | ast.Set) for item in side.elts]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        if any(isinstance(side, ast.Constant) and side.value == "cpu" for side in sides):
            hits.append(module.place(node, ast.unparse(node)))
    return hits


def parsed_devices(module: Module) -> Places:
    """Find parsed device strings: any.startswith("cuda"), any.removeprefix("cuda:"), device.partition(":")."""
    prefix = re.compile(r"(startswith|removeprefix)\(['\"]cuda")
    split = re.compile(r"r?(split|partition)\(['\"]:")
    hits = []
    for node in module.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = f"{node.func.attr}({', '.join(map(ast.unparse, node.args))})"
            if prefix.match(call) or (split.match(call) and "device" in ast.unparse(node.func.value)):
                hits.append(module.place(node, ast.unparse(node)))
    return hits


def open_dicts(module: Module) -> Places:
    """Find dict[str, Any] and dict[str, object], results without declared fields."""
    pattern = re.compile(r"(dict|Dict|Mapping)\[str, (Any|object)\]")
    subscripts = [(node, ast.unparse(node)) for node in module.nodes if isinstance(node, ast.Subscript)]
    return [module.place(node, text) for node, text in subscripts if pattern.fullmatch(text)]


def returned_open_dicts(module: Module) -> Places:
    pattern = re.compile(r"\b(dict|Dict|Mapping)\[str, (Any|object)\]")
    return [
        module.place(node, node.name)
        for node in module.functions
        if node.returns and pattern.search(ast.unparse(node.returns))
    ]


def undocumented(module: Module) -> Places:
    """Find public classes, functions and methods of public classes without docstring."""
    hits = []
    holders: list[ast.Module | ast.ClassDef] = [module.tree]
    while holders:
        for node in holders.pop().body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            overloads = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
            if ast.get_docstring(node) is None and not overloads & {"overload", "override", "setter"}:
                hits.append(module.place(node, node.name))
            if isinstance(node, ast.ClassDef):
                holders.append(node)
    return hits


def banned(module: Module) -> Places:
    return [f"{module.file}:{line} {phrase} -> {instead}" for line, phrase, instead in phrases.banned(module.path)]


PER_MODULE: dict[str, Callable[[Module], Places]] = {
    f"functions over {MAX_LINES} lines": long_functions,
    f"functions with over {MAX_PARAMETERS} parameters": many_parameters,
    f"calls with over {MAX_PARAMETERS} arguments": many_arguments,
    'comparisons with "cpu"': cpu_comparisons,
    "device strings taken apart": parsed_devices,
    "dict[str, Any] or dict[str, object]": open_dicts,
    "functions that return one": returned_open_dicts,
    "public functions and classes without docstring": undocumented,
    "banned phrases and names in sources": banned,
}
"""Function that counts in one module, by title."""


def imported(module: Module, names: set[str]) -> Iterator[tuple[str, bool, ast.AST]]:
    """Yield the imported modules of lgc, with True for lazy and type-only imports, and the node."""
    pending: list[tuple[ast.AST, bool]] = [(module.tree, False)]
    while pending:
        node, lazy = pending.pop()
        if isinstance(node, ast.ImportFrom) and node.level:
            home = [*module.package[: len(module.package) + 1 - node.level], *filter(None, [node.module])]
            for alias in node.names:
                inner, outer = ".".join([*home, alias.name]), ".".join(home)
                yield inner if inner in names else outer, lazy, node
        elif isinstance(node, ast.ImportFrom | ast.Import):
            absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((name.removeprefix("lgc."), lazy, node) for name in absolute if name.startswith("lgc."))
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        pending += [(child, lazy or typing or isinstance(node, Function)) for child in ast.iter_child_nodes(node)]


def import_counts(modules: list[Module]) -> dict[str, Places]:
    """Find imports from the same or a higher floor, and circular imports, with and without lazy imports."""
    names = {module.name for module in modules}
    upward: dict[bool, Places] = {False: [], True: []}
    graphs: dict[bool, dict[str, set[str]]] = {False: defaultdict(set), True: defaultdict(set)}
    for module in modules:
        for name, lazy, node in imported(module, names):
            room, target = module.name.partition(".")[0], name.partition(".")[0]
            if room and target in FLOORS and room != target and FLOORS[target] >= FLOORS.get(room, 5):
                upward[lazy].append(module.place(node, name))
            graphs[True][module.name].add(name)
            if not lazy:
                graphs[False][module.name].add(name)
    return {
        "imports upward, at import": upward[False],
        "imports upward, lazy": upward[True],
        "circles of modules, at import": circles(graphs[False]),
        "circles of modules, lazy imports included": circles(graphs[True]),
    }


def circles(graph: dict[str, set[str]]) -> Places:
    """Return the groups of modules that import each other (strongly connected components of two or more)."""
    reached = {}
    for start in list(graph):
        seen: set[str] = set()
        pending = [start]
        while pending:
            for name in graph.get(pending.pop(), set()) - seen:
                seen.add(name)
                pending.append(name)
        reached[start] = seen
    groups = {
        frozenset({name, *(other for other in seen if name in reached.get(other, ()))})
        for name, seen in reached.items()
        if name in seen
    }
    return sorted(", ".join(sorted(group)) for group in groups if len(group) > 1)


def homonyms(modules: list[Module]) -> Places:
    """Find public classes and UPPER_CASE constants that two or more modules define."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        defined = set()
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                bound = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
                defined |= {name.id for name in bound if name.id.isupper()}
        for name in defined:
            homes[name].append(module.name)
    several = {name: places for name, places in homes.items() if len(places) > 1 and not name.startswith("_")}
    return [f"{name}: {', '.join(sorted(places))}" for name, places in sorted(several.items())]


def not_imperative(root: Path) -> Places | None:
    """Return ruff's D401 findings outside the tests; None without ruff."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        return None
    command = [ruff, "check", "--isolated", "--no-cache", "--select", "D401", "--output-format", "json", "--exit-zero"]
    files = [str(path) for path in phrases.python_files(root)]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=True)
    return [
        f"{Path(item['filename']).resolve().relative_to(root).as_posix()}:{item['location']['row']} {item['message']}"
        for item in json.loads(done.stdout)
    ]


def long_test_names(root: Path) -> Places:
    hits = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function) and node.name.startswith("test_"):
                words = node.name.removeprefix("test_").split("_")
                if len(words) > MAX_WORDS:
                    hits.append(f"{path.relative_to(root).as_posix()}:{node.lineno} {node.name}")
    return hits


def count(root: Path) -> tuple[dict[str, object], dict[str, Places]]:
    """Return the counts by title, and the positions behind them."""
    modules = [Module(root, path) for path in phrases.python_files(root)]
    folders = Counter("/".join(module.package) or "." for module in modules if module.path.stem != "__init__")
    places = {title: [place for module in modules for place in find(module)] for title, find in PER_MODULE.items()}
    pages = [path for path in phrases.prose_files(root) if path.suffix == ".md"]
    places["banned phrases in pages"] = [
        f"{path.relative_to(root).as_posix()}:{line} {phrase} -> {instead}"
        for path in pages
        for line, phrase, instead in phrases.banned(path)
    ]
    places |= import_counts(modules)
    places["homonyms: classes and constants of several modules"] = homonyms(modules)
    imperative = not_imperative(root)
    if imperative is not None:
        places["docstrings that are not imperative (ruff D401)"] = imperative
    places[f"names of tests over {MAX_WORDS} words"] = long_test_names(root)
    lines = {module.file: module.source.count("\n") for module in modules}
    longest = max(lines, key=lambda file: lines[file])
    largest = max(folders, key=lambda folder: folders[folder])
    numbers: dict[str, int] = {
        "modules": sum(folders.values()),
        "lines": sum(lines.values()),
        "functions": sum(len(list(module.functions)) for module in modules),
        "modules in the largest folder": folders[largest],
        f"folders with over {MAX_MODULES} modules": sum(number > MAX_MODULES for number in folders.values()),
        "lines of the longest file": lines[longest],
        **{title: len(hits) for title, hits in places.items()},
    }
    commit = git(root, "rev-parse", "--short", "HEAD") or "unknown"
    changed = git(root, "status", "--porcelain", "--", ".", ":!docs/benchmarks")
    result: dict[str, object] = {
        "commit": commit + ("-dirty" if changed else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "banned_patterns": len(phrases.PHRASES) + len(phrases.NAMES),
        "counts": numbers,
        "largest_folder": largest,
        "longest_file": longest,
        "modules_per_folder": dict(sorted(folders.items())),
        "homonyms": places["homonyms: classes and constants of several modules"],
    }
    return result, places


def git(root: Path, *arguments: str) -> str:
    """Return the output of a git command in a checkout; empty if git fails."""
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True).stdout.strip()


def rows(now: dict, before: dict | None) -> list[tuple[str, ...]]:
    """Return the rows of the table: title, before (optional), after."""
    columns = [result for result in (before, now) if result is not None]
    titles = list(dict.fromkeys(title for result in columns for title in result["counts"]))
    folders = sorted({folder for result in columns for folder in result["modules_per_folder"]})
    return [
        *((title, *(str(result["counts"].get(title, "-")) for result in columns)) for title in titles),
        ("largest folder", *(result["largest_folder"] for result in columns)),
        ("longest file", *(result["longest_file"] for result in columns)),
        *(
            (f"modules in {folder}/", *(str(result["modules_per_folder"].get(folder, "-")) for result in columns))
            for folder in folders
        ),
    ]


def page(now: dict, before: dict | None) -> str:
    """Return the result as Markdown."""
    columns = ([("before", before)] if before else []) + [("after" if before else "now", now)]
    head = [f"{name} ({result['commit']}, Python {result['python']})" for name, result in columns]
    table = [("count", *head), ("---", *("---:" for _ in head)), *rows(now, before)]
    return "\n".join(
        [
            "# Structure and language in numbers",
            "",
            "Written by `tests/bench/house.py --before docs/benchmarks/house-before.json --out docs/benchmarks`.",
            "Tests and `__init__.py` are not counted as modules; `--places COUNT` lists the positions of a count.",
            "`tests/docs/phrases.py` has the banned phrases and names.",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=PROJECT, help="checkout; default: this repository")
    parser.add_argument("--before", type=Path, metavar="FILE", help="JSON of an earlier run, for comparison")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for house.json and house.md")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write only the JSON, for a later --before")
    parser.add_argument("--places", metavar="COUNT", help="list the positions of counts whose title contains COUNT")
    arguments = parser.parse_args()
    now, places = count(arguments.root.resolve())
    if arguments.places:
        for title, hits in places.items():
            if arguments.places in title:
                print(f"{title}: {len(hits)}", *hits, sep="\n  ")
        return
    before = json.loads(arguments.before.read_text()) if arguments.before else None
    head = ("", f"before ({before['commit']})", f"after ({now['commit']})") if before else ("", str(now["commit"]))
    table = [head, *rows(now, before)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        print(
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
            sep="  ",
        )
    if arguments.save:
        arguments.save.write_text(json.dumps(now, indent=2) + "\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "house.json").write_text(json.dumps(now, indent=2) + "\n")
        (arguments.out / "house.md").write_text(page(now, before))


if __name__ == "__main__":
    main()
