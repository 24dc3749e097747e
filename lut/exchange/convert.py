"""Tables to and from other programs: rows of another project's table in, CSV and Parquet out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FileFormatError, OutputError, UsageError
from ...files import atomic_path, write_atomic
from ...models.space.lgcnet import SearchSpace
from ...models.space.opspec import OpSpec
from ..table import schema
from ..table.table import LatencyTable
from ..target import Target
from .compare import typical_network_ms
from .foreign import ForeignRow, ForeignTable

if TYPE_CHECKING:
    import pandas as pd

FRAME_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class ImportResult:
    """What `import_table` made.

    Attributes:
        imported: OpSpecs that got a latency.
        in_space: of these, ones that the space asks for.
        missing: OpSpecs of the space that have no latency yet.
    """

    imported: int
    in_space: int
    missing: int


def import_table(foreign: ForeignTable, out: Path, space: SearchSpace, target: Target) -> ImportResult:
    """Write a latency table with the rows of another project's table that an OpSpec equals.

    The table says where each entry came from, and of the machine only that it is unknown: lgc-profile does not go on
    with it. The entries were timed alone, as means, and carry no interval.

    Args:
        foreign: the other table; rows without an OpSpec stay behind. Of rows with the same OpSpec the mean is taken.
        out: the file to write.
        space: the space whose table it becomes; OpSpecs that it does not ask for are kept too.
        target: what the other table was measured on, by its user's word.

    Raises:
        FileFormatError: no row has an OpSpec.
        OutputError: `out` exists, or cannot be written.
    """
    rows: dict[OpSpec, list[ForeignRow]] = {}
    for row in foreign.rows:
        if row.spec is not None:
            rows.setdefault(row.spec, []).append(row)
    if not rows:
        raise FileFormatError(
            f"{foreign.path}: none of the {len(foreign.rows)} rows of {foreign.project} is an operator of lgc "
            f"({foreign.rows[0].why}); to have them as columns, name a file that ends in .csv or .parquet"
        )
    machine = f"unknown, imported from {foreign.path.name} of {foreign.project}"
    environment = {"device_name": machine, "versions": {}}
    protocol = {"name": "imported", "context": "isolated", "statistic": "means"}
    values = [_entry(foreign, spec, same) for spec, same in rows.items()]
    with atomic_path(out) as path, LatencyTable.create(path, target, space, protocol, environment) as table:
        asked = {entry.key for entry in table.entries()}
        with table.store.writing() as connection:
            connection.executemany(
                "INSERT INTO entries (key, status, reason, latency_ms) VALUES (?, 'measured', ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET status = excluded.status, reason = excluded.reason, "
                "latency_ms = excluded.latency_ms",
                values,
            )
        missing = sum(entry.status == schema.PENDING for entry in table.entries())
    return ImportResult(len(rows), len(asked & {str(spec) for spec in rows}), missing)


def _entry(foreign: ForeignTable, spec: OpSpec, rows: Sequence[ForeignRow]) -> tuple[str, str, float]:
    names = ", ".join(row.name for row in rows)
    return str(spec), f"imported from {foreign.path.name}: {names}", sum(r.latency_ms for r in rows) / len(rows)


def foreign_frame(foreign: ForeignTable) -> pd.DataFrame:
    """All rows of another project's table: latency, what the key says, and the OpSpec that equals it or why none."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "latency_ms": row.latency_ms,
            "ci_ms": row.ci_ms,
            "spec": None if row.spec is None else str(row.spec),
            "why": row.why,
            **row.fields,
        }
        for row in foreign.rows
    ]
    frame = pd.DataFrame(rows).set_index("name")
    # a field that not every key names is an integer all the same
    whole = [name for name in frame if name not in ("latency_ms", "ci_ms", "kind", "spec", "why")]
    return frame.astype({**dict.fromkeys(whole, "Int64"), "ci_ms": float})


def table_frame(table: LatencyTable) -> pd.DataFrame:
    """All entries of a table (see `LatencyTable.to_frame`), with their share of a typical network in percent."""
    frame = table.to_frame().astype({"latency_ms": float, "ci_ms": float})
    network_ms = typical_network_ms(table)
    frame["share_pct"] = float("nan") if network_ms is None else frame["latency_ms"] / network_ms * 100
    return frame


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Write a frame as CSV or Parquet, by the file's suffix, whole or not at all; a file of that name makes way.

    Raises:
        UsageError: another suffix, or Parquet without pyarrow.
        OutputError: `out` is a folder or cannot be written.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; give a file name that ends in {' or '.join(FRAME_SUFFIXES)}")
    if out.suffix == ".csv":
        write_atomic(out, frame.to_csv())
    elif out.suffix == ".parquet":
        content = io.BytesIO()
        try:
            frame.to_parquet(content, engine="pyarrow")
        except ImportError as error:
            raise UsageError(f"{out}: Parquet needs pyarrow: pip install pyarrow") from error
        write_atomic(out, content.getvalue())
    else:
        raise UsageError(f"{out} says no format: give a file name that ends in {' or '.join(FRAME_SUFFIXES)}")
