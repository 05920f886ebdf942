"""Shards of prepared data: write one in a stream, open all of a split as one memory-mapped table.

A shard is a folder with one file `arrays.bin` (ragged arrays: flat values and offsets, no padding,
no Python objects) and its marker, which says where each array lies in the file. Contexts are stored
once, questions once; a window is a slice (example, from, to) with its target in context tokens.
Global window and example numbers count through the shards in order, so that they don't depend on
how many shards there are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist.files import (
    BrokenFileError,
    read_marker,
    verify_folder,
)
from qa_dist.run_dir import shard_name

ARRAYS = "arrays.bin"

NO_LABEL = 255
"""In context_labels: a token that isn't the first of a word."""

KIND_SPAN, KIND_NULL, KIND_CLASS = 0, 1, 2

_AT_ONCE = 256  # examples that are parsed together


class Shard:
    """One shard, memory-mapped: `shard["window_length"]` is a read-only numpy view of the file."""

    def __init__(self, folder: Path) -> None:
        marker = read_marker(folder)
        if marker is None or "arrays" not in marker:
            raise BrokenFileError(f"{folder}: isn't a finished shard; prepare it again")
        self.folder = folder
        self.marker = marker
        path = folder / ARRAYS
        if not path.is_file() or path.stat().st_size != marker["files"][ARRAYS]["bytes"]:
            raise BrokenFileError(f"{path}: is missing or was cut short; prepare it again")
        data = (
            np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))  # cheaper to take slices of
            if path.stat().st_size
            else np.zeros(0, np.uint8)
        )
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, facts in marker["arrays"].items():
            dtype = np.dtype(facts["dtype"])
            rows = data[facts["at"] : facts["at"] + facts["count"] * dtype.itemsize]
            self._arrays[name] = rows.view(dtype)
        self.num_windows = len(self._arrays["window_length"])
        self.num_examples = len(self._arrays["example_context"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def ragged(self, name: str, row: int) -> NDArray[Any]:
        """Return row `row` of the ragged array `name`."""
        offsets = self._arrays[f"{name}_offsets"]
        return self._arrays[name][int(offsets[row]) : int(offsets[row + 1])]

    def example(self, number: int) -> dict[str, Any]:
        """Return id, rule, group, facets and references of example `number` of this shard."""
        return self.examples(range(number, number + 1))[0]

    def examples(self, numbers: range) -> list[dict[str, Any]]:
        """Return the same of each of these neighbours, read in one go."""
        places = self._arrays["example_json_offsets"][numbers.start : numbers.stop + 1].tolist()
        first = places[0]
        text = self._arrays["example_json"][first : places[-1]].tobytes()
        parts = [text[a - first : b - first] for a, b in pairwise(places)]
        shared = self.marker.get("shared", {})
        return [{**shared, **own} for own in json.loads(b"[%b]" % b",".join(parts))]

    def ids(self) -> Iterator[str]:
        """Yield the id of each example."""
        for first in range(0, self.num_examples, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, self.num_examples))
            yield from (facts["id"] for facts in self.examples(some))

    def context_text(self, context: int) -> str:
        """Return the text of context number `context` of this shard."""
        return self.ragged("context_text", context).tobytes().decode()

    def asked_otherwise(
        self,
        examples: Sequence[int],
        questions: Sequence[Sequence[int]],
        windows: Sequence[tuple[int, int, int, int]],
    ) -> Shard:
        """Return, in memory, some examples of this shard with other question tokens.

        `windows`: (place in `examples`, first context token, the one behind its last, tokens in
        all), in the examples' order; they have no target.
        """
        rows, starts, ends, lengths = np.array(windows, np.int64).reshape(-1, 4).T
        nothing = np.zeros(len(rows))
        columns = {
            **{"example": rows, "from": starts, "to": ends, "length": lengths},
            **{"kind": nothing + KIND_NULL, "start": nothing, "end": nothing},
            "targets": nothing + 1,
        }
        arrays = {f"window_{name}": column for name, column in columns.items()}
        arrays["example_context"] = self["example_context"][list(examples)]
        facts = [self.ragged("example_json", example) for example in examples]
        for name, parts in (("question_tokens", questions), ("example_json", facts)):
            arrays[name] = np.concatenate([np.asarray(part) for part in parts])
            arrays[f"{name}_offsets"] = np.cumsum([0, *map(len, parts)])
        other = copy.copy(self)
        # This shard's offsets may be too narrow: the other questions can be longer than its own.
        typed = {
            name: rows.astype("uint64" if name.endswith("_offsets") else self[name].dtype)
            for name, rows in arrays.items()
        }
        other._arrays = {**self._arrays, **typed}
        other.num_windows, other.num_examples = len(rows), len(examples)
        return other

    def char_spans(self, context: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the first code point of each token of a context, and the one after its last:
        (tokens,) each."""
        rows = self._tokens_of(context)
        return self._arrays["char_starts"][rows], self._arrays["char_ends"][rows]

    def labels(self, context: int) -> NDArray[Any]:
        """Return the number of each context token's label, or NO_LABEL: (tokens,)."""
        return self._arrays["context_labels"][self._tokens_of(context)]

    def _tokens_of(self, context: int) -> slice:
        offsets = self._arrays["context_tokens_offsets"]
        return slice(int(offsets[context]), int(offsets[context + 1]))


@dataclass(frozen=True)
class Split:
    """All shards of a split as one table; window and example numbers count through the shards in
    order."""

    shards: tuple[Shard, ...]
    window_ends: NDArray[np.int64]
    """Cumulative number of windows after each shard."""

    @property
    def num_windows(self) -> int:
        return int(self.window_ends[-1]) if len(self.window_ends) else 0

    @property
    def num_examples(self) -> int:
        return sum(shard.num_examples for shard in self.shards)

    def lengths(self) -> NDArray[np.uint16]:
        """Return the length in tokens of each window: (windows,)."""
        return np.concatenate([shard["window_length"] for shard in self.shards])

    def targets(self) -> NDArray[np.uint32]:
        """Return the number of targets of each window: (windows,)."""
        return np.concatenate([shard["window_targets"] for shard in self.shards])

    @property
    def classes(self) -> list[str]:
        """Names of the answer classes, or of the labels of words."""
        return list(self.shards[0].marker["classes"])

    def locate(self, window: int) -> tuple[Shard, int]:
        """Return the shard that holds global window `window`, and its number in there."""
        index = int(np.searchsorted(self.window_ends, window, side="right"))
        before = int(self.window_ends[index - 1]) if index else 0
        return self.shards[index], window - before


def is_whole(folder: Path) -> bool:
    """Return whether a shard is finished and its files have their sizes; their bytes aren't
    read."""
    try:
        verify_folder(folder, hashes=False)
    except BrokenFileError:
        return False
    return True


def find_shards(folder: Path, split: str, num_shards: int) -> tuple[list[Path], list[Path]]:
    """Return the shards of a split that are finished and those that are missing or cut short, in
    order."""
    paths = [folder / shard_name(split, i, num_shards) for i in range(num_shards)]
    is_done = [is_whole(path) for path in paths]
    done = [path for path, ok in zip(paths, is_done, strict=True) if ok]
    return done, [path for path, ok in zip(paths, is_done, strict=True) if not ok]


def open_split(paths: Iterable[Path]) -> Split:
    """Map shards into memory, in order. Raises BrokenFileError naming the one that isn't whole."""
    shards = tuple(Shard(path) for path in paths)
    return Split(shards, np.cumsum([shard.num_windows for shard in shards], dtype=np.int64))


def verify_shards(paths: Iterable[Path]) -> None:
    """Compare each file with its marker's sha256. Raises BrokenFileError naming the first that
    differs."""
    for path in paths:
        verify_folder(path)
