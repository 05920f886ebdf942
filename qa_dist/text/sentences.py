"""Tagged sentences as tokens: where each word begins, and the windows that label each word once.

In: a tokenised context, the places of a sentence's words in it. Out: token numbers and slices. A
context is one sentence, or a document around it. Knows no tensors and no files.

Worked example. Windows with room for 6 tokens, 2 of them shared, on a sentence of 9 tokens: the
slices (0, 6) and (4, 9). Tokens 4 and 5 are in both; the cut is in the middle, so the first window
labels tokens 0-4, the second 5-8: each where it sees more on its poorer side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qa_dist.text.windows import TokenizedContext, cut_windows

NO_TOKEN = -1


class SentenceWindow(NamedTuple):
    """A slice of a context's tokens, and which of them it gives labels to."""

    window_from: int
    window_to: int
    """One past the last."""
    first: int
    """First token that is labelled here, counted in the context."""
    last: int
    """The last one, inclusive."""


def first_tokens(context: TokenizedContext, words: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return each word's first token, NO_TOKEN for a word of which the tokenizer leaves nothing.

    words: half-open char spans in the context. Tokens of whitespace alone aren't counted.
    """
    if not words:
        return np.zeros(0, dtype=np.int64)
    kept = (context.char_starts < context.char_ends).nonzero()[0]
    starts = context.char_starts[kept].astype(np.int64)
    spans = np.asarray(words, dtype=np.int64)  # (words, 2)
    found = starts.searchsorted(spans[:, 0])
    begins = np.append(starts, np.iinfo(np.int64).max)[found]
    return np.where(begins < spans[:, 1], np.append(kept, NO_TOKEN)[found], NO_TOKEN)


def sentence_tokens(context: TokenizedContext, words: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the half-open slice of a context's tokens that lie in a sentence of such words."""
    first = int(context.char_starts.searchsorted(words[0][0]))
    end = int(context.char_starts.searchsorted(words[-1][1]))
    return first, end


def cut_sentence_windows(
    num_context_tokens: int, sentence: tuple[int, int], room: int, overlap: int
) -> list[SentenceWindow]:
    """Return windows of up to `room` tokens whose labelled ranges part the sentence's tokens.

    A sentence that fits is one window, filled up with as much of the context on either side as
    there is room for; a longer one is cut, and each cut lies in the middle of an overlap. None for
    a sentence without tokens. Raises ValueError if windows can't advance.
    """
    start, end = sentence
    if start >= end:
        return []
    if end - start <= room:
        window_from = max(0, min(start - (room - (end - start)) // 2, num_context_tokens - room))
        window_to = min(window_from + room, num_context_tokens)
        return [SentenceWindow(window_from, window_to, start, end - 1)]
    slices = [(start + a, start + b) for a, b in cut_windows(end - start, room, overlap)]
    cuts = [start, *((b + a) // 2 for (_, b), (a, _) in pairwise(slices)), end]
    return [
        SentenceWindow(a, min(a + room, num_context_tokens), cuts[i], cuts[i + 1] - 1)
        for i, (a, _) in enumerate(slices)
    ]
