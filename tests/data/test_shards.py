"""Shards: what was written is read, twice the same bytes, and nothing half-written is believed."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_rows import read_rows, write_shard

from qa_dist import files
from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import (
    ARRAYS,
    KIND_NULL,
    Shard,
    find_shards,
    open_split,
    verify_shards,
)
from qa_dist.files import MARKER, BrokenFileError
from qa_dist.run_dir import shard_name


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


@pytest.mark.parametrize("count", [0, 1, 256, 257, 600])
def test_ids_are_those_of_all_examples_in_order(count: int, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "s", 600)
    tokens = np.arange(2)
    context = writer.add_context("a b", tokens, tokens, tokens)
    names = [f'q{number} "é"' for number in range(count)]
    for name in names:
        writer.add_example(context, [1], {"id": name, "rule": "coqa"})
    writer.finish()
    assert [*Shard(tmp_path / "s").ids()] == names


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
    assert size > 30_000_000, "control: there is something to keep in memory"
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
    wider = {"question_tokens_offsets", "example_json_offsets"}
    assert {n for n in before if other[n].dtype != before[n].dtype} == wider
    assert all(np.array_equal(shard[name], rows) for name, rows in before.items()), "untouched"


def test_longer_questions_fit_where_the_shards_own_offsets_are_narrow(tmp_path: Path) -> None:
    write_shard(tmp_path / "s", num_examples=2)
    shard = Shard(tmp_path / "s")
    name = "question_tokens_offsets"
    shard._arrays[name] = shard[name].astype(np.uint8)  # as narrow as can be
    long = [n % 600 for n in range(300)]
    other = shard.asked_otherwise([0, 1], [long, long[:3]], [(0, 0, 2, 9), (1, 0, 2, 9)])
    assert [other.ragged("question_tokens", i).tolist() for i in range(2)] == [long, long[:3]]
    assert len(long) > np.iinfo(shard[name].dtype).max, "control: it wouldn't have fitted"
