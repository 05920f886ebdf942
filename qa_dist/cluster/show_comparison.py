"""A comparison of runs in the terminal. In: tables of text. Out: what rich prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from qa_dist.evaluation.comparison_table import TextTable

_PLAIN_COLUMNS = 240


def show_tables(tables: Sequence[TextTable], notes: Sequence[str]) -> None:
    """Print tables with their notes; then what was left out."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)
    for text in tables:
        table = Table(title=text.title, title_justify="left")
        for place, name in enumerate(text.head):
            side: JustifyMethod = "right" if place else "left"
            table.add_column(name, justify=side, overflow="fold", no_wrap=place == 0)
        for row in text.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        console.print(escape(text.note), highlight=False)
    for note in notes:
        console.print(f"left out: {escape(note)}", highlight=False, soft_wrap=True)
