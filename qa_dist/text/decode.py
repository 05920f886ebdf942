"""Logits -> answers: the n best spans of each window, and of a question over its windows. NumPy
only, no files.

Worked example. "[CLS] who [SEP] Ann met Bob [SEP]" has start logits 0 at CLS and 3, 1, 2 at Ann,
met, Bob, end logits 0 and 2, 0, 4. The span Ann..Bob scores 3 + 4 = 7, Bob..Bob 2 + 4 = 6, Ann..Ann
3 + 2 = 5; the null score is 0 + 0 = 0, so null odds (null - best) are -7: far under a threshold of
0, so the answer is "Ann met Bob". A question with several windows takes the best spans of all of
them and the lowest null score (metrics of SQuAD 2.0, Devlin et al. 2019). B windows, T tokens, N
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa_dist.records import Candidate, Prediction

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SpanScores:
    """The best spans of some windows; higher scores are better, and compare between windows."""

    scores: NDArray[np.floating]  # (B, N), best first; -inf: there are no more
    firsts: Ints  # (B, N) first token, as a position in the window
    lasts: Ints  # (B, N) last token
    classes: NDArray[np.float64]  # (B, C) score of each answer class
    nulls: NDArray[np.float64]  # (B,) score of "no answer in this window"


def best_spans(
    starts: Floats, ends: Floats, n_best: int, max_answer_tokens: int
) -> tuple[Floats, Ints, Ints]:
    """Return scores, first and last tokens of each window's n best spans: (B, N) each, best first.

    `starts`, `ends`: (B, T) logits, -inf where no span may start or end. As published, spans are
    looked for among the `n_best` best starts and ends. A score of -inf means that there are no
    more.
    """
    num_windows, width = starts.shape
    k = min(n_best, width)
    top_starts = np.argsort(-starts, axis=1, kind="stable")[:, :k]  # (B, k)
    top_ends = np.argsort(-ends, axis=1, kind="stable")[:, :k]  # (B, k)
    scores = (
        np.take_along_axis(starts, top_starts, 1)[:, :, None]
        + np.take_along_axis(ends, top_ends, 1)[:, None, :]
    )  # (B, k, k)
    sizes = top_ends[:, None, :] - top_starts[:, :, None] + 1
    scores = np.where((sizes > 0) & (sizes <= max_answer_tokens), scores, -np.inf)
    flat = scores.reshape(num_windows, -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :n_best]  # (B, N)
    rows = np.arange(num_windows)[:, None]
    return (
        flat[rows, order].astype(np.float32),
        top_starts[rows, order // k].astype(np.int64),
        top_ends[rows, order % k].astype(np.int64),
    )


def merge_windows(
    example_id: str,
    window_candidates: Sequence[Sequence[Candidate]],
    null_scores: Sequence[float],
    n_best: int,
) -> Prediction:
    """Return a question's prediction: the best candidates of all its windows, each answer once,
    lowest null score."""
    ranked = sorted(
        (c for candidates in window_candidates for c in candidates),
        key=lambda c: -c.score,
    )
    kept: dict[tuple[str, tuple[int, int] | None], Candidate] = {}
    for candidate in ranked:
        kept.setdefault((candidate.text, candidate.char_span), candidate)
        if len(kept) == n_best:
            break
    return Prediction(example_id, tuple(kept.values()), min(null_scores))


def best_threshold(
    null_odds: NDArray[np.float64], answered: NDArray[np.float64], unanswered: NDArray[np.float64]
) -> float:
    """Return the null threshold with the highest total score; the smallest one of several.

    A question with `null_odds` (questions,) above the threshold scores `unanswered`, else
    `answered`. A threshold is possible only between different odds, or beyond them (-inf: nothing
    is answered).
    """
    order = np.argsort(null_odds, kind="stable")
    odds = null_odds[order]
    gains = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    is_possible = np.concatenate([odds[:1] > -np.inf, odds[1:] != odds[:-1], [True]])
    best = int(np.argmax(np.where(is_possible, gains, -np.inf)))
    if best == 0:
        return float("-inf")
    if best == len(odds) or not np.isfinite(odds[best]):
        return float(odds[best - 1])
    middle = float(odds[best - 1] / 2 + odds[best] / 2)
    # Between neighbouring floats there is none: the lower one, which is itself not above the
    # threshold.
    return middle if odds[best - 1] <= middle < odds[best] else float(odds[best - 1])
