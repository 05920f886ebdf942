"""The files behind a recipe's sources: digests, records and labels, and the index kept of them.

An index says where each record is, so that a file is read once for it and then at its offsets. No
torch, no transformers: a submit asks too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.raw_records import RecordIndex
from qa_dist.data.sources import (
    Records,
    hub_fingerprint,
    is_hub_name,
    open_records,
    open_tagged,
)
from qa_dist.data.splits import choose_questions, choose_records
from qa_dist.files import BrokenFileError, file_sha256, read_json, verify_folder
from qa_dist.recipe import Recipe, Source, form_of
from qa_dist.recipe_checks import show_value
from qa_dist.records import InputError
from qa_dist.tasks import TASKS
from qa_dist.tasks.ner import source_labels

STATES = "inputs.json"
"""Of prepared data, beside its facts: for each source, the `file_state` of its files at launch."""
_TICK_NS = 2_000_000_000


def file_of(part: str, source: Source) -> str:
    """Return which file of a source holds "train", "heldout" or "dev"."""
    return "dev" if part == "dev" and source.dev else "train"


def choose(
    indexes: Mapping[str, RecordIndex], part: str, source: Source
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Return the records of "train", "dev" or "heldout", and a mask over the file's questions
    (None: all of them)."""
    index = indexes[file_of(part, source)]
    records = choose_records(index, part, source)
    most = {"train": source.max_train_examples, "dev": source.max_dev_examples}.get(part, 0)
    return records, choose_questions(index, records, most, source.subset_seed)


def source_digest(source: Source, file: str) -> str:
    """Return the sha256 of a file's bytes; for a hub dataset its name and its own fingerprint."""
    name = getattr(source, file)
    try:
        if is_hub_name(name):
            return f"hub:{name}:{hub_fingerprint(name, file)}"
        path = Path(name).expanduser()
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{name}: is a device or a pipe; give the file itself")
        return file_sha256(path)
    except FileNotFoundError:
        raise InputError(
            f"{name}: there is no such file, looked for from {Path.cwd()}; give the path of a data "
            "file, or a hub name"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; give the file itself") from None
    except OSError as error:
        raise InputError(f"{show_value(name)}: can't be read ({error.strerror})") from error
    except RuntimeError as error:  # ~ of a user that isn't there
        raise InputError(f"{name}: can't be read ({error}); write the path out") from error


def file_state(source: Source, file: str) -> dict[str, int] | None:
    """Return size and time of the last change of a local file, which tell of a change without
    reading it; None where they wouldn't: of a hub dataset, and of a file that was changed just now
    and may be again within the file system's tick."""
    name = getattr(source, file)
    try:
        if is_hub_name(name):
            return None
        state = Path(name).expanduser().stat()
    except (OSError, RuntimeError):
        return None
    if time.time_ns() - state.st_mtime_ns < _TICK_NS:
        return None
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}


def is_unchanged(folder: Path, number: int, source: Source, file: str) -> bool:
    """Return whether a file of source `number` is what the fingerprint of prepared data was taken
    of; it is read unless it still has the state that the launch has noted."""
    expected: str = read_json(folder / "facts.json")["sources"][number]["inputs"][file]
    with contextlib.suppress(FileNotFoundError):  # of a launch that noted none
        noted = read_json(folder / STATES)[number].get(file)
        if noted is not None and noted == file_state(source, file):
            return True
    return source_digest(source, file) == expected


def open_source(recipe: Recipe, source: Source, file: str, index: RecordIndex | None) -> Records:
    """Open the file "train" or "dev" of a source; `index`: the saved one, None: make it."""
    task = TASKS[source.task]
    if form_of(recipe, source) == "tags":
        by_document = recipe.data.document_context
        return open_tagged(getattr(source, file), file, by_document, index)
    return open_records(getattr(source, file), file, task.LEVELS, task.count_questions, index)


def read_index(folder: Path, recipe: Recipe, number: int, file: str) -> RecordIndex:
    """Return the saved index of a file of source `number`, or make it by reading the file once."""
    if has_index(folder):
        with np.load(folder / "index" / f"{number}-{file}.npz") as arrays:
            return RecordIndex(**arrays)
    return open_source(recipe, recipe.sources[number], file, None).index


def read_labels(
    folder: Path, recipe: Recipe, number: int, index: RecordIndex | None = None
) -> list[str]:
    """Return the saved labels of source `number`'s words, or find them by reading its training file
    once; empty unless its form is "tags"."""
    source = recipe.sources[number]
    if form_of(recipe, source) != "tags":
        return []
    if has_index(folder):
        labels: list[str] = read_json(folder / "index" / f"{number}-labels.json")
        return labels
    return source_labels(source.train, open_source(recipe, source, "train", index))


def has_index(folder: Path) -> bool:
    """Return whether the record index is there, whole and unchanged."""
    try:
        verify_folder(folder / "index")
    except (BrokenFileError, OSError):
        return False
    return True
