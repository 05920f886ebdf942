"""The plan of a run's prepared data: fingerprint, record index, splits; made before anything is
queued.

The fingerprint covers all that the windows depend on: the input files' bytes, the tokenizer's
files, the task and the settings; not the number of shards. So runs share prepared data, and a
change of any of these makes new data. No torch, no transformers: a submit starts quickly.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qa_dist.data.prepared import Prepared
from qa_dist.data.raw_records import RecordIndex
from qa_dist.data.shards import find_shards
from qa_dist.data.tokenizer import (
    check_chat_template,
    model_limit,
    read_model_config,
    tokenizer_digest,
)
from qa_dist.files import (
    MARKER,
    canonical_json,
    replaced_file,
    write_json,
    write_marker,
)
from qa_dist.recipe import PACKED_FAMILIES, Recipe, Source, SourceSplit, form_of, source_splits
from qa_dist.recipe_checks import show_value
from qa_dist.records import BadRecordError, InputError, Passage
from qa_dist.source_files import (
    STATES,
    choose,
    file_of,
    file_state,
    has_index,
    open_source,
    read_index,
    read_labels,
    source_digest,
)
from qa_dist.tasks import TASKS
from qa_dist.text.prompts import PROMPT_VERSION

FORMAT = 4
MIN_SHARD_QUESTIONS = 2000


@dataclass(frozen=True)
class Plan:
    """What will be prepared: made by the launcher before anything is queued."""

    folder: Path
    fingerprint: str
    facts: dict[str, Any]
    """All that the fingerprint covers."""
    indexes: list[dict[str, RecordIndex]]
    """For each source, of the files "train" and "dev" (where given)."""
    num_questions: dict[str, int]
    """Questions of each split of each source, by its name."""
    labels: list[list[str]]
    """For each source, the labels of its words; empty unless its form is "tags"."""
    states: list[dict[str, dict[str, int] | None]]
    """For each source, the `file_state` of its files when they were read."""

    @property
    def is_prepared(self) -> bool:
        """Whether all of it has been made already."""
        return has_index(self.folder) and all(map(self._complete_counts, self.num_questions))

    def prepared(self, num_shards: int, max_parallel: int) -> Prepared:
        """Return the prepared data: as many shards as there are if a split is complete, else
        `num_shards`.

        0 shards: one per array element that runs at once, as long as each has enough questions to
        be worth a process.
        """
        counts = {}
        for split, num_questions in self.num_questions.items():
            complete = self._complete_counts(split)
            wanted = num_shards or min(max_parallel, -(-num_questions // MIN_SHARD_QUESTIONS))
            counts[split] = complete[0] if complete else max(1, min(wanted, num_questions))
        return Prepared(self.folder, self.fingerprint, counts)

    def _complete_counts(self, split: str) -> list[int]:
        names = [p.name for p in self.folder.glob(f"{split}-*-of-*")]
        counts = sorted({int(n[-5:]) for n in names if re.fullmatch(r".+-[0-9]{5}-of-[0-9]{5}", n)})
        return [num for num in counts if not find_shards(self.folder, split, num)[1]]


def make_plan(recipe: Recipe, prepared_root: Path) -> Plan:
    """Look at the input files and the tokenizer and say what will be prepared; write nothing.

    Raises InputError if a file is missing or malformed, or the encoder can't hold windows of this
    length.
    """
    _check_libraries(recipe)
    states = [
        {file: file_state(source, file) for file in _files(source)} for source in recipe.sources
    ]  # before the bytes are read: what changes meanwhile has another one
    digests = _source_digests(recipe)
    limit, tokenizer = _read_encoder(recipe)
    if limit is not None and recipe.data.max_length_tokens > limit:
        raise InputError(
            f"data.max_length_tokens={recipe.data.max_length_tokens}: {recipe.model.name} has "
            "positions for "
            f"{limit} tokens; lower it to at most {limit}"
        )
    settings = asdict(recipe.data)
    del settings["num_shards"]
    facts = {
        "format": FORMAT,
        "sources": [
            {"inputs": inputs, "source": _chosen(source), **_form(recipe, source)}
            for source, inputs in zip(recipe.sources, digests, strict=True)
        ],
        "data": settings,
        "tokenizer": tokenizer,
    }
    fingerprint = hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:32]
    folder = prepared_root / fingerprint
    indexes = [
        {file: read_index(folder, recipe, i, file) for file in inputs}
        for i, inputs in enumerate(digests)
    ]
    counts = {}
    for split in source_splits(recipe):
        source, files = recipe.sources[split.source], indexes[split.source]
        records, mask = choose(files, split.part, source)
        index = files[file_of(split.part, source)]
        num = int(index.num_questions[records].sum() if mask is None else mask.sum())
        if num == 0:
            path = getattr(source, file_of(split.part, source))
            raise InputError(f"{path}: has no questions for the split {split.part}")
        counts[split.name] = num
    labels = [read_labels(folder, recipe, i, indexes[i]["train"]) for i in range(len(digests))]
    plan = Plan(folder, fingerprint, facts, indexes, counts, labels, states)
    if not plan.is_prepared:
        _check_can_write(prepared_root)
    return plan


def _check_libraries(recipe: Recipe) -> None:
    """Raise InputError if a library of the extra [qlora] is needed that isn't there."""
    model, optimizer = recipe.model, recipe.train.optimizer
    for library, key, is_needed in (
        ("peft", f"model.lora_rank={model.lora_rank}", model.lora_rank > 0),
        ("bitsandbytes", f"model.quantization={model.quantization}", model.quantization != "none"),
        ("bitsandbytes", f"train.optimizer={optimizer}", optimizer != "adamw"),
    ):
        if is_needed and importlib.util.find_spec(library) is None:
            raise InputError(
                f"{key}: needs {library}, which isn't installed; pip install 'qa-dist[qlora]'"
            )


def _form(recipe: Recipe, source: Source) -> dict[str, Any]:
    """Return the form of a source, and what else its windows follow from in it."""
    form = form_of(recipe, source)
    if form != "text":
        return {"form": form}
    room = recipe.evaluation.max_new_tokens
    return {"form": form, "prompt_version": PROMPT_VERSION, "max_new_tokens": room}


def _chosen(source: Source) -> dict[str, Any]:
    """Return the settings of a source that its windows depend on."""
    chosen = asdict(source)
    for name in ("train", "dev", "weight"):  # where a file lies doesn't matter, its bytes do
        del chosen[name]
    return chosen


def _read_encoder(recipe: Recipe) -> tuple[int | None, str]:
    """Return the most tokens that the encoder takes, and the digest of its tokenizer."""
    name = recipe.model.name
    try:
        if recipe.model.head == "causal_lm":
            check_chat_template(name)
        kind = read_model_config(name)["model_type"] if recipe.train.packing == "on" else ""
        if kind and kind not in PACKED_FAMILIES:
            raise InputError(
                f"train.packing=on: {name} is a {kind}; {', '.join(PACKED_FAMILIES)} can be packed"
            )
        return model_limit(name), tokenizer_digest(name, recipe.model.lower_case)
    except OSError as error:
        raise InputError(
            f"model.name={show_value(name)}: can't be read ({error.strerror or error}); give a "
            "folder or a hub name"
        ) from error


def _check_can_write(folder: Path) -> None:
    """Raise InputError if prepared data can't be written to `folder`, before anything else is."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        problem = "" if there.is_dir() else "Not a directory"
        if not problem and not os.access(there, os.W_OK | os.X_OK):
            problem = f"no right to write in {there}"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise InputError(
            f"prepared_dir={show_value(folder)}: can't be written to ({problem}); give another "
            "place"
        )


def locate_inputs(recipe: Recipe, root: Path) -> Recipe:
    """Return the recipe with its local files and folders written out from /.

    They are looked for in the working directory, then in `root` (a recipe of this checkout names
    files of this checkout); so the run's stages find them from anywhere. Hub names stay.
    """

    def located(name: str) -> str:
        path = Path(name)
        if not name or path.is_absolute() or name.startswith("~"):
            return name
        with contextlib.suppress(OSError):
            for folder in (Path.cwd(), root):
                if (folder / path).exists():
                    return str(folder / path)
        return name

    sources = [replace(s, train=located(s.train), dev=located(s.dev)) for s in recipe.sources]
    model = replace(recipe.model, name=located(recipe.model.name))
    return replace(recipe, sources=sources, model=model)


def save_plan(plan: Plan) -> None:
    """Write the record index, what the fingerprint stands for and the states of the input files
    beside the shards to be."""
    folder, facts = plan.folder / "index", plan.folder / "facts.json"
    try:
        if not facts.exists():
            write_json(facts, plan.facts)
        if not plan.is_prepared:
            write_json(plan.folder / STATES, plan.states)
        if not has_index(plan.folder):
            folder.mkdir(exist_ok=True)
            (folder / MARKER).unlink(missing_ok=True)
            for number, files in enumerate(plan.indexes):
                for file, index in files.items():
                    path = folder / f"{number}-{file}.npz"
                    with replaced_file(path) as temporary, temporary.open("wb") as stream:
                        np.savez(stream, **index.arrays())  # type: ignore[arg-type]
            for number, labels in enumerate(plan.labels):
                if labels:
                    write_json(folder / f"{number}-labels.json", labels)
            write_marker(folder)
    except OSError as error:
        raise not_written(plan.folder, error) from error


def _files(source: Source) -> tuple[str, ...]:
    return ("train", "dev") if source.dev else ("train",)


def _source_digests(recipe: Recipe) -> list[dict[str, str]]:
    """Return for each source the digest of each file that is given; raise InputError with all that
    is wrong with them."""
    digests: list[dict[str, str]] = []
    problems = []
    for number, source in enumerate(recipe.sources):
        digests.append({})
        for file in _files(source):
            try:
                digests[-1][file] = source_digest(source, file)
            except InputError as error:
                problems.append(f"sources.{number}.{file}={error}")
    if problems:
        raise InputError("\n".join(problems))
    return digests


def not_written(folder: Path, error: OSError) -> InputError:
    """Say which folder can't be written and why, and how much room there is."""
    free = "make sure that you may write there"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = "make room"
        with contextlib.suppress(OSError):
            there = next(path for path in (folder, *folder.parents) if path.exists())
            free = f"{shutil.disk_usage(there).free:,} bytes are free there: make room"
    return InputError(
        f"{folder}: can't be written ({error.strerror or error}); {free} or give another place "
        "with "
        "prepared_dir=, then launch again: it makes only what is missing"
    )


def sample_passages(recipe: Recipe, plan: Plan, split: SourceSplit, num: int) -> Iterator[Passage]:
    """Yield the passages of up to `num` records of a split, evenly spread: what a forecast looks
    at."""
    source, files = recipe.sources[split.source], plan.indexes[split.source]
    file = file_of(split.part, source)
    records, _ = choose(files, split.part, source)
    opened = open_source(recipe, source, file, files[file])
    for number in records[:: max(1, len(records) // num)][:num].tolist():
        try:
            record = opened.read(number)
        except BadRecordError:
            continue
        yield TASKS[source.task].read_passage(record, "", lambda *_: None, for_training=False)
