"""Tables in a terminal: one that is wider is printed in groups of columns, so that no cell is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Column, Table
    from rich.text import Text

COLUMN_GAP = 2
"""Spaces between two columns: one of the cells' padding, one of the box."""
WRAP_WIDTH = 24
"""Width of a wrapped column below which the table is split instead."""


@dataclass(frozen=True)
class _Cells:
    """Texts of a column: `width` without wrapping, `min_width` with it."""

    column: Column
    header: str
    texts: Sequence[Text]
    width: int
    min_width: int


def fit_table(table: Table, width: int) -> list[Table | Text]:
    """Return a table as parts of at most `width` columns of the terminal, without its title and empty columns.

    Columns that may wrap do so at words. If this does not suffice, each part has some of the columns, after those that
    name the row. If a name leaves no space, each row becomes a block of lines `header  cell`, which the terminal wraps.

    Args:
        table: table whose cells are texts of one line.
        width: columns of the terminal.
    """
    columns = [_read_column(column) for column in table.columns]
    columns = [column for column in columns if any(text.plain for text in column.texts)] or columns
    if _sum_widths(columns) <= width:
        return [_select(table, columns, width)]
    num_names = _count_names(columns)
    names, others = columns[:num_names], columns[num_names:]
    if _min_sum(columns) <= width:
        return [_select(table, columns, width)]
    if _min_sum(names) > width or any(_min_sum([*names, column]) > width for column in others):
        return _stack(columns)
    groups: list[list[_Cells]] = [[]]
    for column in others:
        if groups[-1] and _min_sum([*names, *groups[-1], column]) > width:
            groups.append([])
        groups[-1].append(column)
    return [_select(table, [*names, *group], width) for group in groups]


def _read_column(column: Column) -> _Cells:
    from rich.text import Text

    texts = [cell if isinstance(cell, Text) else Text(str(cell)) for cell in column.cells]
    header = str(column.header)
    width = max(len(header), *(text.cell_len for text in texts), 0)
    if column.no_wrap:
        return _Cells(column, header, texts, width, width)
    words = [len(word) for text in (header, *(text.plain for text in texts)) for word in text.split()]
    return _Cells(column, header, texts, width, max(*words, min(width, WRAP_WIDTH), 0))


def _sum_widths(columns: Sequence[_Cells]) -> int:
    return sum(column.width for column in columns) + COLUMN_GAP * (len(columns) - 1)


def _min_sum(columns: Sequence[_Cells]) -> int:
    return sum(column.min_width for column in columns) + COLUMN_GAP * (len(columns) - 1)


def _count_names(columns: Sequence[_Cells]) -> int:
    """Return the smallest number of first columns of text that differ in each row; 1 if they never do."""
    rows = list(zip(*([text.plain for text in column.texts] for column in columns), strict=True))
    counts = range(1, sum(column.column.justify == "left" for column in columns) + 1)
    return next((count for count in counts if len({row[:count] for row in rows}) == len(rows)), 1)


def _select(table: Table, columns: Sequence[_Cells], width: int) -> Table:
    """Return a table of some columns; those that wrap get the width that the others leave."""
    from rich.table import Table

    part = Table(
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
        show_edge=table.show_edge,
        show_header=table.show_header,
    )
    spare = width - _min_sum(columns)
    for cells in columns:
        extra = min(cells.width - cells.min_width, max(spare, 0))
        spare -= extra
        column = cells.column
        part.add_column(
            cells.header,
            justify=column.justify,
            no_wrap=column.no_wrap,
            overflow="fold",
            width=cells.min_width + extra,
        )
    for index, row in enumerate(table.rows):
        part.add_row(*(cells.texts[index] for cells in columns), end_section=row.end_section)
    return part


def _stack(columns: Sequence[_Cells]) -> list[Table | Text]:
    """Return each row as a block of lines, an empty line between two blocks."""
    from rich.text import Text

    width = max(len(cells.header) for cells in columns)
    blocks: list[Table | Text] = []
    for row in zip(*(cells.texts for cells in columns), strict=True):
        pairs = [(cells.header, text) for cells, text in zip(columns, row, strict=True) if text.plain]
        lines = [Text.assemble((f"{header:{width + COLUMN_GAP}}", "bold"), text) for header, text in pairs]
        blocks.append(Text("\n").join([*([Text("")] if blocks else []), *lines]))
    return blocks


def format_quantity(count: float) -> str:
    """Return a count with three significant digits: `512`, `7.01k`, `1.11M`, `28.3G`."""
    if count == int(count) and count < 1000:
        return str(int(count))
    units = ["", "k", "M", "G", "T"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:#.3g}".rstrip(".") + units[0]
