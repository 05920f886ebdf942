"""Tables on a terminal: everything stands there, brackets are no markup."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from qa_dist.cluster.show_comparison import show_tables
from qa_dist.evaluation.comparison_table import TextTable


def test_tables_notes_and_what_was_left_out_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [["coqa_bert/main", "61.2 [60.0, 62.5]"], ["coqa_x/[bold]", "-"]]
    table = TextTable("results", ["", "EM"], rows, "[..]: 95 %")
    show_tables([table], ["coqa_electra: no run has scores yet"])
    printed = capsys.readouterr().out
    for text in ("results", "61.2 [60.0, 62.5]", "coqa_x/[bold]", "[..]: 95 %"):
        assert text in printed
    assert "left out: coqa_electra: no run has scores yet" in printed


NAMES = ["only=all: ner", "only=squad learning_rate=3e-05: squad", "squad2_spanbert_crf/seeds-more"]
INTERVALS = ["61.9 [52.5, 70.5]", "51.3 [47.5, 55.2]", "71.0 +- 0.71 (5 seeds)"]
HEAD = ["", "questions", "EM", "F1", "threshold", "untrained F1", "own history F1", "published F1"]
SCORES = TextTable(
    "scores",
    HEAD,
    [
        [name, "11,873", score, score, "tuned -1.50", "4.2", "68.5", "94.5 to 95.5"]
        for name, score in zip(NAMES, INTERVALS, strict=True)
    ],
    "a note",
)
COST = TextTable("cost", ["", "parameters"], [["only=all", "32,768 (adapters)"]], "another")


def printed(table: TextTable, width: int) -> list[str]:
    stream = io.StringIO()
    show_tables([table], [], Console(width=width, file=stream))
    return stream.getvalue().splitlines()


def missing(table: TextTable, width: int) -> set[str]:
    """Return the figures and the words of names and heads that don't stand whole in a cell of what
    is printed; an interval or remark may stand on a line of its own, as may what follows a slash.
    """
    lines = [re.split("[│┃]", line)[1:-1] for line in printed(table, width) if line[0] in "│┃"]
    cells = {cell.strip() for line in lines for cell in line}
    words = {word for cell in cells for word in cell.split()}

    def is_there(figure: str) -> bool:
        return figure in cells or cells.issuperset(re.split(r" (?=\[|\+-|\()", figure))

    names = [*table.head, *(row[0] for row in table.rows)]
    figures = {cell for row in table.rows for cell in row[1:]}
    return {figure for figure in figures if not is_there(figure)} | {
        word
        for word in " ".join(names).split()
        if word not in words and not words.issuperset(re.findall("[^/]+/?", word))
    }


@pytest.mark.parametrize("table", [SCORES, COST])
@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_cuts_no_figure(table: TextTable, width: int) -> None:
    assert max(map(len, printed(table, width))) <= width
    assert missing(table, width) == set()


def test_too_narrow_a_terminal_would_be_seen() -> None:
    assert missing(SCORES, 20)


def test_a_wide_table_is_one_row_a_line() -> None:
    lines = [line for line in printed(SCORES, 240) if line.startswith("│")]
    assert len(lines) == 3 and all(
        f" {score} " in line for score, line in zip(INTERVALS, lines, strict=True)
    )
