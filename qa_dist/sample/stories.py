"""The micro-world's stories: three people and what is told of them, in simple English.

In: a `random.Random`. Out: a Story, which knows where in its text each fact stands. Only
`.random()` is drawn from the generator, so that a seed gives the same bytes on every Python.
Knows nothing of questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from qa_dist.sample.words import CLOSERS, MEN, OPENERS, RELATIONS, VALUES, WOMEN

Item = TypeVar("Item")


@dataclass(frozen=True)
class Fact:
    """One sentence of a story about one person."""

    person: str
    relation: str
    values: dict[str, str]
    """Slot -> words, as they stand in the sentence."""
    start: int
    """First character of the sentence in the story."""
    end: int
    """One past its last word; the full stop is outside."""


@dataclass(frozen=True)
class Story:
    """A text, its people in order of appearance, and what it says about them."""

    source: str
    text: str
    people: tuple[str, ...]
    facts: tuple[Fact, ...]

    def find(self, person: str, relation: str) -> Fact | None:
        """Return what the story says about this relation of the person, None if nothing."""
        for fact in self.facts:
            if fact.person == person and fact.relation == relation:
                return fact
        return None

    def value_start(self, fact: Fact, value: str) -> int:
        """Return the character at which the value stands inside the fact's sentence."""
        found = re.compile(rf"\b{re.escape(value)}\b").search(self.text, fact.start, fact.end)
        if found is None:
            raise ValueError(f"{value!r} is not in {self.text[fact.start : fact.end]!r}")
        return found.start()


def make_story(
    rng: random.Random, source: str, num_facts: int = 9, has_frame: bool = True
) -> Story:
    """Return a story in the manner of one of CoQA's sources; its frame is how it opens and ends."""
    people = _cast(rng)
    told = _tellings(rng, people, num_facts)
    opener, closer = pick(rng, OPENERS[source]), pick(rng, CLOSERS[source])
    text = opener.format(a=people[0], b=people[1], c=people[2]) if has_frame else ""
    facts: list[Fact] = []
    spoken_of = ""  # whom "she" would mean
    for person, relation, values in told:
        is_pronoun = person == spoken_of and rng.random() < 0.6
        template = pick(rng, RELATIONS[relation][1])
        subject = pronoun(person).capitalize() if is_pronoun else person
        owner = possessive(person).capitalize() if is_pronoun else f"{person}'s"
        sentence = template.format(S=subject, P=owner, **values)
        start = len(text) + 1 if text else 0
        facts.append(Fact(person, relation, values, start, start + len(sentence)))
        text = f"{text} {sentence}.".lstrip()
        spoken_of = "" if relation == "friend" else person
    if has_frame:
        text = f"{text} {closer}"
    return Story(source, text, tuple(people), tuple(facts))


def _cast(rng: random.Random) -> list[str]:
    """Return three people; in two stories of three all are women or all are men."""
    draw = rng.random()
    names = WOMEN if draw < 0.33 else MEN if draw < 0.66 else [*WOMEN, *MEN]
    return shuffled(rng, names)[:3]


def _tellings(
    rng: random.Random, people: Sequence[str], num_facts: int
) -> list[tuple[str, str, dict[str, str]]]:
    """Return (person, relation, values) in the order of telling; no two people share a value."""
    unused = {slot: shuffled(rng, values) for slot, values in VALUES.items()}
    # As many relations as there is room for are told of all three: then who is meant matters.
    relations = shuffled(rng, list(RELATIONS))
    num_shared = max(1, num_facts // 3)
    shared = [(person, relation) for relation in relations[:num_shared] for person in people]
    others = [(person, relation) for relation in relations[num_shared:] for person in people]
    chosen = [*shared[:num_facts], *shuffled(rng, others)][:num_facts]
    told = []
    for person, relation in shuffled(rng, chosen):
        values = {}
        for slot in RELATIONS[relation][0]:
            if slot == "friend":
                values[slot] = pick(rng, [other for other in people if other != person])
            else:
                values[slot] = unused[slot].pop()
        told.append((person, relation, values))
    if rng.random() < 0.7:  # person by person, else mixed
        told.sort(key=lambda item: people.index(item[0]))
    return told


def pick(rng: random.Random, items: Sequence[Item]) -> Item:
    """Return one of the items, each as likely."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, items: Sequence[Item]) -> list[Item]:
    """Return the items in a random order."""
    keyed = sorted((rng.random(), index) for index in range(len(items)))
    return [items[index] for _, index in keyed]


def pronoun(person: str) -> str:
    """Return "she" or "he"."""
    return "she" if person in WOMEN else "he"


def possessive(person: str) -> str:
    """Return "her" or "his"."""
    return "her" if person in WOMEN else "his"
