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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qa_dist.records import Prediction

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
    k = min(n_best, starts.shape[1])
    top_starts, top_ends = _top(starts, k), _top(ends, k)  # (B, k) each
    high_starts = np.take_along_axis(starts, top_starts, 1).ravel()
    high_ends = np.take_along_axis(ends, top_ends, 1).ravel()
    # As unsigned numbers, an end before its start lies very far behind it.
    more = top_ends.astype(np.uint32)[:, None, :] - top_starts.astype(np.uint32)[:, :, None]
    pairs = np.flatnonzero(more < max_answer_tokens)  # numbered through (B, k, k)
    rows, first, last = pairs // (k * k), pairs // k, pairs % k  # first: numbered through (B, k)
    counts = np.bincount(rows, minlength=len(starts))
    at = np.arange(len(pairs)) - (np.cumsum(counts) - counts)[rows]
    size = len(starts), max(min(n_best, k * k), int(counts.max(initial=0)))
    scores, places = np.full(size, -np.inf, starts.dtype), np.zeros(size, np.int64)
    scores[rows, at] = high_starts[first] + high_ends[rows * k + last]
    places[rows, at] = pairs
    best = _top(scores, n_best)  # (B, N)
    places = np.take_along_axis(places, best, 1)
    return (
        np.take_along_axis(scores, best, 1),
        top_starts.ravel()[places // k],
        top_ends.ravel()[places // (k * k) * k + places % k],
    )


def _top(values: Floats, count: int) -> Ints:
    """Return the places of each row's highest values, highest first, the first of equals first:
    (B, count), or all there are.

    NaN counts as -inf. Only the `count` highest, which `partition` finds in one pass, are sorted.
    """
    values = np.fmax(values, -np.inf)
    size = values.shape[1]
    if count >= size:
        return np.argsort(-values, axis=1, kind="stable")
    lowest = np.partition(values, size - count, axis=1)[:, size - count, None]
    is_top = values >= lowest
    flat = np.flatnonzero(is_top)
    if len(flat) > count * len(values):
        # Where the lowest of them has equals behind it, these are too many.
        bounds = np.searchsorted(flat, np.arange(len(values) + 1) * size)
        rows = np.flatnonzero(np.diff(bounds) > count)
        is_equal = values[rows] == lowest[rows]
        left = count - np.count_nonzero(values[rows] > lowest[rows], axis=1)
        is_top[rows] &= ~is_equal | (np.cumsum(is_equal, axis=1) <= left[:, None])
        flat = np.flatnonzero(is_top)
    found: Ints = flat.reshape(-1, count)
    order = np.argsort(-values.ravel()[found], axis=1, kind="stable")
    places: Ints = np.take_along_axis(found, order, 1) % size
    return places


CLASS = -1
"""In the place of a span's end: this is an answer class."""


class Ranked(NamedTuple):
    """What a question's windows hold, as numbers."""

    scores: list[float]
    """Best first, the first window's first of equals; a span may occur more than once."""
    starts: list[int]
    """First character in the context, or number of the answer class."""
    ends: list[int]
    """The one behind its last, or CLASS."""
    null_score: float
    """The lowest one of the windows."""


class WindowMerger:
    """Ranks the spans and answer classes of each question over all its windows, which come batch by
    batch in any order and are kept as arrays, 24 bytes each, until it's the question's turn.

    `examples`: the example of each window, ascending from 0: (windows,); `width`: how many spans
    and answer classes a window may have.
    """

    def __init__(self, examples: Sequence[int] | NDArray[np.integer], width: int) -> None:
        self._examples = np.asarray(examples)
        self._left = np.bincount(self._examples)  # windows of each example still to come
        self._bounds = np.cumsum([0, *self._left])  # of each example's windows
        self._next = 0
        size = len(self._examples), width
        self._scores = np.full(size, -np.inf)
        self._starts, self._ends = np.zeros((2, *size), np.int64)
        self._nulls = np.zeros(size[0])

    def add(
        self,
        windows: Sequence[int],
        scores: NDArray[np.floating],
        starts: Ints,
        ends: Ints,
        nulls: NDArray[np.float64],
    ) -> range:
        """Return the questions, by number, whose turn has come: their windows and those of all
        before them are there.

        `scores`, `starts`, `ends`: (B, N), as Ranked has them; a score of -inf or NaN: there is
        nothing. `nulls`: (B,).
        """
        width = scores.shape[1]
        self._scores[windows, :width] = scores
        self._starts[windows, :width] = starts
        self._ends[windows, :width] = ends
        self._nulls[windows] = nulls
        np.subtract.at(self._left, self._examples[windows], 1)
        first = self._next
        while self._next < len(self._left) and not self._left[self._next]:
            self._next += 1
        return range(first, self._next)

    def ranked(self, questions: range) -> list[Ranked]:
        """Return what these questions' windows hold; their turn must have come."""
        bounds = self._bounds[questions.start : questions.stop + 1]
        counts = np.diff(bounds)
        found: dict[int, Ranked] = {}
        for count in set(counts.tolist()):  # the questions of so many windows at once
            numbers = np.flatnonzero(counts == count)
            rows = bounds[numbers, None] + np.arange(count)
            scores, starts, ends = (
                each[rows].reshape(len(rows), -1)  # (questions, count * width)
                for each in (self._scores, self._starts, self._ends)
            )
            sizes = np.count_nonzero(scores > -np.inf, axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")  # NaN is last
            columns = [np.take_along_axis(each, order, 1) for each in (scores, starts, ends)]
            columns = [numbers, sizes, *columns, self._nulls[rows].min(axis=1)]
            for number, size, score, start, end, null in zip(
                *(column.tolist() for column in columns), strict=True
            ):
                found[number] = Ranked(score[:size], start[:size], end[:size], null)
        return [found[number] for number in range(len(questions))]


def make_prediction(
    example_id: str, ranked: Ranked, context: str, class_names: Sequence[str], n_best: int
) -> Prediction:
    """Return a question's prediction: its n best candidates as text, each place once; white space
    is none."""
    spans = list(zip(ranked.starts[:n_best], ranked.ends[:n_best], strict=True))
    texts = [class_names[a] if b == CLASS else context[a:b] for a, b in spans]
    scores = ranked.scores[:n_best]
    if len(set(spans)) < len(spans) or not all(map(str.strip, texts)):
        spans, texts, scores = _kept(ranked, context, class_names, n_best)
    places: list[Any] = spans
    if CLASS in ranked.ends:
        places = [None if span[1] == CLASS else span for span in spans]
    return Prediction(example_id, texts, scores, places, ranked.null_score)


def _kept(
    ranked: Ranked, context: str, class_names: Sequence[str], n_best: int
) -> tuple[list[tuple[int, int]], list[str], list[float]]:
    """Return places, texts and scores of the n best, without what comes again or is white space."""
    kept: dict[tuple[int, int], tuple[str, float]] = {}
    for score, start, end in zip(ranked.scores, ranked.starts, ranked.ends, strict=True):
        text = class_names[start] if end == CLASS else context[start:end]
        if (start, end) not in kept and (end == CLASS or text.strip()):
            kept[start, end] = text, score
        if len(kept) == n_best:
            break
    return list(kept), [text for text, _ in kept.values()], [score for _, score in kept.values()]


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
