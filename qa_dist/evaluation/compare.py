"""Runs side by side: scores, cost, learning curves, and paired tests on the questions they share.

In: runs' folders (scores, predictions, scalars, the checkpoint's header) and the recipes' head
comments, which are the one place where published figures stand. Out: dataclasses; what a person
sees of them is comparison_table.py's business. Several runs on one side (seeds) are averaged per
question before the test, so that its interval is about questions; the spread over seeds is given
beside it. No torch.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_dist.data.prepared import read_prepared
from qa_dist.evaluation.elements import WEIGHTS, finished_steps
from qa_dist.files import read_json, read_setting, read_status
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name
from qa_dist.scalars import read_scalars
from qa_dist.text.bootstrap import Difference, paired_difference

METRICS = ("em", "f1")


@dataclass(frozen=True)
class Published:
    """A figure that others reported, as a recipe's head comment says."""

    em: float | None
    f1: float | None


@dataclass(frozen=True)
class Epoch:
    """What was known of a run when an epoch was over."""

    epoch: int
    train_loss: float | None
    """Mean over the epoch's steps."""
    validation_loss: float | None
    """That of the last checkpoint within the epoch, as are the scores."""
    em: float | None
    f1: float | None


@dataclass(frozen=True)
class Outcome:
    """What came out of one run, at the last checkpoint that was scored."""

    name: str
    """recipe/name."""
    step: int
    of: int | None
    """Steps of the whole training, as far as known: fewer were scored if it isn't over."""
    num_questions: int
    headline: str
    threshold: float | None
    figures: dict[str, float]
    """em, em_low, em_high and the same of f1, in percent, at the headline threshold."""
    own: dict[str, float] | None
    """The same with the model's own answers as history; None: not made."""
    parameters: int | None
    """Of the saved weights; None where no checkpoint is left."""
    windows_per_s: float | None
    """In training, over all ranks: the median of what was logged."""
    step_s: float | None
    memory_gb: float | None
    """The most that rank 0 used."""
    epochs: list[Epoch]
    published: Published | None


@dataclass(frozen=True)
class Side:
    """One thing to compare: a run, or the runs of one setting that differ in the seed."""

    name: str
    outcomes: list[Outcome]

    def mean(self, metric: str) -> float:
        return statistics.fmean(outcome.figures[metric] for outcome in self.outcomes)

    def std(self, metric: str) -> float | None:
        """Return the sample standard deviation over seeds; None with fewer than two."""
        values = [outcome.figures[metric] for outcome in self.outcomes]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Answers:
    """The scores of each question of a checkpoint at its headline threshold."""

    groups: dict[str, str]
    """Question id -> the unit that the bootstrap draws: the story for CoQA, else the question."""
    scores: dict[str, dict[str, float]]
    """Metric -> question id -> score in percent."""


@dataclass(frozen=True)
class Paired:
    """The second side less the first, on the questions that all their runs answered."""

    first: str
    second: str
    num_questions: int
    num_left_out: int
    """Questions of one side alone."""
    differences: dict[str, Difference]
    """By metric, in percent points."""


# ---- one run


def read_outcome(run: RunDir, recipes: Path) -> Outcome:
    """Read what came out of a run; raise InputError if it has no scores yet."""
    step = last_scored(run)
    scores = read_json(run.scores_file(step))
    figures = dict(scores["scores"][scores["headline"]])
    threshold = figures.pop("threshold")
    lines = read_scalars(run.scalars)
    rates = [line["speed/windows_per_s"] for line in lines if line.get("speed/windows_per_s")]
    rate = statistics.median(rates[1:] or rates) if rates else None  # the first has the start in it
    batch = int(read_setting(run.recipe, "batch_windows") or 0)
    memory = [line["speed/memory_gb"] for line in lines if line.get("speed/memory_gb")]
    return Outcome(
        name=run_label(run),
        step=step,
        of=read_status(run.status_file("train", 0)).get("of"),
        num_questions=scores["num_questions"],
        headline=scores["headline"],
        threshold=threshold,
        figures=figures,
        own=scores.get("own_history"),
        parameters=count_parameters(run, step),
        windows_per_s=rate,
        step_s=batch / rate if rate else None,
        memory_gb=max(memory, default=None),
        epochs=read_epochs(run, lines),
        published=read_published(recipes / f"{run.root.parent.name}.yaml"),
    )


def run_label(run: RunDir) -> str:
    """Return recipe/name."""
    return f"{run.root.parent.name}/{run.root.name}"


def last_scored(run: RunDir) -> int:
    """Return the last step with scores; raise InputError if there is none."""
    steps = _scored_steps(run)
    if not steps:
        raise InputError(
            f"{run_label(run)}: has no scores yet; `python jobs/status.py {run_label(run)}` says "
            "how far it is"
        )
    return steps[-1]


def _scored_steps(run: RunDir) -> list[int]:
    return sorted(int(path.stem[5:]) for path in run.scores.glob("step-*.json"))


def count_parameters(run: RunDir, step: int) -> int | None:
    """Return how many numbers the weights of a checkpoint hold: of this step's, or another's."""
    for there in dict.fromkeys((step, *reversed(finished_steps(run)))):
        path = run.checkpoints / step_name(there) / WEIGHTS
        if path.is_file():
            with path.open("rb") as weights:  # safetensors: a length, then JSON
                size = int.from_bytes(weights.read(8), "little")
                header: dict[str, Any] = json.loads(weights.read(size))
            header.pop("__metadata__", None)
            shapes: list[list[int]] = [tensor["shape"] for tensor in header.values()]
            return sum(map(math.prod, shapes))
    return None


def read_epochs(run: RunDir, lines: Sequence[Mapping[str, Any]]) -> list[Epoch]:
    """Return the learning curve by epoch, from the lines of scalars.jsonl and scores/*.json."""
    logged = [line for line in lines if line.get("train/epoch")]
    if not logged:
        return []
    steps_per_epoch: float = logged[-1]["step"] / logged[-1]["train/epoch"]

    def epoch_of(step: int) -> int:
        return math.ceil(round(float(step / steps_per_epoch), 6))

    losses: dict[int, list[tuple[int, float]]] = {}  # epoch -> (steps, mean loss over them)
    before = 0
    for line in logged:
        part = (line["step"] - before, line["train/loss"])
        losses.setdefault(epoch_of(line["step"]), []).append(part)
        before = line["step"]
    validation = {
        epoch_of(line["step"]): line["validation/loss"]
        for line in lines
        if line.get("validation/loss") is not None
    }
    scored = {}
    for step in _scored_steps(run):
        scores = read_json(run.scores_file(step))
        scored[epoch_of(step)] = scores["scores"][scores["headline"]]
    return [
        Epoch(
            epoch,
            sum(n * loss for n, loss in losses[epoch]) / sum(n for n, _ in losses[epoch])
            if epoch in losses
            else None,
            validation.get(epoch),
            scored.get(epoch, {}).get("em"),
            scored.get(epoch, {}).get("f1"),
        )
        for epoch in sorted({*losses, *validation, *scored})
    ]


def read_published(recipe: Path) -> Published | None:
    """Return the figures that a recipe's head comment expects: "# Expected: F1 81.0, EM 71.5 ...".

    Those up to the first bracket, which tells where they are from; None: the comment gives none.
    """
    try:
        text = recipe.read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^# Expected: ([^(]*)", text, re.MULTILINE)
    found = dict(re.findall(r"\b(EM|F1) (\d+(?:\.\d+)?)", match[1])) if match else {}
    if not found:
        return None
    em, f1 = (float(found[name]) if name in found else None for name in ("EM", "F1"))
    return Published(em, f1)


# ---- two sides


def read_answers(run: RunDir, step: int) -> Answers:
    """Read each question's scores at the headline threshold of scores/step-*.json."""
    scores = read_json(run.scores_file(step))
    threshold = scores["scores"][scores["headline"]]["threshold"]
    answers = Answers({}, {metric: {} for metric in METRICS})
    for shard in read_prepared(run).shards("dev"):
        with run.predictions_file(step, shard.name).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                odds = math.inf if row["null_odds"] is None else row["null_odds"]
                given = "" if threshold is None or odds <= threshold else "null_"
                answers.groups[row["id"]] = row["group"] if row["rule"] == "coqa" else row["id"]
                answers.scores["em"][row["id"]] = 100 * row[f"{given}exact"]
                answers.scores["f1"][row["id"]] = 100 * row[f"{given}f1"]
    return answers


def compare_answers(
    first: tuple[str, Sequence[Answers]], second: tuple[str, Sequence[Answers]]
) -> Paired:
    """Test two sides, each a name and its runs' answers, on the questions that all of them have.

    Raises InputError if there are none: they were scored on different data.
    """
    runs = [*first[1], *second[1]]
    shared = set.intersection(*(set(answers.groups) for answers in runs))
    if not shared:
        raise InputError(
            f"{first[0]} and {second[0]}: have no question in common, so they can't be compared; "
            "they were scored on different dev data"
        )
    ids = sorted(shared)
    groups = [runs[0].groups[i] for i in ids]

    def means(side: Sequence[Answers], metric: str) -> list[float]:
        return [statistics.fmean(answers.scores[metric][i] for answers in side) for i in ids]

    return Paired(
        first[0],
        second[0],
        len(ids),
        len(set.union(*(set(answers.groups) for answers in runs))) - len(ids),
        {m: paired_difference(means(first[1], m), means(second[1], m), groups) for m in METRICS},
    )


def compare_runs(
    first: tuple[str, Sequence[RunDir]], second: tuple[str, Sequence[RunDir]]
) -> Paired:
    """Test two sides, each a name and its runs, at their last scored checkpoints."""

    def read(side: tuple[str, Sequence[RunDir]]) -> tuple[str, list[Answers]]:
        return side[0], [read_answers(run, last_scored(run)) for run in side[1]]

    return compare_answers(read(first), read(second))
