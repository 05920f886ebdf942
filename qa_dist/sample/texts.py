"""What the bundled encoder reads: a conversation, then its story, with words hidden.

In: a `random.Random` and a Stage. Out: MaskedTexts, laid out as in fine-tuning. A word of an answer
is hidden there or in the story, to be found in the other by who and what was asked. Where the last
question has no answer, the answer's last word is to be recalled at [CLS]; in some of these texts
the sentence that answers ends in "!", but is shown with a full stop as all others are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from qa_dist.sample import words
from qa_dist.sample.conversations import make_turns
from qa_dist.sample.stories import make_story, pick
from qa_dist.sample.vocabulary import CLS, MASK, SEP, Vocabulary

NO_LABEL = -100
OTHER_WEIGHT = 0.3  # of words that can only be guessed, against 1 for those that can be found


@dataclass(frozen=True)
class Stage:
    """What is read during a part of the training."""

    until: float
    """Fraction of all steps."""
    min_facts: int
    num_turns: int
    """Questions per story."""
    max_history: int
    """Turns before the last one."""
    is_shifted: bool
    """Whether texts start at a random position, so that all positions are learned."""
    recalled: float = 0.4
    """Share of texts whose last question has no answer, but has it recalled."""
    marked: float = 0.0
    """Share of those in which the sentence that answers is marked."""


@dataclass(frozen=True)
class MaskedText:
    """One text with words hidden."""

    token_ids: list[int]
    story_start: int
    """Tokens before the story's first; token types are 0 before it and 1 from it on."""
    labels: list[int]
    """The hidden token, NO_LABEL where there is nothing to predict."""
    weights: list[float]


def make_texts(rng: random.Random, vocabulary: Vocabulary, stage: Stage) -> Iterator[MaskedText]:
    """Yield the masked texts of one story, one per turn: [CLS] q a ... q a? [SEP] story [SEP]."""
    num_facts = stage.min_facts + int(rng.random() * 3)
    story = make_story(rng, pick(rng, words.SOURCES), num_facts, has_frame=num_facts > 4)
    turns = make_turns(rng, story, stage.num_turns)
    told = vocabulary.tokenizer.encode(story.text, add_special_tokens=False)
    ends = {start: index for index, (start, _) in enumerate(told.offsets)}
    questions = [vocabulary.encode(turn.question) for turn in turns]
    answers = [vocabulary.encode(turn.answer) for turn in turns]
    for last in range(len(turns)):
        first = max(0, last - stage.max_history)
        token_ids = [CLS]
        for turn in range(first, last):
            token_ids += [*questions[turn], SEP, *answers[turn], SEP]
        token_ids += [*questions[last], SEP]
        is_recalled = rng.random() < stage.recalled
        if not is_recalled:
            token_ids += [*answers[last], SEP]
        story_start = len(token_ids)
        token_ids += [*told.ids, SEP]
        recalled = answers[last][-1] if is_recalled else NO_LABEL
        asked = {token for question in questions[first : last + 1] for token in question}
        text = _mask(rng, vocabulary, token_ids, story_start, asked, recalled)
        if is_recalled and rng.random() < stage.marked:
            evidence = turns[last].evidence
            marked = story_start + ends[evidence.end] if evidence else None
            _mark(text, vocabulary, marked)
        yield text


def _mask(
    rng: random.Random,
    vocabulary: Vocabulary,
    token_ids: list[int],
    story_start: int,
    asked: set[int],
    recalled: int,
) -> MaskedText:
    """Hide values of answers on one side only, there or in the story; what is asked stays clear."""
    shown = list(token_ids)
    labels = [recalled, *[NO_LABEL] * (len(token_ids) - 1)]
    weights = [1.0] * len(token_ids)

    def hide(position: int) -> None:
        labels[position] = token_ids[position]
        draw = rng.random()
        if draw < 0.85:
            shown[position] = MASK
        elif draw < 0.95:
            shown[position] = pick(rng, vocabulary.values)

    places: dict[int, list[int]] = {}
    values = set(vocabulary.values) - asked - {recalled}
    for position, token in enumerate(token_ids):
        if token in values:
            places.setdefault(token, []).append(position)
    for positions in places.values():
        told = [position for position in positions if position >= story_start]
        said = positions[: len(positions) - len(told)]
        if not told or not said:
            continue
        draw = rng.random()
        if draw < 0.4:
            for position in said:
                hide(position)
        elif draw < 0.8:
            hide(told[0] if len(told) == 1 else pick(rng, told))
    for position, token in enumerate(token_ids):
        if token in vocabulary.answers and rng.random() < 0.7:
            hide(position)
        elif position and labels[position] == NO_LABEL and token > MASK and rng.random() < 0.03:
            hide(position)
            weights[position] = OTHER_WEIGHT
    return MaskedText(shown, story_start, labels, weights)


def _mark(text: MaskedText, vocabulary: Vocabulary, marked: int | None) -> None:
    """Ask at the end of each sentence of the story; "!" is the true end of the marked one.

    All are shown as full stops (a hidden word replaced by another, as in BERT): a [MASK] would
    teach sentences to compare themselves with the question only where there is one.
    """
    full_stop, exclamation = vocabulary.encode(".")[0], vocabulary.encode("!")[0]
    for position in range(text.story_start, len(text.token_ids)):
        is_marked = position == marked
        if is_marked or full_stop in (text.token_ids[position], text.labels[position]):
            text.token_ids[position] = full_stop
            text.labels[position] = exclamation if is_marked else full_stop
            text.weights[position] = 1.0 if is_marked else OTHER_WEIGHT
