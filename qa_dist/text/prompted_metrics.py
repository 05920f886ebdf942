"""How well free-text answers agree with the expected ones: keyword overlap, refusals, win or loss.

In: expected answers and responses as strings. Out: figures per question, 0..1. Pure functions: no
torch, no files. Token F1 and EM are those of text/metrics.py.

Worked example. Expected "The method lowers the error rate by 18%." has the keywords method, lowers,
error, rate (stop words and tokens of under 3 characters are dropped). "An error rate of 5 %" has
two of these four: overlap 0.5. A response of 400 words would probably have all of them: keyword
overlap rewards long and made-up answers, so it never stands alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from typing import Literal

from qa_dist.text.metrics import exact_match

Outcome = Literal["win", "tie", "loss"]

MIN_KEYWORD_CHARS = 3
CAVEAT = (
    "Keyword overlap alone rewards long and made-up answers: read it beside token F1, the length "
    "and the floor."
)
_STOP_LINES = (
    "about above after again against all also although among and any are because been before "
    "being below between both but can cannot could did does doing down during each either few "
    "for from further had has have having her here hers herself him himself his how however "
    "into its itself just may might more most must myself nor not now off once one only onto "
    "other our ours out over own same shall she should since some such than that the their "
    "theirs them themselves then there therefore these they this those through thus too under "
    "until upon use used using very was were what when where whether which while who whom whose "
    "why will with within without would yet you your yours yourself "
)
STOP_WORDS = frozenset(_STOP_LINES.split())

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_TEXT = r"(?:text|passage|context|abstract|article|paper|document|paragraph|excerpt|story)"
_OF_TEXT = rf"\b(?:in|by|from|on|to) (?:the|this) (?:\w+ )?{_TEXT}\b"
_FACT = r"(?:information|info|details?|answers?|question|mention)"
_TELLS = r"(?:mention|say|specify|state|indicate|disclose|reveal|detail)s?"
_HOLDS = r"(?:include|contain|provide|give|report|describe|answer|discuss|address|offer|have)s?"
_WHICH = r"(?:whether|if|how|what|why|who|whom|whose|when|where|which)"
_TOLD = (
    r"(?:mention|specifi|stat|indicat|disclos|reveal|detail|discuss|address|describ|report|answer)"
    r"ed"
)
_NOT = (
    r"(?:(?:do|does|did|has|have|had|ca|could)n['’]t"
    r"|(?:do|does|did|has|have|had|can|could) not|cannot)"
)
_IS_NOT = r"(?:(?:is|are|was|were)(?:n['’]t| not)|['’]s not|(?:has|have)(?:n['’]t| not) been)"
_CANT_BE = r"(?:can ?not|can['’]t) be (?:determined|answered|inferred|found|known)"
_REFUSALS = (
    # The text does not mention the ratio.
    rf"\b{_TEXT}\b[^,;]{{0,30}}\b{_NOT} (?:\w+ ){{0,2}}{_TELLS}\b",
    # The text does not include that detail, report how many, give any.
    rf"\b{_TEXT}\b[^,;]{{0,30}}\b{_NOT} (?:\w+ )?{_HOLDS}"
    rf"(?: (?:\w+ ){{0,3}}{_FACT}\b| {_WHICH}\b|(?: (?:any|it|this|that))?\W*$)",
    # The split is not mentioned in the text.
    rf"{_IS_NOT} (?:\w+ )?(?:{_TOLD}|given|provided)\b[^,;]{{0,30}}{_OF_TEXT}",
    rf"\b{_FACT}\b[^,;]{{0,30}}{_IS_NOT} (?:\w+ )?(?:included|contained|available|found)\b"
    rf"[^,;]{{0,30}}{_OF_TEXT}",
    # Based on the passage, the split is not mentioned.
    rf"{_OF_TEXT}.{{0,80}}(?:{_IS_NOT} (?:\w+ )?(?:{_TOLD}\b|(?:given|provided|included)\W*$)"
    rf"|\b{_CANT_BE}\b)",
    rf"\b{_CANT_BE}\b.{{0,40}}\b{_TEXT}\b",
    rf"\bno {_FACT}\b.{{0,60}}{_OF_TEXT}",
    rf"^(?:(?:this|the) question |it )?(?:is )?(?:unanswerable|{_CANT_BE})\W*$",
    rf"^not (?:\w+ )?(?:{_TOLD}|given|provided)(?: {_OF_TEXT})?\W*$",
    r"^(?:unknown|no answer|i (?:don['’]t|do not) know)\W*$",
)


@cache
def _refusals() -> tuple[re.Pattern[str], ...]:
    """Return the patterns compiled: most who import this have no use for them."""
    return tuple(map(re.compile, _REFUSALS))


def keywords(text: str) -> frozenset[str]:
    """Return the set of a text's keywords: lower-cased words, stop words and short ones dropped."""
    words = _WORD.findall(text.lower())
    return frozenset(w for w in words if len(w) >= MIN_KEYWORD_CHARS and w not in STOP_WORDS)


def keyword_overlap(expected: str, response: str) -> float:
    """Return the share of the expected answer's keywords that occur in the response, 0..1.

    An expected answer without keywords ("No.") is met by the same answer only: 1, else 0.
    """
    wanted = keywords(expected)
    if not wanted:
        return float(exact_match(response, expected))
    return len(wanted & keywords(response)) / len(wanted)


def outcome(base: float, tuned: float, margin: float) -> Outcome:
    """Return whether the tuned model wins by more than `margin`; what is exactly that far is a
    tie."""
    difference = round(tuned - base, 9)  # 0.2 - 0.15 is a little more than 0.05 in binary
    if abs(difference) <= margin:
        return "tie"
    return "win" if difference > 0 else "loss"


def is_refusal(text: str) -> bool:
    """Tell whether a text's first sentence says that the context doesn't hold the answer.

    It must speak of the text (passage, article, ...) and say that an answer, a detail, a mention
    lacks in it: "The article does not include women" is a finding. Patterns of English, no more:
    what is put in other words ("The authors leave that open.", "The text gives no ratio.", "The
    article does not report the ratio.") is missed, as is what comes after the first sentence; and a
    finding in a refusal's words ("Deaths were not reported in this article.") is taken for one.
    """
    sentence = _SENTENCE_END.split(text.strip().lower(), maxsplit=1)[0]
    return any(pattern.search(sentence) for pattern in _refusals())


def length_words(text: str) -> int:
    """Return how many words a text has."""
    return len(text.split())


def other_questions(ids: Iterable[str], seed: int = 0) -> dict[str, str]:
    """Return for each question another one, whose answer is the floor; empty if there is only one.

    The questions form one ring in an order drawn with `seed`: it depends on the set of ids alone.
    """

    def draw(question_id: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}\0{question_id}".encode()).digest(), question_id

    ring = sorted(set(ids), key=draw)
    if len(ring) < 2:
        return {}
    return dict(zip(ring, [*ring[1:], ring[0]], strict=True))
