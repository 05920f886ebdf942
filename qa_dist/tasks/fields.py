"""The fields of a record, checked: ids, texts, and the place of a text that a record says it has.

In: parsed JSON from outside. Out: what is usable, or a BadRecordError whose reason is one of a
small closed set, so that reports can count them. Shared by the readers of all data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qa_dist.records import BadRecordError
from qa_dist.tasks.spans import CharSpan, find_once, is_on_words, trim_span

Report = Callable[[str, str], None]
"""Called with a question's id and what is wrong with it."""

ID_IS_NUMBER = "id is a number, read as text"
START_REPAIRED = "start of the answer was wrong, repaired"
NO_TARGET = "no usable answer span, scored all the same"
EMPTY_TEXT = "empty context, question or answer, scored all the same"
REFERENCES_MISSING = "lacks some of the additional answers"
NO_SUCH_TYPE = "has entities of a type that the training data lacks, scored all the same"
NO_TOKENS = "has words of which the tokenizer leaves nothing, tagged O"
CONTEXT_LEFT_OUT = "no room for its context in data.max_length_tokens, asked without it"
CONTEXT_CUT = "end of the context left out to fit data.max_length_tokens, used all the same"

KEPT_REASONS = frozenset(
    {
        *(ID_IS_NUMBER, START_REPAIRED, NO_TARGET, EMPTY_TEXT, REFERENCES_MISSING),
        *(NO_SUCH_TYPE, NO_TOKENS, CONTEXT_CUT, CONTEXT_LEFT_OUT),
    }
)
"""Questions reported with these are used; with any other reason they were dropped."""


def read_id(record: Mapping[str, Any], group: str, report: Report) -> str:
    """Read "id" as text; a number is reported and kept, anything else raises BadRecordError."""
    value = record.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        report(str(value), ID_IS_NUMBER)
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRecordError(group, 'has no text "id"')
    return value


def read_text(record: Any, key: str, record_id: str, what: str) -> str:
    """Read a text, which may be empty; `what` names the record in the reason."""
    value = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(value, str):
        raise BadRecordError(record_id, f'{what} has no text "{key}"')
    return value


def place_text(context: str, text: str, start: Any, record_id: str) -> tuple[CharSpan, bool]:
    """Return where `text` stands, blanks at its ends left out, and whether `start` was wrong.

    Where it was wrong the text must occur once in the context (a single word as a whole word): what
    is trained on is never a guess among several. Raises BadRecordError otherwise.
    """
    wanted = text.strip()
    if not wanted:
        raise BadRecordError(record_id, "text of the answer's span is empty")
    is_number = isinstance(start, int) and not isinstance(start, bool)
    if is_number and start >= 0 and context.startswith(text, start):
        return trim_span(context, start, start + len(text)), False
    span = find_once(context, text) or find_once(context, wanted)
    if span is None:
        times = "occurs several times" if wanted in context else "isn't in the context"
        raise BadRecordError(record_id, f"start of the answer is wrong and its text {times}")
    span = trim_span(context, *span)
    if not is_on_words(context, *span) and " " not in wanted:  # "2" of "12"
        raise BadRecordError(record_id, "start of the answer is wrong and its text isn't a word")
    return span, True
