"""Splits don't overlap, have the sizes asked for, and don't depend on the number of shards."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_dist.data.raw_records import RecordIndex
from qa_dist.data.splits import (
    SPLITS,
    choose_questions,
    choose_records,
    question_offsets,
    split_records,
)
from qa_dist.recipe import Source
from qa_dist.records import InputError


def index_of(groups: list[int], num_questions: list[int]) -> RecordIndex:
    nothing = np.zeros(0, dtype=np.int64)
    rows = np.arange(len(groups), dtype=np.int64)
    return RecordIndex(
        starts=rows,
        ends=rows + 1,
        groups=np.array(groups, dtype=np.int32),
        num_questions=np.array(num_questions, dtype=np.int32),
        name_starts=nothing,
        name_ends=nothing,
    )


@st.composite
def indexes(draw) -> RecordIndex:
    sizes = draw(st.lists(st.integers(0, 4), min_size=3, max_size=30))  # records of each group
    groups = [group for group, size in enumerate(sizes) for _ in range(size)] or [5]
    questions = st.lists(st.integers(0, 9), min_size=len(groups), max_size=len(groups))
    return index_of(groups, draw(questions))


SEEDS = st.integers(-(2**70), 2**70)


@given(indexes(), st.sampled_from([0.0, 0.1, 0.25]), st.sampled_from([0.0, 0.1, 0.3]), SEEDS)
def test_splits_are_a_partition_of_whole_groups(index, dev_fraction, heldout_fraction, seed):
    source = Source(
        train="x.json",
        dev_fraction=dev_fraction,
        heldout_fraction=heldout_fraction,
        subset_seed=seed,
    )
    try:
        parts = {split: choose_records(index, split, source) for split in SPLITS}
    except InputError as error:
        assert "leave none to train on" in str(error)
        return
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(index)))
    groups = {split: set(index.groups[records].tolist()) for split, records in parts.items()}
    assert sum(map(len, groups.values())) == len(set(index.groups.tolist()))
    assert len(groups["train"]) > 0
    for records in parts.values():
        assert (np.diff(records) > 0).all()


@pytest.mark.parametrize(
    "num_groups, dev_fraction, num_dev", [(30, 0.1, 3), (31, 0.1, 4), (10, 0.01, 1), (7, 0.0, 0)]
)
def test_fractions_are_rounded_up_as_written(num_groups, dev_fraction, num_dev):
    index = index_of(list(range(num_groups)), [1] * num_groups)
    source = Source(train="x.json", dev_fraction=dev_fraction, heldout_fraction=0.2)
    assert len(choose_records(index, "dev", source)) == num_dev
    assert len(choose_records(index, "heldout", source)) == -(-num_groups // 5)


def test_a_dev_file_is_taken_whole_and_costs_no_training_groups():
    index = index_of([0, 0, 1, 2], [1, 1, 1, 1])
    source = Source(train="x.json", dev="dev.json", dev_fraction=0.0, heldout_fraction=0.3)
    assert choose_records(index, "dev", source).tolist() == [0, 1, 2, 3]
    both = [choose_records(index, split, source) for split in ("train", "heldout")]
    assert sorted(np.concatenate(both).tolist()) == [0, 1, 2, 3]


def test_the_dev_split_does_not_depend_on_the_heldout_fraction():
    index = index_of(list(range(50)), [1] * 50)
    chosen = [
        choose_records(index, "dev", Source(dev_fraction=0.2, heldout_fraction=fraction)).tolist()
        for fraction in (0.0, 0.1, 0.4)
    ]
    assert chosen[0] == chosen[1] == chosen[2]


def test_seeds_choose_differently_and_evenly():
    index = index_of(list(range(20)), [1] * 20)
    counts = np.zeros(20, dtype=int)
    for seed in range(500):
        source = Source(dev_fraction=0.25, subset_seed=seed)
        counts[choose_records(index, "dev", source)] += 1
    assert counts.sum() == 2500
    assert counts.min() > 80 and counts.max() < 170  # 125 +- 4.6 standard deviations


def test_a_choice_is_the_same_for_ever():
    """Golden: another NumPy or a rewrite must not move anyone's held-out articles."""
    index = index_of(list(range(12)), [2] * 12)
    source = Source(dev_fraction=0.25, heldout_fraction=0.25, subset_seed=7)
    chosen = {split: choose_records(index, split, source).tolist() for split in SPLITS}
    assert chosen == GOLDEN_RECORDS
    mask = choose_questions(index, np.arange(12), 5, seed=7)
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == GOLDEN_QUESTIONS


GOLDEN_RECORDS = {"train": [1, 2, 4, 7, 8, 11], "heldout": [0, 3, 6], "dev": [5, 9, 10]}
GOLDEN_QUESTIONS = [3, 4, 6, 12, 14]


def test_unknown_split():
    with pytest.raises(ValueError, match="'test'"):
        choose_records(index_of([0], [1]), "test", Source())


# --- Questions ---


@given(indexes(), st.data())
def test_exactly_so_many_questions_of_the_records_are_drawn(index, data):
    records = np.array(sorted(data.draw(st.sets(st.integers(0, len(index) - 1)))), dtype=np.int64)
    num_questions = int(index.num_questions[records].sum())
    wanted = data.draw(st.integers(0, num_questions + 2))
    mask = choose_questions(index, records, wanted, data.draw(SEEDS))
    if wanted == 0 or wanted >= num_questions:
        assert mask is None
        return
    assert mask is not None and mask.dtype == np.bool_
    assert mask.sum() == wanted
    offsets = question_offsets(index)
    assert len(mask) == offsets[-1]
    of_records = sum(int(mask[offsets[r] : offsets[r + 1]].sum()) for r in records)
    assert of_records == wanted


def test_a_larger_draw_holds_the_smaller_one():
    index = index_of([0] * 40, [3] * 40)
    masks = [choose_questions(index, np.arange(40), n, seed=1) for n in (10, 20, 60)]
    for small, large in pairwise(masks):
        assert small is not None and large is not None
        assert (small & ~large).sum() == 0


def test_question_draws_are_even():
    index = index_of([0] * 10, [2] * 10)
    counts = np.zeros(20, dtype=int)
    for seed in range(500):
        counts += choose_questions(index, np.arange(10), 5, seed)
    assert counts.min() > 80 and counts.max() < 170


# --- Shards ---


@given(indexes(), st.integers(1, 40), st.data())
def test_shards_in_a_row_are_the_records(index, num_shards, data):
    records = np.array(sorted(data.draw(st.sets(st.integers(0, len(index) - 1)))), dtype=np.int64)
    shards = split_records(index, records, num_shards)
    assert len(shards) == num_shards
    assert np.concatenate(shards).tolist() == records.tolist()
    sizes = [int(index.num_questions[shard].sum()) for shard in shards]
    largest = int(index.num_questions[records].max(initial=0))
    assert max(sizes) <= sum(sizes) / num_shards + largest


def test_shards_are_balanced_by_questions():
    index = index_of([0] * 8, [70, 1, 1, 1, 1, 1, 1, 64])
    shards = split_records(index, np.arange(8), 2)
    assert [int(index.num_questions[shard].sum()) for shard in shards] == [70, 70]
    assert sum(map(len, split_records(index, np.arange(3), 5))) == 3  # two or more are empty


def test_records_without_questions_are_dealt_out_evenly():
    shards = split_records(index_of([0] * 6, [0] * 6), np.arange(6), 3)
    assert [shard.tolist() for shard in shards] == [[0, 1], [2, 3], [4, 5]]
