"""Stories: facts stand where they say, values are unique, a pronoun has an owner."""

from __future__ import annotations

import random

import pytest

from qa_dist.sample.stories import Fact, Story, make_story, pick, possessive, pronoun, shuffled
from qa_dist.sample.words import SOURCES, WOMEN

STORIES = [
    make_story(random.Random(seed), SOURCES[seed % len(SOURCES)], num_facts=2 + seed % 8)
    for seed in range(200)
]


def test_each_fact_stands_in_the_text_with_all_its_values() -> None:
    for story in STORIES:
        for fact in story.facts:
            assert story.text[fact.end] == "."
            for value in fact.values.values():
                start = story.value_start(fact, value)
                assert story.text[start : start + len(value)] == value


def test_no_two_people_share_a_value() -> None:
    for story in STORIES:
        values = [v for fact in story.facts for slot, v in fact.values.items() if slot != "friend"]
        assert len(values) == len(set(values))


def test_nobody_is_told_the_same_relation_twice() -> None:
    for story in STORIES:
        pairs = [(fact.person, fact.relation) for fact in story.facts]
        assert len(pairs) == len(set(pairs))


def test_a_pronoun_means_the_person_of_the_sentence_before() -> None:
    for story in STORIES:
        for before, fact in zip((None, *story.facts), story.facts, strict=False):
            if not story.text.startswith(fact.person, fact.start):
                assert before is not None
                assert (before.person, before.relation != "friend") == (fact.person, True)


def test_number_of_facts_and_frame() -> None:
    story = make_story(random.Random(1), "mctest", num_facts=4, has_frame=False)
    assert len(story.facts) == 4
    assert story.facts[0].start == 0
    assert story.text.endswith(".")
    assert story.facts[-1].end == len(story.text) - 1


def test_find_returns_the_fact_or_none() -> None:
    fact = Fact("Anna", "home", {"town": "Rome"}, 0, 18)
    story = Story("mctest", "Anna lives in Rome.", ("Anna", "Tom", "Ben"), (fact,))
    assert story.find("Anna", "home") is fact
    assert story.find("Tom", "home") is None
    assert story.value_start(fact, "Rome") == 14
    with pytest.raises(ValueError, match="'Oslo' is not in"):
        story.value_start(fact, "Oslo")


def test_draws_are_fair_and_repeatable() -> None:
    rng = random.Random(3)
    drawn = [pick(rng, "abc") for _ in range(3000)]
    assert all(900 < drawn.count(letter) < 1100 for letter in "abc")
    assert sorted(shuffled(rng, range(9))) == list(range(9))
    assert shuffled(random.Random(4), "abcdef") == shuffled(random.Random(4), "abcdef")


def test_pronouns() -> None:
    assert (pronoun(WOMEN[0]), possessive(WOMEN[0])) == ("she", "her")
    assert (pronoun("Tom"), possessive("Tom")) == ("he", "his")
