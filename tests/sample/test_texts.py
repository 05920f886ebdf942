"""Pre-training texts: laid out as in fine-tuning, and what is hidden can be found."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from qa_dist.sample.pretrain import LONGEST, PHASES
from qa_dist.sample.texts import NO_LABEL, OTHER_WEIGHT, MaskedText, make_texts
from qa_dist.sample.vocabulary import CLS, MASK, SEP, Vocabulary, make_tokenizer, make_vocabulary

STAGE = PHASES[0].stages[-1]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(make_tokenizer())


def make_many(vocabulary: Vocabulary, **changes: float) -> list[MaskedText]:
    rng = random.Random(2)
    stage = replace(STAGE, **changes)  # type: ignore[arg-type]
    return [text for _ in range(20) for text in make_texts(rng, vocabulary, stage)]


def test_texts_are_laid_out_as_in_fine_tuning(vocabulary: Vocabulary) -> None:
    for text in make_many(vocabulary):
        assert text.token_ids[0] == CLS
        assert text.token_ids[-1] == SEP
        assert text.token_ids[text.story_start - 1] == SEP
        assert 2 <= text.token_ids.count(SEP) <= 7
        assert len(text.token_ids) == len(text.labels) == len(text.weights) <= LONGEST


def test_a_hidden_value_is_still_to_be_found_on_the_other_side(vocabulary: Vocabulary) -> None:
    num_checked = 0
    values = set(vocabulary.values)
    for text in make_many(vocabulary):
        sides = (text.token_ids[: text.story_start], text.token_ids[text.story_start :])
        for position, label in enumerate(text.labels):
            is_copy = position > 0 and label in values and text.weights[position] == 1.0
            if is_copy and text.token_ids[position] == MASK:
                others = sides[position < text.story_start]
                num_random = others.count(MASK)  # hidden at random, once in thirty words
                assert label in others or num_random
                num_checked += 1
    assert num_checked > 50


def test_a_question_without_answer_is_recalled_at_cls(vocabulary: Vocabulary) -> None:
    question_mark = vocabulary.encode("?")[0]
    for text in make_many(vocabulary, recalled=1.0):
        assert text.labels[0] in {*vocabulary.values, *vocabulary.answers}
        assert text.token_ids[text.story_start - 2] in (question_mark, MASK)
    assert all(text.labels[0] == NO_LABEL for text in make_many(vocabulary, recalled=0.0))


def test_the_end_of_the_marked_sentence_alone_is_an_exclamation_mark(
    vocabulary: Vocabulary,
) -> None:
    full_stop, exclamation = vocabulary.encode(".")[0], vocabulary.encode("!")[0]
    unknown = vocabulary.encode("unknown")[0]
    for text in make_many(vocabulary, recalled=1.0, marked=1.0):
        story = range(text.story_start, len(text.labels))
        ends = [position for position in story if text.labels[position] in (full_stop, exclamation)]
        assert all(text.token_ids[position] == full_stop for position in ends)
        assert text.token_ids[text.story_start :].count(full_stop) == len(ends)
        marked = [position for position in ends if text.labels[position] == exclamation]
        assert len(marked) == (0 if text.labels[0] == unknown else 1)
        assert all(text.weights[p] == (1.0 if p in marked else OTHER_WEIGHT) for p in ends)
