"""Rows of an extractive head -> EM and F1 with intervals, at each threshold, and broken down.

The no-answer threshold is reported thrice: at 0, tuned on held-out training groups, and "oracle"
(chosen on dev: an upper bound). Sums are exact (math.fsum), so that 1, 2 or 7 shards give the same
last digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist.evaluation.breakdown import break_down, coqa_answers
from qa_dist.evaluation.own_history import OWN
from qa_dist.files import write_json
from qa_dist.recipe import Recipe, Source
from qa_dist.records import ANSWER_NOTHING
from qa_dist.tasks import TASKS, Task
from qa_dist.text.bootstrap import bootstrap_interval, paired_difference
from qa_dist.text.decode import best_threshold

ALWAYS = "always_answer"  # SQuAD 1.1: every question is answered

Rows = Sequence[Mapping[str, Any]]


def score_spans(
    recipe: Recipe, source: Source, dev: Rows, heldout: Rows | None, folder: Path, prefix: str
) -> dict[str, Any]:
    """Return the scores of a checkpoint on one source, and write its answers in the official
    scripts' formats into `folder`, under names that begin with `prefix`."""
    task, num_resamples = TASKS[source.task], recipe.evaluation.num_resamples
    questions = _to_arrays(dev)
    thresholds = {ALWAYS: math.inf}
    if questions.can_abstain:
        thresholds = {"at_0": 0.0}
        if heldout is not None:
            thresholds["tuned"] = _tune(_to_arrays(heldout))
        thresholds["oracle"] = _tune(questions)
    headline = "tuned" if "tuned" in thresholds else next(iter(thresholds))
    _write_official(folder, prefix, task, questions, thresholds[headline])
    figures = {
        name: {
            "threshold": None if threshold == math.inf else threshold,
            **_figures(questions, threshold, range(len(questions.ids)), num_resamples),
        }
        for name, threshold in thresholds.items()
    }
    return {
        "headline": headline,
        "num_questions": len(questions.ids),
        "num_groups": len(set(questions.groups)),
        "scores": figures,
        "by": _break_down(questions, thresholds[headline], num_resamples),
        **_own_history(questions, dev, thresholds[headline], num_resamples),
    }


def _own_history(
    questions: _Questions, rows: Rows, threshold: float, num_resamples: int
) -> dict[str, Any]:
    """Return {"own_history": figures, gap, by} of rows that were asked a second time; {} if they
    weren't. The gap is what the model's own answers as history cost: gold less own, in points."""
    if not all(OWN in row for row in rows):
        return {}
    own = _to_arrays([{**row, **row[OWN]} for row in rows])
    gap = {
        metric: asdict(
            paired_difference(
                (100 * own.scores(metric, threshold)).tolist(),
                (100 * questions.scores(metric, threshold)).tolist(),
                questions.groups,
                num_resamples,
            )
        )
        for metric in ("em", "f1")
    }
    figures = _figures(own, threshold, range(len(own.ids)), num_resamples)
    by = _break_down(own, threshold, num_resamples)
    return {"own_history": {**figures, "gap": gap, "by": by}}


@dataclass(frozen=True)
class _Questions:
    """The questions of a split, one array element each, in the order of their ids."""

    ids: list[str]
    groups: list[str]
    facets: list[dict[str, str]]
    texts: list[str]
    null_odds: NDArray[np.float64]
    answered: dict[str, NDArray[np.float64]]
    """"em" and "f1" (0..1) with the best answer."""
    unanswered: dict[str, NDArray[np.float64]]
    """The same, had no answer been given."""
    can_abstain: bool
    """Whether the task knows "no answer": not SQuAD 1.1."""

    def scores(self, metric: str, threshold: float) -> NDArray[np.float64]:
        """Return the score (0..1) of each question under a null threshold: (questions,)."""
        return np.where(self.null_odds > threshold, self.unanswered[metric], self.answered[metric])


def _tune(questions: _Questions) -> float:
    """Return the threshold with the best F1."""
    answered, unanswered = questions.answered["f1"], questions.unanswered["f1"]
    return max(ANSWER_NOTHING, best_threshold(questions.null_odds, answered, unanswered))


def _figures(
    questions: _Questions, threshold: float, rows: Sequence[int], num_resamples: int
) -> dict[str, float]:
    """Return EM and F1 in percent over some questions, each with its 95 % interval over groups."""
    picked = np.asarray(rows)
    groups = [questions.groups[i] for i in rows]
    figures: dict[str, float] = {}
    for metric in ("em", "f1"):
        values = 100 * questions.scores(metric, threshold)[picked]
        low, high = bootstrap_interval(values.tolist(), groups=groups, num_resamples=num_resamples)
        total = math.fsum(questions.scores(metric, threshold)[picked].tolist())
        figures[metric] = 100.0 * total / len(rows)
        figures[f"{metric}_low"], figures[f"{metric}_high"] = low, high
    return figures


def _break_down(
    questions: _Questions, threshold: float, num_resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures by answer type, turn and domain, where questions have these facets."""
    return break_down(
        questions.facets, lambda rows: _figures(questions, threshold, rows, num_resamples)
    )


def _to_arrays(rows: Sequence[Mapping[str, Any]]) -> _Questions:
    def column(name: str) -> NDArray[np.float64]:
        return np.array([math.inf if r[name] is None else r[name] for r in rows], dtype=np.float64)

    can_abstain = any(row["rule"] != "squad_v1" for row in rows)
    odds = column("null_odds")
    return _Questions(
        ids=[row["id"] for row in rows],
        groups=[row["group"] if row["rule"] == "coqa" else row["id"] for row in rows],
        facets=[row["facets"] for row in rows],
        texts=[row["text"] for row in rows],
        null_odds=odds if can_abstain else np.full(len(rows), -math.inf),
        answered={"em": column("exact"), "f1": column("f1")},
        unanswered={"em": column("null_exact"), "f1": column("null_f1")},
        can_abstain=can_abstain,
    )


def _write_official(
    folder: Path, prefix: str, task: Task, questions: _Questions, threshold: float
) -> None:
    """Write predictions in the official scripts' formats, so that anyone can score them again.

    official.json: the answers under the threshold. For SQuAD 2.0 also the best answer of each
    question, whatever the threshold, with its null odds: jobs/score.py with both and
    null_threshold=<that of scores/*.json> gives the same figures, and best_* and pr_*_ap.
    """
    texts = [
        task.NULL_TEXT if odds > threshold else text
        for odds, text in zip(questions.null_odds.tolist(), questions.texts, strict=True)
    ]
    if task.NULL_CLASS is None:
        write_json(folder / f"{prefix}official.json", dict(zip(questions.ids, texts, strict=True)))
        if questions.can_abstain:
            odds = [o if math.isfinite(o) else 1e9 for o in questions.null_odds.tolist()]
            answered = dict(zip(questions.ids, questions.texts, strict=True))
            write_json(folder / f"{prefix}answers.json", answered)
            write_json(
                folder / f"{prefix}null_odds.json", dict(zip(questions.ids, odds, strict=True))
            )
    else:
        answers = coqa_answers(zip(questions.ids, texts, strict=True))
        write_json(folder / f"{prefix}official.json", answers)
