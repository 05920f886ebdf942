"""Shards: what was written is read, twice the same bytes, and nothing half-written is believed."""

from __future__ import annotations

import os
import random
import signal
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_dist import files
from qa_dist.data.shards import (
    ARRAYS,
    KIND_CLASS,
    KIND_NULL,
    KIND_SPAN,
    Shard,
    ShardWriter,
    Split,
    find_shards,
    is_whole,
    open_split,
    token_dtype,
    verify_shards,
)
from qa_dist.files import MARKER, BrokenFileError
from qa_dist.run_dir import shard_name

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


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4), st.sampled_from([600, 1 << 16, 250_000])
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], vocab_size: int
) -> None:
    root = tmp_path_factory.mktemp("shards")
    rows = []
    for index, size in enumerate(sizes):
        folder = root / shard_name("train", index, len(sizes))
        rows += write_shard(folder, size, vocab_size, seed=index)
    paths, missing = find_shards(root, "train", len(sizes))
    split = open_split(paths)
    assert missing == []
    assert read_rows(split) == rows
    assert split.num_examples == sum(sizes)
    assert split.num_windows == len(split.lengths()) == sum(len(row["windows"]) for row in rows)
    assert split.lengths().dtype == np.uint16


def test_token_ids_take_no_more_bytes_than_the_vocabulary_needs(tmp_path: Path) -> None:
    assert [token_dtype(size) for size in (2, 65536, 65537)] == ["uint16", "uint16", "uint32"]
    for size, dtype in ((65536, np.uint16), (65537, np.uint32)):
        writer = ShardWriter(tmp_path / str(size), size)
        last = np.array([size - 1])
        writer.add_context("x", last, last, last)
        writer.finish()
        shard = Shard(tmp_path / str(size))
        assert shard["context_tokens"].dtype == dtype
        assert shard["context_tokens"].tolist() == [size - 1]


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    rows = [
        write_shard(tmp_path / shard_name("dev", i, 3), size) for i, size in enumerate((0, 2, 0))
    ]
    split = open_split(find_shards(tmp_path, "dev", 3)[0])
    assert [shard.num_windows == 0 for shard in split.shards] == [True, False, True]
    assert read_rows(split) == rows[1]
    verify_shards(shard.folder for shard in split.shards)


def test_numbers_count_through_the_shards(tmp_path: Path) -> None:
    for index in range(3):
        write_shard(tmp_path / shard_name("dev", index, 3), 4, seed=index)
    split = open_split(find_shards(tmp_path, "dev", 3)[0])
    places = [split.locate(number) for number in range(split.num_windows)]
    order = [(split.shards.index(shard), row) for shard, row in places]
    assert order == sorted(set(order))
    assert [row for (before, _), (after, row) in pairwise(order) if before != after] == [0, 0]


def test_arrays_are_views_of_the_file_that_cannot_be_written(tmp_path: Path) -> None:
    write_shard(tmp_path / "s")
    shard = Shard(tmp_path / "s")
    with pytest.raises(ValueError, match="read-only"):
        shard["context_tokens"][0] = 1
    for facts in shard.marker["arrays"].values():
        assert facts["at"] % 64 == 0


def test_facts_are_in_the_marker(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", split="dev", counts={"dropped": {"é": [1, ["q"]]}})
    marker = Shard(tmp_path / "s").marker
    assert marker["split"] == "dev" and marker["counts"]["dropped"] == {"é": [1, ["q"]]}


# ---- Made twice ----


def test_a_shard_made_twice_is_byte_identical(tmp_path: Path) -> None:
    write_shard(tmp_path / "a", 30)
    write_shard(tmp_path / "b", 30)
    write_shard(tmp_path / "c", 30, seed=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c"), "control"


def test_nothing_has_its_name_before_it_is_whole(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s", 600)
    for row in random_rows(3, 600, 0):
        add_row(writer, row)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing(tmp_path: Path) -> None:
    """A real kill -9: no shard, and the next attempt leaves nothing of the dead one."""
    write_shard(tmp_path / "whole" / "s", 30)
    folder = tmp_path / "killed" / "s"
    child = os.fork()
    if child == 0:
        writer = ShardWriter(folder, 600)
        for row in random_rows(30, 600, 0):
            add_row(writer, row)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = [path.name for path in folder.parent.iterdir()]
    assert len(left) == 1 and left[0].startswith(".s."), "control: it was killed half-way"
    assert not is_whole(folder)
    write_shard(folder, 30)
    assert [path.name for path in folder.parent.iterdir()] == ["s"]
    assert contents(folder) == contents(tmp_path / "whole" / "s")


def test_two_attempts_at_once_leave_one_whole_shard(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    first = ShardWriter(folder, 600)
    temporary = first._temporary
    first._temporary = temporary.rename(tmp_path / ".s.elsewhere-1.tmp")  # as if of another host
    second = ShardWriter(folder, 600)
    for row in random_rows(20, 600, 0):
        add_row(first, row)
        add_row(second, row)
    marker = second.finish(split="dev")
    before = contents(folder)
    inode = (folder / ARRAYS).stat().st_ino
    assert first.finish(split="dev") == marker
    assert contents(folder) == before and (folder / ARRAYS).stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    verify_shards([folder])


def test_many_attempts_race_to_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All join their arrays, then rename at the same moment: each succeeds, one folder is left."""
    folder, barrier = tmp_path / "s", threading.Barrier(4)
    writers = []
    for number in range(4):
        writer = ShardWriter(folder, 600)
        writer._temporary = writer._temporary.rename(tmp_path / f".s.host-{number}.tmp")
        for row in random_rows(5, 600, 0):
            add_row(writer, row)
        writers.append(writer)
    problems: list[BaseException] = []

    def finish(writer: ShardWriter) -> None:
        try:
            layout = writer._join_arrays()
            barrier.wait(10)
            writer._publish(layout, {})
        except FileNotFoundError:
            assert is_whole(folder), "swept away by the one that has won: `finish` lets that pass"
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=finish, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert problems == []
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    verify_shards([folder])


def test_a_broken_shard_is_replaced(tmp_path: Path) -> None:
    write_shard(tmp_path / "s")
    good = contents(tmp_path / "s")
    (tmp_path / "s" / ARRAYS).write_bytes(good[ARRAYS][:-1])
    assert not is_whole(tmp_path / "s")
    write_shard(tmp_path / "s")
    assert contents(tmp_path / "s") == good


def test_a_full_disk_is_said_once_and_leaves_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s", 600)

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    writer._streams["context_tokens"].close()
    writer._streams["context_tokens"] = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        add_row(writer, next(random_rows(1, 600, 0)))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


# ---- Damaged ----


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with two good shards; tests damage the second."""
    for index in range(2):
        write_shard(tmp_path / shard_name("train", index, 2), seed=index)
    return tmp_path


def test_a_flipped_bit_is_found_and_named(damaged: Path) -> None:
    verify_shards(find_shards(damaged, "train", 2)[0])
    path = damaged / shard_name("train", 1, 2) / ARRAYS
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BrokenFileError, match=r"train-00001-of-00002/arrays.bin: its sha256"):
        verify_shards(find_shards(damaged, "train", 2)[0])


@pytest.mark.parametrize("damage", ["cut", "longer", "no file", "no marker", "half a marker"])
def test_what_is_not_whole_is_missing_and_named(damaged: Path, damage: str) -> None:
    folder = damaged / shard_name("train", 1, 2)
    path, marker = folder / ARRAYS, folder / MARKER
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "longer":
        path.write_bytes(data + b"\0")
    elif damage == "no file":
        path.unlink()
    elif damage == "no marker":
        marker.unlink()
    else:
        marker.write_bytes(marker.read_bytes()[:100])
    done, missing = find_shards(damaged, "train", 2)
    assert [path.name for path in done] == ["train-00000-of-00002"]
    assert [path.name for path in missing] == ["train-00001-of-00002"]
    with pytest.raises(BrokenFileError, match="train-00001-of-00002"):
        open_split([*done, *missing])


def test_another_kind_of_marked_folder_is_no_shard(tmp_path: Path) -> None:
    files.write_marker(tmp_path)
    with pytest.raises(BrokenFileError, match="isn't a finished shard"):
        Shard(tmp_path)


# ---- Cost ----


def test_memory_does_not_grow_with_the_examples(tmp_path: Path) -> None:
    """What is held: a block of each file that is copied or hashed, never a shard."""
    tokens = np.arange(1500)
    tracemalloc.start()
    try:
        writer = ShardWriter(tmp_path / "s", 600)
        for number in range(2000):
            context = writer.add_context("word " * 1500, tokens, tokens, tokens)
            example = writer.add_example(context, range(20), {"id": str(number)})
            writer.add_window(example, (0, 300), (KIND_NULL, 0, 0), 323)
            if number == 200:
                early = tracemalloc.get_traced_memory()[1]
        late = tracemalloc.get_traced_memory()[1]
        writer.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "s" / ARRAYS).stat().st_size
    assert size > 40_000_000, "control: there is something to keep in memory"
    assert late < early + 200_000, f"{early:,} bytes after 200 examples, {late:,} after 2,000"
    assert peak < 12_000_000


def test_examples_asked_otherwise_keep_their_contexts(tmp_path: Path) -> None:
    """In memory: two of the examples, in another order, with questions and windows of their own."""
    rows = write_shard(tmp_path / "s", num_examples=5)
    shard = Shard(tmp_path / "s")
    before = {name: shard[name].copy() for name in shard.marker["arrays"]}
    other = shard.asked_otherwise(
        [3, 1], [[7, 8, 9], [5]], [(0, 0, 2, 9), (0, 1, 3, 9), (1, 0, 1, 4)]
    )
    assert (other.num_examples, other.num_windows) == (2, 3)
    assert [other.example(i) for i in range(2)] == [shard.example(3), shard.example(1)]
    assert [other.ragged("question_tokens", i).tolist() for i in range(2)] == [[7, 8, 9], [5]]
    for place, example in enumerate((3, 1)):
        context = int(other["example_context"][place])
        assert other.context_text(context) == rows[example]["text"]
    assert other["window_example"].tolist() == [0, 0, 1]
    assert other["window_from"].tolist() == [0, 1, 0] and other["window_to"].tolist() == [2, 3, 1]
    assert other["window_length"].tolist() == [9, 9, 4]
    assert set(other["window_kind"].tolist()) == {KIND_NULL}
    assert {name: other[name].dtype for name in before} == {n: a.dtype for n, a in before.items()}
    assert all(np.array_equal(shard[name], rows) for name, rows in before.items()), "untouched"
