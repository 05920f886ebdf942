"""What travels between stages: Example (one question) and Prediction (our answer to it).

Plain frozen records and one error type. No torch, no files: everything above imports this, this
imports nothing of ours. Character spans are half-open [start, end) in the context's code points;
token spans are inclusive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

SPAN = "span"  # the answer is a piece of the context
NULL_KIND = "null"  # the context doesn't hold the answer
ANSWER_NOTHING = -1e30  # a null threshold below all odds; finite, as JSON has no -inf
PAD_MULTIPLE = 8
"""Rows are padded to multiples of so many tokens on a GPU: what its tensor cores take."""


class InputError(Exception):
    """Bad input from outside (a file, a record, a key, a flag): the message names it and says what
    to do.

    Entry points print the message alone, without a traceback, and exit with status 2.
    """


class BadRecordError(Exception):
    """One record of a data file can't be used; `reason` groups such records in the summary.

    Raised by readers; counted under `on_bad_record: skip`, turned into an InputError under `stop`.
    """

    def __init__(self, record_id: str, reason: str) -> None:
        super().__init__(f"{record_id}: {reason}")
        self.record_id = record_id
        self.reason = reason


@dataclass(frozen=True)
class Target:
    """What training aims at: `kind` is "span", "null", or one of the task's answer classes ("yes",
    "no").

    `char_span` is where in the context the answer stands (or, for an answer class, the evidence
    that a window must hold for the class to be taught); None for "null".
    """

    kind: str
    char_span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Example:
    """One question about one context."""

    id: str
    """Unique in the split; for CoQA "<story id>#<turn id>"."""
    question: str
    history: tuple[str, ...]
    """Earlier questions and answers of the conversation, oldest first; empty outside CoQA."""
    target: Target
    answers: tuple[str, ...]
    """All references for scoring, as the official script sees them; empty: unanswerable (SQuAD
    2.0)."""
    rule: str
    """Scoring rule: "squad_v1", "squad_v2" or "coqa" of text/metrics.py; "ner", "prompted"."""
    group: str
    """The unit of held-out splits and of the bootstrap: article title, story id."""
    ordinal: int = 0
    """Its place among the questions of its record, from 0."""
    words: tuple[tuple[int, int], ...] = ()
    """NER: where each word of the sentence stands in the context."""
    tags: tuple[str, ...] = ()
    """NER: the label of each word in IOB2, "B-PER"."""
    facets: dict[str, str] = field(default_factory=dict)
    """What reports are broken down by, e.g. {"domain": "mctest", "turn": "3", "answer_type":
    "yes"}."""


@dataclass(frozen=True)
class Passage:
    """One context and the questions asked about it: what a reader yields for one record of a data
    file."""

    context: str
    examples: tuple[Example, ...]


class Prediction(NamedTuple):
    """Our answer to one question: the n best non-null candidates, best first, and the null score
    beside them."""

    id: str
    texts: list[str]
    """Of each candidate, as it stands in the context, or the answer class's name."""
    scores: list[float]
    """Start logit + end logit (for a class: twice its logit); with a CRF log p of its labels."""
    char_spans: list[tuple[int, int] | None]
    """Half-open in the context; None for an answer class."""
    null_score: float

    @property
    def text(self) -> str:
        """The best non-null answer; "" when no window holds a candidate."""
        return self.texts[0] if self.texts else ""

    @property
    def null_odds(self) -> float:
        """Null score minus the best candidate's score: no answer is given where it exceeds the
        threshold."""
        return self.null_score - self.scores[0] if self.scores else float("inf")


def show_threshold(threshold: float) -> str:
    """Return a null threshold for a table."""
    return "answers nothing" if threshold <= ANSWER_NOTHING else f"{threshold:.2f}"
