"""Write a shard of prepared data in a stream; shards.py says what it holds, and reads it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.shards import ARRAYS, is_whole
from qa_dist.files import (
    delete_folder,
    sync_folder,
    temporary_path,
    verify_folder,
    write_marker,
)

_ALIGNMENT_BYTES = 64
_FLUSH_ROWS = 1024
_FLUSH_TOKENS = 1 << 16

# Name -> dtype; "tokens" is uint16 or uint32, whichever the vocabulary needs. A ragged array is `x`
# with `x_offsets`, whose first value is 0 and whose last is the length of `x`.
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

# Those that take half as many bytes in the finished shard where all their values allow it.
_NARROWER = {"char_starts": "uint16", "char_ends": "uint16"}
_NARROWER |= {name: "uint32" for name in _DTYPES if name.endswith("_offsets")}

# Facts that most examples of a shard have in common: kept once, and where they differ.
_SHARED = ("facets", "rule")

_WINDOW = ("example", "from", "to", "kind", "start", "end", "length", "targets")
_FACTS = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def token_dtype(vocab_size: int) -> str:
    """Return the smallest unsigned type that holds each token id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def narrowed(dtype: str, narrower: str, largest: int) -> str:
    """Return `narrower` if that unsigned type holds the array's largest value, else `dtype`."""
    return narrower if largest <= np.iinfo(narrower).max else dtype


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
        self._largest = dict.fromkeys(_NARROWER, 0)
        self._shared: dict[str, Any] = {}  # of the first example
        # What isn't written yet: rows of ragged arrays, pieces of flat ones, whole windows.
        self._rows: dict[str, list[Any]] = {
            name: [] for name in _DTYPES if f"{name}_offsets" in _DTYPES
        }
        self._pieces: dict[str, list[Any]] = {
            name: [] for name in ("char_starts", "char_ends", "context_labels")
        }
        self._example_context: list[int] = []
        self._windows: list[tuple[int, ...]] = []
        self._num_tokens = 0  # of the contexts among them
        self._num_contexts = self._num_examples = self._num_windows = 0
        for name in _DTYPES:
            if name.endswith("_offsets"):
                self._append(name, np.zeros(1))

    @property
    def num_windows(self) -> int:
        return self._num_windows

    @property
    def num_examples(self) -> int:
        return self._num_examples

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
        self._rows["context_tokens"].append(token_ids)
        self._pieces["char_starts"].append(char_starts)
        self._pieces["char_ends"].append(char_ends)
        self._pieces["context_labels"].append(labels)
        self._rows["context_text"].append(text.encode())
        self._num_contexts += 1
        self._num_tokens += len(token_ids)
        if self._num_tokens >= _FLUSH_TOKENS:
            self._flush()
        return self._num_contexts - 1

    def add_example(
        self, context: int, question_tokens: Sequence[int], facts: Mapping[str, Any]
    ) -> int:
        """Add one question about context number `context`; return its number in this shard.

        `facts`: with the same keys for all examples.
        """
        if not self._num_examples:
            self._shared = {key: facts[key] for key in _SHARED if key in facts}
        if not self._shared.keys() <= facts.keys():
            raise ValueError(f"{facts}: lacks what the examples before have")
        own = {k: v for k, v in facts.items() if k not in self._shared or v != self._shared[k]}
        self._rows["question_tokens"].append(question_tokens)
        self._rows["example_json"].append(_FACTS.encode(own).encode())
        self._example_context.append(context)
        self._num_examples += 1
        return self._num_examples - 1

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
        self._windows.append((example, *window, *target, length, num_targets))
        self._num_windows += 1
        if len(self._windows) >= _FLUSH_ROWS:
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
                dtype = self._dtypes[name]
                if name in _NARROWER:
                    final = narrowed(str(dtype), _NARROWER[name], self._largest[name])
                else:
                    final = str(dtype)
                padding = -position % _ALIGNMENT_BYTES
                whole.write(b"\0" * padding)
                part = self._temporary / f"{name}.part"
                position += padding
                layout[name] = {
                    "dtype": final,
                    "count": self._counts[name],
                    "at": position,
                }
                with part.open("rb") as rows:
                    while chunk := rows.read(1 << 22):
                        if final != dtype:
                            chunk = np.frombuffer(chunk, dtype).astype(final).tobytes()
                        position += whole.write(chunk)
                part.unlink()
            whole.flush()
            os.fsync(whole.fileno())
        return layout

    def _publish(self, layout: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        marker = write_marker(self._temporary, **facts, shared=self._shared, arrays=layout)
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

    def _append(self, name: str, values: NDArray[Any]) -> None:
        self._streams[name].write(np.ascontiguousarray(values, dtype=self._dtypes[name]).data)
        self._counts[name] += len(values)
        if name in self._largest and len(values):
            self._largest[name] = max(self._largest[name], int(values.max()))

    def _flush(self) -> None:
        for name, rows in self._rows.items():
            ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
            self._append(f"{name}_offsets", self._counts[name] + ends)
            self._append(name, _joined(rows))
            rows.clear()
        for name, pieces in self._pieces.items():
            self._append(name, _joined(pieces))
            pieces.clear()
        self._append("example_context", np.array(self._example_context, np.int64))
        self._example_context.clear()
        columns = np.array(self._windows, np.int64).reshape(-1, len(_WINDOW)).T
        for name, column in zip(_WINDOW, columns, strict=True):
            self._append(f"window_{name}", column)
        self._windows.clear()
        self._num_tokens = 0


def _joined(rows: list[Any]) -> NDArray[Any]:
    """Return rows of one kind (bytes, lists of numbers or arrays) as one array."""
    if not rows:
        return np.zeros(0, np.int64)
    if isinstance(rows[0], bytes):
        return np.frombuffer(b"".join(rows), np.uint8)
    if isinstance(rows[0], np.ndarray):
        return np.concatenate(rows)
    return np.fromiter(chain.from_iterable(rows), np.int64)
