"""Where the records of a JSON data file stand, and the reading of single ones.

In: a file such as SQuAD's (records at data[].paragraphs[]) or CoQA's (data[]), of any size. Out: a
RecordIndex of byte offsets; one record as a dict. The file is never held whole: a buffer of a few MB
moves over it, its bytes decoded as latin-1 so that character offsets are byte offsets. Knows the
outer nesting only, not what a record means (tasks/) nor which records make a split (splits.py).
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from qa_dist.records import BadRecordError, InputError

CHUNK_BYTES = 1 << 22
MAX_RECORD_BYTES = 64 << 20  # of one record, or of one value beside them; the longest buffer
NAME_KEY = "title"  # names a group of records; its place in the file is kept, not its text

_BOM = b"\xef\xbb\xbf"
_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_BLANKS = re.compile(r"[ \t\r\n]*")
_LONGEST_LITERAL = len("-Infinity")
_KINDS = {"{": "an object", "[": "a list", '"': "a string", "t": "true", "f": "false", "n": "null"}
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")

# Integers stay text while records are only looked for: int() refuses those of over 4300 digits.
_FINDER = json.JSONDecoder(parse_int=str)

Count = Callable[[Mapping[str, Any]], int]


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
    """Ordinal of the article or story, ascending within a file; groups without records are left out."""
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
    them are skipped. Raises InputError naming file, line, column (in characters, from 1) and record.
    """
    with _opened_data_file(path) as stream:
        finder = _Finder(_Scanner(path, stream, chunk_bytes), levels, count)
        finder.find_records()
        index = finder.index()
    if not index.num_questions.any():
        raise InputError(
            f"{path}: holds no questions in the {len(index)} records at {finder.shape}; "
            "is it the right file, and is `task` the right one for it?"
        )
    return index


@contextmanager
def _opened_data_file(path: Path) -> Iterator[BinaryIO]:
    """Open a data file for reading; what can't be one is an InputError."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a JSON file; name the file in it")
    try:
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path (it counts from {Path.cwd()})") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; give yourself the right to (chmod u+r)") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); copy it again") from None


class _Scanner:
    """A window on a file's text, one character per byte, that grows only while a value doesn't fit."""

    def __init__(self, path: Path, stream: BinaryIO, chunk_bytes: int) -> None:
        self.path = path
        self.buffer = ""
        self.position = 0  # of the next character, in the buffer
        self._stream = stream
        self._chunk_bytes = chunk_bytes
        self._offset = 0  # of the buffer's first character, in the file
        self._at_end = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")()  # only to validate: C, 1 GB/s
        self._skip_bom()

    def _skip_bom(self) -> None:
        head = self._stream.read(len(_BOM))
        if head.startswith(_ARCHIVES) or (head and b"BZh".startswith(head)):
            raise InputError(f"{self.path}: is a compressed file, expected JSON; unpack it first")
        if head == _BOM:
            self._offset = len(_BOM)
        else:
            self._take(head)

    @property
    def place(self) -> int:
        """The next character's byte offset in the file."""
        return self._offset + self.position

    def grow(self) -> bool:
        """Drop what is behind and read on; False at the file's end.

        Reads at least as much as is pending, so a value of n bytes is scanned O(log n) times.
        """
        pending = len(self.buffer) - self.position
        chunk = self._stream.read(max(self._chunk_bytes, min(pending, MAX_RECORD_BYTES)))
        self._at_end = not chunk
        self._take(chunk)
        return bool(chunk)

    def _take(self, chunk: bytes) -> None:
        try:
            self._utf8.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # The decoder keeps the head of a character cut by the last chunk's end in error.object.
            end = self._offset + len(self.buffer) + len(chunk)
            place = end - len(error.object) + error.start
            self.fail("isn't UTF-8 here; save it as UTF-8 (iconv -t UTF-8)", max(place, 0))
        self._offset += self.position
        self.buffer = self.buffer[self.position :] + chunk.decode("latin-1")
        self.position = 0

    def peek(self) -> str:
        """Step over blanks and return the next character without taking it; "" at the file's end."""
        while True:
            blanks = _BLANKS.match(self.buffer, self.position)
            assert blanks is not None  # the pattern matches the empty string
            self.position = blanks.end()
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self.grow():
                return ""

    def take(self, characters: str, where: str) -> str:
        """Take the next character, which must be one of `characters`."""
        found = self.peek()
        if not found or found not in characters:
            self.fail_expecting(" or ".join(_KINDS.get(c, f"'{c}'") for c in characters), where)
        self.position += 1
        return found

    def value(self, where: str) -> tuple[Any, int, int]:
        """Take a whole JSON value: what it is, and its first byte and one past its last."""
        self.peek()
        while True:
            try:
                value, end = _FINDER.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if self._at_end or not self._may_go_on(error):
                    self._fail_syntax(error, where)
                end = len(self.buffer) + 1
            except RecursionError:
                self.fail(f"{where} is nested too deeply to be read; is this the right file?")
            if min(end, len(self.buffer)) - self.position > MAX_RECORD_BYTES:
                limit = f"{MAX_RECORD_BYTES / (1 << 20):g} MB"
                self.fail(f"{where} is larger than {limit}; split it into smaller records")
            # A number goes on with the next chunk if it touches the buffer's end.
            if end < len(self.buffer) or (
                end == len(self.buffer) and (self._at_end or self.buffer[end - 1] in '}]"')
            ):
                start, self.position = self.place, end
                return value, start, self.place
            self.grow()

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Tell whether the error may come from the buffer's end only: the file is read on then."""
        return (
            error.msg.startswith("Unterminated string")
            or error.pos >= len(self.buffer) - _LONGEST_LITERAL
        )

    def _fail_syntax(self, error: json.JSONDecodeError, where: str) -> NoReturn:
        if self._at_end and self._may_go_on(error):
            self.fail(f"{where}: the file ends in the middle; download or copy it again")
        message = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
        place = self._offset + error.pos
        self.fail(f"{where} isn't valid JSON ({message}); mend it or download it again", place)

    def fail_expecting(self, expected: str, where: str) -> NoReturn:
        """Raise InputError: something else stands here."""
        found = self.peek()
        if not found:
            self.fail(f"{where}: the file ends in the middle; download or copy it again")
        kind = _KINDS.get(found, "a number" if found in "-0123456789" else repr(found))
        self.fail(f"{where}: expected {expected}, found {kind}")

    def fail(self, message: str, place: int | None = None) -> NoReturn:
        """Raise InputError with the file, line and column of `place`, a byte offset (None: here)."""
        line, column = _line_and_column(self.path, self.place if place is None else place)
        raise InputError(f"{self.path}: line {line}, column {column}: {message}")


def _line_and_column(path: Path, offset: int) -> tuple[int, int]:
    """Count lines and characters (not bytes) before `offset`, both from 1; reads the file again."""
    line, column = 1, 1
    with path.open("rb") as stream:
        while offset > 0 and (chunk := stream.read(min(offset, CHUNK_BYTES))):
            offset -= len(chunk)
            line += chunk.count(b"\n")
            head, newline, tail = chunk.rpartition(b"\n")
            column = (1 if newline else column) + len(tail.translate(None, _CONTINUATION_BYTES))
            column -= head.startswith(_BOM) + tail.startswith(_BOM) if line == 1 else 0
    return line, column


class _Finder:
    """The descent from a file's outermost object to its records, and the columns it fills."""

    def __init__(self, scanner: _Scanner, levels: Sequence[str], count: Count) -> None:
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
            scanner.fail("expected the file to end here, found more; is it JSON Lines, or two files?")
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
            scanner.fail_expecting(f'an object with a list "{wanted}" (records are {self.shape})', where)
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
    except ValueError as error:
        raise BadRecordError(record_id, str(error)) from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"has {name}, which isn't JSON")


def _read_int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError("has an integer of over 4300 digits") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("has a key twice")
    return record


_STRICT = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_read_int, object_pairs_hook=_unique_keys
)
