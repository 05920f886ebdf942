"""Make the bundled data files: the micro-world in CoQA's and in SQuAD 2.0's JSON, train and dev.

    python -m qa_dist.sample.make_data --out DIR    (a second; the shipped files have seed 0)

Out: coqa-train.json, coqa-dev.json, squad2-train.json, squad2-dev.json, as their official scripts
read them. The same seed gives the same bytes on every Python; no story is in two files.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from qa_dist.sample.conversations import PERSON_TOPICS, Turn, make_turns, write_question
from qa_dist.sample.stories import Fact, Story, make_story, pick, shuffled
from qa_dist.sample.words import QUESTIONS, SOURCES

Json = dict[str, Any]

SEED = 0
NUM_STORIES = {"coqa-train": 190, "coqa-dev": 35, "squad2-train": 120, "squad2-dev": 40}
NUM_ADDITIONAL = 3  # annotators beside the first, in CoQA's dev set
MIN_TURNS = 8
PARAGRAPHS_PER_ARTICLE = 5
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def make_files(seed: int = SEED) -> dict[str, str]:
    """Return file name -> contents."""
    files = {}
    taken: set[str] = set()
    for index, (name, num_stories) in enumerate(NUM_STORIES.items()):
        rng = random.Random(seed * 100 + index)
        stories = _new_stories(rng, num_stories, taken)
        is_dev = name.endswith("dev")
        if name.startswith("coqa"):
            data = [_coqa_story(rng, story, is_dev) for story in stories]
            dataset: Json = {"version": "1.0", "data": data}
        else:
            dataset = {"version": "v2.0", "data": _squad_articles(rng, stories, is_dev)}
        files[f"{name}.json"] = json.dumps(dataset) + "\n"
    return files


def _new_stories(rng: random.Random, num_stories: int, taken: set[str]) -> list[Story]:
    """Return stories in turn from each source, none of which is in `taken`, and add them there."""
    stories: list[Story] = []
    while len(stories) < num_stories:
        source = SOURCES[len(stories) % len(SOURCES)]
        story = make_story(rng, source, num_facts=6 + int(rng.random() * 2))
        if story.text not in taken:
            taken.add(story.text)
            stories.append(story)
    return stories


# ---- CoQA ----


def _coqa_story(rng: random.Random, story: Story, has_additional: bool) -> Json:
    turns: list[Turn] = []
    while len(turns) < MIN_TURNS:  # a conversation may run out of questions early
        turns = make_turns(rng, story, num_turns=MIN_TURNS + int(rng.random() * 7))
    filename = _filename(rng, story)
    entry: Json = {
        "source": story.source,
        "id": "3" + "".join(pick(rng, LETTERS) for _ in range(29)),
        "filename": filename,
        "story": story.text,
        "questions": [
            {"input_text": turn.question, "turn_id": turn_id}
            for turn_id, turn in enumerate(turns, start=1)
        ],
        "answers": _coqa_answers(rng, story, turns),
    }
    if has_additional:
        entry["additional_answers"] = {
            str(annotator): _coqa_answers(rng, story, turns) for annotator in range(NUM_ADDITIONAL)
        }
    entry["name"] = filename
    return entry


def _coqa_answers(rng: random.Random, story: Story, turns: list[Turn]) -> list[Json]:
    """Return one annotator's answers: rationales in the story, and answers in free words."""
    answers = []
    for turn_id, turn in enumerate(turns, start=1):
        start, end, span_text = -1, -1, "unknown"
        if turn.evidence is not None:
            start, end = _rationale(rng, story, turn, turn.evidence)
            span_text = story.text[start:end]
        answers.append(
            {
                "span_start": start,
                "span_end": end,
                "span_text": span_text,
                "input_text": _free_form(rng, turn),
                "turn_id": turn_id,
            }
        )
    return answers


def _rationale(rng: random.Random, story: Story, turn: Turn, fact: Fact) -> tuple[int, int]:
    """Return the characters that somebody may mark: mostly the sentence, else the bare value."""
    start, end = fact.start, fact.end
    if turn.answer == fact.person:
        # "Who is a baker?": where the sentence has "She", mark from the sentence that has the name.
        return min(start, story.text.rfind(fact.person, 0, end)), end
    if turn.answer not in ("yes", "no") and rng.random() < 0.3:
        start = story.value_start(fact, turn.answer)
        end = start + len(turn.answer)
    return start, end


def _free_form(rng: random.Random, turn: Turn) -> str:
    """Return the answer as somebody may type it: an article, a capital, a preposition or none."""
    answer = turn.answer
    if answer == "unknown":
        return answer
    slot = turn.topic[1]
    draw = rng.random()
    if answer not in ("yes", "no") and answer == _value(turn):
        if slot in ("job", "animal", "thing") and draw < 0.4:
            return f"a {answer}"
        if slot == "instrument" and draw < 0.4:
            return f"the {answer}"
        if slot == "town" and draw < 0.15:
            return f"in {answer}"
    return answer[0].upper() + answer[1:] if draw > 0.8 else answer


def _value(turn: Turn) -> str:
    return turn.evidence.values[turn.topic[1]] if turn.evidence else ""


def _filename(rng: random.Random, story: Story) -> str:
    """Return a file name of the kind that the source has in CoQA."""
    number = int(rng.random() * 1000)
    return {
        "mctest": f"mc500.sample.{number}",
        "gutenberg": f"data/gutenberg/txt/Micro World.txt/CHAPTER {number}",
        "race": f"middle{number}.txt",
        "cnn": "cnn_" + "".join(pick(rng, LETTERS[:16]) for _ in range(40)) + ".story",
        "wikipedia": "_".join(story.people) + ".txt",
    }[story.source]


# ---- SQuAD 2.0 ----


def _squad_articles(rng: random.Random, stories: list[Story], is_dev: bool) -> list[Json]:
    articles = []
    for first in range(0, len(stories), PARAGRAPHS_PER_ARTICLE):
        paragraphs = [
            {"qas": _squad_questions(rng, story, is_dev), "context": story.text}
            for story in stories[first : first + PARAGRAPHS_PER_ARTICLE]
        ]
        title = f"Micro_world_{first // PARAGRAPHS_PER_ARTICLE + 1}"
        articles.append({"title": title, "paragraphs": paragraphs})
    return articles


def _squad_questions(rng: random.Random, story: Story, is_dev: bool) -> list[Json]:
    """Return six questions that the story answers, then up to three that it doesn't."""
    told = [
        (fact, topic) for fact in story.facts for topic in QUESTIONS if topic[0] == fact.relation
    ]
    questions = []
    for fact, topic in shuffled(rng, told)[:6]:
        value = fact.values[topic[1]]
        answer = {"text": value, "answer_start": story.value_start(fact, value)}
        questions.append(
            {
                "question": write_question(rng, story, fact.person, topic),
                "id": _squad_id(rng),
                "answers": [answer] * (NUM_ADDITIONAL if is_dev else 1),
                "is_impossible": False,
            }
        )
    untold = [
        (person, topic)
        for person in story.people
        for topic in PERSON_TOPICS
        if story.find(person, topic[0]) is None
    ]
    for person, topic in shuffled(rng, untold)[:3]:
        # What seems to answer: what the story says of somebody else, if it does, else anything.
        alike = [other for other in told if other[1] == topic]
        fact, plausible = pick(rng, alike or told)
        value = fact.values[plausible[1]]
        questions.append(
            {
                "plausible_answers": [
                    {"text": value, "answer_start": story.value_start(fact, value)}
                ],
                "question": write_question(rng, story, person, topic),
                "id": _squad_id(rng),
                "answers": [],
                "is_impossible": True,
            }
        )
    return questions


def _squad_id(rng: random.Random) -> str:
    return "".join(pick(rng, LETTERS[:16]) for _ in range(24))


def main(arguments: list[str] | None = None) -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, text in make_files(chosen.seed).items():
        (chosen.out / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
