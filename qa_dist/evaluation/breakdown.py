"""What tables of span and of text answers share: figures by facet, and CoQA's official format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

KINDS = ("answer_type", "decision", "turn", "domain")
"""The facets that figures are broken down by, where questions have them."""
LAST_TURN = 10
"""This turn of a conversation and all later ones are one row."""

Figures = Mapping[str, float | int | None]


def break_down(
    facets: Sequence[Mapping[str, str]], figures: Callable[[Sequence[int]], Figures]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {facet: {value: {"num_questions", ...figures}}} for each facet in which questions
    differ.

    facets: each question's; figures: called with the numbers of the questions of a row. Rows are in
    the order of their names' lengths, numbers last.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in KINDS:
        of_values: dict[str, list[int]] = defaultdict(list)
        for i, of_question in enumerate(facets):
            if kind in of_question:
                of_values[of_question[kind]].append(i)
        rows: dict[str, list[int]] = {}
        for value, numbers in of_values.items():
            name = _row_name(kind, value)
            rows[name] = sorted(rows[name] + numbers) if name in rows else numbers
        if len(rows) > 1:
            tables[kind] = {
                name: {"num_questions": len(rows[name]), **figures(rows[name])}
                for name in sorted(
                    rows, key=lambda n: (n.isdigit() or n.startswith(">"), len(n), n)
                )
            }
    return tables


def coqa_answers(answers: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return (question id, answer) pairs as CoQA's official script takes them: a list of turns."""
    pairs = [(*question_id.rsplit("#", 1), text) for question_id, text in answers]
    return [{"id": story, "turn_id": int(turn), "answer": text} for story, turn, text in pairs]


def _row_name(kind: str, value: str) -> str:
    return f">={LAST_TURN}" if kind == "turn" and int(value) >= LAST_TURN else value
