"""The elements of the evaluate array, (checkpoint x shard), and which of them are done. No torch: a
submit asks too."""

from __future__ import annotations

from pathlib import Path

from qa_dist.data.prepared import read_prepared
from qa_dist.files import file_sha256, read_json, read_json_if_there, read_marker
from qa_dist.run_dir import RunDir, step_name

WEIGHTS = "model.safetensors"


def finished_steps(run: RunDir) -> list[int]:
    """Return the steps of the checkpoints that carry a marker, ascending; what they hold isn't
    verified here."""
    names = [path.name for path in run.checkpoints.glob("step-*") if read_marker(path) is not None]
    return sorted(
        int(name[5:]) for name in names if name[5:].isdigit() and name == step_name(int(name[5:]))
    )


def elements(run: RunDir) -> list[tuple[int, str, str]]:
    """Return (step, split, shard name) of each array element of the stage, in order."""
    prepared = read_prepared(run)
    splits = [split for split in ("heldout", "dev") if split in prepared.num_shards]
    return [
        (step, split, path.name)
        for step in finished_steps(run)
        for split in splits
        for path in prepared.shards(split)
    ]


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
