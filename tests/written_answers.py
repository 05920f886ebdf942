"""Rows of written answers, as the evaluate stage makes them, with figures worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qa_dist.evaluation.score_text import score_text
from qa_dist.recipe import Evaluation, Recipe, Source
from qa_dist.text.metrics import question_scores

NONE = "The text does not include that detail."
ANSWERS = {  # id: expected, base, tuned
    "q1": ("Red balloons float upwards.", "balloons", "Red balloons float"),
    "q2": ("Seven cats sleep.", "Seven cats sleep.", "dogs"),
    "q3": (NONE, "80/10/10", NONE),
    "q4": ("Blue whales sing.", "The text does not say.", "whales"),
}


def make_row(i: str, expected: str, base: str | None, tuned: str, **more: Any) -> dict[str, Any]:
    rule = more.get("rule", "prompted")
    exact, f1 = question_scores(rule, tuned, [expected])
    row = {"id": i, "question": f"{i}?", "answers": [expected], "rule": "prompted", "group": i}
    row |= {"facets": {}, "text": tuned, "exact": exact, "f1": f1, "base_text": base, **more}
    if base is not None:
        row["base_exact"], row["base_f1"] = question_scores(rule, base, [expected])
    return row


ROWS = [make_row(i, *texts) for i, texts in ANSWERS.items()]


def score(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    predictions = folder / "academic" / "main" / "predictions" / "step-00000004"
    predictions.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(evaluation=Evaluation(num_resamples=50, **settings))
    return score_text(recipe, Source(task="prompted_qa"), rows, None, predictions, "")
