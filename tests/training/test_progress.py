"""What follows from the steps done so far."""

from __future__ import annotations

import numpy as np

from qa_dist.training.progress import Progress


def chained(*steps: list[list[int]]) -> str:
    progress = Progress()
    for micro_batches in steps:
        progress.chain([np.array(windows, np.int64) for windows in micro_batches])
    return progress.windows_sha256


def test_the_hash_knows_windows_their_order_and_their_steps() -> None:
    assert chained([[1, 2]], [[3]]) == chained([[1], [2]], [[3]])
    others = {chained([[1, 2]], [[4]]), chained([[2, 1]], [[3]]), chained([[1]], [[2, 3]])}
    assert len({*others, chained([[1, 2]], [[3]])}) == 4


def test_the_lowest_validation_loss_is_the_best() -> None:
    progress = Progress()
    for progress.step, loss in ((2, 5.0), (4, 1.0), (6, 3.0), (8, float("nan"))):
        progress.validated(loss)
    assert (progress.best_step, progress.best_loss) == (4, 1.0)
