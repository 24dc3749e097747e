"""Import tables of other projects; export tables as CSV or Parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FileFormatError, OutputError, UsageError
from ...files import atomic_path, write_atomic
from ...models.space.operators import is_first_recipe
from ...models.space.opspec import OpSpec
from ...models.space.protocol import Space
from ..table import schema
from ..table.rows import Entry, upsert_rows
from ..table.table import LatencyTable
from ..target import Target
from .compare import median_network_ms
from .foreign import ForeignRow, ForeignTable

if TYPE_CHECKING:
    import pandas as pd

FRAME_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class ImportResult:
    """Result of `import_table`.

    Attributes:
        imported: Number of OpSpecs with an imported latency.
        in_space: Number of imported OpSpecs of the space.
        missing: Number of OpSpecs of the space without a latency.
    """

    imported: int
    in_space: int
    missing: int


def import_table(foreign: ForeignTable, out: Path, space: Space, target: Target) -> ImportResult:
    """Write a latency table from the rows of another project's table that have an OpSpec.

    Each entry names its source. The machine is recorded as unknown, so lgc-profile does not resume the table. The
    entries are means of isolated runs without intervals.

    Args:
        foreign: Table of the other project. Rows without an OpSpec are skipped; rows with the same one are averaged.
        out: File to write.
        space: Space of the new table. OpSpecs outside it are kept.
        target: Target of the other table, as specified by the user.

    Raises:
        FileFormatError: No row has an OpSpec.
        OutputError: `out` exists or cannot be written.
    """
    rows: dict[OpSpec, list[ForeignRow]] = {}
    for row in foreign.rows:
        if row.spec is not None and is_first_recipe(row.spec.operator):
            rows.setdefault(row.spec, []).append(row)
    if not rows:
        raise FileFormatError(
            f"{foreign.path}: lgc has no operator for any row of {foreign.project} "
            f"(rows: {len(foreign.rows)}; {foreign.rows[0].why}); to export the rows, choose a file that ends in .csv "
            "or .parquet"
        )
    machine = f"unknown, imported from {foreign.path.name} of {foreign.project}"
    environment = {"device_name": machine, "versions": {}}
    protocol = {"name": "imported", "context": "isolated", "statistic": "means"}
    with atomic_path(out) as path, LatencyTable.create(path, target, space, protocol, environment) as table:
        requested = {entry.key for entry in table.entries()}
        with table.store.transaction() as connection:
            upsert_rows(connection, "entries", [asdict(_make_entry(foreign, *item)) for item in rows.items()])
        missing = sum(entry.status == schema.PENDING for entry in table.entries())
    return ImportResult(len(rows), len(requested & {str(spec) for spec in rows}), missing)


def _make_entry(foreign: ForeignTable, spec: OpSpec, rows: Sequence[ForeignRow]) -> Entry:
    reason = f"imported from {foreign.path.name}: {', '.join(row.name for row in rows)}"
    return Entry(str(spec), schema.MEASURED, reason, sum(row.latency_ms for row in rows) / len(rows), None)


def foreign_to_frame(foreign: ForeignTable) -> pd.DataFrame:
    """Return all rows of another project's table: latency, fields of the key, and the OpSpec or why there is none."""
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
    # fields that some keys lack stay integers
    integers = [name for name in frame if name not in ("latency_ms", "ci_ms", "kind", "spec", "why")]
    return frame.astype({**dict.fromkeys(integers, "Int64"), "ci_ms": float})


def table_to_frame(table: LatencyTable) -> pd.DataFrame:
    """Return `LatencyTable.to_frame` with each entry's share of the median network, in percent."""
    frame = table.to_frame().astype({"latency_ms": float, "ci_ms": float})
    network_ms = median_network_ms(table)
    frame["share_pct"] = float("nan") if network_ms is None else frame["latency_ms"] / network_ms * 100
    return frame


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Write a frame atomically as CSV or Parquet, by the suffix of `out`. An existing file is replaced.

    Raises:
        UsageError: The suffix is unknown, or pyarrow is missing.
        OutputError: `out` is a folder or cannot be written.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder: choose a file that ends in {' or '.join(FRAME_SUFFIXES)}")
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
        raise UsageError(f"unknown format of {out}: choose a file that ends in {' or '.join(FRAME_SUFFIXES)}")
