"""Running text -> words as CoNLL-2003 has them: punctuation apart, abbreviations whole; sentences.

In: any text. Out: where each word stands in it. A model that tags words needs this for text that
nobody has split. `Mt. Everest (8,848.86 m) isn't in the U.S.` has the words `Mt.` `Everest` `(`
`8,848.86` `m` `)` `is` `n't` `in` `the` `U.S.`
"""

from __future__ import annotations

import re
import unicodedata

_TITLES = (
    "Mr|Mrs|Ms|Dr|Prof|St|Mt|Ft|Sen|Rep|Gov|Gen|Col|Capt|Lt|Sgt|Rev|Hon|Jr|Sr|Inc|Corp|Co|Ltd|Bros|"
    "vs|etc|approx|Ave|Blvd"
)
_BEFORE_NUMBERS = "No|Nos|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_ENDINGS = "(?:s|S|re|ve|ll|d|m)\\b"  # behind an apostrophe: words of their own
_WORD = re.compile(
    rf"""
      https?://[^\s<>"]*[\w/] | \w[\w.+-]*@\w[\w-]*(?:\.\w[\w-]*)+   # addresses
    | (?: Ph\.D\. | (?:[A-Za-z]\.){{2,}} ) (?:-\w+)*                 # U.S. e.g. U.S.-based
    | (?:{_TITLES}) \. (?= \s+\w | \s*$ | [,)] )
    | (?:{_BEFORE_NUMBERS}) \. (?= \s+\d )
    | [A-Z]\. (?= \s+[A-Z] )                                         # J. Smith
    | \d+ (?:[.,:/]\d+)+ (?:-\w+)*                                   # 8,848.86 10:30 5.5-inch
    | [\u3400-\u4dbf\u4e00-\u9fff]                                   # Chinese, a character each
    | \w+ (?=n['’]t\b) | n['’]t\b                                    # is n't
    | ['’]{_ENDINGS}                                                 # John 's
    | \w+ (?: [-&/]\w+ | ['’](?!{_ENDINGS})\w+ )*                    # well-known AT&T O'Neill
    | \.{{2,}} | -{{2,}} | \S
    """,
    re.VERBOSE,
)
_ENDS = frozenset((".", "!", "?", "...", "\u3002", "\uff01", "\uff1f"))
_CLOSERS = frozenset("\"'”’»)]")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_JOINERS = "\u00ad\u200c\u200d"  # invisible ones inside words


def split_words(text: str) -> list[tuple[int, int]]:
    """Return the half-open place of each word in a text; only whitespace is in none of them."""
    shape = text
    if not text.isascii():  # combining marks and joiners are parts of their word
        shape = "".join("a" if _is_joined(char) else char for char in text)
    return [match.span() for match in _WORD.finditer(shape)]


def split_sentences(text: str) -> list[list[tuple[int, int]]]:
    """Return the places of a text's words, sentence by sentence.

    A sentence ends with a full stop that is a word of its own (so not in "U.S."), with ? or !, and
    the quotes and brackets that close right behind; or before a blank line.
    """
    sentences: list[list[tuple[int, int]]] = []
    is_over = True
    before = -1
    for start, end in split_words(text):
        word = text[start:end]
        is_tail = start == before and (word in _CLOSERS or word in _ENDS)
        if (is_over and not is_tail) or _BLANK_LINE.search(text, max(before, 0), start):
            sentences.append([])
            is_over = False
        sentences[-1].append((start, end))
        is_over = word in _ENDS or (is_over and is_tail)
        before = end
    return sentences


def _is_joined(char: str) -> bool:
    return char in _JOINERS or unicodedata.category(char).startswith("M")
