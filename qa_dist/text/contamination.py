"""Dev questions that stand in the training data too: the same ones, and ones that nearly are.

In: questions by id. Out: pairs of ids. Two questions are the same if they are after SQuAD's
normalisation (case, ASCII punctuation, articles, blanks); they are near if their sets of words
agree by NEAR or more (Jaccard: shared words over all words). Pure functions: no files.

Two sets that agree so far share one of their few rarest words (prefix filtering, Chaudhuri et al.
2006), so each question is compared with few others, whatever the number of questions.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from qa_dist.text.metrics import answer_tokens, normalize_answer

NEAR = 0.8


@dataclass(frozen=True)
class Pair:
    """A dev question and a training question that are the same or nearly so."""

    dev_id: str
    train_id: str
    similarity: float
    """1.0: the same words."""


def find_same(train: Mapping[str, str], dev: Mapping[str, str]) -> list[Pair]:
    """Return a pair for each training question that is a dev question too, in training order."""
    by_text: dict[str, str] = {}
    for dev_id, question in dev.items():
        by_text.setdefault(normalize_answer(question), dev_id)
    found = []
    for train_id, question in train.items():
        dev_id = by_text.get(normalize_answer(question), "")
        if dev_id:
            found.append(Pair(dev_id, train_id, 1.0))
    return found


def find_near(train: Mapping[str, str], dev: Mapping[str, str], least: float = NEAR) -> list[Pair]:
    """Return the pairs with a similarity of `least` or more that aren't the same, best first."""
    dev_words = {dev_id: frozenset(answer_tokens(text)) for dev_id, text in dev.items()}
    dev_texts = {dev_id: normalize_answer(text) for dev_id, text in dev.items()}
    counts = Counter(word for words in dev_words.values() for word in words)
    by_word: dict[str, list[str]] = defaultdict(list)
    for dev_id, words in dev_words.items():
        for word in _rarest(words, counts, least):
            by_word[word].append(dev_id)
    found = []
    for train_id, question in train.items():
        words, text = frozenset(answer_tokens(question)), normalize_answer(question)
        rare = _rarest(words, counts, least)
        for dev_id in dict.fromkeys(d for word in rare for d in by_word.get(word, ())):
            shared = len(words & dev_words[dev_id])
            similarity = shared / (len(words) + len(dev_words[dev_id]) - shared)
            if similarity >= least and text != dev_texts[dev_id]:
                found.append(Pair(dev_id, train_id, similarity))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.dev_id, pair.train_id))


def _rarest(words: frozenset[str], counts: Mapping[str, int], least: float) -> list[str]:
    """Return so many of the rarest words that a set that agrees by `least` must have one of its own
    among them."""
    ranked = sorted(words, key=lambda word: (counts.get(word, 0), word))
    return ranked[: len(words) - math.ceil(least * len(words) - 1e-9) + 1]
