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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    k = min(n_best, starts.shape[1])
    top_starts, top_ends = _top(starts, k), _top(ends, k)  # (B, k) each
    scores = (
        np.take_along_axis(starts, top_starts, 1)[:, :, None]
        + np.take_along_axis(ends, top_ends, 1)[:, None, :]
    )  # (B, k, k)
    more = top_ends[:, None, :] - top_starts[:, :, None]
    scores[(more < 0) | (more >= max_answer_tokens)] = -np.inf
    flat = scores.reshape(len(starts), -1)
    best = _top(flat, n_best)  # (B, N)
    return (
        np.take_along_axis(flat, best, 1),
        np.take_along_axis(top_starts, best // k, 1),
        np.take_along_axis(top_ends, best % k, 1),
    )


def _top(values: Floats, count: int) -> Ints:
    """Return the places of each row's highest values, highest first, the first of equals first:
    (B, count), or all there are.

    Value and place are sorted as one integer, whose order is theirs: several times faster than a
    stable sort, and with the same result.
    """
    bits = (0.0 - np.fmax(values, -np.inf)).view(np.int32)  # NaN is last, 0.0 and -0.0 are equal
    keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) << 32
    keys |= np.arange(values.shape[1])
    if count < values.shape[1]:
        keys = np.partition(keys, count - 1, axis=1)[:, :count]
    keys.sort(axis=1)
    return keys & 0xFFFFFFFF


class Ranked(NamedTuple):
    """What a question's windows hold, as numbers."""

    example: int
    scores: list[float]
    """Best first, the first window's first of equals; a span may occur more than once."""
    starts: list[int]
    """First character in the context, or number of the answer class."""
    ends: list[int]
    """The one behind its last, or CLASS."""
    null_score: float
    """The lowest one of the windows."""


CLASS = -1
"""In the place of a span's end: this is an answer class."""


class WindowMerger:
    """Ranks the spans and answer classes of each question over all its windows, which come batch by
    batch in any order; `examples`: the example of each window, (windows,)."""

    def __init__(self, examples: Sequence[int] | NDArray[np.integer]) -> None:
        self._examples = np.asarray(examples)
        self._left = np.bincount(self._examples)  # windows of each example still to come
        self._waiting: list[NDArray[np.floating | np.integer]] = []

    def add(
        self,
        windows: Sequence[int],
        scores: NDArray[np.floating],
        starts: Ints,
        ends: Ints,
        nulls: NDArray[np.float64],
    ) -> Iterator[Ranked]:
        """Yield the questions whose last windows are among these, by number.

        `scores`, `starts`, `ends`: (B, N), as Ranked has them; a score of -inf: there is nothing.
        `nulls`: (B,).
        """
        examples = self._examples[windows]
        np.subtract.at(self._left, examples, 1)
        columns = [examples, scores, starts, ends, nulls]
        if self._waiting:
            columns = [_stacked(a, b) for a, b in zip(self._waiting, columns, strict=True)]
        is_done = self._left[columns[0]] == 0
        self._waiting = [] if is_done.all() else [column[~is_done] for column in columns]
        yield from _ranked(*(column[is_done] for column in columns))


def _stacked(some: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """Return the rows of both; shorter ones are filled up with what isn't there."""
    if some.ndim == 2 and some.shape[1] != more.shape[1]:
        width = max(some.shape[1], more.shape[1])
        fill = -np.inf if some.dtype.kind == "f" else 0
        some, more = (
            np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)
            for rows in (some, more)
        )
    return np.concatenate((some, more))


def _ranked(
    examples: Ints,
    scores: NDArray[np.floating],
    starts: Ints,
    ends: Ints,
    nulls: NDArray[np.float64],
) -> Iterator[Ranked]:
    """Yield the questions of some windows, each with all its windows, which needn't be
    neighbours."""
    if not len(examples):
        return
    rows, at = np.nonzero(~(scores == -np.inf))
    flat = scores[rows, at]
    order = np.lexsort((-flat, examples[rows]))  # stable: equals stay as they came
    rows, at = rows[order], at[order]
    columns = [flat[order].tolist(), starts[rows, at].tolist(), ends[rows, at].tolist()]
    by_example = np.argsort(examples, kind="stable")
    numbers, firsts = np.unique(examples[by_example], return_index=True)
    lowest = np.minimum.reduceat(nulls[by_example], firsts).tolist()
    bounds = np.searchsorted(examples[rows], numbers).tolist()
    places = zip(bounds, [*bounds[1:], len(rows)], strict=True)
    for number, (first, end), null in zip(numbers.tolist(), places, lowest, strict=True):
        scores_, starts_, ends_ = (column[first:end] for column in columns)
        yield Ranked(number, scores_, starts_, ends_, null)


def make_prediction(
    example_id: str, ranked: Ranked, context: str, class_names: Sequence[str], n_best: int
) -> Prediction:
    """Return a question's prediction: its n best candidates as text, each place once; white space
    is none."""
    kept: dict[tuple[int, int], Candidate] = {}
    for score, start, end in zip(ranked.scores, ranked.starts, ranked.ends, strict=True):
        span = (start, end)
        if span in kept:
            continue
        if end == CLASS:
            kept[span] = Candidate(class_names[start], score, None)
        elif text := context[start:end]:
            if text.isspace():
                continue
            kept[span] = Candidate(text, score, span)
        if len(kept) == n_best:
            break
    return Prediction(example_id, tuple(kept.values()), ranked.null_score)


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
