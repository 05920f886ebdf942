"""Rows of an extractive head -> EM and F1 with intervals, at each threshold, and broken down.

The no-answer threshold is reported thrice: at 0, tuned on held-out training groups, and "oracle"
(chosen on dev: an upper bound). Sums are exact (math.fsum), so that 1, 2 or 7 shards give the same
last digit.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist.evaluation.breakdown import break_down, coqa_answers
from qa_dist.evaluation.own_history import OWN
from qa_dist.files import write_json, write_text
from qa_dist.recipe import Recipe, Source
from qa_dist.records import ANSWER_NOTHING
from qa_dist.tasks import TASKS, Task
from qa_dist.text.bootstrap import bootstrap_interval, paired_difference
from qa_dist.text.decode import best_threshold

ALWAYS = "always_answer"  # SQuAD 1.1: every question is answered

Rows = Iterable[Mapping[str, Any]]


def score_spans(
    recipe: Recipe, source: Source, dev: Rows, heldout: Rows | None, folder: Path, prefix: str
) -> dict[str, Any]:
    """Return the scores of a checkpoint on one source, and write its answers in the official
    scripts' formats into `folder`, under names that begin with `prefix`. Rows come in any order,
    and are looked at once."""
    task, num_resamples = TASKS[source.task], recipe.evaluation.num_resamples
    questions, own = _to_arrays(dev)
    held = None if heldout is None else _to_arrays(heldout)[0]
    thresholds = {ALWAYS: math.inf}
    if questions.can_abstain:
        thresholds = {"at_0": 0.0}
        if held is not None:
            thresholds["tuned"] = _tune(held)
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
        "num_groups": len(set(questions.groups or questions.ids)),
        "scores": figures,
        "by": _break_down(questions, thresholds[headline], num_resamples),
        **(_own_history(questions, own, thresholds[headline], num_resamples) if own else {}),
    }


def _own_history(
    questions: _Questions, own: _Questions, threshold: float, num_resamples: int
) -> dict[str, Any]:
    """Return {"own_history": figures, gap, by} of questions that were asked a second time. The gap
    is what the model's own answers as history cost: gold less own, in points."""
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
    groups: list[str] | None
    """What the bootstrap draws; None: each question."""
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
    groups = questions.groups and [questions.groups[i] for i in rows]
    figures: dict[str, float] = {}
    for metric in ("em", "f1"):
        values = questions.scores(metric, threshold)[picked]
        low, high = bootstrap_interval(100 * values, groups=groups, num_resamples=num_resamples)
        figures[metric] = 100.0 * math.fsum(values.tolist()) / len(rows)
        figures[f"{metric}_low"], figures[f"{metric}_high"] = low, high
    return figures


def _break_down(
    questions: _Questions, threshold: float, num_resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures by answer type, turn and domain, where questions have these facets."""
    return break_down(
        questions.facets, lambda rows: _figures(questions, threshold, rows, num_resamples)
    )


def _to_arrays(rows: Rows) -> tuple[_Questions, _Questions | None]:
    """Return the questions, and the same with the model's own answers as history, if all were asked
    so too."""
    gold, own = _Columns(), _Columns()
    for row in rows:
        gold.add(row)
        if OWN in row:
            own.add({**row, **row[OWN]})
    is_asked_again = 0 < len(own.ids) == len(gold.ids)
    return gold.to_questions(), own.to_questions() if is_asked_again else None


class _Columns:
    """Rows that come one by one, in little memory."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._groups: list[str] = []
        self._facets: list[dict[str, str]] = []
        self._texts: list[str] = []
        self._numbers = array("d")
        self._rules: set[str] = set()
        self._shared: dict[Any, Any] = {}  # of equal groups and facets, one

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row."""
        self.ids.append(row["id"])
        self._texts.append(row["text"])
        self._rules.add(row["rule"])
        if row["rule"] == "coqa":
            self._groups.append(self._shared.setdefault(row["group"], row["group"]))
        facets = row["facets"]
        self._facets.append(self._shared.setdefault(tuple(facets.items()), facets))
        odds = math.inf if row["null_odds"] is None else row["null_odds"]
        scores = row["exact"], row["f1"], row["null_exact"], row["null_f1"]
        self._numbers.extend((odds, *scores))

    def to_questions(self) -> _Questions:
        """Return them in the order of their ids."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)

        def sort(values: list[Any]) -> list[Any]:
            return [values[i] for i in order]

        numbers = np.frombuffer(self._numbers).reshape(-1, 5)[order]
        odds, exact, f1, null_exact, null_f1 = np.ascontiguousarray(numbers.T)
        can_abstain = any(rule != "squad_v1" for rule in self._rules)
        return _Questions(
            ids=sort(self.ids),
            groups=sort(self._groups) if self._groups else None,
            facets=sort(self._facets),
            texts=sort(self._texts),
            null_odds=odds if can_abstain else np.full(len(order), -math.inf),
            answered={"em": exact, "f1": f1},
            unanswered={"em": null_exact, "f1": null_f1},
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
        _write_by_id(folder / f"{prefix}official.json", questions.ids, texts)
        if questions.can_abstain:
            odds = [o if math.isfinite(o) else 1e9 for o in questions.null_odds.tolist()]
            _write_by_id(folder / f"{prefix}answers.json", questions.ids, questions.texts)
            _write_by_id(folder / f"{prefix}null_odds.json", questions.ids, odds)
    else:
        answers = coqa_answers(zip(questions.ids, texts, strict=True))
        write_json(folder / f"{prefix}official.json", answers)


def _write_by_id(path: Path, ids: Sequence[str], values: Sequence[str | float]) -> None:
    """Write {id: value} as write_json does, in a tenth of its time."""
    by_id = dict(zip(ids, values, strict=True))
    lines = json.dumps(by_id, separators=(",\n  ", ": "))[1:-1]
    write_text(path, f"{{\n  {lines}\n}}\n" if ids else "{}\n")
