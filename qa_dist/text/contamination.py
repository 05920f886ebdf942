"""Dev questions that stand in the training data too: the same ones, and ones that nearly are.

In: (id, question) of each; an id may stand for several. Out: pairs. Two questions are the same if
they are after SQuAD's normalisation (case, ASCII punctuation, articles, blanks); they are near if
their sets of words agree by NEAR or more (Jaccard: shared words over all words). Pure functions: no
files.

Two sets that agree so far share one of their few rarest words (prefix filtering, Chaudhuri et al.
2006), so each question is compared with few others, whatever the number of questions.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qa_dist.text.metrics import answer_tokens, normalize_answer

NEAR = 0.8

Questions = Sequence[tuple[str, str]]
"""(id, question) of each."""


@dataclass(frozen=True)
class Pair:
    """A dev question and a training question that are the same or nearly so."""

    dev_id: str
    train_id: str
    similarity: float
    """1.0: the same words."""
    train_number: int
    """The training question's place among those that were given: ids may be doubled."""


def find_same(train: Questions, dev: Questions) -> list[Pair]:
    """Return a pair for each training question that is a dev question too, in training order."""
    by_text: dict[str, str] = {}
    for dev_id, question in dev:
        by_text.setdefault(normalize_answer(question), dev_id)
    found = []
    for number, (train_id, question) in enumerate(train):
        text = normalize_answer(question)
        if text in by_text:
            found.append(Pair(by_text[text], train_id, 1.0, number))
    return found


def find_near(train: Questions, dev: Questions, least: float = NEAR) -> list[Pair]:
    """Return the pairs with a similarity of `least` or more that aren't the same, best first."""
    dev_words = [frozenset(answer_tokens(text)) for _, text in dev]
    dev_texts = [normalize_answer(text) for _, text in dev]
    counts = Counter(word for words in dev_words for word in words)
    by_word: dict[str, list[int]] = defaultdict(list)
    for place, words in enumerate(dev_words):
        for word in _rarest(words, counts, least):
            by_word[word].append(place)
    found = []
    for number, (train_id, question) in enumerate(train):
        words, text = frozenset(answer_tokens(question)), normalize_answer(question)
        rare = _rarest(words, counts, least)
        for place in dict.fromkeys(d for word in rare for d in by_word.get(word, ())):
            shared = len(words & dev_words[place])
            similarity = shared / (len(words) + len(dev_words[place]) - shared)
            if similarity >= least and text != dev_texts[place]:
                found.append(Pair(dev[place][0], train_id, similarity, number))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.dev_id, pair.train_id))


def _rarest(words: frozenset[str], counts: Mapping[str, int], least: float) -> list[str]:
    """Return so many of the rarest words that a set that agrees by `least` must have one of its own
    among them."""
    ranked = sorted(words, key=lambda word: (counts.get(word, 0), word))
    return ranked[: len(words) - math.ceil(least * len(words) - 1e-9) + 1]
