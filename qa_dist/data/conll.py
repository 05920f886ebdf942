"""Sentences of a CoNLL file: a word and its tag on each line, a blank line between sentences.

In: a file of two columns or more (CoNLL-2003 has four), apart by tabs or else by blanks: the word
first, its tag last. A line "-DOCSTART-" begins a document. Out: a RecordIndex of byte offsets, and
records `{"sentences": [...]}`: each one sentence or, if asked for, one document. The index is made
in one pass with flat memory; a record is read without the rest of the file. What a tag may be is
checked here; what the tags mean is text/tags.py's.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qa_dist.data.json_scanner import opened_data_file
from qa_dist.data.raw_records import OpenedFile, RecordIndex
from qa_dist.records import BadRecordError, InputError
from qa_dist.text.tags import is_tag

DOCSTART = "-DOCSTART-"
MAX_LINE_BYTES = 1 << 20
MAX_SENTENCE_BYTES = 8 << 20

WRONG_COLUMNS = "line has another number of columns than the file"
NO_WORD = "line has no word"
NO_TAG = 'last column isn\'t a tag: "O", or "B-" or "I-" and a type'
NOT_UTF8 = "isn't UTF-8"
STRAY_RETURN = "line has a carriage return inside"
"""Why a sentence can't be used; a sentence with a bad line is left out whole."""

_BOM = b"\xef\xbb\xbf"
_DOCSTART_BYTES = DOCSTART.encode()
_BLANKS = re.compile(r"[ \t]+")
_FORM = 'expected a word and its tag ("O", "B-PER", "I-PER", ...) on each line, a blank line after'


def index_conll(path: Path, by_document: bool = False) -> RecordIndex:
    """Find the sentences of a file, or with `by_document` its documents.

    A record's questions are its sentences. Its group is its document; in a file without -DOCSTART-
    each sentence is a group. Raises InputError where there are no sentences, or no documents.
    """
    starts, ends, groups = array("q"), array("q"), array("i")
    document, has_documents = -1, False
    for start, end, is_new in _sentence_places(path):
        document += is_new or document < 0
        has_documents |= is_new
        starts.append(start)
        ends.append(end)
        groups.append(document)
    if not starts:
        raise InputError(f"{path}: holds no sentences; {_FORM} each sentence")
    if by_document and not has_documents:
        raise InputError(
            f"{path}: data.document_context=true needs lines {DOCSTART} that say where documents "
            "begin, and it has none; leave document_context out"
        )
    first, last = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)
    numbers = np.array(groups, dtype=np.int32)
    if not has_documents:
        numbers = np.arange(len(first), dtype=np.int32)
    if by_document:
        heads = np.flatnonzero(np.diff(numbers, prepend=-1))
        tails = np.append(heads[1:], len(numbers))
        return record_index(first[heads], last[tails - 1], numbers[heads], tails - heads)
    return record_index(first, last, numbers, np.ones(len(first)))


def record_index(starts: Any, ends: Any, groups: Any, num_sentences: Any) -> RecordIndex:
    """Put the columns of an index together; its groups have no names of their own."""
    nameless = np.full(int(groups[-1]) + 1, -1, dtype=np.int64)
    return RecordIndex(
        starts=np.asarray(starts, dtype=np.int64),
        ends=np.asarray(ends, dtype=np.int64),
        groups=np.asarray(groups, dtype=np.int32),
        num_questions=np.asarray(num_sentences, dtype=np.int32),
        name_starts=nameless,
        name_ends=nameless,
    )


def _sentence_places(path: Path) -> Iterator[tuple[int, int, bool]]:
    """Yield (first byte, one past the last, whether a -DOCSTART- is before it) of each sentence."""
    with opened_data_file(path, "a CoNLL file") as stream:
        position = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
        stream.seek(position)
        start = end = -1
        is_new = False
        line_number = 0
        while line := stream.readline(MAX_LINE_BYTES):
            line_number += 1
            if len(line) == MAX_LINE_BYTES:
                raise InputError(f"{path}:{line_number}: is a line of over 1 MB; {_FORM}")
            is_docstart = line.startswith(_DOCSTART_BYTES)
            if is_docstart or not line.strip():
                if start >= 0:
                    yield start, end, is_new
                    start, is_new = -1, False
                is_new = is_new or is_docstart
            else:
                start = position if start < 0 else start
                end = position + len(line)
                if end - start > MAX_SENTENCE_BYTES:
                    raise InputError(
                        f"{path}:{line_number}: no blank line in over 8 MB; {_FORM} each sentence"
                    )
            position += len(line)
        if start >= 0:
            yield start, end, is_new


class ConllRecords:
    """Records of a CoNLL file, read at their byte offsets."""

    def __init__(
        self, path: Path, by_document: bool = False, index: RecordIndex | None = None
    ) -> None:
        """index: from an earlier call for the same file; None: made now."""
        self.index = index_conll(path, by_document) if index is None else index
        self._path, self._file = path, OpenedFile(path)
        self._counted = (0, 1)  # bytes before which lines were counted, and the number of the next

    @cached_property
    def _first_sentences(self) -> list[int]:
        """The ordinal in the file of each record's first sentence."""
        counts: list[int] = (
            np.cumsum(self.index.num_questions) - self.index.num_questions
        ).tolist()
        return counts

    @cached_property
    def _num_columns(self) -> int:
        """Of the file's first line that has two or more."""
        for start in self.index.starts.tolist():
            self._file.stream.seek(start)
            num = len(_columns(self._file.stream.readline().decode("utf-8", "replace")))
            if num > 1:
                return num
        return 2

    def read(self, record: int) -> dict[str, Any]:
        """Return {"sentences": [...]}: each {"id", "words", "tags"}, or {"where", "reason"} if bad.

        The id counts the file's sentences, whether records are sentences or documents.
        """
        start, end = int(self.index.starts[record]), int(self.index.ends[record])
        ordinal = self._first_sentences[record]
        self._file.stream.seek(start)
        lines = self._file.stream.read(end - start).split(b"\n")
        sentences: list[dict[str, Any]] = []
        position = start
        at, rows = start, list[bytes]()
        for line in (*lines, b""):
            if line.strip():
                at = at if rows else position
                rows.append(line)
            elif rows:
                sentences.append(self._read_sentence(sentence_id(ordinal), at, rows))
                ordinal += 1
                rows = []
            position += len(line) + 1
        return {"sentences": sentences}

    def _read_sentence(self, name: str, start: int, rows: list[bytes]) -> dict[str, Any]:
        words, tags = [], []
        for row, line in enumerate(rows):
            try:
                word, tag = _read_line(line, self._num_columns)
            except BadRecordError as error:
                where = f"{self._path.name}:{self._line_number(start) + row}"
                return {"where": where, "reason": error.reason}
            words.append(word)
            tags.append(tag)
        return {"id": name, "words": words, "tags": tags}

    def _line_number(self, offset: int) -> int:
        """Return the number, from 1, of the line that begins at a byte of the file."""
        done, number = self._counted
        if offset < done:
            done, number = 0, 1
        self._file.stream.seek(done)
        while done < offset and (chunk := self._file.stream.read(min(offset - done, 1 << 20))):
            done += len(chunk)
            number += chunk.count(b"\n")
        self._counted = done, number
        return number

    def group_name(self, record: int) -> str:
        """Return "group-00003": documents have no names."""
        return f"group-{int(self.index.groups[record]):05d}"


def sentence_id(ordinal: int) -> str:
    """Return the id of a source's sentence, which are counted from 0."""
    return f"sentence-{ordinal:06d}"


def _columns(line: str) -> list[str]:
    """Split a line at its tabs if it has any, else at its blanks."""
    text = line.rstrip(" \t\r\n")
    if "\t" in text:
        return [column.strip(" ") for column in text.split("\t")]
    return _BLANKS.split(text.lstrip(" "))


def _read_line(line: bytes, num_columns: int) -> tuple[str, str]:
    """Return the word and the tag of a line; BadRecordError says why it can't be used."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRecordError("", NOT_UTF8) from None
    columns = _columns(text)
    if "\r" in text.rstrip(" \t\r\n"):
        raise BadRecordError("", STRAY_RETURN)
    if not columns[0]:
        raise BadRecordError("", NO_WORD)
    if len(columns) != num_columns:
        raise BadRecordError("", WRONG_COLUMNS)
    if not is_tag(columns[-1]):
        raise BadRecordError("", NO_TAG)
    return columns[0], columns[-1]
