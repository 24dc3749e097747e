"""The verbs of `lgc-lut` that make files: merge, export, import, upgrade."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...device import Device
from ..profile import report_tables
from .console import JsonFlag, emit, say
from .lut_show import TablePath, stored_report

if TYPE_CHECKING:
    from ...lut.exchange.foreign import ForeignTable
    from ...lut.target import Target

FEW = 5
"""Kinds of rows that were left behind, named for people with their number."""


def merge(
    tables: Annotated[list[Path], typer.Argument(metavar="A.lut B.lut ...", help="Two or more latency tables.")],
    out: Annotated[Path, typer.Option(metavar="C.lut", help="The table to write; it must not exist.")],
    as_json: JsonFlag = False,
) -> None:
    """Make one table of several: parts of one space, or the same space at other inputs.

    They must be of one target, machine and protocol. What they measured in common tells their speeds from each other.
    The result is calibrated anew if nothing is missing. Of tables at other inputs than the first one's, the entries are
    kept beside its own; their networks are not.

    Example: lgc-lut merge gpu0.lut gpu1.lut --out both.lut
    """
    from ...lut.exchange.merge import merge_tables
    from ...lut.table.table import LatencyTable
    from ...profiler.profile import calibrate

    with ExitStack() as stack:
        opened = [stack.enter_context(LatencyTable.open(path)) for path in tables]
        found = merge_tables(opened, out, calibrate)
    for path in found.other_inputs:
        say(f"remark: {path} is of another input size; its entries were taken, its networks were not")
    for path in found.untied:
        say(f"remark: {path} shares nothing that was timed with the others; its entries keep the speed of its hour")
    with LatencyTable.open(out) as made:
        verification, report = made.metadata("verification"), stored_report(made)
    content = {
        "lut": str(out),
        "from": [str(path) for path in tables],
        "entries": found.entries,
        "missing": found.missing,
        "sessions": found.sessions,
        "other_inputs": [str(path) for path in found.other_inputs],
        "untied": [str(path) for path in found.untied],
        "verification": verification,
    }
    sessions = "1 session" if found.sessions == 1 else f"{found.sessions} sessions"
    line = f"{out}: {found.entries} entries of {len(tables)} tables, measured in {sessions}"
    lines = [f"{line}; {found.missing} of its space are missing" if found.missing else line]
    emit(content, as_json, *lines, *report_tables(report))


def export(
    table: TablePath,
    out: Annotated[Path, typer.Option(metavar="F.csv|F.parquet", help="The file; its suffix names the format.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a table's entries as CSV or Parquet, a row each, units in the columns' names.

    Example: lgc-lut export tiny.lut --out tiny.csv
    """
    from ...lut.exchange.convert import table_to_frame, write_frame
    from ...lut.table.table import LatencyTable

    with LatencyTable.open(table) as opened:
        frame = table_to_frame(opened)
    write_frame(frame, out)
    emit({"lut": str(table), "out": str(out), "rows": len(frame)}, as_json, f"{out}: {len(frame)} rows")


def import_table(
    source: Annotated[Path, typer.Argument(metavar="F", help="FasterSeg's .npy, or once-for-all's YAML or JSON.")],
    out: Annotated[Path, typer.Option(metavar="T.lut|F.csv|F.parquet", help="The file to write.")],
    space: Annotated[
        str | None, typer.Option(help="For a T.lut: the space it is to serve, a preset's name or a YAML file.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="For a T.lut: what F was measured on, cpu or cuda:N.")] = None,
    backend: Annotated[str | None, typer.Option(help="For a T.lut: with what, torch or tensorrt.")] = None,
    precision: Annotated[str, typer.Option(help="For a T.lut: fp32, fp16 or bf16.")] = "fp32",
    as_json: JsonFlag = False,
) -> None:
    """Read another project's latency table, without running anything that is in it.

    As CSV or Parquet, every row is kept, with what its key says in columns. As a table of lgc, only the rows that
    compute what an operator of lgc computes: of FasterSeg, ConvNorm and BasicResidual1x, which are convolution,
    normalisation and ReLU, as conv_1x1 and conv_3x3; of once-for-all none, since its rows have other activations or are
    blocks of several layers. Both count milliseconds, timed alone, as means; F cannot say so itself.

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

    target = _target(space, device, backend, precision)
    found = write_table(foreign, out, SearchSpace.load(str(space)), target)
    left = {row.name: row.why for row in foreign.rows if row.spec is None}
    emit(
        {**content, **asdict(found), "left": left},
        as_json,
        f"{out}: {found.imported} operators of {len(foreign.rows)} rows of {foreign.project}; the space asks for "
        f"{found.in_space} of them, and for {found.missing} more",
        *_left_lines(foreign),
    )


def _target(space: str | None, device: str | None, backend: str | None, precision: str) -> Target:
    """What the other table is said to have been measured on.

    Raises:
        UsageError: an option is missing, or names what there is not.
    """
    from ...errors import UnknownNameError, UsageError
    from ...lut.target import PRECISIONS, Target
    from ...profiler.backends import BACKENDS

    if space is None or device is None or backend is None:
        raise UsageError(
            "a table of lgc needs --space, --device and --backend, since F does not say them; name an --out that ends "
            "in .csv or .parquet to have the rows as they are"
        )
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    return Target(Device(device), backend, precision)


def _left_lines(foreign: ForeignTable) -> Sequence[str]:
    """Lines on the kinds of rows that no operator of lgc equals."""
    kinds: dict[tuple[str, str], int] = {}
    for row in foreign.rows:
        if row.spec is None:
            kind = (str(row.fields["kind"]), row.why or "")
            kinds[kind] = kinds.get(kind, 0) + 1
    most = sorted(kinds, key=lambda kind: -kinds[kind])
    lines = [f"left: {kinds[kind]} rows of {kind[0]} ({kind[1]})" for kind in most[:FEW]]
    return [*lines, f"left: {len(most) - FEW} more kinds; --json lists all"] if len(most) > FEW else lines


def upgrade(table: TablePath, as_json: JsonFlag = False) -> None:
    """Bring a table of an older lgc up to date, in its place; the older file is kept beside it as T.lut.vN.

    Example: lgc-lut upgrade tiny.lut
    """
    from ...lut.table.schema import TABLE_SCHEMA_VERSION
    from ...lut.table.upgrade import upgrade_table

    found, kept = upgrade_table(table)
    content = {
        "lut": str(table),
        "from": found,
        "to": TABLE_SCHEMA_VERSION,
        "kept": None if kept is None else str(kept),
    }
    line = (
        f"{table} is of schema {found} already"
        if kept is None
        else (f"{table}: from schema {found} to {TABLE_SCHEMA_VERSION}; the older table is kept as {kept}")
    )
    emit(content, as_json, line)
