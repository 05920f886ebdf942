"""Which checkpoints stay: the newest periodic ones, the best, and what somebody waits for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qa_dist.checkpoint import list_steps, save_checkpoint
from qa_dist.recipe import Train
from qa_dist.rotation import rotate
from qa_dist.run_dir import RunDir

STEPS = (3, 6, 7, 9, 12, 14)  # 7 was saved because of a stop, 14 is the last


@pytest.mark.parametrize(
    ("keep", "best", "awaited", "kept"),
    [
        (1, 0, (), [14]),
        (2, 0, (), [12, 14]),
        (2, 3, (), [3, 12, 14]),
        (1, 0, (6, 9), [6, 9, 14]),
        (1, 12, {3}, [3, 12, 14]),
        (9, 0, (), [3, 6, 9, 12, 14]),
    ],
)
def test_what_stays(
    tmp_path: Path, keep: int, best: int, awaited: set[int], kept: list[int]
) -> None:
    run = RunDir(tmp_path)
    state = {"weight": torch.zeros(2)}
    for step in STEPS:
        save_checkpoint(run.checkpoints, step, state, state, {"step": step}, {"run": "a"}, 1)
    settings = Train(checkpoint_every_steps=3, keep_checkpoints=keep)
    gone = rotate(run, settings, 14, best, awaited, attempt=1)
    assert list_steps(run.checkpoints) == kept
    assert gone == [step for step in STEPS if step not in kept]
