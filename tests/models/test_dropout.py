"""Dropout on a CPU: the share it drops, its mean, its gradient, and that the seed alone decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qa_dist.models.dropout import Dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(400_001,), (100, 8, 501)])
def test_it_drops_its_share_and_keeps_the_mean(p: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(shape))
    count = out.numel()
    dropped = int((out == 0).sum())
    assert abs(dropped / count - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1 / 65_536
    kept = out[out != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-4)


def test_neighbours_are_drawn_independently() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(200_000)) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8):
        correlation = float((kept[:-lag] * kept[lag:]).mean()) / 0.25
        assert abs(correlation) < 5 / 200_000**0.5


def test_the_seed_decides_and_nothing_else() -> None:
    x, dropout = torch.randn(64, 33), Dropout(0.1)
    torch.manual_seed(7)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(7)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_passes_where_the_value_did(dtype: torch.dtype) -> None:
    x = torch.ones(1000, dtype=dtype, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    assert out.dtype == dtype
    assert x.grad is not None and torch.equal(x.grad, out.detach())


def test_nothing_is_dropped_in_evaluation_or_at_0_and_all_at_1() -> None:
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(100))


def test_each_dropout_of_a_model_is_replaced_with_its_own_probability() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)))
    use_fast_dropout(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [(type(module), module.p) for module in found] == [(Dropout, 0.1), (Dropout, 0.2)]
