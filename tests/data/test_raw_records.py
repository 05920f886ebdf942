"""The index equals what json.load sees; bad files are refused in one line; memory stays flat."""

import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist.data.raw_records import RecordIndex, index_json, read_json_record
from qa_dist.records import BadRecordError, InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\{}[],:\u2028é😀'))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PARAGRAPHS = st.fixed_dictionaries({"context": TEXT, "qas": st.lists(VALUES, max_size=3)}) | (
    st.dictionaries(TEXT, VALUES, max_size=3)
)


@st.composite
def documents(draw) -> dict:
    """A SQuAD file with other keys before and behind the wanted ones."""

    def shuffled(items: dict) -> dict:
        extra = draw(st.dictionaries(TEXT.map("x-{}".format), VALUES, max_size=2))
        keys = draw(st.permutations([*items.items(), *extra.items()]))
        return dict(keys)

    articles = [
        shuffled(
            {"paragraphs": draw(st.lists(PARAGRAPHS, max_size=3))}
            | draw(st.sampled_from([{}, {"title": "A \u00e9"}, {"title": "  "}, {"title": 7}]))
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    first = {"paragraphs": [{"context": "c", "qas": [1]}], "title": "First"}
    return shuffled({"data": [first, *articles]} | draw(st.sampled_from([{}, {"version": "1"}])))


@settings(deadline=None)
@given(
    documents(),
    st.booleans(),
    st.sampled_from([None, 0, 1, "\t"]),
    st.integers(1, 64),
    st.booleans(),
)
def test_index_equals_json_load(tmp_path_factory, document, is_ascii, indent, chunk_bytes, has_bom):
    path = tmp_path_factory.mktemp("json") / "some.json"
    text = json.dumps(document, ensure_ascii=is_ascii, indent=indent)
    path.write_bytes(text.encode("utf-8-sig" if has_bom else "utf-8"))
    index = index_json(path, chunk_bytes=chunk_bytes)
    expected = [(g, p) for g, a in enumerate(document["data"]) for p in a["paragraphs"]]
    found = [
        (int(g), read_json_record(path, int(s), int(e)))
        for g, s, e in zip(index.groups, index.starts, index.ends, strict=True)
    ]
    assert found == expected
    counts = [len(p["qas"]) if isinstance(p.get("qas"), list) else 0 for _, p in expected]
    assert index.num_questions.tolist() == counts
    for article, start, end in zip(
        document["data"], index.name_starts, index.name_ends, strict=True
    ):
        title = article.get("title")
        if isinstance(title, str) and title.strip():
            assert read_json_record(path, int(start), int(end)) == title
        else:
            assert start == end == -1


def test_stories_are_records_of_one_level(tmp_path):
    path = tmp_path / "coqa.json"
    stories = [{"id": "a", "questions": [1, 2]}, {"title": "t", "id": "b", "questions": []}]
    path.write_text(json.dumps({"version": "1.0", "data": stories}))
    index = index_json(path, ("data",), lambda record: len(record["questions"]))
    assert index.groups.tolist() == [0, 1]
    assert index.num_questions.tolist() == [2, 0]
    assert index.name_starts.tolist() == [-1, -1]
    ends = zip(index.starts, index.ends, strict=True)
    assert [read_json_record(path, int(s), int(e)) for s, e in ends] == stories


def test_index_can_be_saved_and_pickled(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"data": [{"paragraphs": [{"qas": [1]}, {"qas": [1, 2]}]}]}')
    index = index_json(path)
    np.savez(tmp_path / "index.npz", **index.arrays())
    with np.load(tmp_path / "index.npz") as arrays:
        loaded = RecordIndex(**arrays)
    for other in (loaded, pickle.loads(pickle.dumps(index))):
        for name, array in index.arrays().items():
            assert np.array_equal(array, other.arrays()[name])
            assert array.dtype == other.arrays()[name].dtype
    assert len(index) == 2


# --- Bad files (D1, D2, X7) ---

GOOD = '{"data": [{"title": "T", "paragraphs": [{"context": "c", "qas": [1, 2.5, "\\u00e9"]}]}]}'

BAD_FILES = {
    "empty": ("", "is empty"),
    "blank": (" \n ", "is empty"),
    "cut in record": (GOOD[:70], "data[0].paragraphs[0]: the file ends in the middle"),
    "cut between": (GOOD[:40], "the file ends in the middle"),
    "cut at end": (GOOD[:-1], "the file ends in the middle"),
    "garbage behind": (GOOD + "x", "line 1, column 88: expected the file to end here"),
    "two documents": (GOOD + "\n" + GOOD, "line 2, column 1: expected the file to end here"),
    "JSON Lines": ('{"id": 1}\n{"id": 2}', 'the file has no list "data"'),
    "a list": ("[{}]", 'expected an object with a list "data" (data[].paragraphs[]), found a list'),
    "a string": ('"data"', "found a string"),
    "HTML": ("<html>", "found '<'"),
    "no data": ('{"version": "1.1"}', 'no list "data"'),
    "data twice": ('{"data": [], "data": []}', '"data" twice'),
    "data an object": ('{"data": {}}', "data: expected a list, found an object"),
    "data a number": ('{"data": 3}', "data: expected a list, found a number"),
    "article a string": ('{"data": ["x"]}', 'data[0]: expected an object with a list "paragraphs"'),
    "CoQA file": ('{"data": [{"story": "s"}]}', 'data[0] has no list "paragraphs"'),
    "paragraphs null": ('{"data": [{"paragraphs": null}]}', "data[0].paragraphs: expected a list"),
    "paragraph a list": (
        '{"data": [{"paragraphs": [{}, []]}]}',
        "data[0].paragraphs[1]: expected an object (a record), found a list",
    ),
    "no records": ('{"data": []}', "holds no records"),
    "no questions": ('{"data": [{"paragraphs": [{"context": "c"}]}]}', "holds no questions"),
    "word": (GOOD.replace("2.5", "nope"), "data[0].paragraphs[0] isn't valid JSON"),
    "single quotes": (GOOD.replace('"c"', "'c'"), "column 53: data[0].paragraphs[0] isn't valid"),
    "trailing comma": (GOOD.replace('"c",', '"c",,'), "data[0].paragraphs[0] isn't valid JSON"),
    "comma after last": (GOOD.replace("}]}]}", "}]},]}"), "data[1]: expected an object"),
    "missing comma": (GOOD.replace('"T", ', '"T" '), "data[0]: expected ',' or '}', found a str"),
    "missing colon": (GOOD.replace('"data":', '"data"'), "the file: expected ':', found a list"),
    "raw newline": (GOOD.replace('"c"', '"c\n"'), "invalid control character"),
    "bad escape": (GOOD.replace("\\u00e9", "\\x"), "isn't valid JSON (invalid \\escape"),
    "too deep": (GOOD.replace("2.5", "[" * 100_000), "data[0].paragraphs[0] is nested too deeply"),
    "too deep outside": ('{"x": ' + '{"a":' * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_in_one_line(tmp_path, name, chunk_bytes):
    if "deep" in name and chunk_bytes == 1:
        pytest.skip("the deep file is read at larger chunks only, to save time")
    text, message = BAD_FILES[name]
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        index_json(path, chunk_bytes=chunk_bytes)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_file_is_taken(tmp_path):
    path = tmp_path / "good.json"
    path.write_text(GOOD)
    assert index_json(path).num_questions.tolist() == [3]


@pytest.mark.parametrize("chunk_bytes", [3, 1 << 20])
def test_every_truncation_is_refused(tmp_path, chunk_bytes):
    path = tmp_path / "cut.json"
    for length in range(1, len(GOOD)):
        path.write_text(GOOD[:length])
        with pytest.raises(InputError, match="ends in the middle"):
            index_json(path, chunk_bytes=chunk_bytes)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=2)), max_size=3))
def test_damaged_file_is_refused_unless_json_takes_it(tmp_path_factory, changes):
    raw = bytearray(GOOD.encode())
    for place, new in changes:
        raw[place : place + 1] = new
    path = tmp_path_factory.mktemp("json") / "damaged.json"
    path.write_bytes(raw)
    try:
        json.loads(raw.decode("utf-8"))
        is_json = True
    except ValueError:
        is_json = False
    try:
        index_json(path, chunk_bytes=5)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert is_json


def test_missing_folder_and_unreadable_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        index_json(tmp_path / "absent.json")
    with pytest.raises(InputError, match="is a folder"):
        index_json(tmp_path)
    path = tmp_path / "secret.json"
    path.write_text(GOOD)

    def refuse(*_args: object) -> None:  # chmod doesn't stop root, whom tests may run as
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="may not be read"):
        index_json(path)


# --- Single records ---

BAD_RECORDS = {
    '{"a": 1, "a": 2}': "has a key twice",
    '[{"b": {"a": 1, "a": 2}}]': "has a key twice",
    '{"a": NaN}': "has NaN, which isn't JSON",
    '{"a": -Infinity}': "has -Infinity, which isn't JSON",
    '{"a": "\\ud83d x"}': "has half a surrogate pair (\\ud800 to \\udfff)",
    '{"a": "\\uDE00"}': "has half a surrogate pair (\\ud800 to \\udfff)",
    '{"a": ' + "1" * 5000 + "}": "has an integer of over 4300 digits",
    "[" * 100_000: "is nested too deeply",
    '{"a": 1': "isn't valid JSON (has the file changed?)",
    "{} {}": "isn't valid JSON (has the file changed?)",
}


@pytest.mark.parametrize("text", BAD_RECORDS, ids=lambda text: text[:12])
def test_bad_record_says_why(text):
    with pytest.raises(BadRecordError) as caught:
        read_json_record(io.BytesIO(b"xx" + text.encode() + b"yy"), 2, 2 + len(text))
    assert caught.value.reason == BAD_RECORDS[text]


def test_record_that_is_not_utf8():
    with pytest.raises(BadRecordError, match="isn't UTF-8"):
        read_json_record(io.BytesIO(b'"\xff"'), 0, 3)


def test_surrogate_pair_is_one_character():
    raw = json.dumps({"a": "\U0001f600\u00e9"}).encode()
    assert read_json_record(io.BytesIO(raw), 0, len(raw)) == {"a": "\U0001f600\u00e9"}


# --- Memory ---


def write_big_file(path: Path, num_bytes: int) -> int:
    """Write records of about 2 kB until the file has `num_bytes`; return how many."""
    record = {"context": "word " * 380, "qas": [{"id": "q", "question": "what?"}]}
    raw = json.dumps(record)
    num_records = num_bytes // len(raw)
    with path.open("w") as stream:
        stream.write('{"data": [{"paragraphs": [')
        stream.write(",\n".join([raw] * num_records) + "]}]}")
    return num_records


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for num_bytes in (2 << 20, 20 << 20):
        path = tmp_path / f"{num_bytes}.json"
        num_records = write_big_file(path, num_bytes)
        tracemalloc.start()
        index = index_json(path, chunk_bytes=1 << 18)
        with path.open("rb") as stream:
            for start, end in zip(index.starts.tolist(), index.ends.tolist(), strict=True):
                read_json_record(stream, start, end)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(index) == num_records
    # 28 bytes a record are kept, and the two lists above; nothing of the 18 MB more.
    assert peaks[1] - peaks[0] < 3 << 20


@pytest.mark.slow
def test_resident_memory_of_a_large_file(tmp_path):
    path = tmp_path / "large.json"
    write_big_file(path, 300 << 20)
    program = (
        "import resource, sys; from pathlib import Path;"
        "from qa_dist.data.raw_records import index_json;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "index_json(Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 80_000  # kB, of a 300 MB file


# --- Real data ---

DATA = os.environ.get("QA_DIST_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="QA_DIST_TEST_DATA isn't set")
@pytest.mark.parametrize("name", ["squad/dev-v2.0.json", "covid-qa/covidqa.json"])
def test_real_file(name):
    path = Path(DATA or "") / "data" / name
    index = index_json(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    expected = [p for article in document["data"] for p in article["paragraphs"]]
    assert index.num_questions.tolist() == [len(p["qas"]) for p in expected]
    with path.open("rb") as stream:
        ends = zip(index.starts.tolist(), index.ends.tolist(), strict=True)
        assert [read_json_record(stream, s, e) for s, e in ends] == expected
