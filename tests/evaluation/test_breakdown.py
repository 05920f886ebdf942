"""Figures by facet, and CoQA's official list of turns."""

from __future__ import annotations

from collections.abc import Sequence

from qa_dist.evaluation.breakdown import break_down, coqa_answers


def figures(rows: Sequence[int]) -> dict[str, float]:
    return {"sum": float(sum(rows))}


def test_rows_are_values_of_a_facet_and_late_turns_are_one() -> None:
    facets = [{"turn": str(turn), "domain": "mctest"} for turn in (11, 2, 10, 2)]
    tables = break_down(facets, figures)
    assert tables == {
        "turn": {"2": {"num_questions": 2, "sum": 4.0}, ">=10": {"num_questions": 2, "sum": 2.0}}
    }, "a facet that is the same for all has no table"
    assert list(tables["turn"]) == ["2", ">=10"]


def test_questions_without_the_facet_are_in_no_row() -> None:
    facets = [{"decision": "yes"}, {}, {"decision": "no"}, {"other": "a"}, {"other": "b"}]
    tables = break_down(facets, figures)
    assert tables.keys() == {"decision"}
    assert {name: row["sum"] for name, row in tables["decision"].items()} == {"yes": 0, "no": 2}
    assert list(tables["decision"]) == ["no", "yes"]


def test_coqa_ids_are_taken_apart_at_the_last_hash() -> None:
    assert coqa_answers([("a#b#12", "x"), ("c#1", "")]) == [
        {"id": "a#b", "turn_id": 12, "answer": "x"},
        {"id": "c", "turn_id": 1, "answer": ""},
    ]
