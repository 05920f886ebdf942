"""Records without lists around them: each one found at its bytes, each broken line named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_dist.data.flat_records import index_flat, line_number
from qa_dist.data.sources import open_records
from qa_dist.records import BadRecordError, InputError


def one(record: object) -> int:
    return 1


ROWS = [
    {"id": "a", "context": "Ünï 猫", "question": "q"},
    {"id": "b", "question": "q", "answer": '{"\\n"}'},
    {"id": "c", "context": " Ünï 猫 "},
    {"id": "d", "context": ""},
]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n  \n"])
def test_lines(tmp_path: Path, newline: str, start: bytes):
    path = tmp_path / "rows.jsonl"
    text = newline.join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    path.write_bytes(start + text.encode())
    records = open_records(str(path), "train", (), one)
    assert [records.read(i) for i in range(len(records.index))] == ROWS
    # Those with one context belong together; without any, each stands alone.
    assert records.index.groups.tolist() == [0, 1, 0, 2]
    assert records.index.num_questions.tolist() == [1, 1, 1, 1]
    assert records.group_name(0) == "group-00000"


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 22])
def test_an_object_of_records(tmp_path: Path, chunk_bytes: int):
    path = tmp_path / "rows.json"
    content = {'1"2': {"QUESTION": "ü?", "CONTEXTS": ["x", "{"]}, "34": {"QUESTION": "?"}}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False))
    index = index_flat(path, one, chunk_bytes)
    records = open_records(str(path), "train", (), one, index)
    assert [records.group_name(i) for i in range(2)] == list(content)
    assert [records.read(i) for i in range(2)] == list(content.values())
    assert index.groups.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}\n\n{"id": 2', r"rows\.jsonl:3: isn't valid JSON"),
        ('{"id": 1}\n[1]', r"rows\.jsonl:2: expected an object \(a record\), found list"),
        ('{"id": 1}{"id": 2}', r"rows\.jsonl:1: isn't valid JSON \(Extra data"),
        ("\n\n", "holds no questions"),
        ("", "holds no questions"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        index_flat(path, one)


def test_a_line_that_isnt_utf8_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": "\xff"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: isn't UTF-8"):
        index_flat(path, one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a"}\n{"id": "b"}', r"line 1, .*record per line has to be called \*\.jsonl"),
        ('{"a": {}}\n{"b": {}}', r"line 2, .*record per line has to be called \*\.jsonl"),
        ('{"a": {},\n "a": {}}', "line 2, .*id 'a' occurs twice"),
        ('{"a": {"QUESTION": }}', "isn't valid JSON"),
        ("[]", "expected an object with a record under each id, found a list"),
        ("{}", "holds no questions"),
        ("", "is empty"),
        ('{"a": {', "ends in the middle"),
    ],
)
def test_a_broken_object_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        index_flat(path, one)


def test_a_record_that_isnt_strict_is_named_by_its_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n\n{"id": 2, "id": 3}\n{"id": 4}\n')
    records = open_records(str(path), "train", (), one)
    with pytest.raises(BadRecordError, match=r"rows\.jsonl:3: has a key twice"):
        records.read(1)
    assert records.read(2) == {"id": 4}
    assert line_number(path, int(records.index.starts[2])) == 4


def test_the_hub_holds_no_such_questions():
    with pytest.raises(InputError, match=r"owner/name: there is no such file.*\.jsonl"):
        open_records("owner/name", "train", (), one)
