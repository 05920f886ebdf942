"""Raw records -> one prepared shard: what an element of the prepare array does.

Reads its own slice of records only (plan.py says which), tokenises each context and each distinct
question once, writes windows as slices. Out: a marked shard, and a heartbeat in status/.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist import faults
from qa_dist.contaminated import IN_DEV, dev_questions
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.data.raw_records import RecordIndex
from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import Shard, is_whole
from qa_dist.data.sources import Records
from qa_dist.data.splits import question_offsets, split_records
from qa_dist.files import (
    own_process,
    write_status,
)
from qa_dist.plan import not_written
from qa_dist.recipe import Data, Recipe, Source, SourceSplit, source_splits
from qa_dist.recipe_checks import show_value
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import BadRecordError, Example, InputError, Passage
from qa_dist.run_dir import RunDir
from qa_dist.source_files import (
    choose,
    file_of,
    is_unchanged,
    open_source,
    read_index,
    read_labels,
)
from qa_dist.tasks import TASKS
from qa_dist.tasks.fields import KEPT_REASONS
from qa_dist.text.metrics import normalize_answer
from qa_dist.windowing import FIRST_IDS, Counts, load_maker

_BATCH_PASSAGES = 64
_NO_ROOM = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM")
}


def prepare_element(run: RunDir, element: int) -> None:
    """Make the shard of one array element; do nothing if it is there. Raises InputError."""
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    name, number = prepared.elements()[element]
    split = next(split for split in source_splits(recipe) if split.name == name)
    heartbeat = _Heartbeat(run.status_file("prepare", element))
    if not is_whole(prepared.shards(name)[number]):
        try:
            _prepare_shard(recipe, prepared, split, number, heartbeat)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise not_written(prepared.shards(name)[number], error) from error
    heartbeat.finish()


def _prepare_shard(
    recipe: Recipe, prepared: Prepared, split: SourceSplit, number: int, heartbeat: _Heartbeat
) -> None:
    source = recipe.sources[split.source]
    file = file_of(split.part, source)
    _check_unchanged(prepared, split, source, file)
    index = read_index(prepared.folder, recipe, split.source, file)
    mine, chosen = _share(index, split.part, source, prepared.num_shards[split.name], number)
    banned = dev_questions(recipe, split.source, split.part, prepared.folder)
    if banned:
        _check_unchanged(prepared, split, source, file_of("dev", source))
    reader = _Reader(recipe.data, source, split.part, banned)
    labels = read_labels(prepared.folder, recipe, split.source)
    maker = load_maker(recipe, source, split.part, reader.counts, labels)
    writer = ShardWriter(prepared.shards(split.name)[number], maker.vocab_size)
    try:
        passages = reader.read(open_source(recipe, source, file, index), mine, chosen)
        while batch := list(islice(passages, _BATCH_PASSAGES)):
            maker.add(writer, batch)
            faults.reach("prepare.batch", writer.num_windows)
            heartbeat.beat(reader.num_read, len(mine), writer.num_windows)
        reader.counts.windows = writer.num_windows
        writer.finish(
            fingerprint=prepared.fingerprint,
            split=split.name,
            template=maker.template.to_json(),
            classes=list(maker.classes),
            counts=asdict(reader.counts),
        )
    except BaseException:
        writer.abandon()
        raise


def _share(
    index: RecordIndex, part: str, source: Source, num_shards: int, number: int
) -> tuple[NDArray[np.int64], Sequence[NDArray[np.bool_] | None]]:
    """Return the records of shard `number`, and which questions of each are chosen (None: all).

    Copies: nothing that is as long as the file stays in memory.
    """
    records, mask = choose({file_of(part, source): index}, part, source)
    mine = split_records(index, records, num_shards)[number].copy()
    if mask is None:
        return mine, [None] * len(mine)
    offsets = question_offsets(index)
    return mine, [mask[offsets[k] : offsets[k + 1]].copy() for k in mine.tolist()]


def _check_unchanged(prepared: Prepared, split: SourceSplit, source: Source, file: str) -> None:
    """Refuse to mix bytes: the input must still be what the fingerprint was taken of."""
    if not is_unchanged(prepared.folder, split.source, source, file):
        raise InputError(
            f"{getattr(source, file)}: was changed after this run was launched; launch again, and "
            "it is prepared anew"
        )


class _Reader:
    """Turns records into passages; counts what can't be used."""

    def __init__(self, data: Data, source: Source, part: str, banned: frozenset[str]) -> None:
        """`banned`: normalised questions that are left out."""
        self.data, self.task, self.part, self.banned = data, TASKS[source.task], part, banned
        self.counts = Counts()
        self.num_read = 0

    def read(
        self,
        records: Records,
        numbers: NDArray[np.int64],
        choices: Sequence[NDArray[np.bool_] | None],
    ) -> Iterator[Passage]:
        """Yield the passages of some records; what can't be used is counted, or stops the job."""
        for number, chosen in zip(numbers.tolist(), choices, strict=True):
            self.num_read += 1
            if chosen is not None and not chosen.any():
                continue
            try:
                record = records.read(number)
            except BadRecordError as error:
                self._report(error.record_id, error.reason)
                continue
            passage = self.task.read_passage(
                record,
                records.group_name(number),
                self._report,
                for_training=self.part == "train",
            )
            examples = tuple(
                e
                for e in passage.examples
                if (chosen is None or chosen[e.ordinal]) and not self._is_banned(e)
            )
            if examples:
                yield Passage(passage.context, examples)

    def _is_banned(self, example: Example) -> bool:
        is_banned = bool(self.banned) and normalize_answer(example.question) in self.banned
        if is_banned:
            self.counts.drop(show_value(example.id), IN_DEV)
        return is_banned

    def _report(self, record_id: str, reason: str) -> None:
        record_id = show_value(record_id)  # it goes to terminals, and comes from outside
        if self.data.on_bad_record == "stop" and reason not in KEPT_REASONS:
            raise InputError(
                f"{record_id}: {reason}. Mend the record, or give data.on_bad_record=skip to "
                "leave such records "
                "out; either makes other data, so launch with fresh=true"
            )
        self.counts.drop(record_id, reason)


class _Heartbeat:
    """status/prepare-<element>.json: how far, how fast."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = self._last = time.monotonic()
        self._facts: dict[str, Any] = {"state": "running", "step": 0, "of": 0, "unit": "records"}
        self._facts |= own_process()
        self._write()

    def beat(self, step: int, of: int, windows: int) -> None:
        """Note progress; written at most twice a second."""
        self._facts.update(step=step, of=of, windows=windows)
        if time.monotonic() - self._last > 0.5:
            self._write()

    def finish(self) -> None:
        """Note that the element is done."""
        self._facts["state"] = "done"
        self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        self._facts.update(seconds=self._last - self._started, updated_at=time.time())
        write_status(self._path, self._facts)


# -- summary ---------------------------------------------------------------------------------------


def summarize(prepared: Prepared, split: str) -> dict[str, Any]:
    """Return what a split's markers say, summed: examples, windows, lengths, dropped records,
    ceiling in percent."""
    shards = [Shard(path) for path in prepared.shards(split)]
    counts = [shard.marker["counts"] for shard in shards]
    lengths = np.concatenate([shard["window_length"] for shard in shards])
    num_examples = sum(c["examples"] for c in counts)
    dropped: dict[str, list[Any]] = {}
    for count in counts:
        for reason, (num, first_ids) in count["dropped"].items():
            entry = dropped.setdefault(reason, [0, []])
            entry[0] += num
            entry[1] = (entry[1] + first_ids)[:FIRST_IDS]
    ids = Counter(name for shard in shards for name in shard.ids())
    return {
        "examples": num_examples,
        "doubled_ids": sum(num > 1 for num in ids.values()),
        "windows": int(sum(c["windows"] for c in counts)),
        "without_answer": sum(c["without_answer"] for c in counts),
        "cut_questions": sum(c["cut_questions"] for c in counts),
        "tokens_mean": float(lengths.mean()) if len(lengths) else 0.0,
        "tokens_p95": int(np.percentile(lengths, 95)) if len(lengths) else 0,
        "tokens_max": int(lengths.max()) if len(lengths) else 0,
        "bytes": sum(shard.marker["files"]["arrays.bin"]["bytes"] for shard in shards),
        "dropped": dropped,
        "kept_reasons": sorted(KEPT_REASONS & dropped.keys()),
        "ceiling_em": 100 * sum(c["ceiling"][0] for c in counts) / max(1, num_examples),
        "ceiling_f1": 100 * sum(c["ceiling"][1] for c in counts) / max(1, num_examples),
    }
