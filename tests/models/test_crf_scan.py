"""The tree scan: any number of steps, in time order and back, on one thread (its values against
pytorch-crf's: test_crf.py)."""

from __future__ import annotations

import pytest
import torch

from qa_dist.models import crf_scan
from qa_dist.models.crf_scan import _in_leaf_order, _in_time_order, _tree, log_likelihood, marginals

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def make_inputs(lengths: list[int], num_labels: int) -> tuple[Inputs, torch.Tensor, torch.Tensor]:
    """Return the scores, labels and mask of some sequences."""
    generator = torch.Generator().manual_seed(0)
    sizes = (
        (len(lengths), max(lengths), num_labels),
        (num_labels,),
        (num_labels,),
        (num_labels,) * 2,
    )
    a, b, c, d = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes)
    labels = torch.randint(num_labels, sizes[0][:2], generator=generator)
    return (a, b, c, d), labels, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 8, 14, 70, 385])
def test_a_tree_gives_what_step_after_step_gives(
    num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels, mask = make_inputs([num_steps, 1, max(1, num_steps - 2)], 4)
    by_tree = log_likelihood(*inputs, labels, mask), marginals(*inputs, mask)
    assert (_tree(3, num_steps, 4).depth > 0) == (num_steps > 7)
    monkeypatch.setattr(crf_scan, "_MOST_CELLS", 0)
    assert _tree(3, num_steps, 4).depth == 0
    in_turn = log_likelihood(*inputs, labels, mask), marginals(*inputs, mask)
    torch.testing.assert_close(by_tree, in_turn, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_steps", [2, 9, 100, 513])
def test_in_leaf_order_neighbours_are_half_a_level_apart(num_steps: int) -> None:
    tree = _tree(1, num_steps, 2)
    steps = torch.arange(tree.leaves)
    leaves = _in_leaf_order(steps, tree)
    assert torch.equal(_in_time_order(leaves, tree), steps)
    assert (leaves[0], leaves[-1]) == (0, tree.leaves - 1)
    starts, width = leaves, 1
    for _ in range(tree.depth):
        left, right = starts.chunk(2)
        assert torch.equal(right - left, torch.full_like(left, width))
        starts, width = left, 2 * width
    assert num_steps < 9 or not torch.equal(leaves, steps)


def test_memory_for_many_labels_is_that_of_a_step() -> None:
    assert _tree(16, 400, 9).depth > 0
    assert _tree(16, 400, 60).depth == 0


def test_threads_are_as_before() -> None:
    inputs, labels, mask = make_inputs([9, 3], 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inputs[0].requires_grad_()
        log_likelihood(*inputs, labels, mask).sum().backward()
        assert torch.get_num_threads() == 2
        with crf_scan.exact(torch.device("cpu")):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
