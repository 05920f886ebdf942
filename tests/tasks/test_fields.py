"""Texts are placed where the record says, or where they stand once, or not at all."""

import pytest

from qa_dist.records import BadRecordError
from qa_dist.tasks.fields import ID_IS_NUMBER, place_text, read_id, read_text

CONTEXT = "A cat saw 12 cats and a dog. "


@pytest.mark.parametrize(
    "text, start, expected",
    [
        ("cat", 2, ((2, 5), False)),
        (" cat saw", 1, ((2, 9), False)),  # blanks at the ends aren't trained on
        ("dog", 3, ((24, 27), True)),
        ("dog", None, ((24, 27), True)),
        ("dog", "24", ((24, 27), True)),
        ("dog", True, ((24, 27), True)),
        ("dog", -5, ((24, 27), True)),  # Python would count from the end
        ("dog", 10**9, ((24, 27), True)),
        ("dog. ", 0, ((24, 28), True)),
        ("  dog", 0, ((24, 27), True)),
        ("t saw", 0, ((4, 9), True)),  # long enough to be no chance, though cut off
    ],
)
def test_placed(text, start, expected):
    assert place_text(CONTEXT, text, start, "id") == expected


@pytest.mark.parametrize(
    "text, start, reason",
    [
        ("cat", 3, "start of the answer is wrong and its text occurs several times"),
        ("fish", 0, "start of the answer is wrong and its text isn't in the context"),
        ("2", 0, "start of the answer is wrong and its text isn't a word"),
        (" ", 1, "text of the answer's span is empty"),
        ("", 0, "text of the answer's span is empty"),
    ],
)
def test_not_placed(text, start, reason):
    with pytest.raises(BadRecordError) as caught:
        place_text(CONTEXT, text, start, "id")
    assert (caught.value.record_id, caught.value.reason) == ("id", reason)


def test_ids():
    reports = []
    assert read_id({"id": "x"}, "g", lambda *report: reports.append(report)) == "x"
    assert reports == []
    assert read_id({"id": 7}, "g", lambda *report: reports.append(report)) == "7"
    assert reports == [("7", ID_IS_NUMBER)]
    for value in (None, "", "  ", True, 1.5, ["x"]):
        with pytest.raises(BadRecordError, match='g: has no text "id"'):
            read_id({"id": value}, "g", lambda *_: None)


@pytest.mark.parametrize("record", [None, [], "x", {}, {"a": 1}, {"a": None}])
def test_no_text(record):
    with pytest.raises(BadRecordError, match='id: answer has no text "a"'):
        read_text(record, "a", "id", "answer")


def test_text_may_be_empty():
    assert read_text({"a": ""}, "a", "id", "answer") == ""
