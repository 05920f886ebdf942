"""Random rows of shards, written and read back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import (
    KIND_CLASS,
    KIND_NULL,
    KIND_SPAN,
    Split,
)

TEXTS = ("", "plain", "東京は首都\u3000です", "e\u0301 😀 שלום \u200b", "a\r\n\tb\0c", "\U0010ffff")


def write_shard(
    folder: Path, num_examples: int = 5, vocab_size: int = 600, seed: int = 0, **facts: Any
) -> list[dict[str, Any]]:
    """Write random rows; return what went in, one dict per example."""
    writer = ShardWriter(folder, vocab_size)
    rows = list(random_rows(num_examples, vocab_size, seed))
    for row in rows:
        add_row(writer, row)
    assert writer.num_examples == num_examples
    assert writer.num_windows == sum(len(row["windows"]) for row in rows)
    writer.finish(**facts)
    return rows


def random_rows(num: int, vocab_size: int, seed: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    for number in range(num):
        text = draw.choice(TEXTS) + f" {number}"
        tokens = [draw.randrange(vocab_size) for _ in range(draw.randrange(1, 40))]
        starts = [draw.randrange(1 << 20) for _ in tokens]
        yield {
            "text": text,
            "tokens": tokens,
            "starts": starts,
            "ends": [start + 1 for start in starts],
            "question": [draw.randrange(vocab_size) for _ in range(draw.randrange(9))],
            "facts": {"id": f"q{number}", "answers": [text, ""], "facets": {"turn": "é"}},
            "windows": [
                ((i, i + 3), (draw.choice([KIND_SPAN, KIND_NULL, KIND_CLASS + 2]), i, i + 2), 300)
                for i in range(draw.randrange(1, 4))
            ],
        }


def add_row(writer: ShardWriter, row: dict[str, Any]) -> None:
    arrays = (np.array(row[name], dtype=np.int64) for name in ("tokens", "starts", "ends"))
    context = writer.add_context(row["text"], *arrays)
    example = writer.add_example(context, row["question"], row["facts"])
    for window, target, length in row["windows"]:
        writer.add_window(example, window, target, length)


def read_rows(split: Split) -> list[dict[str, Any]]:
    """Return what `write_shard` was given, from the split as a table."""
    rows: list[dict[str, Any]] = []
    seen = -1
    for number in range(split.num_windows):
        shard, window = split.locate(number)
        example = int(shard["window_example"][window])
        context = int(shard["example_context"][example])
        if window == 0 or example != seen:
            starts, ends = shard.char_spans(context)
            rows.append(
                {
                    "text": shard.context_text(context),
                    "tokens": shard.ragged("context_tokens", context).tolist(),
                    "starts": starts.tolist(),
                    "ends": ends.tolist(),
                    "question": shard.ragged("question_tokens", example).tolist(),
                    "facts": shard.example(example),
                    "windows": [],
                }
            )
            seen = example
        columns = ("from", "to", "kind", "start", "end", "length")
        values = [int(shard[f"window_{name}"][window]) for name in columns]
        rows[-1]["windows"].append((tuple(values[:2]), tuple(values[2:5]), values[5]))
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---- Round trip ----
