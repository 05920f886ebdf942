"""Where the records of a JSON data file stand, and the reading of single ones.

In: a file such as SQuAD's (records at data[].paragraphs[]) or CoQA's (data[]), of any size. Out: a
RecordIndex of byte offsets; one record as a dict. The file is never held whole: json_scanner.py
moves a buffer over it. Knows the outer nesting only, not what a record means (tasks/) nor which
records make a split (splits.py).
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.json_scanner import CHUNK_BYTES, Scanner, opened_data_file
from qa_dist.records import BadRecordError, InputError

NAME_KEY = "title"  # names a group of records; its place in the file is kept, not its text

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")

Count = Callable[[Mapping[str, Any]], int]


class OpenedFile:
    """A data file that is opened when it is first read from, once in each process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def stream(self) -> BinaryIO:
        """The file's bytes; InputError if it can't be opened any more."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path}: can't be read any more ({error.strerror})") from None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file out, so that a process pool can be given this."""
        return {"path": self.path}


@dataclass(frozen=True)
class RecordIndex:
    """Where each record of a source is; one element per record unless said otherwise.

    Save with `np.savez(path, **index.arrays())`, load with `RecordIndex(**np.load(path))`.
    """

    starts: NDArray[np.int64]
    """First byte in the file; in a hub dataset the row number."""
    ends: NDArray[np.int64]
    """One past the last byte; in a hub dataset the row number + 1."""
    groups: NDArray[np.int32]
    """Ordinal of the article or story, ascending in a file; those without records are left out."""
    num_questions: NDArray[np.int32]
    """Questions asked in the record, usable or not."""
    name_starts: NDArray[np.int64]
    """Per group ordinal: first byte of the group's name, a JSON string; -1: it has none."""
    name_ends: NDArray[np.int64]
    """Per group ordinal: one past its last byte; -1: it has none."""

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.starts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by field name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def count_paragraph_questions(record: Mapping[str, Any]) -> int:
    """Count the questions of one SQuAD paragraph; 0 where "qas" isn't a list."""
    questions = record.get("qas")
    return len(questions) if isinstance(questions, list) else 0


def index_json(
    path: Path,
    levels: Sequence[str] = ("data", "paragraphs"),
    count: Count = count_paragraph_questions,
    chunk_bytes: int = CHUNK_BYTES,
) -> RecordIndex:
    """Find the records of a JSON file, check the syntax of all of it, and count questions.

    levels: keys of the lists on the way from the file's object to the records. Other keys beside
    them are skipped. Raises InputError naming file, line and column (characters, from 1), record.
    """
    with opened_data_file(path) as stream:
        finder = _Finder(Scanner(path, stream, chunk_bytes), levels, count)
        finder.find_records()
        index = finder.index()
    if not index.num_questions.any():
        raise InputError(
            f"{path}: holds no questions in the {len(index)} records at {finder.shape}; "
            "is it the right file, and is `task` the right one for it?"
        )
    return index


class _Finder:
    """The descent from a file's outermost object to its records, and the columns it fills."""

    def __init__(self, scanner: Scanner, levels: Sequence[str], count: Count) -> None:
        self.shape = "".join(f".{key}[]" for key in levels).removeprefix(".")
        self._scanner = scanner
        self._levels = levels
        self._count = count
        self._starts = array("q")
        self._ends = array("q")
        self._groups = array("i")
        self._num_questions = array("i")
        self._name_starts = array("q")
        self._name_ends = array("q")

    def find_records(self) -> None:
        """Read the file from its first character to its last."""
        scanner = self._scanner
        if not scanner.peek():
            raise InputError(f"{scanner.path}: is empty; download or copy it again")
        self._read_object(0, "the file")
        if scanner.peek():
            scanner.fail("expected the file to end here; is it JSON Lines, or two files in one?")
        if not self._starts:
            raise InputError(f"{scanner.path}: holds no records; expected some at {self.shape}")

    def index(self) -> RecordIndex:
        """Return what was found."""
        return RecordIndex(
            starts=np.array(self._starts, dtype=np.int64),
            ends=np.array(self._ends, dtype=np.int64),
            groups=np.array(self._groups, dtype=np.int32),
            num_questions=np.array(self._num_questions, dtype=np.int32),
            name_starts=np.array(self._name_starts, dtype=np.int64),
            name_ends=np.array(self._name_ends, dtype=np.int64),
        )

    def _read_object(self, depth: int, where: str) -> None:
        """Read an object that holds the list `levels[depth]`."""
        scanner, wanted = self._scanner, self._levels[depth]
        if scanner.peek() != "{":
            scanner.fail_expecting(f'an object with a list "{wanted}" ({self.shape})', where)
        scanner.take("{", where)
        start, is_found = scanner.place, False
        is_open = scanner.peek() != "}" or not scanner.take("}", where)
        while is_open:
            if scanner.peek() != '"':
                scanner.fail_expecting("a key", where)
            key = scanner.value(where)[0]
            scanner.take(":", where)
            if key == wanted:
                if is_found:
                    scanner.fail(f'{where} has "{wanted}" twice; keep one')
                is_found = True
                self._read_list(depth, wanted if depth == 0 else f"{where}.{wanted}")
            else:
                value, *place = scanner.value(f"{where}, key {key!r}"[:200])
                if key == NAME_KEY and depth == 1 and isinstance(value, str) and value.strip():
                    self._name_starts[-1], self._name_ends[-1] = place
            is_open = scanner.take(",}", where) == ","
        if not is_found:
            advice = f"records are expected at {self.shape}; is it the right file and `task`?"
            scanner.fail(f'{where} has no list "{wanted}"; {advice}', start - 1)

    def _read_list(self, depth: int, where: str) -> None:
        """Read a list of records, or of objects that lead to them."""
        scanner = self._scanner
        scanner.take("[", where)
        is_open = scanner.peek() != "]" or not scanner.take("]", where)
        ordinal = 0
        while is_open:
            if depth == 0:
                self._name_starts.append(-1)
                self._name_ends.append(-1)
            name = f"{where}[{ordinal}]"
            if depth + 1 < len(self._levels):
                self._read_object(depth + 1, name)
            else:
                self._read_record(name)
            is_open = scanner.take(",]", where) == ","
            ordinal += 1

    def _read_record(self, where: str) -> None:
        if self._scanner.peek() != "{":
            self._scanner.fail_expecting("an object (a record)", where)
        record, start, end = self._scanner.value(where)
        self._starts.append(start)
        self._ends.append(end)
        self._groups.append(len(self._name_starts) - 1)
        self._num_questions.append(self._count(record))


# --- One record ---


def read_json_record(source: Path | BinaryIO, start: int, end: int) -> Any:
    """Read the JSON value that fills the bytes [start, end) of a file, strictly.

    Raises BadRecordError where it isn't UTF-8 or JSON, has a key twice, NaN or Infinity, or half a
    surrogate pair, none of which other JSON readers, Arrow or tokenizers agree upon.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return read_json_record(stream, start, end)
    source.seek(start)
    record_id = f"bytes {start} to {end}"
    try:
        raw = source.read(end - start)
        value = _STRICT.decode(raw.decode("utf-8"))
        if _HALF_PAIR.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise BadRecordError(record_id, "isn't UTF-8") from None
    except UnicodeEncodeError:
        raise BadRecordError(record_id, "has half a surrogate pair (\\ud800 to \\udfff)") from None
    except json.JSONDecodeError:
        raise BadRecordError(record_id, "isn't valid JSON (has the file changed?)") from None
    except RecursionError:
        raise BadRecordError(record_id, "is nested too deeply") from None
    except _StrictError as error:
        raise BadRecordError(record_id, str(error)) from None
    except ValueError:
        raise BadRecordError(record_id, "has an integer of over 4300 digits") from None
    return value


class _StrictError(Exception):
    """What json takes and we don't."""


def _refuse_constant(name: str) -> NoReturn:
    raise _StrictError(f"has {name}, which isn't JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _StrictError("has a key twice")
    return record


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
