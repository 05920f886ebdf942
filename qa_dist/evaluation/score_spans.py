"""Rows of an extractive head -> EM and F1 with intervals, at each threshold, and broken down.

The no-answer threshold is reported thrice: at 0, tuned on held-out training groups, and "oracle"
(chosen on dev: an upper bound). Sums are exact (math.fsum), so that 1, 2 or 7 shards give the same
last digit.
"""

from __future__ import annotations

import itertools
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
    left = iter(rows)
    while some := list(itertools.islice(left, 256)):
        gold.add(some)
        own.add([{**row, **row[OWN]} for row in some if OWN in row])
    is_asked_again = 0 < len(own.ids) == len(gold.ids)
    return gold.to_questions(), own.to_questions() if is_asked_again else None


_SCORES = ("exact", "f1", "null_exact", "null_f1")


class _Columns:
    """Rows that come some at a time, in little memory."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._groups: list[str] = []
        self._facets: list[dict[str, str]] = []
        self._texts: list[str] = []
        self._odds = array("d")
        self._scores = {name: array("d") for name in _SCORES}
        self._rules: set[str] = set()
        self._shared: dict[Any, Any] = {}  # of equal groups and facets, one

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take some rows."""
        share = self._shared.setdefault
        self.ids += [row["id"] for row in rows]
        self._texts += [row["text"] for row in rows]
        self._rules.update([row["rule"] for row in rows])
        groups = [row["group"] for row in rows if row["rule"] == "coqa"]
        self._groups += [share(group, group) for group in groups]
        facets = [row["facets"] for row in rows]
        self._facets += [share(tuple(own.items()), own) for own in facets]
        odds = [row["null_odds"] for row in rows]
        self._odds.extend([math.inf if of_row is None else of_row for of_row in odds])
        for name, column in self._scores.items():
            column.extend([row[name] for row in rows])

    def to_questions(self) -> _Questions:
        """Return them in the order of their ids."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)

        def sort(values: list[Any]) -> list[Any]:
            return [values[i] for i in order]

        odds, exact, f1, null_exact, null_f1 = (
            np.frombuffer(column)[order] for column in (self._odds, *self._scores.values())
        )
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
    is_null = (questions.null_odds > threshold).tolist()
    if task.NULL_CLASS is not None:
        texts = [task.NULL_TEXT if n else t for n, t in zip(is_null, questions.texts, strict=True)]
        answers = coqa_answers(zip(questions.ids, texts, strict=True))
        write_json(folder / f"{prefix}official.json", answers)
        return
    ids = _in_json(questions.ids)
    if questions.can_abstain:  # first: of a million each, fewer are held at once
        odds = (o if math.isfinite(o) else 1e9 for o in questions.null_odds.tolist())
        _write_by_id(folder / f"{prefix}null_odds.json", ids, _in_json([*odds]))
    texts, (null_text,) = _in_json(questions.texts), _in_json([task.NULL_TEXT])
    if questions.can_abstain:
        _write_by_id(folder / f"{prefix}answers.json", ids, texts)
    texts = [null_text if n else t for n, t in zip(is_null, texts, strict=True)]
    _write_by_id(folder / f"{prefix}official.json", ids, texts)


def _in_json(values: Sequence[str | float]) -> list[str]:
    """Return each value as JSON writes it: all at once, as no line break is left within one."""
    return json.dumps(values, separators=("\n", ": "))[1:-1].split("\n") if values else []


def _write_by_id(path: Path, ids: Sequence[str], values: Sequence[str]) -> None:
    """Write {id: value}, both in JSON already, as write_json does, in a third of its time."""
    lines = ",\n  ".join(map(": ".join, zip(ids, values, strict=True)))
    write_text(path, f"{{\n  {lines}\n}}\n" if ids else "{}\n")
