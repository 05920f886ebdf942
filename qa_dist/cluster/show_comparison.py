"""A comparison of runs in the terminal. In: tables of text. Out: what rich prints.

Where a table is wider than the terminal, intervals stand under their figures and long names go over
several lines; columns that still don't fit follow in tables of their own. No figure is cut.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qa_dist.evaluation.comparison_table import TextTable

_PLAIN_COLUMNS = 240
_LONG_WORD_CHARS = 24
_COLUMN_EXTRA = 3
"""A space on both sides, and a line."""


def show_tables(
    tables: Sequence[TextTable], notes: Sequence[str], console: Console | None = None
) -> None:
    """Print tables with their notes; then what was left out."""
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)
    for text in tables:
        for part in fitting(text, console.width):
            console.print(_as_rich(part))
        console.print(escape(text.note), highlight=False)
    for note in notes:
        console.print(f"left out: {escape(note)}", highlight=False, soft_wrap=True)


def fitting(table: TextTable, width: int) -> Iterator[TextTable]:
    """Yield a table as it is, if it isn't wider than `width` columns; else the same with lines
    broken, in as many parts as it takes, each with the first column."""
    if _width([max(map(_widest, column)) for column in _columns(table)]) <= width:
        yield table
        return
    head = [name.replace(" ", "\n") for name in table.head]
    rows = [[_break_name(row[0]), *map(_break_figure, row[1:])] for row in table.rows]
    broken = replace(table, head=head, rows=rows)
    names, *figures = _columns(broken)
    longest = max(len(word) for name in names for word in name.split() or [""])
    widths = [max(map(_widest, column)) for column in figures]
    start, title = 0, table.title
    while start < len(widths):
        end = start + 1
        while end < len(widths) and _width([longest, *widths[start : end + 1]]) <= width:
            end += 1
        kept = [0, *range(start + 1, end + 1)]
        head, *rows = [[row[place] for place in kept] for row in (broken.head, *broken.rows)]
        yield replace(table, title=title, head=head, rows=rows)
        start, title = end, f"{table.title} (continued)"


def _columns(table: TextTable) -> list[tuple[str, ...]]:
    return list(zip(table.head, *table.rows, strict=True))


def _widest(cell: str) -> int:
    return max(map(len, cell.split("\n")))


def _width(columns: Sequence[int]) -> int:
    """Return how wide a table with columns so wide is."""
    return sum(columns) + _COLUMN_EXTRA * len(columns) + 1


def _break_name(name: str) -> str:
    """Return a name that can go over lines at its spaces, and at a slash if it is long."""
    words = name.split(" ")
    return " ".join(w.replace("/", "/\n") if len(w) > _LONG_WORD_CHARS else w for w in words)


def _break_figure(cell: str) -> str:
    """Return a figure with its interval, spread or remark below."""
    for mark in ("[", "+-", "("):
        cell = cell.replace(f" {mark}", f"\n{mark}")
    return cell


def _as_rich(text: TextTable) -> Table:
    broken = any("\n" in cell for row in text.rows for cell in row)
    table = Table(title=text.title, title_justify="left", show_lines=broken)
    for place, name in enumerate(text.head):
        if place:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in text.rows:
        table.add_row(*map(escape, row))
    return table
