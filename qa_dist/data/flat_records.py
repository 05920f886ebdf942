"""Where the records stand in a file that has no lists around them: a record per line (.jsonl), or
an object with a record under each id (PubMedQA's JSON).

In: a path. Out: the same RecordIndex of byte offsets that raw_records.py makes, so that single
records are read as from any other file. Broken lines are InputErrors that name file:line, before
anything is queued.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qa_dist.data.json_scanner import CHUNK_BYTES, MAX_VALUE_BYTES, Scanner, opened_data_file
from qa_dist.data.raw_records import Count, RecordIndex
from qa_dist.records import InputError

LINES_ENDING = ".jsonl"
_BOM = b"\xef\xbb\xbf"
_SHARED_KEY = "context"  # lines with the same one are a group: no split may part them


def index_flat(path: Path, count: Count, chunk_bytes: int = CHUNK_BYTES) -> RecordIndex:
    """Find the records of a .jsonl file, or of an object of objects, and check all of its syntax.

    Raises InputError naming file and line.
    """
    columns = _Columns(count)
    if path.suffix.lower() == LINES_ENDING:
        _read_lines(path, columns)
    else:
        with opened_data_file(path) as stream:
            _read_object(Scanner(path, stream, chunk_bytes), columns)
    index = columns.index()
    if not index.num_questions.any():
        raise InputError(
            f"{path}: holds no questions in its {len(index)} records; is it the right file, and is "
            "`task` the right one for it?"
        )
    return index


def line_number(path: Path, offset: int) -> int:
    """Return the line, from 1, in which the byte `offset` of a file stands."""
    with path.open("rb") as stream:
        return stream.read(offset).count(b"\n") + 1


class _Columns:
    """The columns of the index, filled record by record."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._rows: list[tuple[int, int, int, int]] = []
        self._names: list[tuple[int, int]] = []
        self._group_of: dict[str, int] = {}

    def add(
        self, record: Mapping[str, Any], start: int, end: int, name: tuple[int, int] = (-1, -1)
    ) -> None:
        """Add a record; `name` is where its name stands, if it has one."""
        shared = record.get(_SHARED_KEY)
        group = len(self._names)
        if isinstance(shared, str) and shared.strip():
            group = self._group_of.setdefault(shared.strip(), group)
        if group == len(self._names):
            self._names.append(name)
        self._rows.append((start, end, group, self._count(record)))

    def index(self) -> RecordIndex:
        """Return what was added."""
        starts, ends, groups, counts = np.array(self._rows, dtype=np.int64).reshape(-1, 4).T
        names = np.array(self._names, dtype=np.int64).reshape(-1, 2)
        return RecordIndex(
            starts=starts,
            ends=ends,
            groups=groups.astype(np.int32),
            num_questions=counts.astype(np.int32),
            name_starts=names[:, 0],
            name_ends=names[:, 1],
        )


def _read_lines(path: Path, columns: _Columns) -> None:
    """Read a file with an object on each line; empty lines are passed over."""
    with opened_data_file(path) as stream:
        offset = number = 0
        while line := stream.readline(MAX_VALUE_BYTES + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_VALUE_BYTES:
                raise InputError(f"{where}: is longer than {MAX_VALUE_BYTES >> 20} MB; split it up")
            skipped = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            text = line[skipped:].strip()
            if text:
                start = line.index(text, skipped) + offset
                columns.add(_parse_line(text, where), start, start + len(text))
            offset += len(line)


def _parse_line(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
    except UnicodeDecodeError:
        raise InputError(f"{where}: isn't UTF-8; save the file as UTF-8") from None
    except ValueError as error:
        raise InputError(
            f"{where}: isn't valid JSON ({str(error).splitlines()[0]}); expected one object per "
            "line; mend the line or take it out"
        ) from None
    except RecursionError:
        raise InputError(
            f"{where}: is nested too deeply to be read; is it the right file?"
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object (a record), found {type(value).__name__}")
    return value


def _read_object(scanner: Scanner, columns: _Columns) -> None:
    """Read an object whose keys are ids and whose values are records."""
    if scanner.peek() != "{":
        if not scanner.peek():
            raise InputError(f"{scanner.path}: is empty; download or copy it again")
        scanner.fail_expecting("an object with a record under each id", "the file")
    scanner.take("{", "the file")
    seen: set[str] = set()
    is_open = scanner.peek() != "}" or not scanner.take("}", "the file")
    while is_open:
        if scanner.peek() != '"':
            scanner.fail_expecting("an id", "the file")
        key, *name = scanner.value("the file")
        if key in seen:
            scanner.fail(f"id {key!r} occurs twice; keep one")
        seen.add(key)
        scanner.take(":", f"id {key!r}")
        if scanner.peek() != "{":
            scanner.fail_expecting(
                "an object (a record); a file with a record per line has to be called "
                f"*{LINES_ENDING}",
                f"id {key!r}"[:200],
            )
        record, start, end = scanner.value(f"id {key!r}"[:200])
        columns.add(record, start, end, (name[0], name[1]))
        is_open = scanner.take(",}", "the file") == ","
    if scanner.peek():
        scanner.fail(
            "expected the file to end here; a file with a record per line has to be called "
            f"*{LINES_ENDING}"
        )
