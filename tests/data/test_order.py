"""The order is a pure function of (fingerprint, seed, step), for any number of ranks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qa_dist.data.order import PAD_MULTIPLE, POOL_BATCHES, Order, mix, permute

FINGERPRINT = "0123456789abcdef0123456789abcdef"


def make_order(
    lengths: NDArray[np.uint16],
    batch_windows: int = 4,
    micro_batch_tokens: int = 1 << 20,
    min_micro_batches: int = 1,
    seed: int = 1,
    fingerprint: str = FINGERPRINT,
) -> Order:
    return Order(fingerprint, seed, lengths, batch_windows, micro_batch_tokens, min_micro_batches)


def random_lengths(num: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(5, 300, num).astype(np.uint16)


def epoch(order: Order, number: int = 0) -> list[int]:
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return [int(window) for step in steps for window in order.batch(step)]


@st.composite
def orders(draw: st.DrawFn) -> Order:
    num = draw(st.integers(1, 200))
    return make_order(
        random_lengths(num, draw(st.integers(0, 5))),
        batch_windows=draw(st.integers(1, 40)),
        micro_batch_tokens=draw(st.sampled_from([8, 304, 1000, 5000, 10**9])),
        min_micro_batches=draw(st.integers(1, 6)),
        seed=draw(st.integers(0, 2**32 - 1)),
        fingerprint=draw(st.text("0123456789abcdef", min_size=16, max_size=64)),
    )


# ---- Permutations ----


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 1023, 1025, 4097])
def test_permute_is_a_bijection(size: int) -> None:
    sent = permute(np.arange(size), size, key=mix(size))
    assert sorted(sent.tolist()) == list(range(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.data())
def test_permute_sends_a_position_to_the_same_place_in_any_company(
    size: int, key: int, data: st.DataObject
) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=9, unique=True))
    together = permute(np.array(positions), size, key).tolist()
    alone = [permute(np.array([position]), size, key).tolist()[0] for position in positions]
    assert together == alone
    assert len(set(together)) == len(positions)
    assert all(0 <= place < size for place in together)


def test_permute_mixes_well_and_keys_differ() -> None:
    size = 1000
    rows = np.array([permute(np.arange(size), size, mix(key)) for key in range(200)])
    assert len({row.tobytes() for row in rows}) == 200
    # Each window is as likely in the first half of an epoch as in the second: 100 +- 7.1.
    in_first_half = (rows[:, : size // 2, None] == np.arange(0, size, 50)).any(axis=1).sum(axis=0)
    assert in_first_half.min() > 60 and in_first_half.max() < 140
    fixed = (rows == np.arange(size)).sum(axis=1)  # 1 each on average
    assert 0.6 < fixed.mean() < 1.5
    apart = np.abs(np.diff(rows, axis=1)).mean()  # a third of the size for random neighbours
    assert 300 < apart < 367


def test_mix_depends_on_each_value_and_on_their_order() -> None:
    values = {mix(1, 2, 3), mix(1, 2, 4), mix(1, 3, 2), mix(2, 1, 3), mix(1, 2), mix(1, 2, 3, 0)}
    assert len(values) == 6
    assert all(0 <= value < 1 << 64 for value in values)
    assert mix(1, 2, 3) == mix(1, 2, 3)


# ---- Steps ----


def test_the_order_is_the_same_for_ever() -> None:
    """Golden: a run that goes on with another NumPy or after a rewrite must see its own windows."""
    order = make_order(np.full(11, 7, np.uint16), batch_windows=4)
    assert [order.batch(step).tolist() for step in range(6)] == [
        *([0, 7, 6, 1], [8, 4, 3, 10], [9, 2, 5]),
        *([9, 2, 7, 8], [6, 1, 5, 4], [3, 0, 10]),
    ]
    order = make_order((np.arange(11) * 7 % 11).astype(np.uint16), batch_windows=4)
    assert [order.batch(step).tolist() for step in range(3)] == [
        *([6, 1, 7, 0], [3, 4, 10, 8], [9, 2, 5]),  # three pools of one batch each
    ]


@settings(max_examples=25, deadline=None)
@given(orders(), st.randoms(use_true_random=False))
def test_seeking_gives_what_walking_gives(order: Order, random: object) -> None:
    num = min(3 * order.steps_per_epoch, 40)
    walked = [order.batch(step).tolist() for step in range(num)]
    steps = list(range(num))
    random.shuffle(steps)  # type: ignore[attr-defined]
    for step in steps[:8]:
        fresh = make_order(
            order.lengths,
            order.batch_windows,
            order.micro_batch_tokens,
            order.min_micro_batches,
            order.seed,
            order.fingerprint,
        )
        assert fresh.batch(step).tolist() == walked[step]


@settings(max_examples=25, deadline=None)
@given(orders(), st.integers(0, 3))
def test_each_window_comes_exactly_once_in_each_epoch(order: Order, number: int) -> None:
    assert sorted(epoch(order, number)) == list(range(len(order.lengths)))
    first = number * order.steps_per_epoch
    sizes = [len(order.batch(first + i)) for i in range(order.steps_per_epoch)]
    assert set(sizes[:-1]) <= {order.batch_windows}, "only an epoch's last batch may be short"
    assert 0 < sizes[-1] <= order.batch_windows
    assert order.epoch_of(first) == order.epoch_of(first + order.steps_per_epoch - 1) == number


def test_epochs_seeds_and_data_have_orders_of_their_own() -> None:
    lengths = random_lengths(200)
    order = make_order(lengths)
    others = [
        epoch(order, 1),
        epoch(make_order(lengths, seed=2)),
        epoch(make_order(lengths, fingerprint="f" + FINGERPRINT[1:])),
    ]
    assert epoch(make_order(lengths)) == epoch(order), "control: equal for equal arguments"
    assert len({tuple(windows) for windows in [epoch(order), *others]}) == 4


def test_long_and_short_batches_are_mixed() -> None:
    order = make_order(random_lengths(POOL_BATCHES * 4 * 8), batch_windows=4)
    means = np.array([order.lengths[order.batch(step)].mean() for step in range(POOL_BATCHES)])
    assert abs(np.corrcoef(means, np.arange(POOL_BATCHES))[0, 1]) < 0.4, "no trend in a pool"
    assert means.std() > 50, "control: batches do differ in length"


# ---- Micro-batches ----


@settings(max_examples=60, deadline=None)
@given(orders(), st.integers(0, 10**6))
def test_micro_batches_together_are_the_batch_and_keep_the_token_budget(
    order: Order, step: int
) -> None:
    parts = order.micro_batches(step)
    batch = order.batch(step)
    assert np.concatenate(parts).tolist() == batch.tolist()
    assert len(parts) >= order.min_micro_batches
    for part in parts:
        if len(part) > 1:
            width = -(-int(order.lengths[part].max()) // PAD_MULTIPLE) * PAD_MULTIPLE
            assert len(part) * width <= order.micro_batch_tokens
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1, "ranks have about as much to do"
    if len(parts) > order.min_micro_batches:  # no smaller number would do
        fewer = np.array_split(batch, len(parts) - 1)
        widths = [
            -(-int(order.lengths[part].max()) // PAD_MULTIPLE) * PAD_MULTIPLE for part in fewer
        ]
        assert any(
            len(part) * width > order.micro_batch_tokens
            for part, width in zip(fewer, widths, strict=True)
        )


def test_padding_counts_in_the_token_budget() -> None:
    order = make_order(np.full(8, 121, np.uint16), batch_windows=8, micro_batch_tokens=4 * 127)
    assert [len(part) for part in order.micro_batches(0)] == [3, 3, 2]  # 121 is padded to 128
    order = make_order(np.full(8, 121, np.uint16), batch_windows=8, micro_batch_tokens=4 * 128)
    assert [len(part) for part in order.micro_batches(0)] == [4, 4]


def test_a_short_last_batch_has_as_many_micro_batches_some_of_them_empty() -> None:
    order = make_order(random_lengths(9), batch_windows=4, min_micro_batches=4)
    assert [len(part) for part in order.micro_batches(1)] == [1, 1, 1, 1]
    assert [len(part) for part in order.micro_batches(2)] == [1, 0, 0, 0]


@settings(max_examples=40, deadline=None)
@given(orders(), st.integers(0, 1000))
def test_ranks_of_any_world_share_out_the_same_micro_batches(order: Order, step: int) -> None:
    whole = {tuple(part.tolist()) for part in order.micro_batches(step) if len(part)}
    for world_size in (1, 2, 4):
        shares = [order.micro_batches(step)[rank::world_size] for rank in range(world_size)]
        dealt = [tuple(part.tolist()) for share in shares for part in share if len(part)]
        assert set(dealt) == whole and len(dealt) == len(whole)


# ---- Cost ----


def efficiency(lengths: NDArray[np.uint16], batches: list[NDArray[np.int64]]) -> float:
    """Real tokens over tokens with padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return float(sum(int(lengths[batch].sum()) for batch in batches) / padded)


def test_batches_hold_little_padding() -> None:
    skewed = np.random.default_rng(3).lognormal(4.5, 0.6, 5000).clip(10, 384).astype(np.uint16)
    order = make_order(skewed, batch_windows=32)
    batches = [order.batch(step) for step in range(order.steps_per_epoch)]
    shuffled = permute(np.arange(5000), 5000, 1)
    unsorted = [shuffled[i : i + 32] for i in range(0, 5000, 32)]
    assert efficiency(skewed, batches) > 0.9
    assert efficiency(skewed, unsorted) < 0.6, "control: without sorting there is much padding"


def test_the_time_of_a_step_does_not_grow_with_the_data() -> None:
    order = make_order(np.ones(10_000_000, np.uint16), batch_windows=32)
    order.batch(0)
    spent = []
    for step in (0, 123_456, order.steps_per_epoch - 2, 10**9):
        started = time.process_time()
        windows = order.batch(step)
        spent.append(time.process_time() - started)
        assert len(np.unique(windows)) == 32 and windows.max() < 10_000_000
    assert min(spent) < 0.05, f"{spent} s for a step; permuting all of it takes seconds"
