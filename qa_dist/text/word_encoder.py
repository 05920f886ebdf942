"""Texts -> token ids and places, each distinct word encoded once where a tokenizer allows it.

Text repeats its words: of 3,020,000 in SQuAD's training file 208,000 are distinct. A WordPiece
tokenizer of BERT's kind makes the same of what stands between two blanks wherever that stands, so
a text's tokens are those of its words, one after another; what it makes of a word is kept for the
next time. All other tokenizers encode whole texts. The result is the same, token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise, repeat

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from qa_dist.text.windows import TokenizedContext, encode_contexts, encode_ids

MAX_WORDS = 1 << 17
"""Distinct words kept, about 25 MB with their tokens; one more, and the latest quarter goes."""
_MAX_TOKENS = 4 * MAX_WORDS

Ints = npt.NDArray[np.int64]


class TextEncoder:
    """Encodes texts without special tokens, as windows.encode_contexts does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.is_by_word = encodes_words_apart(tokenizer)
        self._numbers: dict[str, int] = {}  # word -> its place in `_bounds`
        self._bounds = np.zeros(MAX_WORDS + 1, np.int64)  # of its tokens in what follows
        self._lengths = np.zeros(MAX_WORDS, np.int64)  # of the words, with a blank behind
        self._token_ids = np.zeros(_MAX_TOKENS, np.uint32)
        self._starts = np.zeros(_MAX_TOKENS, np.int32)  # code points from the word's first
        self._ends = np.zeros(_MAX_TOKENS, np.int32)

    def encode(self, texts: Sequence[str]) -> list[TokenizedContext]:
        """Return the tokens of each text and where they stand in it."""
        words = [text.split(" ") for text in texts] if self.is_by_word else []
        numbers = self._find(list(chain.from_iterable(words)))
        if numbers is None:
            return encode_contexts(self.tokenizer, texts)
        per_text = [len(row) for row in words]
        at, counts, bounds = self._tokens_of(numbers, per_text)
        lengths = self._lengths[numbers]
        places = lengths.cumsum() - lengths
        firsts = np.cumsum([0, *per_text[:-1]])
        places -= places[firsts].repeat(per_text)  # from its text's first
        shifts = places.astype(np.int32).repeat(counts)
        ids, starts, ends = self._token_ids[at], self._starts[at] + shifts, self._ends[at] + shifts
        return [
            TokenizedContext(ids[first:end], starts[first:end], ends[first:end])
            for first, end in pairwise(bounds)
        ]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text."""
        words = [text.split(" ") for text in texts] if self.is_by_word else []
        numbers = self._find(list(chain.from_iterable(words)))
        if numbers is None:
            return encode_ids(self.tokenizer, texts)
        at, _, bounds = self._tokens_of(numbers, [len(row) for row in words])
        ids: list[int] = self._token_ids[at].tolist()
        return [ids[first:end] for first, end in pairwise(bounds)]

    def _tokens_of(self, numbers: Ints, per_text: list[int]) -> tuple[Ints, Ints, list[int]]:
        """Return where the words' tokens are kept, how many each word has, and the texts' bounds
        among them."""
        firsts = self._bounds[numbers]
        counts = self._bounds[numbers + 1] - firsts
        ends = counts.cumsum()
        at = np.arange(ends[-1]) + (firsts - ends + counts).repeat(counts)
        return at, counts, [0, *ends[np.cumsum(per_text) - 1].tolist()]

    def _find(self, words: list[str]) -> Ints | None:
        """Return the words' numbers once each is known; None without words, or if there is no room
        for so many."""
        if not words:
            return None
        for most in (MAX_WORDS, MAX_WORDS * 3 // 4, 0):
            while len(self._numbers) > most:
                self._numbers.popitem()  # the last one learnt: common words come early in a text
            known = map(self._numbers.get, words, repeat(-1))
            numbers = np.fromiter(known, np.int64, len(words))
            unknown = (numbers < 0).nonzero()[0]
            new = dict.fromkeys([words[at] for at in unknown.tolist()])
            if not new or self._learn(list(new)):
                numbers[unknown] = [self._numbers[words[at]] for at in unknown.tolist()]
                return numbers
        return None

    def _learn(self, new: list[str]) -> bool:
        """Encode words that aren't known yet; False if there is no room for so many."""
        lengths = np.fromiter(map(len, new), np.int64, len(new)) + 1
        (tokens,) = encode_contexts(self.tokenizer, [" ".join(new)])
        known, num = len(self._numbers), len(tokens.token_ids)
        first = int(self._bounds[known])
        if known + len(new) > MAX_WORDS or first + num > _MAX_TOKENS:
            return False
        starts = lengths.cumsum() - lengths
        bounds = np.append(tokens.char_starts.searchsorted(starts), num)
        shifts = starts.repeat(np.diff(bounds))
        self._token_ids[first : first + num] = tokens.token_ids
        self._starts[first : first + num] = tokens.char_starts - shifts
        self._ends[first : first + num] = tokens.char_ends - shifts
        self._bounds[known : known + len(new) + 1] = first + bounds
        self._lengths[known : known + len(new)] = lengths
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
