"""Shards of prepared data: write one in a stream, open all of a split as one memory-mapped table.

A shard is a folder with one file `arrays.bin` (ragged arrays: flat values and offsets, no padding,
no Python objects) and its marker, which says where each array lies in the file. Contexts are stored
once, questions once; a window is a slice (example, from, to) with its target in context tokens.
Global window and example numbers count through the shards in order, so that they don't depend on
how many shards there are.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist.files import (
    BrokenFileError,
    delete_folder,
    read_marker,
    sync_folder,
    temporary_path,
    verify_folder,
    write_marker,
)
from qa_dist.run_dir import shard_name

ARRAYS = "arrays.bin"
_ALIGNMENT_BYTES = 64
_FLUSH_ROWS = 1024

# Name -> dtype; "tokens" is uint16 or uint32, whichever the vocabulary needs. A ragged array is `x`
# with `x_offsets`,
# whose first value is 0 and whose last is the length of `x`.
_DTYPES: dict[str, str] = {
    "context_tokens": "tokens",
    "context_tokens_offsets": "uint64",
    "char_starts": "uint32",  # per context token: its first code point in the context
    "char_ends": "uint32",  # and the one after its last
    "context_labels": "uint8",  # form "tags": per context token the number of its label
    "context_text": "uint8",  # UTF-8
    "context_text_offsets": "uint64",
    "question_tokens": "tokens",
    "question_tokens_offsets": "uint64",
    "example_context": "uint32",
    "example_json": "uint8",  # id, answers, rule, group, facets ...: one JSON object each
    "example_json_offsets": "uint64",
    "window_example": "uint32",
    "window_from": "uint32",  # half-open slice of the context's tokens
    "window_to": "uint32",
    "window_kind": "uint8",  # 0 span, 1 null, 2 + k answer class k
    "window_start": "uint32",  # the span's first and last token, counted in the context
    "window_end": "uint32",
    "window_length": "uint16",  # tokens, question and special ones included
    "window_targets": "uint32",  # what the loss is divided by: spans, labelled words, tokens
}
NO_LABEL = 255
"""In context_labels: a token that isn't the first of a word."""

KIND_SPAN, KIND_NULL, KIND_CLASS = 0, 1, 2


def token_dtype(vocab_size: int) -> str:
    """Return the smallest unsigned type that holds each token id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class ShardWriter:
    """Stream rows into a shard folder; nothing is visible under its name until `finish`."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.folder = folder
        self._temporary = temporary_path(folder)
        if self._temporary.exists():
            delete_folder(self._temporary)
        self._temporary.mkdir(parents=True)
        tokens = token_dtype(vocab_size)
        self._dtypes = {k: np.dtype(tokens if v == "tokens" else v) for k, v in _DTYPES.items()}
        self._streams = {name: (self._temporary / f"{name}.part").open("wb") for name in _DTYPES}
        self._counts = dict.fromkeys(_DTYPES, 0)
        self._pending: dict[str, list[int]] = {
            name: [] for name in _DTYPES if name.startswith("window_") or name == "example_context"
        }
        for name in _DTYPES:
            if name.endswith("_offsets"):
                self._append(name, np.zeros(1))

    @property
    def num_windows(self) -> int:
        return self._counts["window_length"] + len(self._pending["window_length"])

    @property
    def num_examples(self) -> int:
        return self._counts["example_json_offsets"] - 1

    def add_context(
        self,
        text: str,
        token_ids: NDArray[Any],
        char_starts: NDArray[Any],
        char_ends: NDArray[Any],
        labels: NDArray[Any] | Sequence[int] = (),
    ) -> int:
        """Add one context with its tokens; return its number in this shard.

        `labels`: of each token, for the form "tags" only.
        """
        self._add_ragged("context_tokens", token_ids)
        self._append("char_starts", char_starts)
        self._append("char_ends", char_ends)
        self._append("context_labels", np.asarray(labels))
        self._add_ragged("context_text", np.frombuffer(text.encode(), dtype=np.uint8))
        return self._counts["context_text_offsets"] - 2

    def add_example(
        self, context: int, question_tokens: Sequence[int], facts: Mapping[str, Any]
    ) -> int:
        """Add one question about context number `context`; return its number in this shard."""
        self._add_ragged("question_tokens", np.asarray(question_tokens, dtype=np.int64))
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self._add_ragged("example_json", np.frombuffer(text.encode(), dtype=np.uint8))
        self._pending["example_context"].append(context)
        return self.num_examples - 1

    def add_window(
        self,
        example: int,
        window: tuple[int, int],
        target: tuple[int, int, int],
        length: int,
        num_targets: int = 1,
    ) -> None:
        """Add one window: half-open `window` of context tokens; `target` is (kind, first token,
        last token)."""
        for name, value in zip(
            ("example", "from", "to", "kind", "start", "end", "length", "targets"),
            (example, *window, *target, length, num_targets),
            strict=True,
        ):
            self._pending[f"window_{name}"].append(value)
        if len(self._pending["window_length"]) >= _FLUSH_ROWS:
            self._flush()

    def finish(self, **facts: Any) -> dict[str, Any]:
        """Put the arrays into one file, mark it, rename the folder to its name; return the marker.

        Of two attempts that make the same shard at once, whichever comes second leaves the first
        one's.
        """
        try:
            return self._publish(self._join_arrays(), facts)
        except FileNotFoundError:  # another attempt has finished it, and swept ours away
            if not is_whole(self.folder):
                raise
            return verify_folder(self.folder, hashes=False)

    def _join_arrays(self) -> dict[str, dict[str, Any]]:
        """Put the arrays one after another into one file; return where each one lies."""
        self._flush()
        layout: dict[str, dict[str, Any]] = {}
        position = 0
        with (self._temporary / ARRAYS).open("wb") as whole:
            for name, stream in self._streams.items():
                stream.close()
                padding = -position % _ALIGNMENT_BYTES
                whole.write(b"\0" * padding)
                part = self._temporary / f"{name}.part"
                position += padding
                layout[name] = {
                    "dtype": str(self._dtypes[name]),
                    "count": self._counts[name],
                    "at": position,
                }
                with part.open("rb") as rows:
                    while chunk := rows.read(1 << 22):
                        position += whole.write(chunk)
                part.unlink()
            whole.flush()
            os.fsync(whole.fileno())
        return layout

    def _publish(self, layout: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        marker = write_marker(self._temporary, **facts, arrays=layout)
        sync_folder(self._temporary)
        if self.folder.exists() and not is_whole(self.folder):
            delete_folder(self.folder)
        try:
            self._temporary.rename(
                self.folder
            )  # no folder with files in it is ever replaced by this
        except OSError:
            if not is_whole(self.folder):
                raise
        sync_folder(self.folder.parent)
        # Our own if another attempt was first, and what killed attempts have left.
        for leftover in self.folder.parent.glob(f".{self.folder.name}.*.tmp"):
            with contextlib.suppress(OSError):
                delete_folder(leftover)
        return marker

    def abandon(self) -> None:
        """Remove what was written so far."""
        for stream in self._streams.values():
            with contextlib.suppress(OSError):  # a full disk: flushing fails once more
                stream.close()
        delete_folder(self._temporary)

    def _add_ragged(self, name: str, values: NDArray[Any]) -> None:
        self._append(name, values)
        self._append(f"{name}_offsets", np.array([self._counts[name]]))

    def _append(self, name: str, values: NDArray[Any]) -> None:
        self._streams[name].write(np.ascontiguousarray(values, dtype=self._dtypes[name]).tobytes())
        self._counts[name] += len(values)

    def _flush(self) -> None:
        for name, values in self._pending.items():
            self._append(name, np.asarray(values))
            values.clear()


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
            np.memmap(path, dtype=np.uint8, mode="r")
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
        facts: dict[str, Any] = json.loads(self.ragged("example_json", number).tobytes())
        return facts

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
        typed = {name: rows.astype(self[name].dtype) for name, rows in arrays.items()}
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
