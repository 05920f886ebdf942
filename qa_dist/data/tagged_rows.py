"""Sentences of a table: a row each, its words in `tokens` and their tags in `ner_tags`.

In: a local parquet file, or a dataset of the hub. Tags are text, or numbers whose names the
dataset's features tell. Out: records as conll.py gives them. A column `document_id`, or rows of the
one word -DOCSTART-, say where documents begin; without, each sentence is a group. pyarrow and
`datasets` are imported only where they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qa_dist.data.conll import DOCSTART, NO_TAG, NO_WORD, record_index, sentence_id
from qa_dist.data.raw_records import RecordIndex
from qa_dist.records import InputError
from qa_dist.text.tags import is_tag

WORDS, TAGS, DOCUMENT = "tokens", "ner_tags", "document_id"
UNEVEN = "has not as many tags as words"
NOT_LISTS = f'"{WORDS}" or "{TAGS}" isn\'t a list of what it should be'
NO_SUCH_LABEL = "a tag's number has no name"

_BATCH_ROWS = 1000


class Table(Protocol):
    """Rows of a dataset, read one at a time or a batch after another."""

    name: str
    num_rows: int
    columns: list[str]
    label_names: list[str] | None
    """What the numbers in `ner_tags` stand for; None where the dataset doesn't say."""

    def row(self, number: int) -> Mapping[str, Any]:
        """Return one row."""
        ...

    def batches(self, columns: list[str]) -> Iterator[Mapping[str, list[Any]]]:
        """Yield some columns, a batch of rows at a time."""
        ...


class ParquetTable:
    """A local parquet file; one of its row groups is held at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        self.name = path.name
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path (from {Path.cwd()})")
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            said = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: isn't a parquet file ({said}); copy it again") from None
        self._path = path
        self.columns: list[str] = list(self._file.schema_arrow.names)
        self.num_rows = int(self._file.metadata.num_rows)
        self.label_names = _parquet_labels(self._file.schema_arrow.metadata or {})
        sizes = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        self._group_ends = np.cumsum(sizes, dtype=np.int64)
        self._held: tuple[int, Any] = (-1, None)

    def __reduce__(self) -> tuple[type[ParquetTable], tuple[Path]]:
        """Open the file anew in another process."""
        return ParquetTable, (self._path,)

    def row(self, number: int) -> Mapping[str, Any]:
        """Return one row."""
        group = int(np.searchsorted(self._group_ends, number, side="right"))
        if self._held[0] != group:
            self._held = group, self._file.read_row_group(group, columns=[WORDS, TAGS])
        first = int(self._group_ends[group - 1]) if group else 0
        row: Mapping[str, Any] = self._held[1].slice(number - first, 1).to_pylist()[0]
        return row

    def batches(self, columns: list[str]) -> Iterator[Mapping[str, list[Any]]]:
        """Yield some columns, a batch of rows at a time."""
        for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield batch.to_pydict()


class HubTable:
    """A split of a hub dataset, as `datasets` holds it."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name = name
        self.columns: list[str] = list(dataset.column_names)
        self.num_rows = len(dataset)
        feature = getattr(dataset.features.get(TAGS), "feature", None)
        self.label_names: list[str] | None = getattr(feature, "names", None)
        self._dataset = dataset

    def row(self, number: int) -> Mapping[str, Any]:
        """Return one row."""
        row: Mapping[str, Any] = self._dataset[number]
        return row

    def batches(self, columns: list[str]) -> Iterator[Mapping[str, list[Any]]]:
        """Yield some columns, a batch of rows at a time."""
        yield from self._dataset.select_columns(columns).iter(batch_size=_BATCH_ROWS)


def _parquet_labels(metadata: Mapping[bytes, bytes]) -> list[str] | None:
    """Return the tags' names from what `datasets` leaves in a parquet file, if it did."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[TAGS]
        inner = feature[0] if isinstance(feature, list) else feature["feature"]
        return [str(name) for name in inner["names"]]
    except (ValueError, KeyError, TypeError, IndexError):
        return None


class TaggedRows:
    """Records of a table: its sentences, or with `by_document` its documents."""

    def __init__(
        self, table: Table, by_document: bool = False, index: RecordIndex | None = None
    ) -> None:
        """index: from an earlier call for the same table; None: made now."""
        missing = [column for column in (WORDS, TAGS) if column not in table.columns]
        if missing or not table.num_rows:
            found = f"lacks {', '.join(missing)}" if missing else "has no rows"
            raise InputError(
                f"{table.name}: {found}; expected a sentence in each row, its words in {WORDS} "
                f"and their tags in {TAGS}, as conll2003 has them"
            )
        self._table = table
        self.index = _index_rows(table, by_document) if index is None else index
        if int(self.index.ends[-1]) > table.num_rows:
            raise InputError(
                f"{table.name}: has {table.num_rows} rows, it had {int(self.index.ends[-1])} before"
            )
        counts = self.index.num_questions
        self._first_sentences = np.cumsum(counts) - counts

    def read(self, record: int) -> dict[str, Any]:
        """Return {"sentences": [...]}: each {"id", "words", "tags"}, or {"where", "reason"} if bad.

        The id counts the table's sentences, whether records are sentences or documents.
        """
        ordinal = int(self._first_sentences[record])
        sentences = []
        for number in range(int(self.index.starts[record]), int(self.index.ends[record])):
            row = self._table.row(number)
            words, tags = row[WORDS], row[TAGS]
            if words in ([DOCSTART], []):
                continue
            try:
                sentence = self._sentence(words, tags)
            except ValueError as error:
                where = f"{self._table.name}, row {number}"
                sentences.append({"where": where, "reason": str(error)})
            else:
                sentences.append({"id": sentence_id(ordinal + len(sentences)), **sentence})
        return {"sentences": sentences}

    def _sentence(self, words: Any, tags: Any) -> dict[str, Any]:
        """Return words and tags as texts; ValueError says why they can't be used."""
        names = self._table.label_names
        if not isinstance(words, list) or not isinstance(tags, list):
            raise ValueError(NOT_LISTS)
        if len(words) != len(tags):
            raise ValueError(UNEVEN)
        if names is None and any(isinstance(tag, int) for tag in tags):
            raise InputError(
                f"{self._table.name}: its {TAGS} are numbers without names; expected names in the "
                "dataset's features (save it with `datasets`), or the tags as text"
            )
        if names is not None and any(
            isinstance(tag, int) and not 0 <= tag < len(names) for tag in tags
        ):
            raise ValueError(NO_SUCH_LABEL)
        texts = [names[tag] if names and isinstance(tag, int) else tag for tag in tags]
        if not all(isinstance(word, str) for word in words):
            raise ValueError(NOT_LISTS)
        if not all(words):
            raise ValueError(NO_WORD)
        if not all(isinstance(tag, str) and is_tag(tag) for tag in texts):
            raise ValueError(NO_TAG)
        return {"words": words, "tags": texts}

    def group_name(self, record: int) -> str:
        """Return "group-00003": what documents are called isn't kept."""
        return f"group-{int(self.index.groups[record]):05d}"


def _index_rows(table: Table, by_document: bool) -> RecordIndex:
    """Find the rows that are sentences, or the runs of rows that are documents."""
    has_ids = DOCUMENT in table.columns
    rows: list[int] = []  # of sentences
    documents: list[int] = []
    number, document, name, is_new = 0, -1, None, True
    has_documents = has_ids
    for batch in table.batches([WORDS, DOCUMENT] if has_ids else [WORDS]):
        names = batch[DOCUMENT] if has_ids else [None] * len(batch[WORDS])
        for words, its_name in zip(batch[WORDS], names, strict=True):
            is_docstart = words == [DOCSTART]
            has_documents |= is_docstart
            is_new |= is_docstart or its_name != name
            name = its_name
            if words not in ([DOCSTART], []):
                document, is_new = document + is_new, False
                rows.append(number)
                documents.append(document)
            number += 1
    if not rows:
        raise InputError(f"{table.name}: has no sentences")
    if by_document and not has_documents:
        raise InputError(
            f"{table.name}: data.document_context=true needs a column {DOCUMENT}, and it has none; "
            "leave document_context out"
        )
    starts = np.array(rows, dtype=np.int64)
    groups = np.array(documents if has_documents else range(len(rows)), dtype=np.int32)
    if not by_document:
        return record_index(starts, starts + 1, groups, np.ones(len(rows)))
    heads = np.flatnonzero(np.diff(groups, prepend=-1))
    tails = np.append(heads[1:], len(rows))
    return record_index(starts[heads], starts[tails - 1] + 1, groups[heads], tails - heads)
