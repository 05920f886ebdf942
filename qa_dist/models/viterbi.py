"""Best paths of a linear-chain CRF on the host: one step of time at once for all sequences.

The same sums in the same order and precision as pytorch-crf's decode, so the same labels, also
where paths tie or differ by less than the precision can tell. NumPy only: at this size its calls
cost a third of torch's and keep to one thread. B sequences, T steps, L labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def best_paths(
    emissions: Floats, start: Floats, end: Floats, transitions: Floats, lengths: NDArray[np.int64]
) -> list[list[int]]:
    """Return the best path of each sequence.

    `emissions` (B, T, L), `start` and `end` (L,), `transitions` (L, L) are of one dtype; sequence b
    has `lengths[b]` steps, 1 or more. Of two labels that score the same, the lower one is taken.
    """
    num_sequences, num_steps, num_labels = emissions.shape
    steps = np.ascontiguousarray(emissions.transpose(1, 2, 0))  # (T, L, B)
    best = _best_scores(steps, start, transitions)  # (T, L, B)
    pointers = _pointers(best, steps, transitions)  # (T - 1, L, B)
    sequences = np.arange(num_sequences)
    last = (best[lengths - 1, :, sequences] + end).argmax(1)  # (B,)
    # Behind its end, a sequence points at its last label: so all are traced from step T - 1.
    is_short = np.flatnonzero(lengths < num_steps)
    pointers[lengths[is_short] - 1, :, is_short] = last[is_short, None]
    rows = np.multiply(pointers, num_sequences, dtype=np.int64)  # numbers in (L, B), flat
    rows += sequences
    rows = rows.reshape(num_steps - 1, num_labels * num_sequences)
    path = np.empty((num_steps, num_sequences), dtype=np.int64)
    path[-1] = here = last * num_sequences + sequences
    for row, before in zip(rows[::-1], path[-2::-1], strict=True):
        here = row.take(here, None, before, "clip")
    labels = (path // num_sequences).T.tolist()
    return [row[:length] for row, length in zip(labels, lengths.tolist(), strict=True)]


def _best_scores(steps: Floats, start: Floats, transitions: Floats) -> Floats:
    """Return the score of the best path to each label at each step, (T, L, B)."""
    num_steps, num_labels, num_sequences = steps.shape
    best = np.empty_like(steps)
    best[0] = start[:, None] + steps[0]
    moves = np.repeat(transitions, num_sequences, axis=1).reshape(
        num_labels, num_labels, num_sequences
    )
    work = np.empty_like(moves)  # (L before, L after, B)
    width = num_labels * num_sequences
    flat = work.reshape(num_labels, width)
    add, highest = np.add, np.maximum.reduce
    for before, after, step in zip(
        best[:-1, :, None],
        best.reshape(num_steps, width)[1:],
        steps.reshape(num_steps, width)[1:],
        strict=True,
    ):
        add(before, moves, work)
        highest(flat, 0, None, after)
        add(after, step, after)
    return best


def _pointers(best: Floats, steps: Floats, transitions: Floats) -> NDArray[np.unsignedinteger[Any]]:
    """Return, for each step but the first, the best label before each label, (T - 1, L, B): the
    first one that gives the label its best score."""
    num_labels, after = steps.shape[1], best[1:]
    score = np.empty_like(after)
    is_other = np.empty(score.shape, dtype=bool)
    is_later = np.ones(score.shape, dtype=bool)  # than all labels looked at so far
    pointers = np.zeros(score.shape, dtype=np.uint32 if num_labels > 256 else np.uint8)
    for label in range(num_labels - 1):  # the last one, if none of these
        np.add(best[:-1, label, None], transitions[label][:, None], out=score)
        score += steps[1:]
        np.not_equal(score, after, out=is_other)
        is_later &= is_other
        pointers += is_later
    return pointers
