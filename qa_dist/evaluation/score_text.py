"""Rows of a language model -> the prompted-QA table, and a report that shows each question.

Figures are those of the tuned model ("tuned", the headline), of the same base with its adapter off
("base"), and of another question's expected answer in the place of a response ("floor"): EM and F1
by the official rule, keyword overlap, refusal accuracy, length; in percent but for the length, with
95 % intervals over questions (CoQA: over stories). Sums are exact (math.fsum), so that 1, 2 or 7
shards give the same last digit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qa_dist.evaluation.breakdown import break_down, coqa_answers
from qa_dist.evaluation.text_report import write_report
from qa_dist.files import write_json
from qa_dist.recipe import Recipe, Source
from qa_dist.text.bootstrap import bootstrap_interval, paired_difference
from qa_dist.text.metrics import question_scores
from qa_dist.text.prompted_metrics import (
    is_refusal,
    keyword_overlap,
    length_words,
    other_questions,
    outcome,
)
from qa_dist.text.prompts import expected_answer, scored_answer

_INTERVALS = ("em", "f1", "keyword_overlap")

Row = Mapping[str, Any]
Values = dict[str, list[float]]


def score_text(
    recipe: Recipe,
    source: Source,
    dev: Sequence[Row],
    heldout: Sequence[Row] | None,
    folder: Path,
    prefix: str,
) -> dict[str, Any]:
    """Return the scores of a checkpoint, and write its answers in the official scripts' formats
    into `folder`, and its report into the run's folder report/. There is no threshold to tune:
    `heldout` isn't looked at."""
    settings = recipe.evaluation
    responses = {"tuned": [str(row["text"]) for row in dev]}
    if all(row["base_text"] is not None for row in dev):
        responses["base"] = [str(row["base_text"]) for row in dev]
    expected = {str(row["id"]): expected_answer(row["answers"]) for row in dev}
    others = other_questions(expected)
    if others:
        responses["floor"] = [expected[others[row["id"]]] for row in dev]
    values = {name: _values(name, dev, texts) for name, texts in responses.items()}
    groups = [str(row["group"] if row["rule"] == "coqa" else row["id"]) for row in dev]
    everything = range(len(dev))
    scores: dict[str, Any] = {
        "headline": "tuned",
        "num_questions": len(dev),
        "num_groups": len({row["group"] for row in dev}),
        "scores": {
            name: _figures(dev, found, groups, everything, settings.num_resamples)
            for name, found in values.items()
        },
        "by": _break_down(dev, values["tuned"], groups, settings.num_resamples),
    }
    if "base" in values:
        scores["compared"] = _compare(values, groups, settings.tie_margin, settings.num_resamples)
    _write_official(folder, prefix, dev)
    write_report(folder, prefix, dev, values, scores, settings.tie_margin)
    return scores


def _values(name: str, dev: Sequence[Row], responses: Sequence[str]) -> Values:
    """Return each figure of each question, 0..1 but for the length."""
    scored = {"tuned": ("exact", "f1"), "base": ("base_exact", "base_f1")}.get(name)
    if scored:
        official = [(float(row[scored[0]]), float(row[scored[1]])) for row in dev]
    else:
        pairs = zip(dev, responses, strict=True)
        official = [
            question_scores(row["rule"], scored_answer(row["rule"], text), row["answers"])
            for row, text in pairs
        ]
    expected = [expected_answer(row["answers"]) for row in dev]
    pairs_of_texts = list(zip(expected, responses, strict=True))
    return {
        "em": [exact for exact, _ in official],
        "f1": [f1 for _, f1 in official],
        "keyword_overlap": [keyword_overlap(gold, text) for gold, text in pairs_of_texts],
        "refusal": [float(is_refusal(gold) == is_refusal(text)) for gold, text in pairs_of_texts],
        "length": [float(length_words(text)) for text in responses],
    }


def _figures(
    dev: Sequence[Row],
    values: Values,
    groups: Sequence[str],
    rows: Sequence[int],
    num_resamples: int,
) -> dict[str, float | int | None]:
    """Return the figures over some questions."""
    figures: dict[str, float | int | None] = {"threshold": None}  # each question is answered
    of_groups = [groups[i] for i in rows]
    for name in _INTERVALS:
        picked = [100.0 * values[name][i] for i in rows]
        low, high = bootstrap_interval(picked, groups=of_groups, num_resamples=num_resamples)
        figures[name] = math.fsum(picked) / len(rows)
        figures[f"{name}_low"], figures[f"{name}_high"] = low, high
    refusals = [i for i in rows if is_refusal(expected_answer(dev[i]["answers"]))]
    figures["refusal_accuracy"] = 100.0 * _mean(values["refusal"], rows)
    figures["refusals_expected"] = len(refusals)
    figures["refusals_found"] = int(sum(values["refusal"][i] for i in refusals))
    figures["length_words"] = _mean(values["length"], rows)
    return figures


def _mean(values: Sequence[float], rows: Sequence[int]) -> float:
    return math.fsum(values[i] for i in rows) / len(rows)


def _compare(
    values: Mapping[str, Values], groups: Sequence[str], margin: float, num_resamples: int
) -> dict[str, Any]:
    """Return wins, ties and losses of the tuned model by keyword overlap, and its gains over the
    base in points, with paired intervals."""
    base, tuned = values["base"], values["tuned"]
    pairs = zip(base["keyword_overlap"], tuned["keyword_overlap"], strict=True)
    outcomes = Counter(outcome(theirs, ours, margin) for theirs, ours in pairs)
    compared: dict[str, Any] = {
        "tie_margin": margin,
        **{name: outcomes[name] for name in ("win", "tie", "loss")},
    }
    for name in _INTERVALS:
        gain = paired_difference(base[name], tuned[name], groups, num_resamples)
        compared[f"{name}_gain"] = 100.0 * gain.mean
        compared[f"{name}_gain_low"] = 100.0 * gain.low
        compared[f"{name}_gain_high"] = 100.0 * gain.high
        compared[f"{name}_p_value"] = gain.p_value
    return compared


def _break_down(
    dev: Sequence[Row], values: Values, groups: Sequence[str], num_resamples: int
) -> dict[str, Any]:
    """Return the figures by what questions have as facets, where they differ in it."""
    return break_down(
        [row["facets"] for row in dev],
        lambda rows: _figures(dev, values, groups, rows, num_resamples),
    )


def _write_official(folder: Path, prefix: str, dev: Sequence[Row]) -> None:
    """Write the tuned model's answers as official scripts take them: CoQA's as a list of turns,
    others as an object by id."""
    answers = [(str(row["id"]), scored_answer(row["rule"], row["text"])) for row in dev]
    is_coqa = all(row["rule"] == "coqa" for row in dev)
    content = coqa_answers(answers) if is_coqa else dict(answers)
    write_json(folder / f"{prefix}official.json", content)
