"""Which source each step trains on: a pure function of the step.

The sources' turns repeat in a cycle. Each source counts its own steps, and its order (order.py) has
epochs of its own, so a short source simply starts again. No torch, no files, no state.

Worked example. Sources with 2 and 4 steps in an epoch. Round robin: 0 1 0 1 ..., so after 8 steps
the first has been seen twice, the second once. Proportional: a cycle of 6 steps, 1 0 1 1 0 1, each
source's turns spread evenly. Temperature 2 takes the square roots, 1.41 and 2: of 6 steps 2.49 and
3.51, rounded to 2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def make_cycle(
    mixing: str, temperature: float, steps_per_epoch: Sequence[int]
) -> NDArray[np.int64]:
    """Return the source of each step of a cycle: (steps,), each source at least once.

    mixing: "round_robin", "proportional" or "temperature" (`temperature` >= 1).
    """
    sizes = np.asarray(steps_per_epoch, dtype=np.float64)
    if mixing == "round_robin":
        return np.arange(len(sizes))
    powers = sizes ** (1.0 / temperature) if mixing == "temperature" else sizes
    shares = sizes.sum() * powers / powers.sum()
    counts = np.maximum(1, np.floor(shares)).astype(np.int64)
    # The largest remainders get what rounding down has left.
    for source in np.argsort(counts - shares, kind="stable")[
        : max(0, round(sizes.sum()) - int(counts.sum()))
    ]:
        counts[source] += 1
    turns = [(np.arange(count) + 0.5) / count for count in counts]
    sources = np.repeat(np.arange(len(counts)), counts)
    return sources[np.argsort(np.concatenate(turns), kind="stable")]


class Mixture:
    """The turns of a run's sources, found at once for any step."""

    def __init__(self, cycle: NDArray[np.int64]) -> None:
        """`cycle`: the source of each step of a cycle, as make_cycle gives it."""
        self._cycle = cycle
        is_turn = cycle[None, :] == np.arange(cycle.max() + 1)[:, None]
        self._before = np.zeros((len(is_turn), len(cycle) + 1), dtype=np.int64)
        np.cumsum(is_turn, axis=1, out=self._before[:, 1:])

    def locate(self, step: int) -> tuple[int, int]:
        """Return the source of step `step` (from 0), and how many steps that source had before."""
        source = int(self._cycle[step % len(self._cycle)])
        return source, self.count(source, step)

    def count(self, source: int, steps: int) -> int:
        """Return how many of the first `steps` steps are this source's."""
        cycles, rest = divmod(steps, len(self._cycle))
        return int(cycles * self._before[source, -1] + self._before[source, rest])
