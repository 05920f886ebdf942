"""What each source's loss counts: fixed weights, uncertainty weighting, GradNorm.

A step trains on one source, so each method looks at that source's loss when its turn comes. All
that it knows is a list of numbers, kept in the checkpoint; so a resumed run weighs as the
uninterrupted one does. No gradients go through here: the methods' own are written out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

RATE = 0.025
"""Of the weights' own gradient descent; the recipe's learning rate is the model's."""
GRADNORM_ALPHA = 1.5
"""How strongly slow sources are pulled (Chen et al. 2018, section 5.3)."""


class Balance:
    """The weights of a run's sources."""

    def __init__(self, method: str, fixed: Sequence[float], state: Sequence[float] = ()) -> None:
        """method: train.balance. fixed: the sources' `weight`. state: what `self.state` was."""
        self.method, self.fixed = method, list(fixed)
        num = len(self.fixed)
        start = {"fixed": 0, "uncertainty": num, "gradnorm": 4 * num}[method]
        self.state = list(state) or [0.0] * start
        """uncertainty: the log variances. gradnorm: weights, first losses, last losses, gradient
        norms (0: none yet)."""
        if method == "gradnorm" and not state:
            self.state[:num] = [1.0] * num

    @property
    def needs_losses(self) -> bool:
        """Whether `update` must be called after each step; reading a loss holds up a GPU."""
        return self.method != "fixed" and len(self.fixed) > 1

    def weight(self, source: int) -> float:
        """Return what the loss of a source is multiplied by."""
        if not self.needs_losses:
            return self.fixed[source]
        if self.method == "uncertainty":
            return self.fixed[source] * math.exp(-self.state[source])
        return self.fixed[source] * self.state[source]

    def update(self, source: int, loss: float, grad_norm: float) -> None:
        """Take in a step: its mean loss, and the norm of its gradient, both as weighted."""
        weight = self.weight(source)
        if self.method == "uncertainty":
            # Loss exp(-s) L + s / 2 (Kendall et al. 2018, equation 10): its derivative by s.
            self.state[source] -= RATE * (0.5 - loss)
        elif weight > 0:
            self._follow_gradnorm(source, loss / weight, grad_norm / weight)

    def _follow_gradnorm(self, source: int, loss: float, grad_norm: float) -> None:
        """One step of the weights down sum_i |w_i G_i - mean(w G) r_i^alpha|, G the norm of the
        whole gradient of the unweighted loss (Chen et al. 2018, equation 2)."""
        num = len(self.fixed)
        first, last, norms = (
            self.state[num : 2 * num],
            self.state[2 * num : 3 * num],
            self.state[3 * num :],
        )
        first[source] = first[source] or loss
        last[source], norms[source] = loss, grad_norm
        weights = self.state[:num]
        if all(first) and all(norms):
            weighted = [w * g for w, g in zip(weights, norms, strict=True)]
            ratios = [now / then for now, then in zip(last, first, strict=True)]
            mean_norm, mean_ratio = sum(weighted) / num, sum(ratios) / num
            for i in range(num):
                target = mean_norm * (ratios[i] / mean_ratio) ** GRADNORM_ALPHA
                slope = norms[i] * ((weighted[i] > target) - (weighted[i] < target)) / mean_norm
                weights[i] = max(1e-3, weights[i] - RATE * slope)
            total = sum(weights)
            weights = [num * w / total for w in weights]
        self.state = [*weights, *first, *last, *norms]


def cosines(gradients: Sequence[Sequence[torch.Tensor]]) -> dict[tuple[int, int], torch.Tensor]:
    """Return the cosine between the gradients of each two sources, each a list of tensors over the
    same parameters: 1 they agree, -1 they undo each other."""

    def dot(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()

    norms = [dot(g, g).sqrt() for g in gradients]
    return {
        (i, j): dot(gradients[i], gradients[j]) / (norms[i] * norms[j]).clamp_min(1e-30)
        for i in range(len(gradients))
        for j in range(i)
    }
