"""The records of one source of a recipe: a local file, or a dataset of the Hugging Face hub.

In: what stands in the recipe ("data/train.json", "rajpurkar/squad_v2") and the split. Out: Records,
which knows where each record is, reads record i as a dict in the JSON file's form, and names its
group. Tagged sentences come from CoNLL or parquet files (conll.py, tagged_rows.py). `datasets` is
imported only where a hub dataset is asked for: it takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qa_dist.data.conll import ConllRecords
from qa_dist.data.flat_records import LINES_ENDING, index_flat, line_number
from qa_dist.data.raw_records import (
    Count,
    OpenedFile,
    RecordIndex,
    count_paragraph_questions,
    index_json,
    read_json_record,
)
from qa_dist.data.tagged_rows import HubTable, ParquetTable, TaggedRows
from qa_dist.records import BadRecordError, InputError

SQUAD_LEVELS = ("data", "paragraphs")
HUB_SPLITS = {"train": "train", "dev": "validation"}
HUB_COLUMNS = ("id", "context", "question", "answers")
HUB_BATCH_ROWS = 1000

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DATA_ENDING = re.compile(
    r"\.(jsonl?|csv|tsv|txt|parquet|gz|zip|bz2|xz|conll|bio|iob2?|train|test[ab])", re.IGNORECASE
)  # CoNLL-2003's files are eng.train, eng.testa and eng.testb


class Records(Protocol):
    """The records of one source: `open_records` makes it, one process reads from it."""

    @property
    def index(self) -> RecordIndex:
        """Where each record is, its group and its number of questions."""
        ...

    def read(self, record: int) -> dict[str, Any]:
        """Read one record in the form of the task's JSON file; BadRecordError if it's unusable."""
        ...

    def group_name(self, record: int) -> str:
        """Return the name of the record's group: the article's title, or "group-<ordinal>"."""
        ...


def open_records(
    source: str,
    split: str,
    levels: Sequence[str] = SQUAD_LEVELS,
    count: Count = count_paragraph_questions,
    index: RecordIndex | None = None,
) -> Records:
    """Open a source: the path of a JSON file, or a hub dataset's name.

    split: "train" or "dev", which of a hub dataset's splits to take. levels, count: the task's; no
    levels: a record per line of a .jsonl file, or under each key of a JSON object.
    index: from an earlier call for the same source; None: made now, which reads all of the file.
    Raises InputError where the source isn't there or isn't such a file.
    """
    if is_hub_name(source):
        if tuple(levels) != SQUAD_LEVELS:
            raise InputError(_no_hub_message(source) if levels else _no_flat_hub_message(source))
        return HubRecords(source, open_hub(source, split), index)
    path = Path(source).expanduser()
    if not levels:
        kind = LineRecords if path.suffix.lower() == LINES_ENDING else JsonRecords
        return kind(path, index_flat(path, count) if index is None else index)
    return JsonRecords(path, index_json(path, levels, count) if index is None else index)


def open_tagged(
    source: str, split: str, by_document: bool = False, index: RecordIndex | None = None
) -> Records:
    """Open a source of tagged sentences: a CoNLL or parquet file's path, or a hub dataset's name.

    by_document: a record is a document, not a sentence. split, index: as for open_records. Raises
    InputError where the source isn't there or isn't such a file.
    """
    if is_hub_name(source):
        return TaggedRows(HubTable(source, load_hub(source, split)), by_document, index)
    path = Path(source).expanduser()
    if path.suffix.lower() == ".parquet":
        return TaggedRows(ParquetTable(path), by_document, index)
    return ConllRecords(path, by_document, index)


def is_hub_name(source: str) -> bool:
    """Tell whether a recipe's source names a hub dataset ("squad", "owner/name"), not a local file.

    Local is what exists, what ends like a data file, and what can't be a hub name ("./x", "a/b/c").
    """
    path = Path(source).expanduser()
    is_local = _DATA_ENDING.fullmatch(path.suffix) is not None or path.exists()
    return not is_local and _HUB_NAME.fullmatch(source) is not None


def _no_hub_message(name: str) -> str:
    return (
        f"{name}: CoQA can't be read from the hub, whose copy lacks the ids and additional answers "
        "that official scores need; give Stanford's file (https://stanfordnlp.github.io/coqa/)"
    )


def _no_flat_hub_message(name: str) -> str:
    return (
        f"{name}: there is no such file, and such questions can't be read from the hub; give a "
        f"local *{LINES_ENDING} with id, question and answer per line, or PubMedQA's JSON file"
    )


# --- A JSON file ---


class JsonRecords:
    """Records of a JSON file, read at their byte offsets."""

    def __init__(self, path: Path, index: RecordIndex) -> None:
        self.index = index
        self._path, self._file = path, OpenedFile(path)
        self._named = -1, ""  # the group whose name was asked for last, and that name

    def read(self, record: int) -> dict[str, Any]:
        """Read record number `record`; BadRecordError if it isn't strict JSON or no object."""
        start, end = int(self.index.starts[record]), int(self.index.ends[record])
        try:
            value = read_json_record(self._file.stream, start, end)
        except BadRecordError as error:
            raise BadRecordError(self._record_id(record), error.reason) from None
        if not isinstance(value, dict):
            raise BadRecordError(self._record_id(record), "isn't a JSON object")
        return value

    def _record_id(self, record: int) -> str:
        return f"{self._path.name}, record {record} (at byte {self.index.starts[record]})"

    def group_name(self, record: int) -> str:
        """Return the article's title; "group-00003" where it has none."""
        group = int(self.index.groups[record])
        if self._named[0] != group:
            start, end = int(self.index.name_starts[group]), int(self.index.name_ends[group])
            try:
                name = read_json_record(self._file.stream, start, end) if start >= 0 else ""
            except BadRecordError:
                name = ""
            self._named = group, name.strip() or f"group-{group:05d}"
        return self._named[1]


class LineRecords(JsonRecords):
    """Records of a .jsonl file: the lines that aren't empty."""

    def _record_id(self, record: int) -> str:
        start = int(self.index.starts[record])
        return f"{self._path.name}:{line_number(self._path, start)}"


# --- A hub dataset ---


def open_hub(name: str, split: str) -> Any:
    """Load a hub dataset in SQuAD's form, a question per row."""
    dataset = load_hub(name, split)
    missing = [column for column in HUB_COLUMNS if column not in dataset.column_names]
    if missing or not len(dataset):
        found = f"lacks {', '.join(missing)}" if missing else "has no rows"
        raise InputError(
            f"{name}: split {HUB_SPLITS[split]!r} {found}; expected rows as rajpurkar/squad's"
        )
    return dataset


def load_hub(name: str, split: str) -> Any:
    """Load a split of a hub dataset; "dev" is its split "validation"."""
    if name.lower().rpartition("/")[2] == "coqa":
        raise InputError(_no_hub_message(name))
    import datasets

    hub_split = HUB_SPLITS[split]
    try:
        return datasets.load_dataset(name, split=hub_split)
    except Exception as error:  # what a hub, its cache and its files can raise is no closed set
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: split {hub_split!r} can't be loaded ({type(error).__name__}: {said}); give a "
            "local file, or first run this on a machine with internet and the same HF_HOME: "
            f"python -c \"from datasets import load_dataset; load_dataset('{name}')\""
        ) from None


def hub_fingerprint(name: str, split: str) -> str:
    """Return what `datasets` knows the content of a hub dataset's split by."""
    return str(load_hub(name, split)._fingerprint)


class HubRecords:
    """Records of a hub dataset: rows in a row with the same context are one paragraph."""

    def __init__(self, name: str, dataset: Any, index: RecordIndex | None = None) -> None:
        self.index = _index_rows(dataset) if index is None else index
        num_rows = int(self.index.ends[-1]) if len(self.index) else 0
        if num_rows != len(dataset):
            raise InputError(f"{name}: has {len(dataset)} rows, it had {num_rows} before")
        self._dataset = dataset

    @cached_property
    def _has_unanswerable(self) -> bool:
        # Rows carry no mark of SQuAD 2.0 but their empty answers; one makes the whole split 2.0.
        answers = (batch["answers"] for batch in _batches(self._dataset, ["answers"]))
        return any(not _answer_list(row) for batch in answers for row in batch)

    def read(self, record: int) -> dict[str, Any]:
        """Return the rows of record number `record` as a SQuAD paragraph."""
        first, end = int(self.index.starts[record]), int(self.index.ends[record])
        questions = []
        for row in self._dataset.select(range(first, end)):
            question = {"id": row["id"], "question": row["question"]}
            question["answers"] = _answer_list(row["answers"])
            if self._has_unanswerable:
                question["is_impossible"] = not question["answers"]
            questions.append(question)
        return {"context": row["context"], "qas": questions}

    def group_name(self, record: int) -> str:
        """Return the article's title; "group-00003" where it has none."""
        title = self._dataset[int(self.index.starts[record])].get("title")
        is_named = isinstance(title, str) and title.strip() and self._is_grouped_by_title
        return title.strip() if is_named else f"group-{int(self.index.groups[record]):05d}"

    @cached_property
    def _is_grouped_by_title(self) -> bool:
        return _group_column(self._dataset) == "title"


def _answer_list(answers: Any) -> Any:
    """Turn {"text": [...], "answer_start": [...]} into the JSON file's list of answers."""
    if isinstance(answers, Mapping) and {"text", "answer_start"} <= answers.keys():
        pairs = zip(answers["text"], answers["answer_start"], strict=True)
        return [{"text": text, "answer_start": start} for text, start in pairs]
    return answers


def _batches(dataset: Any, columns: list[str]) -> Iterator[Mapping[str, list[Any]]]:
    """Yield some columns of a dataset in batches of rows: its other columns are never decoded."""
    yield from dataset.select_columns(columns).iter(batch_size=HUB_BATCH_ROWS)


def _group_column(dataset: Any) -> str:
    """Choose what rows are grouped by: their title, unless all have the same or none."""
    if "title" not in dataset.column_names:
        return "context"
    titles = (title for batch in _batches(dataset, ["title"]) for title in batch["title"])
    return "title" if any(before != after for before, after in pairwise(titles)) else "context"


def _index_rows(dataset: Any) -> RecordIndex:
    """Find the runs of rows with one context, and number their groups by first occurrence."""
    column = _group_column(dataset)
    ordinals: dict[int, int] = {}  # by hash: contexts themselves would be held whole
    starts: list[int] = []
    groups: list[int] = []
    row, before = 0, None
    for batch in _batches(dataset, list(dict.fromkeys((column, "context")))):
        for name, context in zip(batch[column], batch["context"], strict=True):
            if context != before:
                starts.append(row)
                groups.append(ordinals.setdefault(hash(name), len(ordinals)))
            row, before = row + 1, context
    first = np.array(starts, dtype=np.int64)
    ends = np.append(first[1:], row).astype(np.int64)
    nameless = np.full(len(ordinals), -1, dtype=np.int64)
    return RecordIndex(
        starts=first,
        ends=ends,
        groups=np.array(groups, dtype=np.int32),
        num_questions=(ends - first).astype(np.int32),
        name_starts=nameless,
        name_ends=nameless,
    )
