"""Conversations: answers are true, and what a question leans on was said in the last two turns."""

from __future__ import annotations

import random
import re

from qa_dist.sample.conversations import Turn, make_turns, write_question
from qa_dist.sample.stories import Story, make_story
from qa_dist.sample.words import MEN, SOURCES, WOMEN

NAMES = re.compile("|".join([*WOMEN, *MEN]))


def make_one(seed: int) -> tuple[Story, list[Turn]]:
    rng = random.Random(seed)
    story = make_story(rng, SOURCES[seed % len(SOURCES)], num_facts=7)
    return story, make_turns(rng, story, num_turns=10)


CONVERSATIONS = [make_one(seed) for seed in range(200)]


def test_answers_are_in_their_evidence() -> None:
    for _, turns in CONVERSATIONS:
        for turn in turns:
            assert (turn.evidence is None) == (turn.answer == "unknown")
            if turn.evidence and turn.answer not in ("yes", "no"):
                assert turn.answer in (turn.evidence.person, *turn.evidence.values.values())


def test_yes_means_that_the_value_asked_for_is_the_one_told() -> None:
    for _, turns in CONVERSATIONS:
        for turn in turns:
            if turn.evidence and turn.answer in ("yes", "no"):
                value = turn.evidence.values[turn.topic[1]]
                is_said = re.search(rf"\b{value}\b", turn.question) is not None
                assert is_said == (turn.answer == "yes")


def test_a_pronoun_means_the_person_named_last_within_two_turns() -> None:
    num_checked = 0
    for _, turns in CONVERSATIONS:
        for index, turn in enumerate(turns):
            has_pronoun = re.search(r"\b(she|he|her|his)\b", turn.question)
            if not has_pronoun or turn.evidence is None or turn.answer in ("yes", "no"):
                continue
            said = " ".join(f"{t.question} {t.answer}" for t in turns[max(0, index - 2) : index])
            names = NAMES.findall(f"{said} {turn.question}")
            assert names[-1] == turn.evidence.person
            num_checked += 1
    assert num_checked > 200


def test_a_question_that_leans_on_nothing_names_its_person_or_value() -> None:
    for _, turns in CONVERSATIONS:
        assert turns[0].is_complete
        for turn in turns:
            if turn.is_complete:
                assert not re.search(r"\b(she|he|it)\b", turn.question)


def test_many_questions_lean_on_the_conversation() -> None:
    turns = [turn for _, turns in CONVERSATIONS for turn in turns]
    assert 0.4 < sum(not turn.is_complete for turn in turns) / len(turns) < 0.7


def test_nothing_is_asked_twice_of_the_same_person_by_name() -> None:
    for _, turns in CONVERSATIONS:
        full = [turn.question for turn in turns if turn.is_complete]
        assert len(full) == len(set(full))


def test_write_question_by_name_and_by_pronoun() -> None:
    story = make_story(random.Random(0), "mctest")
    woman = WOMEN[0]
    rng = random.Random(0)
    by_name = {write_question(rng, story, woman, ("home", "town")) for _ in range(20)}
    by_pronoun = {write_question(rng, story, woman, ("home", "town"), True) for _ in range(20)}
    assert by_name == {f"Where does {woman} live?", f"In which town does {woman} live?"}
    assert by_pronoun == {"Where does she live?", "In which town does she live?"}
