"""Which checkpoints' scores are there and current, so that they aren't computed again.

Beside a checkpoint's predictions lies scored.json, written last: of what the scores were made, and
their own sha256. No torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from qa_dist import __version__
from qa_dist.evaluation.elements import marker_file, shards_of
from qa_dist.files import (
    canonical_json,
    file_sha256,
    read_json,
    read_json_if_there,
    write_json,
)
from qa_dist.run_dir import RunDir, step_name


def mark_scored(run: RunDir, step: int, num_resamples: int) -> None:
    """Note of which predictions a checkpoint's scores were made."""
    facts = {
        "of": _made_of(run, step, num_resamples),
        "sha256": file_sha256(run.scores_file(step)),
    }
    write_json(_marker(run, step), facts)


def is_scored(run: RunDir, step: int, num_resamples: int) -> bool:
    """Return whether the scores of an evaluated checkpoint are there, unchanged, and made of its
    predictions as they are."""
    marker, path = read_json_if_there(_marker(run, step)), run.scores_file(step)
    return (
        marker is not None
        and path.is_file()
        and bool(marker["sha256"] == file_sha256(path))
        and bool(marker["of"] == _made_of(run, step, num_resamples))
    )


def _marker(run: RunDir, step: int) -> Path:
    return run.predictions / step_name(step) / "scored.json"


def _made_of(run: RunDir, step: int, num_resamples: int) -> str:
    """Return the sha256 of all that scores follow from."""
    hashes = [read_json(marker_file(run, step, shard))["sha256"] for _, shard in shards_of(run)]
    facts = [hashes, num_resamples, __version__]
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()
