"""Files and hub datasets give records of one form; names aren't paths; failures say what to do."""

import json
import pickle
import sys

import numpy as np
import pytest

from qa_dist.data.sources import (
    HubRecords,
    hub_fingerprint,
    is_hub_name,
    open_hub,
    open_records,
    open_tagged,
)
from qa_dist.records import BadRecordError, InputError

datasets = pytest.importorskip("datasets", reason="the package datasets isn't installed")

DOCUMENT = {
    "data": [
        {
            "paragraphs": [
                {"context": "One cat.", "qas": [{"id": "a", "question": "How many?"}]},
                {"context": "Two cats.", "qas": [{"id": "b"}, {"id": "c"}]},
            ],
            "title": " Cats ",
        },
        {"paragraphs": [{"context": "A dog.", "qas": [{"id": "d"}]}]},
    ]
}


@pytest.fixture
def json_path(tmp_path):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


def row(number: int, title: str, answer: str | None = "cat", context: str = "") -> dict:
    return {
        "id": f"q{number}",
        "title": title,
        "context": context or f"Row {number}: a cat.",
        "question": "What?",
        "answers": {
            "text": [] if answer is None else [answer],
            "answer_start": [] if answer is None else [9],
        },
    }


def hub(rows: list[dict]):
    return datasets.Dataset.from_list(rows)


def load_from(monkeypatch, dataset) -> list[tuple]:
    """Let load_dataset return `dataset`; its calls come into the list that is returned."""
    calls: list[tuple] = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


# --- Files ---


def test_file_records(json_path):
    records = open_records(str(json_path), "train")
    assert records.index.groups.tolist() == [0, 0, 1]
    assert records.index.num_questions.tolist() == [1, 2, 1]
    assert records.read(1) == DOCUMENT["data"][0]["paragraphs"][1]
    assert [records.group_name(i) for i in range(3)] == ["Cats", "Cats", "group-00001"]


def test_file_is_not_read_again_where_the_index_is_given(json_path, monkeypatch):
    index = open_records(str(json_path), "train").index

    def refuse(*_args):
        raise AssertionError("indexed again")

    monkeypatch.setattr("qa_dist.data.sources.index_json", refuse)
    records = open_records(str(json_path), "train", index=index)
    assert records.read(2)["context"] == "A dog."
    assert pickle.loads(pickle.dumps(records)).read(2)["context"] == "A dog."


def test_file_changed_since_it_was_indexed(json_path):
    index = open_records(str(json_path), "train").index
    json_path.write_text(" " + json_path.read_text())
    with pytest.raises(BadRecordError) as caught:
        open_records(str(json_path), "train", index=index).read(1)
    assert caught.value.reason == "isn't valid JSON (has the file changed?)"
    assert caught.value.record_id.startswith("some.json, record 1 (at byte ")
    json_path.unlink()
    with pytest.raises(InputError, match="can't be read any more"):
        open_records(str(json_path), "train", index=index).read(1)


# --- Names ---


@pytest.mark.parametrize("source", ["squad", "rajpurkar/squad_v2", "a-b/c.d_e", "Some1/x"])
def test_hub_names(source):
    assert is_hub_name(source)


@pytest.mark.parametrize(
    "source",
    [
        *("train.json", "data/train.JSON", "data/train.jsonl", "train.json.gz", "data/a.csv"),
        *("eng.train", "conll/eng.testa", "data/a.conll", "data/a.parquet"),
        *("./squad", "../squad", "/squad", "~/squad", "a/b/c", "a//b", "my file", "", "-x", "a/"),
    ],
)
def test_paths(source):
    assert not is_hub_name(source)


def test_what_exists_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not is_hub_name("owner/name")
    with pytest.raises(InputError, match="owner/name: is a folder"):
        open_records("owner/name", "train")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        open_records("absent.json", "train")


# --- The hub ---


def test_hub_rows_are_paragraphs(monkeypatch):
    rows = [row(0, "A"), row(1, "B"), row(2, "A"), row(3, "")]
    calls = load_from(monkeypatch, hub(rows))
    records = open_records("owner/name", "dev")
    assert calls == [(("owner/name",), {"split": "validation"})]
    assert records.index.groups.tolist() == [0, 1, 0, 2]
    assert records.index.starts.tolist() == [0, 1, 2, 3]
    assert records.index.num_questions.tolist() == [1, 1, 1, 1]
    assert records.read(2) == {
        "context": "Row 2: a cat.",
        "qas": [
            {
                "id": "q2",
                "question": "What?",
                "answers": [{"text": "cat", "answer_start": 9}],
            }
        ],
    }
    assert [records.group_name(i) for i in range(4)] == ["A", "B", "A", "group-00002"]


@pytest.mark.parametrize("with_index", [False, True])
def test_one_unanswerable_row_makes_all_squad_v2(monkeypatch, with_index):
    rows = [row(i, "A") for i in range(2500)] + [row(2500, "B", answer=None)]
    dataset = hub(rows)
    index = HubRecords("x", dataset).index if with_index else None
    load_from(monkeypatch, dataset)
    records = open_records("owner/name", "train", index=index)
    assert records.read(0)["qas"][0]["is_impossible"] is False
    assert records.read(2500)["qas"][0]["is_impossible"] is True
    assert records.read(2500)["qas"][0]["answers"] == []


@pytest.mark.parametrize("has_titles", [False, True])
def test_rows_without_telling_titles_are_grouped_by_context(has_titles):
    rows = [row(i, "same", context=c) for i, c in enumerate("xyxz")]
    dataset = hub(rows) if has_titles else hub(rows).remove_columns("title")
    records = HubRecords("x", dataset)
    assert records.index.groups.tolist() == [0, 1, 0, 2]
    assert records.group_name(2) == "group-00000"


def test_answers_as_a_list_of_objects():
    answers = [{"text": "cat", "answer_start": 9}, {"text": "a cat", "answer_start": 7}]
    records = HubRecords("x", hub([{**row(0, "A"), "answers": answers}]))
    assert records.read(0)["qas"][0]["answers"] == answers


def test_hub_that_can_not_be_reached_says_what_to_do(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as caught:
        open_hub("rajpurkar/squad", "train")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("rajpurkar/squad: split 'train' can't be loaded (ConnectionError: ")
    assert "load_dataset('rajpurkar/squad')" in message
    assert "local file" in message


def test_hub_dataset_of_another_form(monkeypatch):
    load_from(monkeypatch, hub([{"text": "x", "label": 1}]))
    with pytest.raises(InputError, match="lacks id, context, question, answers"):
        open_hub("owner/imdb", "train")
    load_from(monkeypatch, hub([row(0, "A")]).select([]))
    with pytest.raises(InputError, match="has no rows"):
        open_hub("owner/name", "train")


def test_hub_dataset_that_changed(monkeypatch):
    index = HubRecords("x", hub([row(0, "A"), row(1, "B")])).index
    load_from(monkeypatch, hub([row(0, "A")]))
    with pytest.raises(InputError, match="has 1 rows, it had 2 before"):
        open_records("owner/name", "train", index=index)


@pytest.mark.parametrize("name", ["stanfordnlp/coqa", "coqa", "someone/CoQA"])
def test_coqa_is_not_read_from_the_hub(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "datasets", None)  # refused before the import
    for levels in [("data",), ("data", "paragraphs")]:
        with pytest.raises(InputError, match="lacks the ids and additional answers"):
            open_records(name, "train", levels)


def test_hub_index_can_be_saved(tmp_path):
    index = HubRecords("x", hub([row(0, "A"), row(1, "B")])).index
    np.savez(tmp_path / "index.npz", **index.arrays())
    with np.load(tmp_path / "index.npz") as arrays:
        assert arrays["ends"].tolist() == [1, 2]


def test_other_content_of_a_hub_dataset_has_another_fingerprint(monkeypatch):
    load_from(monkeypatch, hub([row(0, "A")]))
    first = hub_fingerprint("rajpurkar/squad", "train")
    assert first == hub_fingerprint("rajpurkar/squad", "train")
    load_from(monkeypatch, hub([row(0, "A"), row(1, "A")]))
    assert first != hub_fingerprint("rajpurkar/squad", "train")


def test_rows_in_a_row_with_one_context_are_one_paragraph(monkeypatch):
    rows = [row(i, "A", context="Same: a cat.") for i in range(3)]
    rows += [row(3, "A"), row(4, "B", context="Same: a cat.")]
    load_from(monkeypatch, hub(rows))
    records = open_records("owner/name", "train")
    assert records.index.starts.tolist() == [0, 3, 4]
    assert records.index.ends.tolist() == [3, 4, 5]
    assert records.index.num_questions.tolist() == [3, 1, 1]
    assert records.index.groups.tolist() == [0, 0, 1]
    first = records.read(0)
    assert first["context"] == "Same: a cat."
    assert [question["id"] for question in first["qas"]] == ["q0", "q1", "q2"]
    assert [records.group_name(i) for i in range(3)] == ["A", "A", "B"]


# --- Tagged sentences ---

SENTENCE = {"tokens": ["Ann", "x"], "ner_tags": ["B-PER", "O"], "document_id": 1}


@pytest.mark.parametrize("by_document", [False, True])
def test_tagged_sentences_are_the_same_from_any_source(tmp_path, monkeypatch, by_document):
    dataset = hub([SENTENCE, SENTENCE])
    dataset.to_parquet(tmp_path / "some.PARQUET")
    (tmp_path / "some.txt").write_text("-DOCSTART- O\n" + "Ann B-PER\nx O\n\n" * 2)
    calls = load_from(monkeypatch, dataset)
    sources = [str(tmp_path / "some.PARQUET"), str(tmp_path / "some.txt"), "owner/name"]
    opened = [open_tagged(source, "dev", by_document) for source in sources]
    assert calls == [(("owner/name",), {"split": "validation"})]
    for records in opened:
        assert records.index.num_questions.tolist() == ([2] if by_document else [1, 1])
        assert records.read(0) == opened[0].read(0)
        assert records.read(0)["sentences"][0]["tags"] == ["B-PER", "O"]
    again = open_tagged(sources[1], "dev", by_document, opened[1].index)
    assert again.index is opened[1].index
    assert hub_fingerprint("owner/name", "dev") == dataset._fingerprint
