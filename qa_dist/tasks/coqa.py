"""CoQA, from Stanford's JSON: a story and its conversation -> Passage, an Example per turn.

In: one record: a story with its questions, answers and, in dev files, additional answers. Out: the
story and Examples, all earlier turns as history. Answers are free-form: the target is a class for a
plain yes, no or unknown, else the span of the story closest to the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qa_dist.records import NULL_KIND, SPAN, BadRecordError, Example, Passage, Target
from qa_dist.tasks.fields import (
    EMPTY_TEXT,
    NO_TARGET,
    REFERENCES_MISSING,
    START_REPAIRED,
    Report,
    place_text,
    read_id,
    read_text,
)
from qa_dist.tasks.spans import (
    CharSpan,
    Words,
    find_answer,
    find_closest,
    trim_span,
    widen_to_words,
)
from qa_dist.text.metrics import normalize_answer

ANSWER_CLASSES: tuple[str, ...] = ("yes", "no", "unknown")
NULL_CLASS: str | None = "unknown"
NULL_TEXT: str = "unknown"
LEVELS: tuple[str, ...] = ("data",)

MIN_GAIN = 0.2  # of F1, to leave the rationale; what gains less is mostly a chance word or two


def count_questions(record: Mapping[str, Any]) -> int:
    """Count the turns of one story, usable or not."""
    questions = record.get("questions")
    return len(questions) if isinstance(questions, list) else 0


def read_passage(
    record: Mapping[str, Any], group: str, report: Report, for_training: bool
) -> Passage:
    """Turn a story into a Passage; `report(question id, reason)` names each flaw.

    A reported turn is dropped unless the reason is one of fields.KEPT_REASONS. Not for training,
    every turn with its texts is kept, as the official script scores it; where its rationale can't
    be used its target is null. The group of the Examples is the story's id; `group` stands for it
    in reports where it is missing.
    """
    try:
        story_id = read_id(record, group, report)
        story = read_text(record, "story", story_id, "record")
        questions = _read_list(record, "questions", story_id)
        answers = _read_list(record, "answers", story_id)
        additional = _read_additional(record, story_id)
    except BadRecordError as error:
        report(error.record_id, error.reason)
        return Passage("", ())
    source = record.get("source")
    reader = _TurnReader(story_id, story, source if isinstance(source, str) else "", report)
    if len(answers) > len(questions):
        report(story_id, "has more answers than questions")
    for i, question in enumerate(questions):
        try:
            answer = answers[i] if i < len(answers) else None
            others = [turns[i] if i < len(turns) else None for turns in additional]
            reader.read_turn(i, question, answer, others, for_training)
        except BadRecordError as error:
            report(error.record_id, error.reason)
    return Passage(story, tuple(reader.examples.values()))


def target_text(example: Example, context: str) -> str:
    """Return what a model that hits the target exactly would answer."""
    target = example.target
    if target.kind == SPAN and target.char_span:
        return context[target.char_span[0] : target.char_span[1]]
    return NULL_TEXT if target.kind == NULL_KIND else target.kind


def _read_list(record: Mapping[str, Any], key: str, story_id: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise BadRecordError(story_id, f'record has no list "{key}"')
    return value


def _read_additional(record: Mapping[str, Any], story_id: str) -> list[list[Any]]:
    """Return the other annotators' answers, one list each; only dev stories have any."""
    additional = record.get("additional_answers", {})
    if not isinstance(additional, Mapping):
        raise BadRecordError(story_id, '"additional_answers" isn\'t an object')
    return [_read_list(additional, key, story_id) for key in additional]


class _TurnReader:
    """Reads the turns of one story in order; the history grows with them."""

    def __init__(self, story_id: str, story: str, source: str, report: Report) -> None:
        self.examples: dict[str, Example] = {}
        self._story_id = story_id
        self._story = story
        self._words = Words(story)
        self._normal_story = f" {normalize_answer(story)} "
        self._source = source
        self._report = report
        self._history: list[str] = []

    def read_turn(
        self, ordinal: int, question: Any, answer: Any, others: Sequence[Any], for_training: bool
    ) -> None:
        """Read turn number `ordinal` into `examples`; BadRecordError if it can't be used."""
        turn_id = _read_turn_id(question, self._story_id)
        turn = f"{self._story_id}#{turn_id}"
        if answer is None:
            raise BadRecordError(turn, "turn has no answer")
        if _read_turn_id(answer, turn) != turn_id:
            raise BadRecordError(turn, "turn_id of question and answer differ")
        text = read_text(question, "input_text", turn, "question")
        reference = read_text(answer, "input_text", turn, "answer")
        if turn in self.examples:
            raise BadRecordError(turn, "turn_id occurs twice in the story, the first is kept")
        history = tuple(self._history)
        if text.strip() and reference.strip():  # in the later turns' history, usable itself or not
            self._history += [text.strip(), reference.strip()]
        if not (text.strip() and reference.strip() and self._story.strip()):
            if for_training:
                raise BadRecordError(turn, "story, question or answer is empty")
            self._report(turn, EMPTY_TEXT)
        self.examples[turn] = Example(
            id=turn,
            question=text,
            history=history,
            target=self._read_target(turn, answer, reference, for_training),
            answers=(reference, *self._read_others(turn, turn_id, others)),
            rule="coqa",
            group=self._story_id,
            ordinal=ordinal,
            facets={
                "domain": self._source,
                "turn": str(turn_id),
                "answer_type": self._answer_type(reference),
            },
        )

    def _read_others(self, turn: str, turn_id: int, others: Sequence[Any]) -> list[str]:
        references = [
            other["input_text"]
            for other in others
            if isinstance(other, Mapping)
            and other.get("turn_id") == turn_id
            and isinstance(other.get("input_text"), str)
        ]
        if len(references) < len(others):
            self._report(turn, REFERENCES_MISSING)
        return references

    def _answer_type(self, reference: str) -> str:
        normal = normalize_answer(reference)
        if normal in ANSWER_CLASSES:
            return normal
        return "span" if normal and f" {normal} " in self._normal_story else "other"

    def _read_target(
        self, turn: str, answer: Mapping[str, Any], reference: str, for_training: bool
    ) -> Target:
        # As published code does, "Yes." is the class too, "yeah" and "yes, he did" are spans.
        kind = normalize_answer(reference)
        if kind == NULL_CLASS:
            return Target(NULL_KIND)
        try:
            rationale, is_repaired = self._find_rationale(turn, answer)
        except BadRecordError:
            if for_training:
                raise
            self._report(turn, NO_TARGET)
            return Target(NULL_KIND)
        if is_repaired:
            self._report(turn, START_REPAIRED)
        if kind in ANSWER_CLASSES:
            return Target(kind, rationale)
        return Target(SPAN, find_target_span(self._words, rationale, reference))

    def _find_rationale(self, turn: str, answer: Mapping[str, Any]) -> tuple[CharSpan, bool]:
        text = read_text(answer, "span_text", turn, "answer")
        start, end = answer.get("span_start"), answer.get("span_end")
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < end:
            first, last = trim_span(self._story, start, end)
            # Blanks at the ends of the span and of its text need not be the same ones.
            if self._story[first:last] == text.strip() != "":
                return (first, last), False
        return place_text(self._story, text, start, turn)


def find_target_span(words: Words, rationale: CharSpan, reference: str) -> CharSpan:
    """Return the span to train on for a free-form answer: the closest to it by token F1.

    Published code (transformers-coqa, after SDNet) takes the answer's first occurrence in the
    rationale, whatever its case, else the span of the whole story with the best token F1. Ours must
    be whole words ("2" isn't found in "12"), and leaves the rationale for MIN_GAIN only. Number
    words are mapped neither there nor here: "two" is not "2". Nothing shared: the rationale.
    """
    start, end = widen_to_words(words.text, *rationale)
    span = find_answer(words, start, end, reference)
    if span is not None:
        return span
    near_f1, near = find_closest(words, start, end, reference, rationale)
    if near_f1 > 1 - MIN_GAIN:
        return near or rationale
    least = near_f1 + MIN_GAIN - 1e-9
    far_f1, far = find_closest(words, 0, len(words.text), reference, rationale, least)
    return (near if far_f1 - near_f1 < MIN_GAIN else far) or rationale


def _read_turn_id(turn: Any, record_id: str) -> int:
    turn_id = turn.get("turn_id") if isinstance(turn, Mapping) else None
    if not isinstance(turn_id, int) or isinstance(turn_id, bool):
        raise BadRecordError(record_id, 'a turn has no number "turn_id"')
    return turn_id
