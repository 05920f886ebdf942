"""Weights of losses: by hand, what they settle at, and that their state is all they know."""

from __future__ import annotations

import math

import pytest
import torch

from qa_dist.training.balance import RATE, Balance, cosines


def test_fixed_weights_stay() -> None:
    balance = Balance("fixed", [1.0, 0.5])
    assert [balance.weight(k) for k in (0, 1)] == [1.0, 0.5]
    assert not balance.needs_losses and balance.state == []


@pytest.mark.parametrize("method", ["fixed", "uncertainty", "gradnorm"])
def test_a_single_source_is_weighed_by_its_own_weight(method: str) -> None:
    balance = Balance(method, [0.5])
    assert balance.weight(0) == 0.5 and not balance.needs_losses


def test_uncertainty_follows_the_derivative_of_its_loss() -> None:
    balance = Balance("uncertainty", [1.0, 1.0])
    loss = 3.0
    log_variance = torch.tensor(0.0, requires_grad=True)
    (torch.exp(-log_variance) * loss + log_variance / 2).backward()
    balance.update(1, loss * balance.weight(1), grad_norm=1.0)
    assert log_variance.grad is not None
    assert balance.state == [0.0, pytest.approx(-RATE * float(log_variance.grad))]
    assert balance.weight(0) == 1.0, "the other source is left alone"


def test_uncertainty_settles_where_a_weighted_loss_is_a_half() -> None:
    balance = Balance("uncertainty", [1.0, 1.0])
    for _ in range(2000):
        balance.update(0, 4.0 * balance.weight(0), 1.0)
        balance.update(1, 0.1 * balance.weight(1), 1.0)
    assert balance.weight(0) * 4.0 == pytest.approx(0.5, rel=1e-3)
    assert balance.weight(1) * 0.1 == pytest.approx(0.5, rel=1e-3)


def test_gradnorm_lifts_the_source_with_the_small_gradient() -> None:
    balance = Balance("gradnorm", [1.0, 1.0])
    for _ in range(300):  # both train at the same rate; gradients of 1 and 3
        balance.update(0, 1.0 * balance.weight(0), 1.0 * balance.weight(0))
        balance.update(1, 1.0 * balance.weight(1), 3.0 * balance.weight(1))
    weights = [balance.weight(k) for k in (0, 1)]
    assert sum(weights) == pytest.approx(2.0)
    assert weights[0] * 1.0 == pytest.approx(weights[1] * 3.0, rel=0.1)


def test_gradnorm_lifts_the_source_that_trains_slowly() -> None:
    balance = Balance("gradnorm", [1.0, 1.0])
    for step in range(100):
        falling = math.exp(-step / 20)
        balance.update(0, 1.0 * balance.weight(0), balance.weight(0))
        balance.update(1, falling * balance.weight(1), balance.weight(1))
    assert balance.weight(0) > 1.5 > 0.5 > balance.weight(1)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm"])
def test_the_state_is_all_that_is_known(method: str) -> None:
    balance = Balance(method, [1.0, 2.0])
    steps = [(k % 2, 1.0 + k / 10, 2.0 - k / 10) for k in range(8)]
    for step in steps[:5]:
        balance.update(*step)
    other = Balance(method, [1.0, 2.0], list(balance.state))
    forgetful = Balance(method, [1.0, 2.0])
    for one in (balance, other, forgetful):
        for step in steps[5:]:
            one.update(*step)
    assert other.state == balance.state
    assert forgetful.state != balance.state, "control"


def test_cosines_of_gradients_by_hand() -> None:
    a = [torch.tensor([1.0, 0.0]), torch.tensor([[2.0]])]
    b = [torch.tensor([-1.0, 0.0]), torch.tensor([[-2.0]])]
    c = [torch.tensor([0.0, 5.0]), torch.tensor([[0.0]])]
    found = cosines([a, b, c])
    assert {pair: float(cosine) for pair, cosine in found.items()} == {
        (1, 0): pytest.approx(-1.0),
        (2, 0): pytest.approx(0.0),
        (2, 1): pytest.approx(0.0),
    }
