"""Walking over a JSON file value by value, with a buffer of a few MB, whatever the file's size.

In: a path. Out: the next character, or the next whole value with its byte offsets; an InputError
naming file, line and column for what isn't JSON. Bytes are decoded as latin-1, so that character
offsets are byte offsets, and a value's end is found by json's own C scanner. Knows no data set.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from qa_dist.records import InputError

CHUNK_BYTES = 1 << 22
MAX_VALUE_BYTES = 64 << 20  # of one value; twice that is the longest buffer

_BOM = b"\xef\xbb\xbf"
_ARCHIVES = (b"\x1f\x8b", b"PK\x03", b"BZh", b"\xfd7z", b"\x28\xb5\x2f")  # gz zip bz2 xz zst
_BLANKS = re.compile(r"[ \t\r\n]*")
_CLOSERS = re.compile(r"""[]}",]""")
_LAST_CHARACTERS = '}]"el'  # of anything but a number: true, false and null end in e and l
_LONGEST_LITERAL = len("-Infinity")
_KINDS = {"{": "an object", "[": "a list", '"': "a string", "t": "true", "f": "false", "n": "null"}
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))

# Numbers don't matter while values are only walked over, and int() refuses over 4300 digits.
_DECODER = json.JSONDecoder(parse_int=float)


@contextmanager
def opened_data_file(path: Path, expected: str = "a JSON file") -> Iterator[BinaryIO]:
    """Open a data file for reading; what can't be one is an InputError."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected {expected}; name the file in it")
    try:
        with path.open("rb") as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path (from {Path.cwd()})") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; give the right to (chmod u+r)") from None
    except OSError as error:
        said = error.strerror or error
        raise InputError(f"{path}: can't be read ({said}); copy it again") from None


class Scanner:
    """A window on a file's text, a character per byte, growing only while a value doesn't fit."""

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
        if head.startswith(_ARCHIVES):
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
        chunk = self._stream.read(max(self._chunk_bytes, min(pending, MAX_VALUE_BYTES)))
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
        """Step over blanks and return the next character, not taken yet; "" at the file's end."""
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
                value, end = _DECODER.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                if self._at_end or not self._may_go_on(error):
                    self._fail_syntax(error, where)
                end = len(self.buffer) + 1
            except RecursionError:
                self.fail(f"{where} is nested too deeply to be read; is this the right file?")
            if min(end, len(self.buffer)) - self.position > MAX_VALUE_BYTES:
                limit = f"{MAX_VALUE_BYTES / (1 << 20):g} MB"
                self.fail(f"{where} is larger than {limit}; split it into smaller records")
            # A number near the buffer's end may go on behind it: "12" as "12.5", "1e" as "1e+5".
            is_closed = end <= len(self.buffer) and self.buffer[end - 1] in _LAST_CHARACTERS
            if is_closed or self._at_end or end + len("e+") < len(self.buffer):
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
        # What can't be read and is never closed is cut off, rather than wrong.
        is_cut = not _CLOSERS.search(self.buffer, error.pos)
        if is_cut or error.msg.startswith("Unterminated string"):
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
        """Raise InputError with file, line and column of the byte offset `place` (None: here)."""
        line, column = _line_and_column(self.path, self.place if place is None else place)
        raise InputError(f"{self.path}: line {line}, column {column}: {message}")


def _line_and_column(path: Path, offset: int) -> tuple[int, int]:
    """Count lines and characters (not bytes) before `offset`, both from 1; reads the file again."""
    line, column = 1, 1
    with path.open("rb") as stream:
        while offset > 0 and (chunk := stream.read(min(offset, CHUNK_BYTES))):
            offset -= len(chunk)
            line += chunk.count(b"\n")
            _, newline, tail = chunk.rpartition(b"\n")
            tail = tail.removeprefix(_BOM)
            column = (1 if newline else column) + len(tail.translate(None, _CONTINUATION_BYTES))
    return line, column
