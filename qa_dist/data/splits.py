"""Which records and questions make up a split, and how they are dealt out to shards.

In: a RecordIndex and a recipe's Source. Out: record numbers, a mask of questions. Every choice is a
pure function of (seed, ordinal in the file): the same for any number of shards, on any machine and
any version of NumPy, whose generators are not used. Reads no files.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qa_dist.data.order import mix
from qa_dist.data.raw_records import RecordIndex
from qa_dist.recipe import Source
from qa_dist.records import InputError

SPLITS = ("train", "heldout", "dev")

_GROUP_SALT, _QUESTION_SALT = 1, 2  # so that the draws of groups and of questions are unrelated


def choose_records(index: RecordIndex, split: str, source: Source) -> NDArray[np.int64]:
    """Choose the records of "train", "heldout" or "dev", ascending.

    index: of `source.dev` for "dev" where that is given (all its records), else of `source.train`.
    The training file's groups, in an order drawn with `subset_seed`, are: dev (if `source.dev` is
    empty), heldout, train. Raises InputError where nothing is left to train on.
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {SPLITS}, not {split!r}")
    if split == "dev" and source.dev:
        return np.arange(len(index), dtype=np.int64)
    # Not unique and isin: for them NumPy loads its masked arrays, a tenth of all that it has.
    sizes = np.bincount(index.groups)
    ordinals = np.flatnonzero(sizes)
    order = ordinals[np.argsort(_hashes(source.subset_seed, _GROUP_SALT, ordinals))]
    num_dev = 0 if source.dev else _num_groups(source.dev_fraction, len(order))
    num_heldout = _num_groups(source.heldout_fraction, len(order))
    if num_dev + num_heldout >= len(order):
        raise InputError(
            f"{source.train}: has {len(order)} articles or stories; {num_dev} for dev_fraction "
            f"and {num_heldout} for heldout_fraction leave none to train on; lower them"
        )
    first, last = {
        "dev": (0, num_dev),
        "heldout": (num_dev, num_dev + num_heldout),
        "train": (num_dev + num_heldout, len(order)),
    }[split]
    is_chosen = np.zeros(len(sizes), dtype=np.bool_)
    is_chosen[order[first:last]] = True
    return np.flatnonzero(is_chosen[index.groups]).astype(np.int64)


def _num_groups(fraction: float, num_groups: int) -> int:
    # As written: 0.1 of 30 groups is 3; in binary it is a little more, which ceil makes 4.
    return math.ceil(Fraction(repr(fraction)) * num_groups)


def question_offsets(index: RecordIndex) -> NDArray[np.int64]:
    """Return the ordinal in the file of each record's first question; last, the number of all."""
    offsets = np.zeros(len(index) + 1, dtype=np.int64)
    np.cumsum(index.num_questions, out=offsets[1:])
    return offsets


def choose_questions(
    index: RecordIndex, records: NDArray[np.int64], max_examples: int, seed: int
) -> NDArray[np.bool_] | None:
    """Draw `max_examples` questions of `records` without replacement; None: all, as for 0.

    The mask is over all questions of the file: question k of record r is
    `mask[question_offsets(index)[r] + k]`.
    """
    if max_examples <= 0:
        return None
    of_split = np.zeros(len(index), dtype=np.bool_)
    of_split[records] = True
    mask = np.repeat(of_split, index.num_questions)
    if max_examples >= np.count_nonzero(mask):
        return None
    ordinals = np.flatnonzero(mask)
    hashes = _hashes(seed, _QUESTION_SALT, ordinals)
    last = np.partition(hashes, max_examples - 1)[max_examples - 1]
    chosen = np.zeros(len(mask), dtype=np.bool_)
    chosen[ordinals[hashes <= last]] = True  # no two hashes are equal: exactly max_examples
    return chosen


def split_records(
    index: RecordIndex, records: NDArray[np.int64], num_shards: int
) -> list[NDArray[np.int64]]:
    """Cut `records` into `num_shards` runs with about as many questions each; some may be empty."""
    sizes = index.num_questions[records].astype(np.int64)
    if not sizes.any():
        sizes = np.ones_like(sizes)
    ends = np.cumsum(sizes)
    # A record belongs to the shard in which its middle falls.
    middles = 2 * ends - sizes
    shards = np.minimum(middles * num_shards // (2 * max(1, int(sizes.sum()))), num_shards - 1)
    cuts = np.searchsorted(shards, np.arange(1, num_shards))
    return np.split(records, cuts)


def _hashes(seed: int, salt: int, ordinals: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash each ordinal by splitmix64's last steps, a bijection: no two hashes are equal."""
    values: NDArray[np.uint64] = ordinals.astype(np.uint64) + np.uint64(mix(seed, salt))
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
