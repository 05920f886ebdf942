"""Predictions of all elements -> scores/step-*.json and TensorBoard at the checkpoint's own step.

Every question's scores are kept by id and summed exactly (math.fsum), so that 1, 2 or 7 shards give
the same last digit; an id counts once; if any is missing there is no total. Run again, it writes
the same. What figures a source has is score_<form>.py's business.

With evaluation.when=each_checkpoint it runs once for each checkpoint, and several may be at it at
once: one after the other they score what is new, and the last ends with the state that a single one
would.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

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
from qa_dist.evaluation.score_spans import score_spans
from qa_dist.evaluation.score_tags import score_tags
from qa_dist.evaluation.score_text import score_text
from qa_dist.evaluation.scored import is_scored, mark_scored
from qa_dist.evaluation.sweep_table import update_sweeps
from qa_dist.files import own_process, read_json, read_status, write_json, write_status
from qa_dist.lock import locked
from qa_dist.recipe import Recipe, form_of, source_names, source_splits, trained_sources
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name
from qa_dist.scalars import write_hparams, write_scores

_WAIT_S = 3600.0
"""For another aggregate of the same run, in seconds."""
_BUFFER_BYTES = 1 << 18


def aggregate(run: RunDir) -> list[int]:
    """Score every evaluated checkpoint; return the steps. Raises InputError naming what is missing,
    once the others are scored."""
    with locked(run.root / "aggregate.lock", "its scores are being made", _WAIT_S):
        return _aggregate(run)


def _aggregate(run: RunDir) -> list[int]:
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
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
            gc.disable()  # a million rows and no cycles: looking for some takes a fifth of the time
            try:
                scores = _score_step(run, recipe, prepared, step)
            finally:
                gc.enable()
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
    for name in dict.fromkeys(split for split, _ in shards_of(run)):
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
        values = _points(scores, "dev")
        for name, of_source in scores.get("sources", {}).items():
            values |= _points(of_source, f"dev_{name}")
        points[int(scores["step"])] = values
    write_scores(run.tensorboard, points)
    if points:
        last = max(points)
        final = {f"final/{metric}": points[last][f"dev/{metric}"] for metric in ("em", "f1")}
        settings = _hyper_parameters(load_saved_recipe(run.recipe))
        write_hparams(run.tensorboard, settings, last, final)


def _points(scores: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the figures of one source, without their intervals, by TensorBoard's names."""
    headline = scores["scores"][scores["headline"]]
    values = {
        f"{prefix}/{name}": float(value)
        for name, value in headline.items()
        if isinstance(value, int | float) and not name.endswith(("_low", "_high", "threshold"))
    }
    for name, figures in scores["scores"].items():
        values |= {f"{prefix}_{name}/{m}": figures[m] for m in ("em", "f1")}
    if own := scores.get("own_history"):
        values |= {f"{prefix}_own_history/{m}": own[m] for m in ("em", "f1")}
        values |= {f"{prefix}_own_history/{m}_gap": own["gap"][m]["mean"] for m in ("em", "f1")}
    for kind, rows in scores["by"].items():
        values |= {f"{prefix}_f1_by_{kind}/{row}": figures["f1"] for row, figures in rows.items()}
    return values


def _hyper_parameters(recipe: Recipe) -> dict[str, bool | float | str]:
    """Return the settings of model, data and training that aren't left to the model's files."""
    sections = {"model": recipe.model, "data": recipe.data, "train": recipe.train}
    return {
        f"{section}.{name}": value
        for section, part in sections.items()
        for name, value in vars(part).items()
        if value is not None
    }


def _score_step(run: RunDir, recipe: Recipe, prepared: Prepared, step: int) -> dict[str, Any]:
    """Return what scores/step-*.json holds."""
    names = source_names(recipe)
    splits = {(split.source, split.part): split.name for split in source_splits(recipe)}
    folder = run.predictions / step_name(step)
    scorers: dict[str, Callable[..., dict[str, Any]]] = {
        "span": score_spans,
        "tags": score_tags,
        "text": score_text,
    }
    of_sources = {}
    for place in trained_sources(recipe):
        source = recipe.sources[place]
        form = form_of(recipe, source)
        parts: dict[str, Any] = {
            part: _read_rows(run, prepared, step, splits[place, part])
            for part in ("dev", "heldout")
            if (place, part) in splits
        }
        if form != "span":  # of spans there may be a million, so these are read one by one
            parts = {part: sorted(rows, key=itemgetter("id")) for part, rows in parts.items()}
        prefix = f"{names[place]}." if len(names) > 1 else ""
        of_sources[names[place]] = scorers[form](
            recipe, source, parts["dev"], parts.get("heldout"), folder, prefix
        )
    facts = {"step": step, "run": run.root.name, "fingerprint": prepared.fingerprint}
    if len(of_sources) == 1:
        (scores,) = of_sources.values()
    else:
        scores = _together(of_sources)
    return {**facts, **scores, "partial": False}


def _together(of_sources: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of several sources: each one's, and the plain mean of their headlines."""
    headlines = [scores["scores"][scores["headline"]] for scores in of_sources.values()]
    mean = {m: math.fsum(h[m] for h in headlines) / len(headlines) for m in ("em", "f1")}
    return {
        "headline": "mean",
        "num_questions": sum(scores["num_questions"] for scores in of_sources.values()),
        "num_groups": sum(scores["num_groups"] for scores in of_sources.values()),
        "scores": {"mean": mean},
        "by": {},
        "sources": of_sources,
    }


def _read_rows(run: RunDir, prepared: Prepared, step: int, split: str) -> Iterator[dict[str, Any]]:
    """Yield all predictions of a split, each id once, without their n best. Raises InputError
    naming questions without any."""
    missing: set[str] = set()
    shards = prepared.shards(split)
    for path in shards:
        missing.update(Shard(path).ids())
    for path in shards:
        with run.predictions_file(step, path.name).open("rb", buffering=_BUFFER_BYTES) as lines:
            for row in _parsed(map(_without_n_best, lines)):
                if row["id"] in missing:
                    missing.remove(row["id"])
                    row.pop("n_best", None)
                    yield row
    if missing:
        raise InputError(
            f"{step_name(step)}: no total, since {len(missing)} questions have no prediction: "
            f"{_some(sorted(missing))}"
        )


def _without_n_best(line: bytes) -> bytes:
    """Return a row without its n best: most of its bytes, no score needs them, and they come last.
    (Within a text, a quote has a backslash before it.) Where the model's own answers as history
    come last, such a row ends with theirs and stays whole."""
    at = line.find(b', "n_best": [')
    return line[:at] + b"}" if at >= 0 and line.endswith(b"]}\n") else line


def _parsed(objects: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Parse JSON objects, many at a time: that takes half as long."""
    left = iter(objects)
    while some := list(itertools.islice(left, 256)):
        yield from json.loads(b"[" + b",".join(some) + b"]")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
