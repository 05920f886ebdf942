"""The elements of the evaluate array, (checkpoint x shard), and which of them are done. No torch: a
submit asks too.

With evaluation.when=each_checkpoint checkpoints come and go while the stage runs: an element's
number then follows from its step alone, and predictions stay when their checkpoint has gone.
"""

from __future__ import annotations

from pathlib import Path

from qa_dist.data.prepared import read_prepared
from qa_dist.files import (
    file_sha256,
    read_json,
    read_json_if_there,
    read_marker,
    read_setting,
    read_status,
)
from qa_dist.recipe import is_periodic, split_part
from qa_dist.run_dir import RunDir, step_name

WEIGHTS = "model.safetensors"
UNTRAINED = 0
"""The step of evaluation.floor: the model before training, which has no checkpoint."""

Element = tuple[int, str, str]
"""(step, split, shard name)"""


def finished_steps(run: RunDir) -> list[int]:
    """Return the steps of the checkpoints that carry a marker, ascending; what they hold isn't
    verified here."""
    names = [path.name for path in run.checkpoints.glob("step-*") if read_marker(path) is not None]
    return sorted(
        int(name[5:]) for name in names if name[5:].isdigit() and name == step_name(int(name[5:]))
    )


def is_each_checkpoint(run: RunDir) -> bool:
    """Return whether each checkpoint is to be evaluated: evaluation.when=each_checkpoint."""
    return read_setting(run.recipe, "when") == "each_checkpoint"


def shards_of(run: RunDir) -> list[tuple[str, str]]:
    """Return (split, shard name) of all that a checkpoint is evaluated on, in order."""
    prepared, only = read_prepared(run), read_setting(run.recipe, "only") or "all"
    splits = [
        split
        for split in prepared.num_shards
        if split_part(split) != "train" and only in ("all", split.rpartition(".")[0] or only)
    ]
    # A source's heldout comes before its dev.
    splits.sort(key=lambda split: (split.rpartition(".")[0], split_part(split) == "dev"))
    return [(split, path.name) for split in splits for path in prepared.shards(split)]


def elements(run: RunDir) -> dict[int, Element]:
    """Return the array elements of the stage by their numbers, in order.

    at_end: the checkpoints that are there, counted. each_checkpoint: the place that a checkpoint
    has in the whole training decides, so that a number never comes to mean something else.
    """
    shards = shards_of(run)
    if not is_each_checkpoint(run):
        numbered = list(enumerate(finished_steps(run)))
    else:
        every = int(read_setting(run.recipe, "checkpoint_every_steps"))
        last = int(read_status(run.status_file("train", 0)).get("of") or 0)
        steps = {*finished_steps(run), *_predicted_steps(run, [name for _, name in shards])}
        numbered = [
            (-(-step // every) - 1, step)
            for step in sorted(steps)
            if is_periodic(step, every, last)
        ]
    return {
        place * len(shards) + i: (step, *shard)
        for place, step in numbered
        for i, shard in enumerate(shards)
    }


def _predicted_steps(run: RunDir, shards: list[str]) -> list[int]:
    """Return the steps all of whose predictions carry a marker; the checkpoint may have gone."""
    names = [path.name for path in run.predictions.glob("step-*")]
    steps = [int(name[5:]) for name in names if name[5:].isdigit()]
    steps = [step for step in steps if step != UNTRAINED]
    return [s for s in steps if all(marker_file(run, s, shard).is_file() for shard in shards)]


def is_floors(run: RunDir, step: int) -> bool:
    """Return whether those who predict with a checkpoint do so with the untrained model too: with
    evaluation.floor, those of the first checkpoint that is evaluated."""
    if read_setting(run.recipe, "floor") != "true":
        return False
    return step == min(first for first, _, _ in elements(run).values())


def awaited_steps(run: RunDir) -> set[int]:
    """Return the steps of the checkpoints that may not be deleted yet: each_checkpoint, evaluation
    was asked for, and not all of their predictions are there and whole."""
    asked = read_json(run.run_json).get("stages", ("evaluate",))
    if not is_each_checkpoint(run) or "evaluate" not in asked:
        return set()
    there = set(finished_steps(run))
    return {
        step
        for step, _, shard in elements(run).values()
        if step in there and not is_evaluated(run, step, shard)
    }


def marker_file(run: RunDir, step: int, shard: str) -> Path:
    """Return the path of the marker of one element's predictions."""
    return run.predictions_file(step, shard).with_suffix(".json")


def origin(run: RunDir, step: int) -> dict[str, str]:
    """Return what predictions of a step are made of: the run and its weights, by id and sha256.

    Without the checkpoint (deleted since) the weights are "": predictions there are believed.
    """
    marker = read_marker(run.checkpoints / step_name(step)) or {"files": {}}
    weights = marker["files"].get(WEIGHTS, {}).get("sha256", "")
    return {"run": str(read_json(run.run_json)["id"]), "weights": weights}


def is_evaluated(run: RunDir, step: int, shard: str) -> bool:
    """Return whether an element's predictions are there, whole, unchanged, and of these weights."""
    marker = read_json_if_there(marker_file(run, step, shard))
    path = run.predictions_file(step, shard)
    if marker is None or not path.is_file():
        return False
    of = origin(run, step)
    if marker["run"] != of["run"] or of["weights"] not in ("", marker["weights"]):
        return False
    return bool(path.stat().st_size == marker["bytes"] and file_sha256(path) == marker["sha256"])
