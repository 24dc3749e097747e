"""`lgc-lut merge`, `export`, `import` and `upgrade`: conversions of table files."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ...errors import UsageError
from ...precisions import Precision
from .console import emit, format_count, say
from .lut_show import TablePath, make_report_tables, read_report
from .options import (
    JsonOption,
    PluginOption,
    load_operators,
    make_backend_option,
    make_device_option,
    make_space_option,
)

if TYPE_CHECKING:
    from ...lut.exchange.foreign import ForeignTable
    from ...lut.target import Target

UnitOption = Annotated[
    Literal["s", "ms", "us", "ns"] | None, typer.Option(help="Unit of the latencies in F.", show_default="F's own")
]
TABLE_SUFFIX = ".lut"
"""Suffix of latency tables."""
MAX_KINDS = 5
"""Printed kinds of rows that were not imported."""


def merge(
    tables: Annotated[list[Path], typer.Argument(metavar="A.lut B.lut ...", help="Two or more latency tables.")],
    out: Annotated[Path, typer.Option(metavar="C.lut", help="Table to write; it must not exist.")],
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge tables of one search space, also at different input sizes.

    All tables need the same target, machine and protocol. Benchmarks in several tables correct the drift between them.
    A complete result is recalibrated. Tables with another input size than the first contribute entries, no networks.

    Example: lgc-lut merge gpu0.lut gpu1.lut --out both.lut
    """
    for path, count in Counter(path.resolve() for path in tables).items():
        if count > 1:
            say(f"warning: {path} is given {count} times; its sample batches are merged once")
    from ...lut.exchange.merge import merge_tables
    from ...lut.table.table import LatencyTable
    from ...profiler.profile import calibrate

    load_operators(plugin)
    with ExitStack() as stack:
        opened = [stack.enter_context(LatencyTable.open(path)) for path in tables]
        result = merge_tables(opened, out, calibrate)
    for path in result.other_inputs:
        say(f"warning: {path} has another input size; its entries were merged, its networks were not")
    for path in result.untied:
        say(f"warning: {path} has no benchmark in common with the other tables; its drift is not corrected")
    with LatencyTable.open(out) as merged:
        verification, report = merged.metadata("verification"), read_report(merged)
    content = {
        "lut": str(out),
        "from": [str(path) for path in tables],
        "entries": result.entries,
        "missing": result.missing,
        "sessions": result.sessions,
        "other_inputs": [str(path) for path in result.other_inputs],
        "untied": [str(path) for path in result.untied],
        "verification": verification,
    }
    sessions = format_count(result.sessions, "session")
    missing = f"; {result.missing} entries of its space are missing" if result.missing else ""
    line = f"{out}: {result.entries} entries from {len(tables)} tables, measured in {sessions}{missing}"
    emit(content, as_json, line, *make_report_tables(report))


def export(
    table: TablePath,
    out: Annotated[Path, typer.Option(metavar="F.csv|F.parquet", help="File to write; the suffix sets the format.")],
    as_json: JsonOption = False,
) -> None:
    """Write a table's entries as CSV or Parquet.

    Each entry is a row; the column names contain the units.

    Example: lgc-lut export tiny.lut --out tiny.csv
    """
    from ...lut.exchange.convert import table_to_frame, write_frame
    from ...lut.table.table import LatencyTable

    with LatencyTable.open(table, inspect=True) as opened:
        frame = table_to_frame(opened)
    write_frame(frame, out)
    emit({"lut": str(table), "out": str(out), "rows": len(frame)}, as_json, f"{out}: {format_count(len(frame), 'row')}")


def import_table(
    source: Annotated[Path, typer.Argument(metavar="F", help="FasterSeg's .npy, or once-for-all's YAML or JSON.")],
    out: Annotated[Path, typer.Option(metavar="T.lut|F.csv|F.parquet", help="File to write.")],
    space: Annotated[str | None, make_space_option(False)] = None,
    device: Annotated[str | None, make_device_option(False, "that F was measured on")] = None,
    backend: Annotated[str | None, make_backend_option(False, " that F was measured with")] = None,
    precision: Annotated[Precision, typer.Option(help="Precision that F was measured in, for a T.lut.")] = "fp32",
    plugin: PluginOption = None,
    unit: UnitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Convert another project's latency table; nothing in it is executed.

    CSV and Parquet keep every row, with the parts of its key as columns. A table of lgc needs --space, --device and
    --backend, and keeps only rows that compute the same as an operator of lgc. From FasterSeg these are ConvNorm and
    BasicResidual1x (convolution, normalisation and ReLU), as conv_1x1 and conv_3x3. From once-for-all there are none:
    its rows have other activations, or are blocks of several layers. Latencies are means of operators timed alone in
    both projects, in the unit of --unit or of an entry "unit" in F; without either, milliseconds if no other
    unit is plausible.

    Example: lgc-lut import latency_lookup_table.npy --out fasterseg.csv
    """
    from ...lut.exchange.convert import FRAME_SUFFIXES, foreign_to_frame, write_frame
    from ...lut.exchange.convert import import_table as write_table
    from ...lut.exchange.foreign import read_foreign

    if out.suffix not in (*FRAME_SUFFIXES, TABLE_SUFFIX):
        raise UsageError(
            f"unknown format of {out}: choose a file that ends in {TABLE_SUFFIX}, {' or '.join(FRAME_SUFFIXES)}"
        )
    foreign = read_foreign(source, unit)
    if foreign.is_assumed:
        say(f"unit: milliseconds assumed, as in {foreign.project}'s programs; if {source} has another, add --unit")
    content = {
        "source": str(source),
        "project": foreign.project,
        "unit": foreign.unit,
        "rows": len(foreign.rows),
        "out": str(out),
    }
    if out.suffix in FRAME_SUFFIXES:
        write_frame(foreign_to_frame(foreign), out)
        emit(content, as_json, f"{out}: {format_count(len(foreign.rows), 'row')} of {foreign.project}")
        return
    from ...lut.table.spaces import load_space
    from ...models.space.protocol import SearchSpace

    target = _make_target(space, device, backend, precision)
    load_operators(plugin)
    result = write_table(foreign, out, SearchSpace.require(load_space(str(space))), target)
    skipped = {row.name: row.why for row in foreign.rows if row.spec is None}
    emit(
        {**content, **asdict(result), "left": skipped},
        as_json,
        f"{out}: {format_count(result.imported, 'operator')} from {format_count(len(foreign.rows), 'row')} of "
        f"{foreign.project}; {result.in_space} of "
        f"them are in the space, which has {result.missing} more",
        *_format_skipped(foreign),
    )
    if not result.in_space:
        say(f"warning: no entry of {out} is in space {space}, so it predicts no network: choose another --space")


def _make_target(space: str | None, device: str | None, backend: str | None, precision: str) -> Target:
    """Return the target that the foreign table was measured on.

    Raises:
        UsageError: an option is missing, or the device is invalid.
    """
    from ...device import Device
    from ...lut.target import Target

    if space is None or device is None or backend is None:
        raise UsageError(
            "a T.lut needs --space, --device and --backend, as F does not have them; to keep the rows as they are, "
            "write an --out that ends in .csv or .parquet"
        )
    return Target(Device(device), backend, precision)


def _format_skipped(foreign: ForeignTable) -> list[str]:
    """Return a line for each of the most common kinds of rows that no operator of lgc equals."""
    kinds = Counter((str(row.fields["kind"]), row.why or "") for row in foreign.rows if row.spec is None)
    lines = [
        f"skipped: {format_count(count, 'row')} of {kind} ({reason})"
        for (kind, reason), count in kinds.most_common(MAX_KINDS)
    ]
    return [*lines, f"skipped: {len(kinds) - MAX_KINDS} more kinds, see --json"] if len(kinds) > MAX_KINDS else lines


def upgrade(table: TablePath, as_json: JsonOption = False) -> None:
    """Upgrade a table of an older lgc in place.

    The old file is kept as T.lut.vN.

    Example: lgc-lut upgrade tiny.lut
    """
    from ...lut.table.schema import TABLE_SCHEMA_VERSION
    from ...lut.table.upgrade import upgrade_table

    version, kept = upgrade_table(table)
    content = {
        "lut": str(table),
        "from": version,
        "to": TABLE_SCHEMA_VERSION,
        "kept": None if kept is None else str(kept),
    }
    line = (
        f"{table} has the current schema, {version}"
        if kept is None
        else f"{table}: upgraded from schema {version} to {TABLE_SCHEMA_VERSION}; the old table is kept as {kept}"
    )
    emit(content, as_json, line)
