"""Read latency tables of other projects: FasterSeg's `.npy` and once-for-all's YAML or JSON.

Sources of the formats:

- FasterSeg, github.com/VITA-Group/FasterSeg, commit 438a3d5: latency/latency_lookup_table.py writes a dict with
  numpy.save; latency/operations.py has the operators; tools/utils/darts_utils.py times them ("latency (in ms)": the
  mean of all runs of the isolated operator, batch 1).
- once-for-all, github.com/mit-han-lab/once-for-all, commit 80a2e26: ofa/nas/efficiency_predictor/
  latency_lookup_table.py builds the keys and reads `mean`. Issue 37 shows a row with count, mean and var; DynamicOFA
  (github.com/UoS-EEC/DynamicOFA) has the same as JSON with std. Names such as `note10_lat@64ms` of the networks chosen
  with these tables show that the unit is ms.

Both projects' programs use ms, but their files contain no unit, and tables that others wrote in microseconds or seconds
look the same. So the unit is the caller's, else that of an entry `unit` in the file, else ms, if the latencies are
plausible in ms and in no other unit.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import FileFormatError, UsageError
from ...files import format_error, read_text
from ...models.space.opspec import OpSpec
from ...yaml_text import parse_yaml
from ..statistics.estimates import Z_95
from . import pickled

FASTERSEG, ONCE_FOR_ALL = "FasterSeg", "once-for-all"
MAX_LATENCY_MS = 1e9
"""Upper bound of a latency, as in the schema."""

UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Unit -> milliseconds."""
_UNIT_NAMES = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "\u00b5s": "us", "nanoseconds": "ns"}
"""Other names of units in files."""
_UNIT_KEYS = ("unit", "units")
PLAUSIBLE_MS = (0.02, 5.0)
"""Median latency of operators in ms that is not plausible in s or us: they take from 5 us, a launch, to about 20 ms."""
_FORMATS = f"table of {FASTERSEG} (.npy) or {ONCE_FOR_ALL} (YAML, JSON)"
_MAGIC = b"\x93NUMPY"
_FASTERSEG_KEY = re.compile(r"(?P<kind>\w+?)(?P<fields>(_[A-Za-z]+\d{1,9})+)", re.ASCII)
_SIZES = r"\d{1,9}(x\d{1,9})*"
_OFA_KEY = re.compile(
    rf"(?P<kind>\w+)-input:(?P<input>{_SIZES})-output:(?P<output>{_SIZES})(?P<fields>(-[a-z]+:\d{{1,9}})*)", re.ASCII
)
_MAX_DEPTH = 4
"""Maximum nesting of a YAML table, which needs two levels."""


@dataclass(frozen=True)
class ForeignRow:
    """Row of another project's table.

    Attributes:
        name: Key of the row.
        latency_ms: Latency in ms.
        ci_ms: Half width of the mean's 95 % confidence interval; None if unknown.
        fields: Fields of the key, e.g. `kind`, `H`, `Cin`.
        spec: OpSpec of the same computation; None if lgc has none.
        why: Reason why `spec` is None; else None.
    """

    name: str
    latency_ms: float
    ci_ms: float | None
    fields: dict[str, str | int]
    spec: OpSpec | None
    why: str | None


@dataclass(frozen=True)
class ForeignTable:
    """Another project's table, with its rows in the order of the file.

    Attributes:
        path: The file.
        project: `FASTERSEG` or `ONCE_FOR_ALL`.
        rows: Rows of the table, in ms.
        unit: Unit of the latencies in the file, a name of `UNITS`.
        is_assumed: True if neither the caller nor the file named the unit.
    """

    path: Path
    project: str
    rows: tuple[ForeignRow, ...]
    unit: str = "ms"
    is_assumed: bool = True


def read_foreign(path: Path, unit: str | None = None) -> ForeignTable:
    """Read a table of FasterSeg (`.npy`) or once-for-all (YAML, JSON), which its content distinguishes.

    Nothing in the file is executed: pickles are read as data, YAML without tags and aliases.

    Args:
        path: File of the table.
        unit: Unit of its latencies, a name of `UNITS`; None for the one that the file names, else ms.

    Raises:
        FileFormatError: The file is neither, is damaged, or has a row without a latency.
        UsageError: The unit is unknown and need not be ms, or the file names another unit.
    """
    if not path.is_file():
        raise format_error(path, _FORMATS)
    with path.open("rb") as file:
        binary = file.read(len(_MAGIC)) == _MAGIC
    content = _read_fasterseg(path) if binary else _read_once_for_all(path)
    stored = _take_unit(path, content)
    if not content:
        raise FileFormatError(f"{path} is a latency table of another project without rows")
    if unit and stored and unit != stored:
        raise UsageError(f"--unit {unit}: {path} says that its unit is {stored}")
    make = _parse_fasterseg_row if binary else _parse_ofa_row
    rows = [make(path, name, value) for name, value in content.items()]
    chosen = unit or stored
    if chosen is None:
        _require_plausible(path, rows)
    factor = UNITS[chosen or "ms"]
    return ForeignTable(
        path,
        FASTERSEG if binary else ONCE_FOR_ALL,
        tuple(_scale(path, row, factor) for row in rows),
        chosen or "ms",
        chosen is None,
    )


def _take_unit(path: Path, content: dict[str, Any]) -> str | None:
    """Remove the entry that names the unit of a table, and return the unit; None if there is no entry.

    Raises:
        FileFormatError: The unit is unknown.
    """
    for key in _UNIT_KEYS:
        if isinstance(content.get(key), str):
            name = str(content.pop(key))
            unit = _UNIT_NAMES.get(name.lower(), name)
            if unit not in UNITS:
                raise FileFormatError(f"{path}: unknown unit {name[:40]!r}; known: {', '.join(UNITS)}")
            return unit
    return None


def _require_plausible(path: Path, rows: Sequence[ForeignRow]) -> None:
    """Check that latencies can be in ms, and in no other unit.

    Raises:
        UsageError: Their median is outside `PLAUSIBLE_MS`.
    """
    value = median(row.latency_ms for row in rows)
    low, high = PLAUSIBLE_MS
    if not low <= value <= high:
        raise UsageError(
            f"{path} does not name the unit of its latencies, and their median, {value:.4g}, need not be "
            f"milliseconds: add --unit, one of {', '.join(UNITS)}"
        )


def _scale(path: Path, row: ForeignRow, factor: float) -> ForeignRow:
    """Return a row with its latencies multiplied by a factor.

    Raises:
        FileFormatError: The latency is out of bounds.
    """
    if not 0 < row.latency_ms * factor < MAX_LATENCY_MS:
        raise FileFormatError(f"{path}: row {row.name[:80]!r} holds {row.latency_ms:g}, too much or too little")
    ci_ms = None if row.ci_ms is None else row.ci_ms * factor
    return replace(row, latency_ms=row.latency_ms * factor, ci_ms=ci_ms)


def _read_fasterseg(path: Path) -> dict[str, Any]:
    """Read the dict of a `.npy` file: the header of an object array without dimensions, then a pickle.

    Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    wrong = f"cannot read FasterSeg table {path}"
    content = path.read_bytes()
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width
    end = start + int.from_bytes(content[8:start], "little")
    header = content[start:end].decode("latin-1")
    if not re.search(r"'descr':\s*'\|O'", header) or not re.search(r"'shape':\s*\(\)", header):
        raise FileFormatError(f"{wrong}: it is another NumPy array, with header {header.strip()[:80]!r}")
    try:
        stored = pickled.load_pickle(content[end:])
    except ValueError as error:
        raise FileFormatError(f"{wrong}: {error}") from error
    match stored:
        case pickled.StandIn(name="array", state=(_, (), _, _, [dict(rows)])):
            return rows
    raise FileFormatError(f"{wrong}: it has no dict of latencies")


def _read_once_for_all(path: Path) -> dict[str, Any]:
    """Read the mapping of a YAML or JSON file and check that its keys are once-for-all's."""
    text = read_text(path, _FORMATS)
    wrong = f"cannot read {_FORMATS} {path}"
    is_json = text.lstrip().startswith("{")
    try:
        content = json.loads(text, object_pairs_hook=_make_dict) if is_json else _parse_yaml(text)
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileFormatError(f"{wrong}: not readable as YAML or JSON ({reason})") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise format_error(path, _FORMATS)
    names = [name for name in content if name not in _UNIT_KEYS]
    invalid = next((name for name in names if not _OFA_KEY.fullmatch(name)), None)
    if invalid is not None:
        raise FileFormatError(
            f"{wrong}: its key {invalid[:60]!r} does not have the form Conv-input:224x224x3-output:..."
        )
    return content


def _make_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse a key that stands twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(
            f"duplicate key {next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)!r}"
        )
    return content


def _parse_yaml(text: str) -> object:
    """Parse strict YAML without tags, aliases and deep nesting; the latter let a few bytes exhaust the memory."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or depth > _MAX_DEPTH:
                raise ValueError("tags, aliases and deep nesting are not allowed in a table")
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return parse_yaml(text)


def _parse_fasterseg_row(path: Path, name: str, value: Any) -> ForeignRow:
    match = _FASTERSEG_KEY.fullmatch(name)
    fields: dict[str, str | int] = {"kind": match["kind"] if match else name}
    fields |= {key: int(digits) for key, digits in re.findall(r"_([A-Za-z]+)(\d+)", match["fields"] if match else "")}
    spec, why = _parse_fasterseg_spec(fields)
    return ForeignRow(name, _check_latency(path, name, value), None, fields, spec, why)


def _parse_fasterseg_spec(fields: dict[str, str | int]) -> tuple[OpSpec | None, str | None]:
    """Return the OpSpec of the same computation, or why there is none. H and W are those of the input."""
    kind = fields["kind"]
    kernel = fields.get("kernel", 3)
    if kind in _UNSUPPORTED_FASTERSEG:
        return None, _UNSUPPORTED_FASTERSEG[str(kind)]
    if kind not in ("BasicResidual1x", "ConvNorm"):
        return None, "unknown operator"
    if fields.get("dilation", 1) != 1 or kernel not in (1, 3):
        return None, "lgc has no such dilation or kernel"
    try:
        c_in, c_out, height, width, stride = (int(fields[key]) for key in ("Cin", "Cout", "H", "W", "stride"))
    except KeyError as error:
        return None, f"the key has no {error.args[0]}"
    spec = OpSpec(f"conv_{kernel}x{kernel}", c_in, c_out, height, width, stride)
    return (spec, None) if _has_valid_sizes(spec) else (None, "the sizes of the key are invalid")


_UNSUPPORTED_FASTERSEG = {
    "BasicResidual2x": "two convolutions in one row",
    "BasicResidual_downup_1x": "resizes, convolution and resize in one row",
    "BasicResidual_downup_2x": "resizes and two convolutions in one row",
    "FactorizedReduce": "nothing at stride 1; one or two convolutions at stride 2, by the version of FasterSeg",
    "ff": "an attention module",
    "head": "two convolutions in one row",
}
"""FasterSeg's operators without an OpSpec of the same computation -> the reason."""


def _has_valid_sizes(spec: OpSpec) -> bool:
    return all(0 < size < 1e9 for size in (spec.c_in, spec.c_out, spec.height, spec.width, spec.stride))


def _parse_ofa_row(path: Path, name: str, value: Any) -> ForeignRow:
    match = _OFA_KEY.fullmatch(name)
    assert match is not None, "checked by _read_once_for_all"
    fields: dict[str, str | int] = {"kind": match["kind"]}
    for side in ("input", "output"):
        sizes = match[side].split("x")
        axes = ("H", "W", "C") if len(sizes) == 3 else ("C",)
        fields |= {f"{side}_{axis}": int(size) for axis, size in zip(axes, sizes, strict=False)}
    fields |= {key: int(digits) for key, digits in re.findall(r"-([a-z]+):(\d+)", match["fields"])}
    if not isinstance(value, dict) or "mean" not in value:
        raise FileFormatError(f"cannot read once-for-all table {path}: {name!r} has no mean")
    mean = _check_latency(path, name, value["mean"])
    return ForeignRow(name, mean, _compute_ofa_ci(value), fields, None, _UNSUPPORTED_OFA)


_UNSUPPORTED_OFA = "lgc's convolutions are single and end in ReLU; these have other activations or are blocks"


def _compute_ofa_ci(value: dict[str, Any]) -> float | None:
    """Return the half width of the mean's 95 % interval by count and var or std; None if missing or invalid."""
    count, std, var = (value.get(key) for key in ("count", "std", "var"))
    numbers = [number for number in (count, std, var) if isinstance(number, int | float) and math.isfinite(number)]
    if not isinstance(count, int | float) or len(numbers) < 2 or not count >= 2 or min(numbers) < 0:
        return None
    spread = std if isinstance(std, int | float) else math.sqrt(numbers[-1])
    return Z_95 * spread / math.sqrt(count)  # hundreds of runs: normally distributed


def _check_latency(path: Path, name: str, value: Any) -> float:
    """Return a latency after checking it.

    Raises:
        FileFormatError: The value is not a positive number.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MAX_LATENCY_MS:
        return float(value)
    simple = isinstance(value, float | str | None) or (isinstance(value, int) and abs(value) < MAX_LATENCY_MS)
    shown = repr(value)[:40] if simple else type(value).__name__
    raise FileFormatError(f"{path}: row {name[:80]!r} holds {shown} instead of a latency")
