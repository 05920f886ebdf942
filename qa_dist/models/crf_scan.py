"""log Z of a linear-chain CRF and its gradient, by a tree scan instead of step after step.

Step t is a matrix of scores (label before, label after); neighbours are joined by log-sum-exp over
the label between them, on a way up and a way down a tree of log2 T levels. The gradient of log Z is
the probability of each pair of neighbouring labels, in closed form from the same tree. Scores are
summed in float64, whatever autocast says: in fp32, log Z of 400 tokens would be wrong by 5e-4. They
are in bits (divided by ln 2), as powers of 2 take a CPU a ninth of the time of powers of e where
some vanish; those of (score - highest score) are taken in the emissions' own precision, fp32 at
least. On a CPU the scan keeps to one thread: its kernels are small, and one that waits for a second
core that others hold takes a hundred times as long. B sequences, T steps, L labels, P leaves (the
steps after the first, padded); sequences are the last axis, so that kernels have long runs of
memory.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

FORBIDDEN = -1e12
"""The score of a step that isn't allowed: finite, so that no gradient becomes NaN."""
_BIT = math.log(2)
_MOST_CELLS = 1 << 23  # the tree's largest array: with more, step after step is cheaper
_TOP_NODES = 6  # so many nodes or fewer are joined one after the other


def log_likelihood(
    emissions: Tensor,
    start: Tensor,
    end: Tensor,
    transitions: Tensor,
    labels: Tensor | None,
    mask: Tensor,
) -> Tensor:
    """Return score(labels) - log Z, or -log Z where labels is None: (B,) float64, differentiable
    once by the first four.

    `emissions` (B, T, L) of any float dtype; `start`, `end` (L,), `transitions` (L, L): float64;
    `labels` (B, T) int64, of no matter off the mask; `mask` (B, T) bool, right-padded.
    """
    with torch.autocast(emissions.device.type, enabled=False):
        apply: Callable[..., Tensor] = _LogLikelihood.apply
        return apply(emissions, start, end, transitions, labels, mask)


def marginals(
    emissions: Tensor, start: Tensor, end: Tensor, transitions: Tensor, mask: Tensor
) -> Tensor:
    """Return each label's probability at each step, (B, T, L) float64, 0 off the mask; same inputs
    as `log_likelihood`."""
    with torch.no_grad(), exact(emissions.device):
        precision = _precision(emissions)
        emissions, start, end, transitions = _in_bits(emissions, start, end, transitions)
        scan = _scan(emissions, start, end, transitions, mask, precision)
        return _gradients(scan, end, mask, torch.ones_like(scan.log_z), None, precision)[0]


def _precision(emissions: Tensor) -> torch.dtype:
    return torch.promote_types(emissions.dtype, torch.float32)


def _in_bits(*scores: Tensor) -> tuple[Tensor, ...]:
    return tuple(each.double() / _BIT for each in scores)


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Without autocast and, on a CPU, with kernels in the calling thread only."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads > 1:
        torch.set_num_threads(1)  # for what this thread calls; other threads keep theirs
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


class _Tree(NamedTuple):
    """How the steps after the first are arranged."""

    depth: int
    """How often neighbours are joined."""
    tops: int
    """Nodes that are then left."""

    @property
    def leaves(self) -> int:
        return self.tops << self.depth


class _Scan(NamedTuple):
    """What the way up leaves for the way down, in bits."""

    log_z: Tensor  # (B,)
    levels: list[Tensor]  # leaves first, (L, L, P * B); each level half as wide as the one before
    heads: Tensor  # (L, tops * B): what ends before each top node, by its last label
    last: Tensor  # (L, B): all paths by their last label, without its end score


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        emissions: Tensor,
        start: Tensor,
        end: Tensor,
        transitions: Tensor,
        labels: Tensor | None,
        mask: Tensor,
    ) -> Tensor:
        with exact(emissions.device):
            ctx.dtype, ctx.precision = emissions.dtype, _precision(emissions)
            emissions, start, end, transitions = _in_bits(emissions, start, end, transitions)
            scan = _scan(emissions, start, end, transitions, mask, ctx.precision)
            value, pairs = -scan.log_z, None
            if labels is not None:
                labels = _filled(labels, mask)
                pairs = _label_pairs(labels, len(end))  # (P, B)
                cells = scan.levels[0].flatten(0, 1)  # (L * L, P * B)
                value += cells.gather(0, pairs.view(1, -1)).view(pairs.shape).sum(0)
                value += (start + emissions[:, 0]).gather(1, labels[:, :1])[:, 0]
                value += end[labels[:, -1]]
            value *= _BIT
        ctx.save_for_backward(scan.log_z, scan.heads, scan.last, end, pairs, mask, *scan.levels)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        log_z, heads, last, end, pairs, mask, *levels = ctx.saved_tensors
        with exact(grad.device):
            scan = _Scan(log_z, levels, heads, last)
            emissions, *others = _gradients(scan, end, mask, -grad, pairs, ctx.precision)
            return (emissions.to(ctx.dtype), *others, None, None)


def _scan(
    emissions: Tensor,
    start: Tensor,
    end: Tensor,
    transitions: Tensor,
    mask: Tensor,
    precision: torch.dtype,
) -> _Scan:
    """Go up the tree. A step off the mask keeps the label before it."""
    num_sequences, num_steps, num_labels = emissions.shape
    tree = _tree(num_sequences, num_steps, num_labels)
    by_step = emissions.transpose(0, 1)  # (T, B, L)
    rest = _in_leaf_order(_padded(by_step[1:], tree.leaves), tree).flatten(0, 1)
    is_on = _in_leaf_order(_padded(mask.T[1:], tree.leaves), tree).flatten()
    keep = torch.full_like(transitions, FORBIDDEN).fill_diagonal_(0.0)
    moves = transitions[:, :, None] + rest.T.contiguous()
    levels = [torch.where(is_on, moves, keep[:, :, None])]
    scratch = moves.new_empty(num_labels * moves.numel() // 2 if tree.depth else 0)
    for _ in range(tree.depth):
        left, right = levels[-1].chunk(2, 2)
        size = (num_labels, num_labels, num_labels, left.shape[2])
        cells = scratch[: num_labels * left.numel()].view(size)
        torch.add(left[:, :, None], right, out=cells)
        levels.append(_log_sum_exp(cells, 1, precision))
    heads = [start[:, None] + by_step[0].T]
    for node in levels[-1].chunk(tree.tops, 2):
        heads.append(_log_sum_exp(heads[-1][:, None] + node, 0, precision))
    last = heads.pop()
    log_z = _log_sum_exp(last + end[:, None], 0, precision)
    return _Scan(log_z, levels, torch.cat(heads, 1), last)


def _gradients(
    scan: _Scan,
    end: Tensor,
    mask: Tensor,
    weight: Tensor,
    pairs: Tensor | None,
    precision: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Go down the tree; return `weight` (B,) times the gradients by emissions, start, end and
    transitions: those of log Z, less those of the score of the labels with these `pairs` (P, B)."""
    (num_sequences, num_steps), num_labels = mask.shape, len(end)
    tree = _tree(num_sequences, num_steps, num_labels)
    tails = [end[:, None].expand_as(scan.last)]
    for node in reversed(scan.levels[-1].chunk(tree.tops, 2)[1:]):
        tails.append(_log_sum_exp(node + tails[-1], 1, precision))
    before, after = scan.heads, torch.cat(tails[::-1], 1)  # (L, nodes * B) each
    for level in reversed(scan.levels[:-1]):
        left, right = level.chunk(2, 2)
        through_left = _log_sum_exp(before[:, None] + left, 0, precision)
        through_right = _log_sum_exp(right + after, 1, precision)
        before = torch.cat((before, through_left), 1)
        after = torch.cat((through_right, after), 1)
    size = (num_labels, num_labels, tree.leaves, num_sequences)
    chances = (scan.levels[0] + before[:, None]).add_(after).view(size)
    chances = chances.sub_(scan.log_z).exp2_()  # of (label before, label after), at each leaf
    if pairs is not None:
        chances.flatten(2).flatten(0, 1).scatter_add_(
            0, pairs.view(1, -1), chances.new_full((1, pairs.numel()), -1.0)
        )
    chances.mul_(weight)
    by_first, by_last = chances[:, :, 0].sum(1), chances[:, :, -1].sum(0)  # (L, B) each
    chances.mul_(_in_leaf_order(_padded(mask.T[1:], tree.leaves), tree))
    rest = _in_time_order(chances.sum(0).permute(1, 2, 0), tree)[: num_steps - 1]
    by_emission = torch.cat((by_first.T[None], rest)).transpose(0, 1)
    return by_emission, by_first.sum(1), by_last.sum(1), chances.sum((2, 3))


def _tree(num_sequences: int, num_steps: int, num_labels: int) -> _Tree:
    leaves = max(num_steps - 1, 1)
    depth = 0
    if num_labels**3 * leaves * num_sequences // 2 <= _MOST_CELLS:
        while leaves > _TOP_NODES << depth:
            depth += 1
    return _Tree(depth, -(-leaves // (1 << depth)))


def _padded(steps: Tensor, count: int) -> Tensor:
    """Return (count, ...): the steps and zeros behind them."""
    missing = count - len(steps)
    return torch.cat((steps, steps.new_zeros(missing, *steps.shape[1:]))) if missing else steps


def _in_leaf_order(steps: Tensor, tree: _Tree) -> Tensor:
    """Return steps (P, ...) such that in each level all left neighbours come before all right
    ones. The first step stays first, the last one last."""
    return _turned(steps, (tree.tops, *[2] * tree.depth))


def _in_time_order(leaves: Tensor, tree: _Tree) -> Tensor:
    """Undo `_in_leaf_order`."""
    return _turned(leaves, (*[2] * tree.depth, tree.tops))


def _turned(steps: Tensor, split: tuple[int, ...]) -> Tensor:
    """Read the first axis as one of size `split` and turn the order of its parts around."""
    parts = steps.reshape(*split, *steps.shape[1:])
    order = [*range(len(split) - 1, -1, -1), *range(len(split), parts.dim())]
    return parts.permute(order).reshape(steps.shape)


def _log_sum_exp(x: Tensor, dim: int, precision: torch.dtype) -> Tensor:
    """Return log-sum-exp of finite `x` to base 2; `x` is overwritten."""
    highest = x.amax(dim, keepdim=True)
    shares = x.sub_(highest).to(precision).exp2_()
    return highest.squeeze(dim).add_(shares.sum(dim).log2_())


def _filled(labels: Tensor, mask: Tensor) -> Tensor:
    """Return the labels with each sequence's last one off the mask too."""
    last = labels.gather(1, mask.sum(1, keepdim=True) - 1)
    return torch.where(mask, labels, last)


def _label_pairs(labels: Tensor, num_labels: int) -> Tensor:
    """Return (label before) * L + (label after) at each leaf, (P, B)."""
    num_sequences, num_steps = labels.shape
    tree = _tree(num_sequences, num_steps, num_labels)
    by_step = labels.T
    by_step = torch.cat((by_step, by_step[-1:].expand(tree.leaves + 1 - num_steps, -1)))
    return _in_leaf_order(by_step[:-1] * num_labels + by_step[1:], tree)
