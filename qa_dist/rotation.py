"""Which checkpoints of a run stay: the newest periodic ones, the best, and those still awaited.

Training asks after each checkpoint, and the aggregate stage once training is over: what evaluation
waited for until then may go now. What is deleted, and how, is checkpoint.py's business.
"""

from __future__ import annotations

from collections.abc import Collection

from qa_dist.checkpoint import list_steps, prune_checkpoints
from qa_dist.recipe import Train, is_periodic
from qa_dist.run_dir import RunDir


def rotate(
    run: RunDir,
    settings: Train,
    num_steps: int,
    best_step: int,
    awaited: Collection[int],
    *,
    attempt: int,
    verified_step: int | None = None,
) -> list[int]:
    """Delete the checkpoints that nobody needs any more; return their steps.

    `num_steps`: of the whole run; `best_step`: 0 if there is none; `awaited`: steps that something
    still reads; the rest as prune_checkpoints() has it.
    """
    periodic = [
        step
        for step in list_steps(run.checkpoints)
        if is_periodic(step, settings.checkpoint_every_steps, num_steps)
    ]
    return prune_checkpoints(
        run.checkpoints,
        1,
        best_step or None,
        protected={*periodic[-settings.keep_checkpoints :], *awaited},
        attempt=attempt,
        verified_step=verified_step,
    )
