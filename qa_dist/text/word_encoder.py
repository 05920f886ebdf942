"""Texts -> token ids and places, each distinct word encoded once where a tokenizer allows it.

Text repeats its words: of 520,000 in SQuAD's contexts not 70,000 are distinct. A WordPiece
tokenizer of BERT's kind makes the same of what stands between two blanks wherever that stands, so
a text's tokens are those of its words, one after another; what it makes of a word is kept for the
next time. All other tokenizers encode whole texts. The result is the same, token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from qa_dist.text.windows import TokenizedContext, encode_contexts, encode_ids

MAX_WORDS = 1 << 17
"""Distinct words kept, about 25 MB with their tokens; one more, and they are collected anew."""
_MAX_TOKENS = 4 * MAX_WORDS

Ints = npt.NDArray[np.int64]


class TextEncoder:
    """Encodes texts without special tokens, as windows.encode_contexts does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.is_by_word = encodes_words_apart(tokenizer)
        self._numbers: dict[str, int] = {}  # word -> its place in `_bounds`
        self._bounds = np.zeros(MAX_WORDS + 1, np.int64)  # of its tokens in what follows
        self._token_ids = np.zeros(_MAX_TOKENS, np.uint32)
        self._starts = np.zeros(_MAX_TOKENS, np.int32)  # code points from the word's first
        self._ends = np.zeros(_MAX_TOKENS, np.int32)

    def encode(self, texts: Sequence[str]) -> list[TokenizedContext]:
        """Return the tokens of each text and where they stand in it."""
        words = [text.split(" ") for text in texts] if self.is_by_word else []
        every = list(chain.from_iterable(words))
        if not every or not self._learn(every):
            return encode_contexts(self.tokenizer, texts)
        at, counts, bounds = self._find(every, [len(row) for row in words])
        lengths = np.fromiter(map(len, every), np.int64, len(every)) + 1  # with the blank behind
        places = lengths.cumsum() - lengths
        firsts = np.cumsum([0, *map(len, words[:-1])])
        places -= places[firsts].repeat([len(row) for row in words])  # from its text's first
        shifts = places.astype(np.int32).repeat(counts)
        ids, starts, ends = self._token_ids[at], self._starts[at] + shifts, self._ends[at] + shifts
        return [
            TokenizedContext(ids[first:end], starts[first:end], ends[first:end])
            for first, end in pairwise(bounds)
        ]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        words = [text.split(" ") for text in texts] if self.is_by_word else []
        every = list(chain.from_iterable(words))
        if not every or not self._learn(every):
            return encode_ids(self.tokenizer, texts)
        at, _, bounds = self._find(every, [len(row) for row in words])
        ids: list[int] = self._token_ids[at].tolist()
        return [ids[first:end] for first, end in pairwise(bounds)]

    def _find(self, words: list[str], per_text: list[int]) -> tuple[Ints, Ints, list[int]]:
        """Return where the words' tokens are kept, how many each word has, and the texts' bounds
        among them."""
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        firsts = self._bounds[numbers]
        counts = self._bounds[numbers + 1] - firsts
        ends = counts.cumsum()
        at = np.arange(ends[-1]) + (firsts - ends + counts).repeat(counts)
        return at, counts, [0, *ends[np.cumsum(per_text) - 1].tolist()]

    def _learn(self, words: list[str]) -> bool:
        """Encode the words that aren't known yet; False if there is no room for so many."""
        distinct = dict.fromkeys(words)
        for is_full in (False, True):
            if is_full:
                self._numbers.clear()
            new = [word for word in distinct if word not in self._numbers]
            if not new:
                return True
            lengths = np.fromiter(map(len, new), np.int64, len(new)) + 1
            (tokens,) = encode_contexts(self.tokenizer, [" ".join(new)])
            known, num = len(self._numbers), len(tokens.token_ids)
            first = int(self._bounds[known])
            if known + len(new) <= MAX_WORDS and first + num <= _MAX_TOKENS:
                break
        else:
            return False
        starts = lengths.cumsum() - lengths
        bounds = np.append(tokens.char_starts.searchsorted(starts), num)
        shifts = starts.repeat(np.diff(bounds))
        self._token_ids[first : first + num] = tokens.token_ids
        self._starts[first : first + num] = tokens.char_starts - shifts
        self._ends[first : first + num] = tokens.char_ends - shifts
        self._bounds[known : known + len(new) + 1] = first + bounds
        self._numbers.update(zip(new, range(known, known + len(new)), strict=True))
        return True


def encodes_words_apart(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a text are those of its words between blanks, one after another.

    It is so for BERT's normaliser (it looks at a character and the marks behind it), BERT's
    splitting (no piece holds a blank) and WordPiece, as long as no added token holds a blank.
    """
    steps = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model)
    kinds = tuple(type(step).__name__ for step in steps)
    added = tokenizer.get_added_tokens_decoder().values()
    return (
        kinds[0] in ("BertNormalizer", "NoneType")
        and kinds[1:] == ("BertPreTokenizer", "WordPiece")
        and all(token.content.split() == [token.content] for token in added)
    )
