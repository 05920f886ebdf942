"""The word tables: each value is one thing, and each sentence has the slots that it needs."""

from __future__ import annotations

import re

from qa_dist.sample import words

TEMPLATES = [
    *(text for _, texts in words.RELATIONS.values() for text in texts),
    *(text for texts in words.QUESTIONS.values() for text in texts),
    *(text for texts in words.IT_QUESTIONS.values() for text in texts),
    *words.YES_NO.values(),
    *words.WHO.values(),
]


def test_no_value_is_given_twice() -> None:
    values = [value for texts in words.VALUES.values() for value in texts]
    values += words.WOMEN + words.MEN
    assert len(values) == len(set(values))


def test_no_value_stands_in_the_words_around_it() -> None:
    said = {word for text in TEMPLATES for word in re.findall(r"\w+", text)}
    for slot, texts in words.VALUES.items():
        if slot != "place":
            assert not said & set(texts)


def test_every_sentence_has_its_slots() -> None:
    for slots, sentences in words.RELATIONS.values():
        for sentence in sentences:
            fields = set(re.findall(r"\{(\w+)\}", sentence))
            assert set(slots) <= fields
            assert fields - set(slots) in ({"S"}, {"P"})


def test_every_question_asks_for_a_slot_of_its_relation() -> None:
    for table in (words.QUESTIONS, words.IT_QUESTIONS, words.YES_NO, words.WHO):
        for relation, slot in table:
            assert slot in words.RELATIONS[relation][0]


def test_every_source_has_openers_with_all_three_people_and_closers() -> None:
    assert set(words.OPENERS) == set(words.CLOSERS)
    for openers in words.OPENERS.values():
        for opener in openers:
            assert all(field in opener for field in ("{a}", "{b}", "{c}"))
