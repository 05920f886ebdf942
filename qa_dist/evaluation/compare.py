"""Runs side by side: paired tests on the questions that they share.

In: runs' scores and predictions. Out: dataclasses; what a person sees of them is
comparison_table.py's business. Several runs on one side (seeds) are summed per question before the
test, so that its interval is about questions; the spread over seeds is given beside it. Each source
of a multi-task run is compared apart: so a joint training is set against those on one source alone.
No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qa_dist.data.prepared import read_prepared
from qa_dist.evaluation.outcome import Outcome, headline_figures, last_scored, scores_of_sources
from qa_dist.recipe import source_names, source_splits, trained_sources
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir
from qa_dist.text.bootstrap import Difference, paired_ratio_difference

METRICS = ("em", "f1")

NamedRuns = tuple[str, Sequence[RunDir]]


@dataclass(frozen=True)
class Side:
    """One thing to compare: a run, or the runs of one setting that differ in the seed."""

    name: str
    outcomes: list[Outcome]

    @property
    def sources(self) -> list[str]:
        """The sources that all its runs were scored on."""
        return [n for n in self.outcomes[0].sources if all(n in o.sources for o in self.outcomes)]

    def values(self, source: str, metric: str) -> list[float]:
        """Return a figure of each run."""
        return [outcome.sources[source].figures[metric] for outcome in self.outcomes]


@dataclass(frozen=True)
class Answers:
    """What each question (or sentence) of a source adds to its figures, in a checkpoint at its
    headline threshold."""

    groups: dict[str, str]
    """Id -> the unit that the bootstrap draws: story, document, or the question itself."""
    parts: dict[str, dict[str, tuple[float, float]]]
    """Metric -> id -> (numerator, denominator): the figure is sum over sum, in percent. A score of
    80 is (80, 1)."""


@dataclass(frozen=True)
class Paired:
    """The second side less the first, on the questions that all their runs answered."""

    source: str
    first: str
    second: str
    num_questions: int
    num_left_out: int
    """Questions of one side alone."""
    differences: dict[str, Difference]
    """By metric, in percent points."""


def read_answers(run: RunDir, step: int) -> dict[str, Answers]:
    """Read what each question of each source adds to its figures, at the headline threshold of
    scores/step-*.json."""
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    names, of_sources = source_names(recipe), scores_of_sources(run, step)
    found = {}
    for split in source_splits(recipe):
        name = names[split.source]
        if split.part != "dev" or name not in of_sources:
            continue
        threshold = headline_figures(of_sources[name]).get("threshold")
        answers = found[name] = Answers({}, {metric: {} for metric in METRICS})
        for shard in prepared.shards(split.name):
            with run.predictions_file(step, shard.name).open(encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    if row["id"] in answers.groups:  # doubled: the first counts, as in the scores
                        continue
                    answers.groups[row["id"]] = _group(row)
                    for metric, part in zip(METRICS, _parts(row, threshold), strict=True):
                        answers.parts[metric][row["id"]] = part
    return found


def _group(row: Mapping[str, Any]) -> str:
    """Return what the intervals of this row's source are over (score_*.py)."""
    return str(row["group"] if row["rule"] == "coqa" or "entities" in row else row["id"])


def _parts(row: Mapping[str, Any], threshold: float | None) -> Iterator[tuple[float, float]]:
    """Yield what a row adds to EM and to F1: numerator and denominator."""
    if "entities" in row:  # tags: right, found and gold ones
        right, found, gold = row["entities"]
        yield 100.0 * row["exact"], 1.0
        yield 200.0 * right, float(found + gold)
        return
    odds = math.inf if row.get("null_odds", 0.0) is None else row.get("null_odds", 0.0)
    given = "" if threshold is None or odds <= threshold else "null_"
    yield 100.0 * row[f"{given}exact"], 1.0
    yield 100.0 * row[f"{given}f1"], 1.0


def compare_answers(
    source: str, first: tuple[str, Sequence[Answers]], second: tuple[str, Sequence[Answers]]
) -> Paired:
    """Test two sides on one source, each a name and its runs' answers, on the questions that all
    of them have; several runs (seeds) of a side are summed.

    Raises InputError if there are none: they were scored on different data.
    """
    runs = [*first[1], *second[1]]
    shared = set.intersection(*(set(answers.groups) for answers in runs))
    if not shared:
        raise InputError(
            f"{first[0]} and {second[0]}: have no question of {source} in common, so they can't be "
            "compared; they were scored on different dev data"
        )
    ids = sorted(shared)
    groups = [runs[0].groups[i] for i in ids]

    def difference(metric: str) -> Difference:
        sides = [
            tuple(
                [sum(answers.parts[metric][i][part] for answers in side) for i in ids]
                for part in (0, 1)
            )
            for side in (first[1], second[1])
        ]
        return paired_ratio_difference(
            (sides[0][0], sides[0][1]), (sides[1][0], sides[1][1]), groups
        )

    return Paired(
        source,
        first[0],
        second[0],
        len(ids),
        len(set.union(*(set(answers.groups) for answers in runs))) - len(ids),
        {metric: difference(metric) for metric in METRICS},
    )


def compare_runs(first: NamedRuns, second: NamedRuns) -> list[Paired]:
    """Test two sides, each a name and its runs, at their last scored checkpoints, on each source
    that both have: so a joint training is compared with those on one source alone. Sides without a
    source in common give nothing."""
    read = [[read_answers(run, last_scored(run)) for run in runs] for _, runs in (first, second)]
    every = [run for side in read for run in side]
    sources = [name for name in every[0] if all(name in run for run in every)]
    return [
        compare_answers(
            name,
            (first[0], [run[name] for run in read[0]]),
            (second[0], [run[name] for run in read[1]]),
        )
        for name in sources
    ]


def compare_sides(sides: Sequence[NamedRuns]) -> tuple[list[Paired], list[str]]:
    """Test one side against each of the others; return the tests, and notes on what has none.

    That one is the first; but where some were trained on several sources and some on one alone, it
    is the first of the joint ones, and its differences are joint less alone: interference is
    negative.
    """
    is_joint = [len(trained_sources(load_saved_recipe(runs[0].recipe))) > 1 for _, runs in sides]
    base = is_joint.index(True) if len(set(is_joint)) > 1 else 0
    pairs, notes = [], []
    for place, other in enumerate(sides):
        if place == base:
            continue
        is_alone = is_joint[base] and not is_joint[place]
        found = compare_runs(*((other, sides[base]) if is_alone else (sides[base], other)))
        pairs += found
        if not found:
            notes.append(f"{sides[base][0]} and {other[0]} were trained on nothing in common")
    return pairs, notes
