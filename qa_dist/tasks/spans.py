"""Finding an answer's words in a text: where it stands, and where something closest to it stands.

In: a text and an answer. Out: half-open character spans. Used by the readers of data sets, which
know what the answer and its span mean; this module knows the metric's tokens only.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple

from qa_dist.text.metrics import answer_tokens

CharSpan = tuple[int, int]

_MAX_PIECES = 8  # of one word; more (an address, a chain of hyphens) are taken as one
_MAX_SPAN_TOKENS = 200  # longer ones no model is asked for

_CACHED_WORDS = 1 << 14  # about 10 MB when full

_WORD = re.compile(r"\S+")
# What a span may start and end with inside a word: "Cotton" of "Cotton's", but 1.5 is one piece.
# Pieces are cut at ASCII punctuation, since that is what the metric drops.
_PIECE = re.compile(r"\d+(?:[.,]\d+)+|[^\s!-/:-@\[-`{-~]+")


def find_once(text: str, part: str) -> CharSpan | None:
    """Return where `part` stands in `text`; None if it doesn't, or more than once."""
    start = text.find(part) if part else -1
    if start < 0 or text.find(part, start + 1) >= 0:
        return None
    return start, start + len(part)


def trim_span(text: str, start: int, end: int) -> CharSpan:
    """Leave blanks at both ends of a span out; `end` may lie behind the text's."""
    part = text[start:end]
    end = start + len(part)
    return end - len(part.lstrip()), start + len(part.rstrip())


def is_on_words(text: str, start: int, end: int) -> bool:
    """Tell whether a span cuts no word and no number at its ends: not "2" of "12" or "2.5"."""
    return not (_is_inside(text, start) or _is_inside(text, end))


def _is_inside(text: str, place: int) -> bool:
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if before in ".," or after in ".,":  # part of a number only between digits
        around = text[max(0, place - 2) : place + 2]
        return re.search(r"\d[.,]\d", around) is not None
    return before.isalnum() and after.isalnum()


def widen_to_words(text: str, start: int, end: int) -> CharSpan:
    """Move both ends outwards to the next blank: annotators' spans at times cut a letter off."""
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return start, end


class _Part(NamedTuple):
    """A piece of a word, or several in a row, that a span may begin and end with."""

    start: int
    end: int
    tokens: tuple[str, ...]
    """As the metric splits it: mostly one token."""


class _Word(NamedTuple):
    """What is known of a word wherever it stands: its parts count from its first character."""

    parts: tuple[_Part, ...]
    """In ascending order of start, then of end."""
    tails: tuple[_Part, ...]
    """Those that begin where the word's first part does."""
    num_tokens: int
    tokens: tuple[str, ...]
    """Those of its parts, each once."""


class Words:
    """A text's words and the metric's tokens in them, found once for many answers, and only if one
    asks."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lower(self) -> str:
        """The text in lower case; empty where that has other places ("İ" becomes two letters)."""
        lower = self.text.lower()
        return lower if len(lower) == len(self.text) else ""

    @cached_property
    def starts(self) -> list[int]:
        """The first character of each word."""
        return [match.start() for match in _WORD.finditer(self.text)]

    @cached_property
    def words(self) -> list[_Word]:
        """What is known of each word."""
        return [_read_word(word) for word in _WORD.findall(self.text)]

    @cached_property
    def num_before(self) -> list[int]:
        """Tokens before each word; last, all of them."""
        return [0, *accumulate(word.num_tokens for word in self.words)]

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Token -> the numbers of the words that have a part with it, ascending."""
        places: defaultdict[str, list[int]] = defaultdict(list)
        for number, word in enumerate(self.words):
            for token in word.tokens:
                places[token].append(number)
        return places

    def hits(self, tokens: frozenset[str], start: int, end: int) -> list[int]:
        """Return the words that begin in [start, end) and have a part with one of the tokens."""
        first, last = bisect_left(self.starts, start), bisect_left(self.starts, end)
        found: set[int] = set()
        for token in tokens:
            numbers = self.places.get(token, [])
            found.update(numbers[bisect_left(numbers, first) : bisect_left(numbers, last)])
        return sorted(found)


def find_answer(words: Words, start: int, end: int, answer: str) -> CharSpan | None:
    """Return the first place in [start, end) where `answer` stands as whole words, in any case."""
    wanted = answer.strip().lower()
    place = words.lower.find(wanted, start, end) if wanted else -1
    while place >= 0:
        if is_on_words(words.text, place, place + len(wanted)):
            return place, place + len(wanted)
        place = words.lower.find(wanted, place + 1, end)
    return None


@lru_cache(maxsize=_CACHED_WORDS)
def _read_word(word: str) -> _Word:
    parts = _parts(word)
    num_tokens = len(answer_tokens(word) if len(parts) != 1 else parts[0].tokens)
    tokens = dict.fromkeys(token for part in parts for token in part.tokens)
    tails = [part for part in parts if part.start == parts[0].start]
    return _Word(tuple(parts), tuple(tails), num_tokens, tuple(tokens))


def _parts(word: str) -> list[_Part]:
    if word.isalnum():  # most words are
        return [_Part(0, len(word), answer_tokens(word))]
    pieces = [match.span() for match in _PIECE.finditer(word)]
    if len(pieces) > _MAX_PIECES:
        pieces = [(pieces[0][0], pieces[-1][1])]
    return [
        _Part(first, last, answer_tokens(word[first:last]))
        for i, (first, _) in enumerate(pieces)
        for _, last in pieces[i:]
    ]


def find_closest(
    words: Words, start: int, end: int, answer: str, near: CharSpan, least_f1: float = 0.0
) -> tuple[float, CharSpan | None]:
    """Return the highest token F1 with `answer` of a span of the words in [start, end), and it.

    Of several the one with the tokens in the answer's order, then the nearest to the span `near`,
    then the shortest, then the first. (0, None) if no token is shared, or none has `least_f1`.
    """
    gold = answer_tokens(answer)
    counts = Counter(gold)
    search = _Search(words, counts, least_f1)
    best, best_span = (0.0, False, 0, 0, 0), None
    for shared, num_tokens, first, last in search.spans(start, end):
        if 2 * min(len(shared), search.most_same) < search.least_f1 * (len(gold) + num_tokens):
            continue  # worse even if all of them are the answer's
        if len(counts) == len(gold):
            num_same = len(search.wanted.intersection(shared))
        else:
            num_same = (Counter(shared) & counts).total()
        f1 = 2 * num_same / (len(gold) + num_tokens)
        if f1 < search.least_f1:
            continue
        is_exact = num_tokens == len(gold) and shared == gold
        distance = max(0, near[0] - last, first - near[1])
        rank = (f1, is_exact, -distance, first - last, -first)
        if num_same and rank > best:
            best, best_span = rank, (first, last)
            search.least_f1 = f1
    return best[0], best_span


_Span = tuple[tuple[str, ...], int, int, int]
"""The tokens of its words that share some, the number of all its tokens, start, end."""


class _Search:
    """The spans of a text that could be closest to an answer."""

    def __init__(self, words: Words, gold: Counter[str], least_f1: float) -> None:
        self.wanted = frozenset(gold)
        self.least_f1 = least_f1  # longer spans that can't have it are left out
        self.most_same = sum(num for token, num in gold.items() if token in words.places)
        """Tokens of the answer that a span can share at most."""
        self._words, self._num_gold = words, gold.total()
        # One shared token alone gives F1 2 / (1 + gold); a span of more tokens gives less.
        self._most_tokens = min(max(_MAX_PIECES, self._num_gold**2), _MAX_SPAN_TOKENS)

    def spans(self, start: int, end: int) -> Iterator[_Span]:
        """Yield the spans in [start, end) that begin and end with a wanted token: no others can be
        best."""
        if self._is_too_long(self.most_same):
            return
        hits = self._words.hits(self.wanted, start, end)
        for i, number in enumerate(hits):
            at, parts = self._words.starts[number], self._words.words[number].parts
            for head in parts:
                if not self.wanted.isdisjoint(head.tokens):
                    yield head.tokens, len(head.tokens), at + head.start, at + head.end
                    if head.end == parts[-1].end:
                        yield from self._longer(head.tokens, at + head.start, hits, i)

    def _longer(
        self, shared: tuple[str, ...], start: int, hits: list[int], place: int
    ) -> Iterator[_Span]:
        """Yield the spans from a part with the tokens `shared`, at the end of word `hits[place]`,
        to later hits' beginnings."""
        num_tokens, num_before = len(shared), self._words.num_before
        behind = hits[place] + 1
        for i in range(place + 1, len(hits)):  # a slice would be quadratic
            number = hits[i]
            num_tokens += num_before[number] - num_before[behind]
            if num_tokens >= self._most_tokens or self._is_too_long(num_tokens):
                return
            behind, at = number, self._words.starts[number]
            tails = self._words.words[number].tails
            for tail in tails:
                if not self.wanted.isdisjoint(tail.tokens):
                    count = num_tokens + len(tail.tokens)
                    yield (*shared, *tail.tokens), count, start, at + tail.end
            shared = (*shared, *tails[-1].tokens)

    def _is_too_long(self, num_tokens: int) -> bool:
        """Whether no span of so many tokens can have the F1 that is asked for."""
        return 2 * self.most_same < self.least_f1 * (self._num_gold + num_tokens)
