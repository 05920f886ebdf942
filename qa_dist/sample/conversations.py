"""The micro-world's conversations: questions about a story, their answers, and the evidence.

In: a `random.Random` and a Story. Out: Turns. A turn is asked in full ("Where does Anna live?") or
leans on the conversation ("Where does she keep it?", "And Tom?"); what it leans on was said in one
of the two turns before it, and a pronoun means the person who was named last. Knows nothing of
JSON or tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from qa_dist.sample.stories import Fact, Story, pick, possessive, pronoun
from qa_dist.sample.words import AND_QUESTIONS, IT_QUESTIONS, QUESTIONS, VALUES, WHO, YES_NO

Topic = tuple[str, str]  # relation, slot

MAX_UNKNOWN = 2  # questions of a conversation that the story doesn't answer

# What "And Tom?" can stand for, and what can be asked of a person of whom the story doesn't say it.
PERSON_TOPICS: list[Topic] = [topic for topic in QUESTIONS if topic not in IT_QUESTIONS]


@dataclass(frozen=True)
class Turn:
    """A question with its answer: a value in the story, or yes, no, unknown."""

    question: str
    answer: str
    """Words of the story without article, or "yes", "no", "unknown"."""
    evidence: Fact | None
    """The sentence that answers; None for unknown."""
    topic: Topic
    is_complete: bool
    """True where the question makes sense without the conversation."""


@dataclass
class _Memory:
    """What the last two turns said."""

    person: str = ""
    """Who was named last; a pronoun means this person."""
    person_age: int = 9
    """Turns since then."""
    thing: Fact | None = None
    """The animal or thing that "it" means."""
    thing_age: int = 9
    topic: Topic | None = None
    """What "And Tom?" would ask for."""
    topic_age: int = 9
    asked: set[tuple[str, Topic]] = field(default_factory=set)
    num_unknown: int = 0
    """Questions without an answer so far."""

    def next_turn(self) -> None:
        self.person_age += 1
        self.thing_age += 1
        self.topic_age += 1

    def name_person(self, person: str) -> None:
        self.person, self.person_age = person, 0

    def name_thing(self, fact: Fact) -> None:
        self.thing, self.thing_age = fact, 0


def make_turns(rng: random.Random, story: Story, num_turns: int) -> list[Turn]:
    """Return a conversation; it may be shorter where the story gives no more to ask."""
    memory = _Memory()
    turns: list[Turn] = []
    for _ in range(num_turns * 8):
        if len(turns) == num_turns:
            break
        draw = rng.random()
        if draw < 0.25:
            turn = _ask_it(rng, memory)
        elif draw < 0.45:
            turn = _ask_and(rng, story, memory)
        elif draw < 0.70:
            turn = _ask_person(rng, story, memory)
        elif draw < 0.95:
            turn = _ask_yes_no(rng, story, memory)
        else:
            turn = _ask_who(rng, story, memory)
        if turn is not None:
            turns.append(turn)
            memory.next_turn()
    return turns


def write_question(
    rng: random.Random, story: Story, person: str, topic: Topic, is_pronoun: bool = False
) -> str:
    """Return a question for the topic's slot of a person, by name or by pronoun."""
    fact = story.find(person, topic[0])
    return pick(rng, QUESTIONS[topic]).format(
        s=pronoun(person) if is_pronoun else person,
        p=possessive(person) if is_pronoun else f"{person}'s",
        p_own=possessive(person),
        **(fact.values if fact else {}),
    )


def _ask_it(rng: random.Random, memory: _Memory) -> Turn | None:
    """Ask what colour it is, where it is, what it is called."""
    fact = memory.thing
    if fact is None or memory.thing_age > 2:
        return None
    topic = pick(rng, [topic for topic in IT_QUESTIONS if topic[0] == fact.relation])
    if (fact.person, topic) in memory.asked:
        return None
    templates = IT_QUESTIONS[topic]
    if memory.person != fact.person or memory.person_age > 2:
        templates = tuple(text for text in templates if "{s}" not in text)
    memory.asked.add((fact.person, topic))
    question = pick(rng, templates).format(s=pronoun(fact.person))
    return Turn(question, fact.values[topic[1]], fact, topic, is_complete=False)


def _ask_and(rng: random.Random, story: Story, memory: _Memory) -> Turn | None:
    """Ask the question before of somebody else: "And Tom?"."""
    if memory.topic is None or memory.topic_age > 2:
        return None
    person = pick(rng, story.people)
    if (person, memory.topic) in memory.asked:
        return None
    if memory.num_unknown == MAX_UNKNOWN and not story.find(person, memory.topic[0]):
        return None
    question = pick(rng, AND_QUESTIONS).format(name=person)
    return _plain_turn(story, memory, person, memory.topic, question, is_complete=False)


def _ask_person(rng: random.Random, story: Story, memory: _Memory) -> Turn | None:
    """Ask something of a person; at times something that the story doesn't tell."""
    person, is_pronoun = _choose_person(rng, story, memory)
    told = [topic for topic in QUESTIONS if story.find(person, topic[0])]
    untold = [topic for topic in PERSON_TOPICS if not story.find(person, topic[0])]
    is_unknown = memory.num_unknown < MAX_UNKNOWN and rng.random() < 0.1
    topic = pick(rng, untold if is_unknown or not told else told)
    if (person, topic) in memory.asked or (not told and memory.num_unknown == MAX_UNKNOWN):
        return None
    question = write_question(rng, story, person, topic, is_pronoun)
    if topic in PERSON_TOPICS:
        memory.topic, memory.topic_age = topic, 0
    else:
        memory.topic = None
    return _plain_turn(story, memory, person, topic, question, is_complete=not is_pronoun)


def _ask_yes_no(rng: random.Random, story: Story, memory: _Memory) -> Turn | None:
    """Ask whether something is so; a false value sometimes is another person's."""
    person, is_pronoun = _choose_person(rng, story, memory)
    told = [topic for topic in YES_NO if story.find(person, topic[0])]
    if not told:
        return None
    topic = pick(rng, told)
    fact = story.find(person, topic[0])
    if fact is None or (person, topic) in memory.asked:
        return None
    value = true_value = fact.values[topic[1]]
    if rng.random() < 0.5:
        others = [f.values[topic[1]] for f in story.facts if f.relation == topic[0]]
        if len(others) == 1 or rng.random() < 0.85:
            others = [value for value in VALUES[topic[1]] if value not in others]
        value = pick(rng, [other for other in others if other != true_value])
    question = YES_NO[topic].format(s=pronoun(person) if is_pronoun else person, value=value)
    memory.asked.add((person, topic))
    memory.topic = None
    if not is_pronoun:
        memory.name_person(person)
    if topic[1] in ("animal", "thing"):
        memory.thing = None
        if value == true_value:
            memory.name_thing(fact)
    answer = "yes" if value == true_value else "no"
    return Turn(question, answer, fact, topic, is_complete=not is_pronoun)


def _ask_who(rng: random.Random, story: Story, memory: _Memory) -> Turn | None:
    """Ask of whom something is told."""
    fact = pick(rng, story.facts)
    topics = [topic for topic in WHO if topic[0] == fact.relation]
    if not topics:
        return None
    topic = pick(rng, topics)
    if (fact.person, topic) in memory.asked:
        return None
    memory.asked.add((fact.person, topic))
    memory.topic = None
    memory.name_person(fact.person)
    if topic[1] in ("animal", "thing"):
        memory.name_thing(fact)
    question = WHO[topic].format(value=fact.values[topic[1]])
    return Turn(question, fact.person, fact, topic, is_complete=True)


def _choose_person(rng: random.Random, story: Story, memory: _Memory) -> tuple[str, bool]:
    """Return a person, mostly who was named of late, and whether a pronoun is enough."""
    if memory.person_age <= 2 and rng.random() < 0.65:
        return memory.person, True
    return pick(rng, story.people), False


def _plain_turn(
    story: Story, memory: _Memory, person: str, topic: Topic, question: str, is_complete: bool
) -> Turn:
    """Return the turn that asks for a value or for what is unknown, and remember what it said."""
    memory.asked.add((person, topic))
    if person in question:
        memory.name_person(person)
    fact = story.find(person, topic[0])
    if fact is None:
        memory.num_unknown += 1
        if topic[1] in ("animal", "thing"):
            memory.thing = None
        return Turn(question, "unknown", None, topic, is_complete)
    answer = fact.values[topic[1]]
    if topic[1] == "friend":
        memory.name_person(answer)
    if topic[1] in ("animal", "thing") or topic in IT_QUESTIONS:
        memory.name_thing(fact)
    return Turn(question, answer, fact, topic, is_complete)
