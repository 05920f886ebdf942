"""Raw records -> one prepared shard: what an element of the prepare array does.

Reads its own slice of records only (plan.py says which), tokenises each context and each distinct
question once, writes windows as slices. Out: a marked shard, and a heartbeat in status/.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist import faults
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.data.shards import (
    KIND_CLASS,
    KIND_NULL,
    KIND_SPAN,
    Shard,
    ShardWriter,
    is_whole,
)
from qa_dist.data.sources import Records
from qa_dist.data.splits import question_offsets, split_records
from qa_dist.data.tokenizer import LoadedTokenizer, load_tokenizer
from qa_dist.files import (
    own_process,
    read_json,
    write_status,
)
from qa_dist.plan import choose, file_of, not_written, open_source, read_index, source_digest
from qa_dist.recipe import Data, Recipe, Source, show_value
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import BadRecordError, Example, InputError, Passage
from qa_dist.run_dir import RunDir
from qa_dist.tasks import TASKS, Task, ceiling_score
from qa_dist.tasks.fields import KEPT_REASONS
from qa_dist.text.windows import (
    TokenizedContext,
    char_span_to_tokens,
    cut_windows,
    encode_contexts,
    encode_questions,
    is_in_window,
    join_question,
    question_limit,
)

_BATCH_PASSAGES = 64
_FIRST_IDS = 5
_NO_ROOM = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM")
}


@dataclass
class _Counts:
    """What is said about a shard at the end; the same however often it is made."""

    examples: int = 0
    windows: int = 0
    without_answer: int = 0
    cut_questions: int = 0
    dropped: dict[str, list[Any]] = field(default_factory=dict)
    """Reason -> [count, first ids]."""
    ceiling: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sums of EM and F1 of the targets themselves against the references."""

    def drop(self, record_id: str, reason: str) -> None:
        entry = self.dropped.setdefault(reason, [0, []])
        entry[0] += 1
        if len(entry[1]) < _FIRST_IDS:
            entry[1].append(record_id)


def elements(prepared: Prepared) -> list[tuple[str, int]]:
    """Return (split, shard) of each array element of the stage, in order."""
    return prepared.elements()


def prepare_element(run: RunDir, element: int) -> None:
    """Make the shard of one array element; do nothing if it is there. Raises InputError."""
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    split, number = elements(prepared)[element]
    heartbeat = _Heartbeat(run.status_file("prepare", element))
    if not is_whole(prepared.shards(split)[number]):
        try:
            _prepare_shard(recipe, prepared, split, number, heartbeat)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise not_written(prepared.shards(split)[number], error) from error
    heartbeat.finish()


def _prepare_shard(
    recipe: Recipe, prepared: Prepared, split: str, number: int, heartbeat: _Heartbeat
) -> None:
    source = recipe.sources[0]
    file = file_of(split, source)
    _check_unchanged(prepared, source, file)
    index = read_index(prepared.folder, source, file)
    records, mask = choose({file: index}, split, source)
    mine = split_records(index, records, prepared.num_shards[split])[number]
    tokenizer = load_tokenizer(recipe.model.name, recipe.model.lower_case)
    maker = _ShardMaker(recipe.data, TASKS[source.task], tokenizer, split)
    writer = ShardWriter(prepared.shards(split)[number], tokenizer.vocab_size)
    try:
        offsets = question_offsets(index)
        passages = maker.read(open_source(source, file, index), mine, offsets, mask)
        while batch := list(islice(passages, _BATCH_PASSAGES)):
            maker.add(writer, batch)
            faults.reach("prepare.batch", writer.num_windows)
            heartbeat.beat(maker.num_read, len(mine), writer.num_windows)
        maker.counts.windows = writer.num_windows
        writer.finish(
            fingerprint=prepared.fingerprint,
            split=split,
            template=tokenizer.template.to_json(),
            classes=list(maker.task.ANSWER_CLASSES),
            counts=asdict(maker.counts),
        )
    except BaseException:
        writer.abandon()
        raise


def _check_unchanged(prepared: Prepared, source: Source, file: str) -> None:
    """Refuse to mix bytes: the input must still be what the fingerprint was taken of."""
    expected = read_json(prepared.folder / "facts.json")["inputs"][file]
    if source_digest(source, file) != expected:
        raise InputError(
            f"{getattr(source, file)}: was changed after this run was launched; launch again, and "
            "it is prepared anew"
        )


class _ShardMaker:
    """Turns records into contexts, questions and windows."""

    def __init__(self, data: Data, task: Task, tokenizer: LoadedTokenizer, split: str) -> None:
        self.data, self.task, self.tokenizer, self.split = data, task, tokenizer, split
        self.num_special = tokenizer.template.num_special_tokens
        self.hard_limit = question_limit(
            data.max_length_tokens, data.window_overlap_tokens, self.num_special
        )
        self.counts = _Counts()
        self.num_read = 0

    def read(
        self,
        records: Records,
        numbers: NDArray[np.int64],
        offsets: NDArray[np.int64],
        mask: NDArray[np.bool_] | None,
    ) -> Iterator[Passage]:
        """Yield the passages of some records; what can't be used is counted, or stops the job."""
        for number in numbers.tolist():
            self.num_read += 1
            chosen = None if mask is None else mask[offsets[number] : offsets[number + 1]]
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
                for_training=self.split == "train",
            )
            examples = tuple(e for e in passage.examples if chosen is None or chosen[e.ordinal])
            if examples:
                yield Passage(passage.context, examples)

    def _report(self, record_id: str, reason: str) -> None:
        record_id = show_value(record_id)  # it goes to terminals, and comes from outside
        if self.data.on_bad_record == "stop" and reason not in KEPT_REASONS:
            raise InputError(
                f"{record_id}: {reason}. Mend the record, or give data.on_bad_record=skip to "
                "leave such records "
                "out; either makes other data, so launch with fresh=true"
            )
        self.counts.drop(record_id, reason)

    def add(self, writer: ShardWriter, passages: list[Passage]) -> None:
        """Tokenise a batch of passages, each context and each distinct question once, and write
        their windows."""
        contexts = encode_contexts(self.tokenizer.backend, [p.context for p in passages])
        keep = 2 * self.data.history_turns
        segments = [
            (*(e.history[-keep:] if keep else ()), e.question) for p in passages for e in p.examples
        ]
        token_ids = iter(
            encode_questions(self.tokenizer.backend, segments, self.tokenizer.sep_text)
        )
        for passage, context in zip(passages, contexts, strict=True):
            number = writer.add_context(
                passage.context, context.token_ids, context.char_starts, context.char_ends
            )
            for example in passage.examples:
                *history, question = next(token_ids)
                tokens, num_cut = join_question(
                    history,
                    question,
                    self.tokenizer.template.sep_id,
                    self.data.max_question_tokens,
                    self.hard_limit,
                )
                self.counts.cut_questions += num_cut > 0
                self._add_example(writer, number, context, passage.context, example, tokens)

    def _add_example(
        self,
        writer: ShardWriter,
        context_number: int,
        context: TokenizedContext,
        text: str,
        example: Example,
        question: list[int],
    ) -> None:
        facts = {
            "id": example.id,
            "answers": list(example.answers),
            "rule": example.rule,
            "group": example.group,
            "facets": example.facets,
        }
        if self.split == "dev" and example.rule == "coqa":
            keep = 2 * self.data.history_turns
            facts["asked"] = {  # to ask again with other answers as history
                "question": example.question,
                "history": list(example.history[-keep:] if keep else ()),
                "at": len(example.history) // 2,
                # an empty turn isn't in the history of later ones (tasks/coqa.py)
                "is_kept": bool(example.question.strip() and example.answers[0].strip()),
            }
        number = writer.add_example(context_number, question, facts)
        exact, f1 = ceiling_score(self.task, example, text)
        self.counts.examples += 1
        self.counts.ceiling[0] += exact
        self.counts.ceiling[1] += f1
        char_span = example.target.char_span
        span = char_span_to_tokens(context, char_span) if char_span else None
        room = self.data.max_length_tokens - self.num_special - len(question)
        has_answer = False
        for window in cut_windows(len(context.token_ids), room, self.data.window_overlap_tokens):
            target = self._target(example, span, window)
            has_answer |= target[0] != KIND_NULL
            writer.add_window(
                number, window, target, self.num_special + len(question) + window[1] - window[0]
            )
        self.counts.without_answer += not has_answer

    def _target(
        self, example: Example, span: tuple[int, int] | None, window: tuple[int, int]
    ) -> tuple[int, int, int]:
        """Return (kind, first token, last token): the answer only if all of it is in the window,
        else null."""
        if span is None or example.target.kind == "null" or not is_in_window(span, *window):
            return KIND_NULL, 0, 0
        if example.target.kind == "span":
            return KIND_SPAN, *span
        return KIND_CLASS + self.task.ANSWER_CLASSES.index(example.target.kind), *span


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
            entry[1] = (entry[1] + first_ids)[:_FIRST_IDS]
    ids = Counter(shard.example(i)["id"] for shard in shards for i in range(shard.num_examples))
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
