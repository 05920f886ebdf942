"""Which windows step s trains on: a pure function of (data fingerprint, seed, s), the same for
every world size.

An epoch is a keyed permutation of all windows (a Feistel network: any position is found at once,
nothing is kept). It is cut into pools of some dozens of batches; a pool is sorted by length and cut
into batches, whose order is drawn again, so that a batch holds windows of like length and little
padding. A batch is cut into M micro-batches under the token budget; rank r of W takes micro-batches
r, r + W, r + 2W ... No torch, no files, no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qa_dist.records import PAD_MULTIPLE

POOL_BATCHES = 64
_ROUNDS = 4
_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """Return 64 well-mixed bits of some integers (splitmix64 over each in turn)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ (value & _MASK)) & _MASK
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _mix_array(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    x: NDArray[np.uint64] = values + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def permute(positions: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Return where a keyed permutation of range(size) sends each position; memory grows with
    `positions` only.

    Feistel network over the next even power of two, walked on until the value falls inside the
    range (Black & Rogaway 2002, "cycle walking").
    """
    half_bits = max(1, math.ceil(max(size - 1, 1).bit_length() / 2))
    low = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    keys = [mix(key, r) for r in range(_ROUNDS)]
    out = positions.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        left, right = out[todo] >> shift, out[todo] & low
        for round_key in keys:
            left, right = right, left ^ (_mix_array(right, round_key) & low)
        out[todo] = (left << shift) | right
        todo = todo[out[todo] >= size]
    return out.astype(np.int64)


@dataclass(frozen=True)
class Order:
    """The order of a run."""

    fingerprint: str
    """Of the prepared data (hex)."""
    seed: int
    lengths: NDArray[np.uint16]
    """Tokens of each window: (windows,)."""
    batch_windows: int
    micro_batch_tokens: int
    min_micro_batches: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_windows)

    @property
    def pool_batches(self) -> int:
        """Batches that are sorted by length together: an epoch has at least some eight pools.

        With a single pool, windows of one length would meet in the same batch in each epoch.
        """
        return min(POOL_BATCHES, max(1, self.steps_per_epoch // 8))

    def epoch_of(self, step: int) -> int:
        """Return the epoch (from 0) that step `step` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the window numbers of step `step`, longest first. Within an epoch each window
        comes once."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        pool, batch_in_pool = divmod(batch, self.pool_batches)
        key = mix(int(self.fingerprint[:16], 16), self.seed, epoch)
        num_windows = len(self.lengths)
        first = pool * self.pool_batches * self.batch_windows
        size = min(self.pool_batches * self.batch_windows, num_windows - first)
        windows = permute(np.arange(first, first + size), num_windows, key)
        windows = windows[np.argsort(-self.lengths[windows].astype(np.int64), kind="stable")]
        # The epoch's last batch may be short; it keeps its place at the short end, the others
        # change places.
        num_full = size // self.batch_windows
        place = num_full
        if batch_in_pool < num_full:
            position = np.array([batch_in_pool])
            place = int(permute(position, num_full, mix(key, pool))[0])
        return windows[place * self.batch_windows : (place + 1) * self.batch_windows]

    def micro_batches(self, step: int) -> list[NDArray[np.int64]]:
        """Return step `step` cut into M micro-batches, M >= `min_micro_batches`; some may be empty
        in a short batch.

        M is the smallest for which windows times the longest, as padded, stays within the token
        budget in each of them; a single window may exceed it.
        """
        windows = self.batch(step)
        widths = -(-self.lengths[windows].astype(np.int64) // PAD_MULTIPLE) * PAD_MULTIPLE
        num = max(1, self.min_micro_batches)
        while num < len(windows):
            parts = np.array_split(widths, num)
            if all(len(p) * int(p[0]) <= self.micro_batch_tokens for p in parts if len(p)):
                break
            num += 1
        return np.array_split(windows, num)
