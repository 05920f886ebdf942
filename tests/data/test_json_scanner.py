"""Values are walked over right wherever the buffer ends, and errors say where they are."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist.data import json_scanner
from qa_dist.data.json_scanner import Scanner, opened_data_file
from qa_dist.records import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def scanner_of(text: str, chunk_bytes: int = 4) -> Scanner:
    return Scanner(Path("some.json"), io.BytesIO(text.encode()), chunk_bytes)


@given(st.lists(VALUES, min_size=1, max_size=4), st.booleans(), st.integers(1, 64))
def test_values_end_where_json_ends_them(values, is_ascii, chunk_bytes):
    texts = [json.dumps(value, ensure_ascii=is_ascii) for value in values]
    text = " \n".join(texts)
    raw = text.encode()
    scanner = scanner_of(text, chunk_bytes)
    for value in values:
        _, start, end = scanner.value("value")
        assert json.loads(raw[start:end]) == value
    assert scanner.peek() == ""


@pytest.mark.parametrize("literal", ["-12.5e+10", "true", "null", "-Infinity", '"\\ud83d\\ude00"'])
@pytest.mark.parametrize("chunk_bytes", range(1, 13))
def test_a_literal_may_be_cut_anywhere(literal, chunk_bytes):
    scanner = scanner_of(f"[{literal},{literal}]{literal} ", chunk_bytes)
    raw = f"[{literal},{literal}]"
    assert scanner.value("list")[1:] == (0, len(raw))
    assert scanner.value("literal")[1:] == (len(raw), len(raw) + len(literal))


def test_a_long_value_is_not_scanned_quadratically():
    reads = []

    class CountedStream(io.BytesIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    text = json.dumps("x" * 100_000)
    Scanner(Path("some.json"), CountedStream(text.encode()), 16).value("string")
    assert len(reads) < 30  # the buffer doubles: log2(100000 / 16) reads, not 100000 / 16


def test_a_malformed_file_fails_at_once(monkeypatch):
    class EndlessStream(io.BytesIO):
        num_read = 0

        def read(self, size=-1):
            self.num_read += size
            assert self.num_read < 10_000, "read on although the value can't become right"
            return super().read(size) or b"," * size

    monkeypatch.setattr(json_scanner, "_line_and_column", lambda path, offset: (1, offset + 1))
    with pytest.raises(InputError, match="column 7: record isn't valid JSON"):
        Scanner(Path("some.json"), EndlessStream(b'{"a": nope}'), 64).value("record")


def test_a_value_over_the_cap_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_scanner, "MAX_VALUE_BYTES", 1000)
    path = tmp_path / "big.json"
    for size, chunk_bytes in [(5000, 16), (5000, 1 << 20), (1_000_000, 16)]:
        path.write_text("\n" + json.dumps("x" * size))
        with opened_data_file(path) as stream, pytest.raises(InputError) as caught:
            Scanner(path, stream, chunk_bytes).value("data[7]")
        assert "line 2, column 1: data[7] is larger than" in str(caught.value)
    path.write_text(json.dumps("x" * 900))
    with opened_data_file(path) as stream:
        assert Scanner(path, stream, 16).value("data[7]")[1:] == (0, 902)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_and_column_count_characters(tmp_path, newline):
    path = tmp_path / "some.json"
    text = newline.join(['\ufeff{"é": 1,', '  "ñandú": [1, 😀]}'])
    path.write_bytes(text.encode())
    with opened_data_file(path) as stream, pytest.raises(InputError) as caught:
        Scanner(path, stream, 4).value("the file")
    column = text.splitlines()[1].index("😀") + 1
    assert f"{path}: line 2, column {column}: " in str(caught.value)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("raw", [b'["ab\xff"]', '["é"]'.encode("latin-1"), b'"\xe2\x82'])
def test_not_utf8_says_where(tmp_path, raw, chunk_bytes):
    path = tmp_path / "latin.json"
    path.write_bytes(b"  " + raw)
    with pytest.raises(InputError, match="isn't UTF-8 here") as caught, path.open("rb") as stream:
        Scanner(path, stream, chunk_bytes).value("the file")
    place = 2 + next(i for i, byte in enumerate(raw) if byte >= 0x80)
    assert f"line 1, column {place + 1}: " in str(caught.value)


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"BZh9", b"\xfd7zXZ"])
def test_archives_are_not_unpacked(tmp_path, head):
    path = tmp_path / "train.json"
    path.write_bytes(head + bytes(100))
    with pytest.raises(InputError, match="unpack it first"), path.open("rb") as stream:
        Scanner(path, stream, 100)
