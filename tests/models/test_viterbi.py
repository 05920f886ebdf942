"""Best paths by hand, and which one of several (any size against pytorch-crf's: test_crf.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchcrf import CRF

from qa_dist.models.viterbi import best_paths


def test_by_hand() -> None:
    """A change costs 3: to stay at either label scores 4, to change twice 8 - 6 = 2."""
    emissions = np.array([[[2, 0], [0, 4], [2, 0]], [[0, 1], [9, 9], [9, 9]]], dtype=np.float32)
    nothing = np.zeros(2, dtype=np.float32)
    change = np.array([[0, -3], [-3, 0]], dtype=np.float32)
    lengths = np.array([3, 1])
    assert best_paths(emissions, nothing, nothing, change, lengths) == [[0, 0, 0], [1]]
    assert best_paths(emissions, nothing, nothing, change / 3, lengths) == [[0, 1, 0], [1]]
    end = np.array([0, 3], dtype=np.float32)
    assert best_paths(emissions, nothing, end, change, lengths) == [[1, 1, 1], [1]]


@pytest.mark.parametrize("seed", range(8))
def test_of_equal_paths_the_one_of_pytorch_crf_is_taken(seed: int) -> None:
    """Whole numbers: many paths tie. Labels beyond 256 too."""
    num_labels, num_steps = (300, 4) if seed == 0 else (3, 30)
    generator = torch.Generator().manual_seed(seed)
    size = (4, num_steps, num_labels)
    emissions = torch.randint(0, 2 if seed else 300, size, generator=generator).float()
    crf = CRF(num_labels, batch_first=True)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.zero_()
    zeros = [parameter.detach().numpy() for parameter in crf.parameters()]
    paths = best_paths(emissions.numpy(), *zeros, np.full(4, num_steps))
    assert paths == crf.decode(emissions, torch.ones(size[:2], dtype=torch.bool))


def test_all_equal_gives_the_lowest_labels() -> None:
    flat, zero = np.zeros((2, 20, 3)), np.zeros(3)
    assert best_paths(flat, zero, zero, np.zeros((3, 3)), np.array([20, 4])) == [[0] * 20, [0] * 4]
