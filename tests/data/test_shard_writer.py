"""A shard appears whole or not at all, whoever else makes it at the same time."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from shard_rows import add_row, contents, random_rows, write_shard

from qa_dist.data.shard_writer import ShardWriter, narrowed, token_dtype
from qa_dist.data.shards import (
    ARRAYS,
    Shard,
    is_whole,
    verify_shards,
)


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


@pytest.mark.parametrize("largest", [0, 65_535, 65_536, (1 << 32) - 1])
def test_places_take_two_bytes_where_all_fit(tmp_path: Path, largest: int) -> None:
    """One large value anywhere makes all of its array wide, and of no other."""
    tokens, starts, ends = np.arange(3), np.array([7, largest, 8]), np.array([9, 10, 11])
    for name in ("a", "b"):
        writer = ShardWriter(tmp_path / name, 600)
        writer.add_context("x", tokens, starts, ends)
        writer.add_context("y", tokens, ends, ends)
        writer.finish()
    shard = Shard(tmp_path / "a")
    is_wide = largest > 65_535
    assert shard["char_starts"].dtype == (np.uint32 if is_wide else np.uint16)
    assert shard["char_ends"].dtype == np.uint16
    assert shard["char_starts"].tolist() == [7, largest, 8, 9, 10, 11]
    assert (np.array([largest]).astype(np.uint16)[0] != largest) == is_wide, "control"
    assert shard["context_tokens_offsets"].dtype == np.uint32
    assert shard["context_tokens_offsets"].tolist() == [0, 3, 6]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_width_is_left_at_its_last_value() -> None:
    ends = [(1 << 32) - 1, 1 << 32]
    assert [narrowed("uint64", "uint32", end) for end in ends] == ["uint32", "uint64"]


def test_more_values_than_one_block_are_narrowed(tmp_path: Path) -> None:
    places = np.arange(1 << 16).repeat(40)  # 10 MB, of which 4 are converted at a time
    writer = ShardWriter(tmp_path / "s", 600)
    writer.add_context("x", places % 600, places, places[::-1])
    writer.finish()
    shard = Shard(tmp_path / "s")
    assert shard["char_starts"].dtype == shard["char_ends"].dtype == np.uint16
    assert np.array_equal(shard["char_starts"], places)
    assert np.array_equal(shard["char_ends"], places[::-1])


def test_facts_that_examples_share_are_kept_once(tmp_path: Path) -> None:
    facts = [
        {"id": str(i), "rule": "coqa" if i == 2 else "squad_v1", "facets": {"turn": "1"}}
        for i in range(4)
    ]
    writer = ShardWriter(tmp_path / "s", 600)
    context = writer.add_context("x", *3 * [np.arange(2)])
    for each in facts:
        writer.add_example(context, [1], each)
    with pytest.raises(ValueError, match="lacks what the examples before have"):
        writer.add_example(context, [1], {"id": "4", "rule": "coqa"})
    writer.finish()
    shard = Shard(tmp_path / "s")
    assert [shard.example(i) for i in range(4)] == facts
    stored = shard["example_json"].tobytes()
    assert (stored.count(b"facets"), stored.count(b"rule")) == (0, 1)


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
        for row in random_rows(2000, 600, 0):  # rows are written some at a time
            add_row(writer, row)
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


# ---- Damaged ----
