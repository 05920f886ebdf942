"""Predictions of all elements -> scores/step-*.json and TensorBoard at the checkpoint's own step.

Every question's scores are kept by id and summed exactly (math.fsum), so that 1, 2 or 7 shards give
the same last digit; an id counts once; if any is missing there is no total. Run again, it writes
the same. The no-answer threshold is reported thrice: at 0, tuned on held-out training groups, and
"oracle" (chosen on dev: an upper bound).

With evaluation.when=each_checkpoint it runs once for each checkpoint, and several may be at it at
once: one after the other they score what is new, and the last ends with the state that a single one
would.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist import faults
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.data.shards import Shard
from qa_dist.evaluation.elements import (
    awaited_steps,
    elements,
    finished_steps,
    is_each_checkpoint,
    is_evaluated,
    shards_of,
)
from qa_dist.evaluation.scored import is_scored, mark_scored
from qa_dist.evaluation.sweep_table import update_sweeps
from qa_dist.files import own_process, read_json, read_status, write_json, write_status
from qa_dist.lock import locked
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name
from qa_dist.scalars import write_hparams, write_scores
from qa_dist.tasks import TASKS, Task
from qa_dist.text.bootstrap import bootstrap_interval
from qa_dist.text.decode import best_threshold

ALWAYS = "always_answer"  # SQuAD 1.1: every question is answered
_BREAKDOWNS = ("answer_type", "turn", "domain")
_LAST_TURN = 10
_WAIT_S = 3600.0
"""For another aggregate of the same run, in seconds."""


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


def aggregate(run: RunDir) -> list[int]:
    """Score every evaluated checkpoint; return the steps. Raises InputError naming what is missing,
    once the others are scored."""
    with locked(run.root / "aggregate.lock", "its scores are being made", _WAIT_S):
        return _aggregate(run)


def _aggregate(run: RunDir) -> list[int]:
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    task = TASKS[recipe.sources[0].task]
    steps = _evaluated_steps(run)
    if not steps:
        raise InputError(
            f"{run.predictions}: nothing was evaluated yet; run the evaluate stage first"
        )
    problems: dict[int, str] = {}
    for place, step in enumerate(steps):
        _beat(run, "running", place - len(problems), len(steps))
        if problem := _unfinished(run, prepared, step):
            problems[step] = problem
        elif not is_scored(run, step, recipe.evaluation.num_resamples):
            scores = _score_step(run, prepared, task, step, recipe.evaluation.num_resamples)
            write_json(run.scores_file(step), scores)
            faults.reach("aggregate.after_json", step)
            mark_scored(run, step, recipe.evaluation.num_resamples)
    rebuild_tensorboard(run)
    is_over = read_status(run.status_file("train", 0)).get("state") == "done"
    for step, problem in problems.items():
        if not _is_to_come(run, step, is_over):
            raise InputError(problem)
        print(f"not scored yet: {problem}", flush=True)
    if is_each_checkpoint(run) and is_over:
        _rotate(run, recipe)
    update_sweeps(run)
    _beat(run, "done", len(steps) - len(problems), len(steps))
    return [step for step in steps if step not in problems]


def _is_to_come(run: RunDir, step: int, is_over: bool) -> bool:
    """Return whether another aggregate will score a checkpoint: that behind its own evaluation."""
    if not is_each_checkpoint(run):
        return False
    states = [
        read_status(run.status_file("evaluate", number)).get("state")
        for number, (of, _, _) in elements(run).items()
        if of == step
    ]
    return not is_over or ("failed" not in states and bool({"waiting", "running"} & {*states}))


def _rotate(run: RunDir, recipe: Recipe) -> None:
    """Delete the checkpoints that were only kept to be evaluated."""
    from qa_dist.rotation import rotate  # and torch with it, which the rest doesn't need

    for last in finished_steps(run)[-1:]:
        state = read_json(run.checkpoints / step_name(last) / "train_state.json")
        best = int(state.get("best_step", 0))
        rotate(run, recipe.train, last, best, awaited_steps(run), attempt=0)


def _beat(run: RunDir, state: str, step: int, of: int) -> None:
    facts = {"state": state, "step": step, "of": of, "unit": "checkpoints", **own_process()}
    write_status(run.status_file("aggregate", 0), {**facts, "updated_at": time.time()})


def _evaluated_steps(run: RunDir) -> list[int]:
    """Return the steps to score: of all checkpoints there, and of deleted ones whose predictions
    are complete."""
    shards = shards_of(run)
    there = finished_steps(run)
    names = [path.name for path in run.predictions.glob("step-*") if path.is_dir()]
    steps = {int(name[5:]) for name in names if name[5:].isdigit()}
    if is_each_checkpoint(run):
        steps |= {step for step, _, _ in elements(run).values()}
    return sorted(
        step
        for step in steps
        if step in there or all(is_evaluated(run, step, shard) for _, shard in shards)
    )


def _unfinished(run: RunDir, prepared: Prepared, step: int) -> str:
    """Return a sentence that names the shards without predictions of a checkpoint; empty: none."""
    for name in ("heldout", "dev"):
        shards = [shard for split, shard in shards_of(run) if split == name]
        unfinished = [shard for shard in shards if not is_evaluated(run, step, shard)]
        if unfinished:
            return (
                f"{step_name(step)}: no total, since {len(unfinished)} of "
                f"{prepared.num_shards[name]} shards of {name} "
                f"have no predictions: {_some(unfinished)}. Launch the run again: it evaluates "
                "what is missing"
            )
    return ""


def rebuild_tensorboard(run: RunDir) -> None:
    """Write the scores of all checkpoints to TensorBoard anew, from scores/*.json; and for its tab
    HParams the recipe's settings beside the last checkpoint's scores."""
    points = {}
    for path in sorted(run.scores.glob("step-*.json")):
        scores = read_json(path)
        values = {f"dev/{m}": scores["scores"][scores["headline"]][m] for m in ("em", "f1")}
        for name, figures in scores["scores"].items():
            values |= {f"dev_{name}/{m}": figures[m] for m in ("em", "f1")}
        for kind, rows in scores["by"].items():
            values |= {f"dev_f1_by_{kind}/{row}": figures["f1"] for row, figures in rows.items()}
        points[int(scores["step"])] = values
    write_scores(run.tensorboard, points)
    if points:
        last = max(points)
        final = {f"final/{metric}": points[last][f"dev/{metric}"] for metric in ("em", "f1")}
        settings = _hyper_parameters(load_saved_recipe(run.recipe))
        write_hparams(run.tensorboard, settings, last, final)


def _hyper_parameters(recipe: Recipe) -> dict[str, bool | float | str]:
    """Return the settings of model, data and training that aren't left to the model's files."""
    sections = {"model": recipe.model, "data": recipe.data, "train": recipe.train}
    return {
        f"{section}.{name}": value
        for section, part in sections.items()
        for name, value in vars(part).items()
        if value is not None
    }


def _score_step(
    run: RunDir, prepared: Prepared, task: Task, step: int, num_resamples: int
) -> dict[str, Any]:
    """Return what scores/step-*.json holds."""
    dev = _read_questions(run, prepared, step, "dev")
    thresholds = {ALWAYS: math.inf}
    if dev.can_abstain:
        thresholds = {"at_0": 0.0}
        if "heldout" in prepared.num_shards:
            thresholds["tuned"] = _tune(_read_questions(run, prepared, step, "heldout"))
        thresholds["oracle"] = _tune(dev)
    headline = "tuned" if "tuned" in thresholds else next(iter(thresholds))
    _write_official(run, task, step, dev, thresholds[headline])
    figures = {
        name: {
            "threshold": threshold if math.isfinite(threshold) else None,
            **_figures(dev, threshold, range(len(dev.ids)), num_resamples),
        }
        for name, threshold in thresholds.items()
    }
    return {
        "step": step,
        "run": run.root.name,
        "fingerprint": prepared.fingerprint,
        "headline": headline,
        "num_questions": len(dev.ids),
        "num_groups": len(set(dev.groups)),
        "scores": figures,
        "by": _break_down(dev, thresholds[headline], num_resamples),
        "partial": False,
    }


def _tune(questions: _Questions) -> float:
    """Return the threshold with the best F1."""
    return best_threshold(questions.null_odds, questions.answered["f1"], questions.unanswered["f1"])


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
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for kind in _BREAKDOWNS:
        rows: dict[str, list[int]] = {}
        for i, facets in enumerate(questions.facets):
            if kind in facets:
                rows.setdefault(_facet_row(kind, facets[kind]), []).append(i)
        if len(rows) > 1:
            tables[kind] = {
                name: {
                    "num_questions": len(rows[name]),
                    **_figures(questions, threshold, rows[name], num_resamples),
                }
                for name in sorted(
                    rows, key=lambda n: (n.isdigit() or n.startswith(">"), len(n), n)
                )
            }
    return tables


def _facet_row(kind: str, value: str) -> str:
    return f">={_LAST_TURN}" if kind == "turn" and int(value) >= _LAST_TURN else value


def _read_questions(run: RunDir, prepared: Prepared, step: int, split: str) -> _Questions:
    """Read all predictions of a split, each id once. Raises InputError naming questions without
    any."""
    rows: dict[str, dict[str, Any]] = {}
    expected: set[str] = set()
    for path in prepared.shards(split):
        shard = Shard(path)
        expected.update(shard.example(i)["id"] for i in range(shard.num_examples))
        with run.predictions_file(step, path.name).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                rows.setdefault(row["id"], row)
    missing = sorted(expected - rows.keys())
    if missing:
        raise InputError(
            f"{step_name(step)}: no total, since {len(missing)} questions have no prediction: "
            f"{_some(missing)}"
        )
    return _to_arrays([rows[i] for i in sorted(expected)])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
    run: RunDir, task: Task, step: int, questions: _Questions, threshold: float
) -> None:
    """Write predictions in the official scripts' formats, so that anyone can score them again.

    official.json: the answers under the threshold. For SQuAD 2.0 also the best answer of each
    question, whatever the threshold, with its null odds: jobs/score.py with both and
    null_threshold=<that of scores/*.json> gives the same figures, and best_* and pr_*_ap.
    """
    folder = run.predictions / step_name(step)
    texts = [
        task.NULL_TEXT if odds > threshold else text
        for odds, text in zip(questions.null_odds.tolist(), questions.texts, strict=True)
    ]
    answers: Iterable[Any]
    if task.NULL_CLASS is None:
        write_json(folder / "official.json", dict(zip(questions.ids, texts, strict=True)))
        if questions.can_abstain:
            odds = [o if math.isfinite(o) else 1e9 for o in questions.null_odds.tolist()]
            answered = dict(zip(questions.ids, questions.texts, strict=True))
            write_json(folder / "answers.json", answered)
            write_json(folder / "null_odds.json", dict(zip(questions.ids, odds, strict=True)))
    else:
        pairs = [example_id.rsplit("#", 1) for example_id in questions.ids]
        answers = [
            {"id": story, "turn_id": int(turn), "answer": text}
            for (story, turn), text in zip(pairs, texts, strict=True)
        ]
        write_json(folder / "official.json", list(answers))
