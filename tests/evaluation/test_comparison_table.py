"""Comparisons as text: cells by hand, columns that nobody fills left out, Markdown that is a
table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qa_dist.evaluation.compare import Paired, Side
from qa_dist.evaluation.comparison_table import (
    common_start,
    cost_table,
    epochs_table,
    pairs_table,
    scores_table,
    tables,
    to_markdown,
)
from qa_dist.evaluation.outcome import Epoch, Outcome, Published, Scores
from qa_dist.text.bootstrap import Difference

FIGURES = {
    "em": 61.25,
    "em_low": 60.0,
    "em_high": 62.5,
    "f1": 70.5,
    "f1_low": 69.0,
    "f1_high": 72.0,
}
SCORES = Scores(
    num_questions=7983,
    headline="tuned",
    threshold=-1.5,
    figures=FIGURES,
    own={"em": 58.0, "f1": 68.5},
    floor={"em": 1.0, "f1": 4.25},
)


def scored(outcome: Outcome, source: str = "coqa", **changes: Any) -> Outcome:
    """Return an outcome with other scores."""
    return replace(outcome, sources={source: replace(SCORES, **changes)})


ONE = Outcome(
    name="coqa_bert/main",
    step=10,
    of=10,
    sources={"coqa": SCORES},
    parameters=108_894_213,
    adapters_only=False,
    windows_per_s=16.0,
    step_s=0.5,
    memory_gb=12.0,
    epochs=[Epoch(1, 2.0, 1.5, 60.0, 69.0), Epoch(2, 1.0, None, None, None)],
    published=Published("68.5", "78.4"),
)
SECOND = scored(
    replace(ONE, name="coqa_bert/two"), figures={**FIGURES, "em": 63.25, "f1": 71.5}, own=None
)
PAIR = Paired(
    "coqa",
    "x",
    "y",
    900,
    0,
    {"em": Difference(1.5, 0.25, 2.75, 0.02), "f1": Difference(-0.5, -1.0, 0.25, 0.3)},
)


def column(table_head: list[str], row: list[str], name: str) -> str:
    return row[table_head.index(name)]


def test_a_run_shows_its_intervals_cost_and_the_published_figure() -> None:
    table = scores_table([Side("coqa_bert/main", [ONE])])
    (row,) = table.rows
    assert dict(zip(table.head, row, strict=True)) == {
        "": "coqa_bert/main",
        "questions": "7,983",
        "EM": "61.2 [60.0, 62.5]",
        "F1": "70.5 [69.0, 72.0]",
        "threshold": "tuned -1.50",
        "untrained F1": "4.2",
        "own history F1": "68.5",
        "gap": "2.0",
        "published EM": "68.5",
        "published F1": "78.4",
    }
    table = cost_table([Side("coqa_bert/main", [ONE])])
    assert dict(zip(table.head, table.rows[0], strict=True)) == {
        "": "coqa_bert/main",
        "parameters": "108,894,213",
        "windows/s": "16.0",
        "s/step": "0.500",
        "memory GB": "12.0",
    }


def test_adapters_are_called_so() -> None:
    adapters = replace(ONE, parameters=32_768, adapters_only=True)
    assert cost_table([Side("a", [adapters])]).rows[0][1] == "32,768 (adapters)"


def test_a_published_figure_stands_only_where_it_applies() -> None:
    assert ONE.published
    other = replace(ONE, published=replace(ONE.published, applies=False))
    table = scores_table([Side("a", [ONE]), Side("b", [other]), Side("c", [ONE, other])])
    assert [column(table.head, row, "published F1") for row in table.rows] == ["78.4", "-", "-"]
    assert table.note.count("Published figures are left out where model, head or data differ") == 1
    assert "ublished" not in scores_table([Side("a", [ONE])]).note


def test_ner_alone_is_about_sentences_and_has_no_threshold() -> None:
    ner = scored(ONE, source="ner", headline="default", threshold=None)
    table = scores_table([Side("a", [ner]), Side("b", [ner])])
    assert "sentences" in table.head and "threshold" not in table.head
    assert "over documents" in table.note and "question" not in table.note
    pair = replace(PAIR, source="ner", num_left_out=5)
    table = pairs_table([pair])
    assert table.head[1] == "sentences" and "5 sentences of ner" in table.note
    table = scores_table([Side("a", [ner]), Side("b", [ONE])])
    assert table.head[1] == "questions"
    assert [column(table.head, row, "threshold") for row in table.rows] == ["-", "tuned -1.50"]
    written = scored(ONE, headline="tuned", threshold=None)
    assert "threshold" not in scores_table([Side("a", [written])]).head


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["r/s only=all", "r/s only=ner"], "r/s "),
        (["coqa_bert/main", "coqa_electra/main"], ""),
        (["r/s", "r/s only=ner"], "r/"),
        (["r/main", "r/two"], "r/"),
        (["r/main"], ""),
    ],
)
def test_the_common_start_ends_at_a_word_and_leaves_something(
    names: list[str], expected: str
) -> None:
    assert common_start(names) == expected


def test_what_all_names_begin_with_is_said_once() -> None:
    sides = [Side("r/s only=all", [ONE]), Side("r/s only=ner", [SECOND])]
    pair = replace(PAIR, first="r/s only=ner", second="r/s only=all", num_left_out=5)
    text = to_markdown(tables(sides, [pair]))
    assert text.count("r/s") == 1 and "## r/s: scores" in text
    assert "| only=all - only=ner |" in text
    text = to_markdown(tables([Side("r/a", [ONE]), Side("r/b", [ONE])], []))
    assert "## r: scores" in text and "## Cost" in text, "a recipe's name stays as it is"


def test_seeds_show_their_mean_and_spread() -> None:
    table = scores_table([Side("coqa_bert/seeds", [ONE, SECOND])])
    assert column(table.head, table.rows[0], "EM") == "62.2 +- 1.41 (2 seeds)"
    assert column(table.head, table.rows[0], "F1") == "71.0 +- 0.71 (2 seeds)"


def test_what_no_row_has_is_no_column() -> None:
    bare = scored(replace(ONE, published=None, parameters=None), own=None)
    table = scores_table([Side("a", [bare]), Side("b", [bare])])
    assert not {"gap", "own history F1", "published F1"} & {*table.head}
    assert "parameters" not in cost_table([Side("a", [bare])]).head
    table = scores_table([Side("a", [bare]), Side("b", [ONE])])
    assert column(table.head, table.rows[0], "gap") == "-"


def test_a_training_that_is_not_over_and_other_questions_are_said() -> None:
    table = scores_table([Side("a", [replace(ONE, step=4)]), Side("b", [ONE])])
    assert [row[0] for row in table.rows] == ["a (step 4 of 10)", "b"]
    assert "different numbers of questions" not in table.note
    table = scores_table([Side("a", [scored(ONE, num_questions=3)]), Side("b", [ONE])])
    assert "different numbers of questions" in table.note


def test_pairs_are_marked_where_they_are_sure() -> None:
    table = pairs_table([PAIR])
    assert table.rows == [
        ["y - x", "900", "EM", "+1.50 [+0.25, +2.75]", "0.0200 *"],
        ["y - x", "900", "F1", "-0.50 [-1.00, +0.25]", "0.3000"],
    ]
    assert "left out" not in table.note
    left_out = [replace(PAIR, num_left_out=5)]
    assert "5 questions of coqa that y or x alone has" in pairs_table(left_out).note


def test_epochs_are_means_over_seeds_of_what_is_known() -> None:
    later = replace(SECOND, epochs=[Epoch(1, 3.0, 2.5, 62.0, None)])
    table = epochs_table([Side("a", [ONE, later])])
    assert table.rows == [
        ["a", "1", "2.5000", "2.0000", "61.0", "69.0"],
        ["a", "2", "1.0000", "-", "-", "-"],
    ]


def test_a_family_has_two_tables_and_a_test_four() -> None:
    sides = [Side("a", [ONE]), Side("b", [SECOND])]
    assert [t.title for t in tables(sides, [])] == [
        "scores, last scored checkpoint",
        "cost",
    ]
    pair = replace(PAIR, first="a", second="b")
    assert [t.title for t in tables(sides, [pair])][2:] == ["differences", "by epoch"]


def test_markdown_has_as_many_cells_in_each_line() -> None:
    pair = replace(PAIR, first="a|b", second="c")
    text = to_markdown(tables([Side("a|b", [ONE]), Side("c", [SECOND])], [pair]))
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        counts = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(counts) == 1, block
    assert "a\\|b" in text and "## Differences" in text


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_a_threshold_of_zero_is_shown_and_none_is_not(threshold: float | None) -> None:
    table = scores_table([Side("a", [scored(ONE, headline="h", threshold=threshold)])])
    expected = "h" if threshold is None else "h 0.00"
    assert column(table.head, table.rows[0], "threshold") == expected


def test_sources_are_rows_of_their_own_and_named_where_there_are_several() -> None:
    joint = replace(ONE, sources={"ner": SCORES, "squad": SCORES})
    alone = scored(ONE, source="ner")
    table = scores_table([Side("joint", [joint]), Side("alone", [alone])])
    assert [row[0] for row in table.rows] == ["joint: ner", "joint: squad", "alone: ner"]
    pairs = [replace(PAIR, source=source) for source in ("ner", "squad")]
    names = [row[0] for row in pairs_table(pairs).rows]
    assert names == ["y - x: ner"] * 2 + ["y - x: squad"] * 2
    mixed = Side("seeds", [joint, alone])
    assert mixed.sources == ["ner"], "what not all runs have isn't a mean over them"
