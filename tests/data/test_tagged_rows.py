"""Parquet files and hub datasets give the records that CoNLL files give."""

import json
import pickle

import pytest

from qa_dist.data.conll import NO_TAG, NO_WORD
from qa_dist.data.tagged_rows import (
    NO_SUCH_LABEL,
    NOT_LISTS,
    UNEVEN,
    HubTable,
    ParquetTable,
    TaggedRows,
)
from qa_dist.records import InputError

datasets = pytest.importorskip("datasets", reason="the package datasets isn't installed")
import pyarrow  # noqa: E402
from pyarrow import parquet  # noqa: E402

NAMES = ["O", "B-PER", "I-PER"]
ROWS = [
    {"tokens": ["Peter", "Black"], "ner_tags": [1, 2]},
    {"tokens": ["he", "said"], "ner_tags": [0, 0]},
    {"tokens": ["Ann"], "ner_tags": [1]},
]


def dataset(rows, names=NAMES):
    columns = {key: datasets.Value("int32") for key in rows[0]}
    columns["tokens"] = datasets.List(datasets.Value("string"))
    columns["ner_tags"] = datasets.List(
        datasets.ClassLabel(names=names) if names else datasets.Value("string")
    )
    return datasets.Dataset.from_list(rows, features=datasets.Features(columns))


def tables(folder, rows, names=NAMES):
    made = dataset(rows, names)
    path = folder / "rows.parquet"
    made.to_parquet(path, batch_size=2)
    return [ParquetTable(path), HubTable("owner/name", made)]


def sentences(records):
    return [records.read(i)["sentences"] for i in range(len(records.index))]


def flat(lists):
    return [item for each in lists for item in each]


@pytest.mark.parametrize("kind", [0, 1])
def test_rows_are_sentences(tmp_path, kind):
    records = TaggedRows(tables(tmp_path, ROWS)[kind])
    assert records.index.groups.tolist() == [0, 1, 2]
    assert sentences(records) == [
        [{"id": "sentence-000000", "words": ["Peter", "Black"], "tags": ["B-PER", "I-PER"]}],
        [{"id": "sentence-000001", "words": ["he", "said"], "tags": ["O", "O"]}],
        [{"id": "sentence-000002", "words": ["Ann"], "tags": ["B-PER"]}],
    ]
    assert records.group_name(2) == "group-00002"


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("by_column", [False, True])
def test_documents(tmp_path, kind, by_column):
    if by_column:
        rows = [{**row, "document_id": n} for row, n in zip(ROWS, (4, 4, 1), strict=True)]
    else:
        docstart = {"tokens": ["-DOCSTART-"], "ner_tags": [0]}
        rows = [docstart, *ROWS[:2], {"tokens": [], "ner_tags": []}, docstart, ROWS[2]]
    table = tables(tmp_path, rows)[kind]
    alone, together = TaggedRows(table), TaggedRows(table, by_document=True)
    assert alone.index.groups.tolist() == [0, 0, 1]
    assert together.index.groups.tolist() == [0, 1]
    assert together.index.num_questions.tolist() == [2, 1]
    assert flat(sentences(together)) == flat(sentences(alone))
    assert [s["words"] for s in together.read(0)["sentences"]] == [
        ["Peter", "Black"],
        ["he", "said"],
    ]


def test_tags_as_text(tmp_path):
    rows = [{"tokens": ["Ann", "x"], "ner_tags": ["B-PER", "O"]}]
    for table in tables(tmp_path, rows, names=None):
        assert sentences(TaggedRows(table))[0][0]["tags"] == ["B-PER", "O"]


@pytest.mark.parametrize("is_listed", [False, True])
def test_names_that_an_older_datasets_left(tmp_path, is_listed):
    label = {"names": NAMES, "_type": "ClassLabel"}
    feature = [label] if is_listed else {"feature": label, "_type": "Sequence"}
    about = json.dumps({"info": {"features": {"ner_tags": feature}}})
    table = pyarrow.Table.from_pylist(ROWS).replace_schema_metadata({"huggingface": about})
    parquet.write_table(table, tmp_path / "old.parquet")
    assert ParquetTable(tmp_path / "old.parquet").label_names == NAMES


def test_numbers_without_names(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match=r"bare\.parquet: its ner_tags are numbers without names"):
        TaggedRows(ParquetTable(tmp_path / "bare.parquet")).read(0)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, UNEVEN),
        ({"tokens": ["a", ""], "ner_tags": ["O", "O"]}, NO_WORD),
        ({"tokens": ["a"], "ner_tags": ["X-PER"]}, NO_TAG),
        ({"tokens": ["a"], "ner_tags": [None]}, NO_TAG),
        ({"tokens": [None], "ner_tags": ["O"]}, NOT_LISTS),
        ({"tokens": None, "ner_tags": ["O"]}, NOT_LISTS),
        ({"tokens": ["a"], "ner_tags": None}, NOT_LISTS),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, reason):
    for table in tables(tmp_path, [row, {"tokens": ["b"], "ner_tags": ["O"]}], names=None):
        bad, good = sentences(TaggedRows(table))
        assert bad == [{"where": f"{table.name}, row 0", "reason": reason}]
        assert good[0]["id"] == "sentence-000001"


def test_a_number_without_a_name(tmp_path):
    table = tables(tmp_path, ROWS)[0]
    table.label_names = NAMES[:2]
    assert TaggedRows(table).read(0)["sentences"][0]["reason"] == NO_SUCH_LABEL


def test_row_groups_are_read_in_any_order_and_elsewhere(tmp_path):
    rows = [{"tokens": [f"w{i}"], "ner_tags": [0]} for i in range(7)]
    table = tables(tmp_path, rows)[0]
    assert table._file.num_row_groups == 4
    records = pickle.loads(pickle.dumps(TaggedRows(table)))
    found = [records.read(i)["sentences"][0]["words"][0] for i in (6, 0, 3, 2, 5, 1, 4)]
    assert found == ["w6", "w0", "w3", "w2", "w5", "w1", "w4"]


def test_datasets_of_another_form(tmp_path):
    other = datasets.Dataset.from_list([{"text": "x", "tokens": ["x"]}])
    with pytest.raises(InputError, match="owner/name: lacks ner_tags; expected a sentence in each"):
        TaggedRows(HubTable("owner/name", other))
    with pytest.raises(InputError, match="owner/name: has no rows"):
        TaggedRows(HubTable("owner/name", dataset(ROWS).select([])))
    with pytest.raises(InputError, match="owner/name: has no sentences"):
        TaggedRows(HubTable("owner/name", dataset([{"tokens": [], "ner_tags": []}])))
    with pytest.raises(InputError, match="needs a column document_id"):
        TaggedRows(HubTable("owner/name", dataset(ROWS)), by_document=True)
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"no\.parquet: isn't a parquet file"):
        ParquetTable(tmp_path / "no.parquet")
    with pytest.raises(InputError, match="no such file"):
        ParquetTable(tmp_path / "absent.parquet")


def test_a_dataset_that_shrank(tmp_path):
    index = TaggedRows(HubTable("owner/name", dataset(ROWS))).index
    with pytest.raises(InputError, match="has 2 rows, it had 3 before"):
        TaggedRows(HubTable("owner/name", dataset(ROWS[:2])), index=index)
