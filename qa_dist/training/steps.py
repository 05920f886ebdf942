"""One optimizer update at a time: forward-backward of a step's micro-batches, and the update.

Knows the model, how it is laid out over ranks, and what a step trains on; knows no files, no
checkpoints and no schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from qa_dist import faults
from qa_dist.data.order import mix
from qa_dist.data.shards import Split
from qa_dist.recipe import Recipe, trained_sources
from qa_dist.training.balance import Balance, cosines
from qa_dist.training.batches import Batches, StepBatch
from qa_dist.training.engine import Engine
from qa_dist.training.layout import Replicated


@dataclass
class Seen:
    """What this rank has computed since scalars were last written."""

    windows: int = 0
    tokens: int = 0
    """Real ones."""
    padded_tokens: int = 0
    """With padding."""


@dataclass
class Losses:
    """The losses of the steps since scalars were last written, by source."""

    sums: torch.Tensor
    """(sources,), on the device: reading it would hold up a GPU."""
    steps: list[int] = field(default_factory=list)
    """How many steps those are: (sources,)."""


class Steps:
    """Does a run's steps on one rank."""

    def __init__(
        self,
        recipe: Recipe,
        engine: Engine,
        batches: Batches,
        layout: Replicated,
        balance_state: Sequence[float],
    ) -> None:
        """`balance_state`: what `balance.state` was; empty for a new run."""
        self.engine, self.batches, self.layout = engine, batches, layout
        self.seed = recipe.train.seed
        weights = [recipe.sources[place].weight for place in trained_sources(recipe)]
        self.balance = Balance(recipe.train.balance, weights, balance_state)
        num = len(weights)
        self.losses = Losses(torch.zeros(num, device=engine.device), [0] * num)
        self.seen = Seen()

    def do(self, step: int, batch: StepBatch, rate: float) -> torch.Tensor:
        """Do one optimizer update; return the gradient's norm before clipping: ()."""
        layout, source = self.layout, batch.source
        is_poisoned = faults.reach("train.gradient", step) == "nan"
        weight = self.balance.weight(source)
        step_loss = self._forward_backward(step, batch, weight, is_poisoned)
        layout.leave_out(source)
        grad_norm = layout.update(rate, step_loss)
        if self.balance.needs_losses:
            self.balance.update(source, float(step_loss.item()), float(grad_norm.item()))
        self.losses.sums[source] += step_loss / weight
        self.losses.steps[source] += 1
        return grad_norm

    def warm_up(self) -> None:
        """Do a backward that counts for nothing.

        After its first one DDP lays its buckets out anew, and with more than two ranks the layout
        decides in which order gradients are summed, so a step after a resume would differ in the
        last bit from the same step of an uninterrupted run.
        """
        batch = StepBatch(0, [], 1)
        self._backward(batch, (), 1.0, is_last=True)
        self.layout.forget_gradients()
        self.seen = Seen()

    def loss(self, batch: StepBatch, split: Callable[[int], Split]) -> torch.Tensor:
        """Return the loss per target of some windows, without gradients; the same on each rank: ().

        `split`: which split of a source the windows are of.
        """
        total = torch.zeros((), device=self.engine.device)
        windows_of = self.batches.sources[batch.source]
        with self.layout.evaluating() as model, self.engine.autocast():
            for _, windows in self.engine.my_share(self.layout.even_out(batch.micro_batches)):
                tensors = windows_of.collate(split(batch.source), windows)
                total += model(tensors, batch.source).float() * (1.0 if len(windows) else 0.0)
        return self.engine.sum_over_ranks(total) / batch.num_targets

    def gradient_cosines(self, step: int) -> Mapping[tuple[int, int], torch.Tensor]:
        """Return the cosine between the gradients of each two sources on what they share, each on
        the batch of its own that comes next; nothing is updated."""
        gradients = []
        for source, windows_of in enumerate(self.batches.sources):
            batch = windows_of.step(self.batches.mixture.count(source, step), source)
            seen, self.seen = self.seen, Seen()
            self._forward_backward(step, batch, 1.0)
            self.seen = seen
            gradients.append(self.layout.shared_gradients())
            self.layout.forget_gradients()
        return cosines(gradients)

    def _forward_backward(
        self, step: int, batch: StepBatch, weight: float, is_poisoned: bool = False
    ) -> torch.Tensor:
        """Add the gradients of a step's micro-batches; return its weighted loss: ()."""
        mine = self.engine.my_share(self.layout.even_out(batch.micro_batches))
        step_loss = torch.zeros((), device=self.engine.device)
        for index, windows in mine:
            seed_generators(mix(self.seed, step, index))
            is_last = index == mine[-1][0]
            step_loss += self._backward(batch, windows, weight, is_last, is_poisoned)
        return self.engine.sum_over_ranks(step_loss)

    def _backward(
        self,
        batch: StepBatch,
        windows: Sequence[int],
        weight: float,
        is_last: bool,
        is_poisoned: bool = False,
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch; return its share of the step's loss: ().

        An empty one (in the short last batch of an epoch, for ranks that must do as much as the
        others, for the exchange alone) computes window 0 times zero.
        """
        windows_of = self.batches.sources[batch.source]
        tensors = windows_of.collate(windows_of.train_split, windows)
        if len(windows):
            self.seen.windows += len(windows)
            self.seen.tokens += tensors.num_tokens
            is_packed = self.layout.module.is_packed
            size = tensors.num_tokens if is_packed else tensors.input_ids.numel()
            self.seen.padded_tokens += size
        factor = weight if len(windows) else 0.0

        def compute_loss() -> torch.Tensor:
            with self.engine.autocast():
                loss: torch.Tensor = (
                    self.layout.model(tensors, batch.source) * factor / batch.num_targets
                )
            if is_poisoned:
                loss.register_hook(lambda gradient: gradient * float("nan"))  # type: ignore[no-untyped-call]
            return loss

        return self.layout.backward(compute_loss, is_last)


def seed_generators(seed: int) -> None:
    """Seed what dropout draws from, on the CPU and on the current device."""
    torch.manual_seed(seed & (1 << 63) - 1)
