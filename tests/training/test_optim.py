"""Weight-decay groups, the learning rate by hand, and moments that survive under their names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qa_dist.recipe import Train
from qa_dist.training.optim import (
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.unused = nn.Linear(2, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(self.embedding(ids))).pow(3).sum()


def update(net: nn.Module, optimizer: torch.optim.Optimizer, rate: float = 0.01) -> None:
    net(torch.tensor([1, 2])).backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


# ---- groups


def test_weights_are_decayed_and_biases_and_norms_are_not() -> None:
    net = Net()
    optimizer = build_optimizer(net, Train(weight_decay=0.1))
    decayed, kept = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert decayed == {id(net.embedding.weight), id(net.linear.weight), id(net.unused.weight)}
    assert kept == {
        id(p) for p in (net.linear.bias, net.norm.weight, net.norm.bias, net.unused.bias)
    }


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.embedding.weight.requires_grad_(False)
    optimizer = build_optimizer(net, Train())
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == 6 and all(p is not net.embedding.weight for p in trained)


def test_decay_shrinks_a_weight_by_rate_times_decay() -> None:
    net = Net()
    optimizer = build_optimizer(net, Train(weight_decay=0.5))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    net.linear.weight.grad = torch.zeros_like(net.linear.weight)
    net.linear.bias.grad = torch.zeros_like(net.linear.bias)
    weight, bias = net.linear.weight.detach().clone(), net.linear.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(net.linear.weight.detach(), weight * (1 - 0.1 * 0.5))
    assert torch.equal(net.linear.bias.detach(), bias)


# ---- learning rate


def test_learning_rate_by_hand() -> None:
    train = Train(learning_rate=1.0, warmup_steps=2)
    rates = [learning_rate(step, 6, train) for step in range(6)]
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(6, 6, train) == 0.0, "0 after the last step"


def test_warmup_fraction_counts_where_no_steps_are_given() -> None:
    train = Train(learning_rate=1.0, warmup_fraction=0.5)
    assert [learning_rate(s, 4, train) for s in range(4)] == [0.5, 1.0, 1.0, 0.5]
    by_steps = Train(learning_rate=1.0, warmup_fraction=0.5, warmup_steps=1)
    assert learning_rate(0, 4, by_steps) == 1.0


@pytest.mark.parametrize("num_steps", [1, 2, 3, 100])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.99])
def test_each_step_learns_and_none_learns_more_than_asked(num_steps: int, fraction: float) -> None:
    train = Train(learning_rate=3e-5, warmup_fraction=fraction)
    rates = [learning_rate(step, num_steps, train) for step in range(num_steps)]
    assert all(0 < rate <= 3e-5 * (1 + 1e-12) for rate in rates)
    assert rates[0] == pytest.approx(max(rates)) or fraction


# ---- moments by name


def test_moments_put_back_continue_to_the_last_bit() -> None:
    net, twin = Net(), Net()
    optimizer = build_optimizer(net, Train())
    for _ in range(3):
        update(net, optimizer)
    tensors = {name: t.clone() for name, t in optimizer_tensors(optimizer, net).items()}
    assert "exp_avg/linear.weight" in tensors and "exp_avg_sq/norm.bias" in tensors
    twin.load_state_dict(net.state_dict())
    other = build_optimizer(twin, Train())
    load_optimizer_tensors(other, twin, tensors, lambda name: 3)
    update(net, optimizer)
    update(twin, other)
    for ours, theirs in zip(twin.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_updates", [2, 4])
def test_control_another_number_of_updates_does_not_continue(num_updates: int) -> None:
    net, twin = Net(), Net()
    optimizer = build_optimizer(net, Train())
    for _ in range(3):
        update(net, optimizer)
    twin.load_state_dict(net.state_dict())
    other = build_optimizer(twin, Train())
    tensors = {name: t.clone() for name, t in optimizer_tensors(optimizer, net).items()}
    load_optimizer_tensors(other, twin, tensors, lambda name: num_updates)
    update(net, optimizer)
    update(twin, other)
    assert not torch.equal(twin.linear.weight, net.linear.weight)


def test_there_are_no_moments_before_the_first_update() -> None:
    net = Net()
    optimizer = build_optimizer(net, Train())
    assert optimizer_tensors(optimizer, net) == {}
    load_optimizer_tensors(optimizer, net, {}, lambda name: 0)
    assert len(optimizer.state) == 0


def test_a_parameter_without_gradient_has_no_moments_and_needs_none() -> None:
    net = Net()
    optimizer = build_optimizer(net, Train())
    update(net, optimizer)
    tensors = optimizer_tensors(optimizer, net)
    assert not any("unused" in name for name in tensors)
    load_optimizer_tensors(build_optimizer(net, Train()), net, tensors, lambda name: 1)


# ---- 8-bit moments


class Wide(nn.Module):
    """One weight large enough for 8 bits, and one that keeps 32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large = nn.Linear(100, 50, bias=False)
        self.small = nn.Linear(50, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        draw = torch.Generator().manual_seed(int(ids.sum()))
        return self.small(self.large(torch.randn(4, 100, generator=draw))).pow(2).sum()


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_moments_survive_under_their_names(optimizer: str) -> None:
    settings = Train(optimizer=optimizer)
    net = Wide()
    ours = build_optimizer(net, settings)
    assert optimizer_tensors(ours, net) == {}
    for _ in range(2):
        update(net, ours)
    tensors = {name: t.clone() for name, t in optimizer_tensors(ours, net).items()}
    assert {name for name in tensors if name.endswith("large.weight")} == {
        f"{key}/large.weight" for key in ("state1", "state2", "absmax1", "absmax2")
    }
    assert tensors["state1/large.weight"].dtype == torch.uint8
    assert tensors["state1/small.weight"].dtype == torch.float32
    state = {name: t.clone() for name, t in net.state_dict().items()}
    update(net, ours)

    again = Wide()
    again.load_state_dict(state)
    theirs = build_optimizer(again, settings)
    load_optimizer_tensors(theirs, again, tensors, lambda name: 2)
    update(again, theirs)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))

    forgetful = Wide()  # control: without the moments, or with another count, it differs
    for loaded, count in (({}, 2), (tensors, 1)):
        forgetful.load_state_dict(state)
        fresh = build_optimizer(forgetful, settings)
        load_optimizer_tensors(fresh, forgetful, loaded, lambda name, count=count: count)
        update(forgetful, fresh)
        assert not torch.equal(forgetful.large.weight, net.large.weight)
