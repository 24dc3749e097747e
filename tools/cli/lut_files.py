"""Commands of `lgc-lut` that write files: merge, export, import, upgrade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...device import Device
from .console import emit, say
from .lut_show import TablePath, read_report
from .options import JsonOption
from .report_tables import make_report_tables

if TYPE_CHECKING:
    from ...lut.exchange.foreign import ForeignTable
    from ...lut.target import Target

MAX_KINDS = 5
"""Printed kinds of rows that were not imported; --json has all."""


def merge(
    tables: Annotated[list[Path], typer.Argument(metavar="A.lut B.lut ...", help="Two or more latency tables.")],
    out: Annotated[Path, typer.Option(metavar="C.lut", help="Table to write; must not exist.")],
    as_json: JsonOption = False,
) -> None:
    """Merge tables of one search space, or of the same space at other input sizes.

    The tables must share target, machine and protocol. Benchmarks that they have in common serve to correct for machine
    drift between them. A complete result is calibrated again. Tables with another input size than the first contribute
    their entries, but not their networks.

    Example: lgc-lut merge gpu0.lut gpu1.lut --out both.lut
    """
    from ...lut.exchange.merge import merge_tables
    from ...lut.table.table import LatencyTable
    from ...profiler.profile import calibrate

    with ExitStack() as stack:
        opened = [stack.enter_context(LatencyTable.open(path)) for path in tables]
        result = merge_tables(opened, out, calibrate)
    for path in result.other_inputs:
        say(f"warning: {path} has another input size: its entries were merged, its networks were not")
    for path in result.untied:
        say(f"warning: {path} shares no benchmark with the others: its entries are not corrected for machine drift")
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
    sessions = "1 session" if result.sessions == 1 else f"{result.sessions} sessions"
    missing = f"; {result.missing} entries of the space are missing" if result.missing else ""
    line = f"{out}: {result.entries} entries from {len(tables)} tables, measured in {sessions}{missing}"
    emit(content, as_json, line, *make_report_tables(report))


def export(
    table: TablePath,
    out: Annotated[Path, typer.Option(metavar="F.csv|F.parquet", help="File to write, in the format of its suffix.")],
    as_json: JsonOption = False,
) -> None:
    """Write a table's entries as CSV or Parquet: one row per entry, units in the column names.

    Example: lgc-lut export tiny.lut --out tiny.csv
    """
    from ...lut.exchange.convert import table_to_frame, write_frame
    from ...lut.table.table import LatencyTable

    with LatencyTable.open(table) as opened:
        frame = table_to_frame(opened)
    write_frame(frame, out)
    emit({"lut": str(table), "out": str(out), "rows": len(frame)}, as_json, f"{out}: {len(frame)} rows")


def import_table(
    source: Annotated[
        Path, typer.Argument(metavar="F", help="Latency table: FasterSeg's .npy, or once-for-all's YAML or JSON.")
    ],
    out: Annotated[Path, typer.Option(metavar="T.lut|F.csv|F.parquet", help="File to write.")],
    space: Annotated[
        str | None, typer.Option(help="For a T.lut: its search space, a preset name or a YAML file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="For a T.lut: device of the measurement, cpu or cuda:N.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="For a T.lut: backend of the measurement, torch or tensorrt.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="For a T.lut: precision of the measurement, fp32, fp16 or bf16.")
    ] = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Import another project's latency table; nothing in the file is executed.

    CSV and Parquet keep every row, with the parts of its key as columns. A T.lut keeps the rows that an operator of lgc
    can replace. FasterSeg's ConvNorm and BasicResidual1x (convolution, normalisation, ReLU) become conv_1x1 and
    conv_3x3. Rows of once-for-all have other activations or several layers, so none becomes an entry. Latencies are
    assumed to be means in milliseconds of operators timed alone, as both projects write them.

    Example: lgc-lut import latency_lookup_table.npy --out fasterseg.csv
    """
    from ...lut.exchange.convert import FRAME_SUFFIXES, foreign_to_frame, write_frame
    from ...lut.exchange.foreign import read_foreign

    foreign = read_foreign(source)
    content = {"source": str(source), "project": foreign.project, "rows": len(foreign.rows), "out": str(out)}
    if out.suffix in FRAME_SUFFIXES:
        write_frame(foreign_to_frame(foreign), out)
        emit(content, as_json, f"{out}: {len(foreign.rows)} rows of {foreign.project}")
        return
    from ...lut.exchange.convert import import_table as write_table
    from ...models.space.lgcnet import SearchSpace

    target = _make_target(space, device, backend, precision)
    result = write_table(foreign, out, SearchSpace.load(str(space)), target)
    skipped = {row.name: row.why for row in foreign.rows if row.spec is None}
    emit(
        {**content, **asdict(result), "left": skipped},
        as_json,
        f"{out}: {result.imported} operators from {len(foreign.rows)} rows of {foreign.project}; {result.in_space} of "
        f"them are in the space, which lacks {result.missing} more",
        *_format_skipped(foreign),
    )


def _make_target(space: str | None, device: str | None, backend: str | None, precision: str) -> Target:
    """Return the target of an imported table.

    Raises:
        UsageError: an option is missing, or has an unknown value.
    """
    from ...errors import UnknownNameError, UsageError
    from ...lut.target import PRECISIONS, Target
    from ...profiler.backends import BACKENDS

    if space is None or device is None or backend is None:
        raise UsageError(
            "importing into a .lut file needs --space, --device and --backend, which the source does not contain; for "
            "the rows alone give an --out that ends in .csv or .parquet"
        )
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    return Target(Device(device), backend, precision)


def _format_skipped(foreign: ForeignTable) -> Sequence[str]:
    """Return lines on the kinds of rows that were not imported, the most frequent first."""
    kinds = Counter((str(row.fields["kind"]), row.why or "") for row in foreign.rows if row.spec is None)
    lines = [f"skipped: {count} rows of {kind} ({reason})" for (kind, reason), count in kinds.most_common(MAX_KINDS)]
    hidden = len(kinds) - MAX_KINDS
    return [*lines, f"skipped: {hidden} more kinds; --json lists all"] if hidden > 0 else lines


def upgrade(table: TablePath, as_json: JsonOption = False) -> None:
    """Convert a table of an older lgc to the current schema in place, and keep the old file as T.lut.vN.

    Example: lgc-lut upgrade tiny.lut
    """
    from ...lut.table.schema import TABLE_SCHEMA_VERSION
    from ...lut.table.upgrade import upgrade_table

    version, backup = upgrade_table(table)
    content = {
        "lut": str(table),
        "from": version,
        "to": TABLE_SCHEMA_VERSION,
        "kept": None if backup is None else str(backup),
    }
    line = (
        f"{table}: schema {version} is up to date"
        if backup is None
        else f"{table}: upgraded from schema {version} to {TABLE_SCHEMA_VERSION}; the old table is kept as {backup}"
    )
    emit(content, as_json, line)
