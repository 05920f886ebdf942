"""Linear-chain CRF: pytorch-crf's `CRF` (same parameters, same meaning) without its loops over
time.

Worked example. Two tokens, labels O and B, emissions O 1, B 0 at the first token and O 0, B 2 at
the second; a step from B to B scores -1, all else 0. The paths score OO 1 + 0 = 1, OB 1 + 2 = 3,
BO 0 + 0 = 0, BB 0 + 2 - 1 = 1. So log Z = log(e^1 + e^3 + e^0 + e^1) = 3.2780, the best path is
O B, of log-likelihood 3 - 3.2780 = -0.2780, and the first token is B with probability
(e^0 + e^1) / e^3.2780 = 0.1402.

log Z and its gradient: crf_scan.py; best paths: viterbi.py. B sequences, T steps, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchcrf import CRF

from qa_dist.models.crf_scan import FORBIDDEN, exact, log_likelihood, marginals
from qa_dist.models.viterbi import best_paths


class LinearChainCRF(CRF):  # type: ignore[misc]
    """CRF over right-padded sequences, batch first; a state dict of pytorch-crf's loads into it and
    the other way round.

    `allowed` (L, L): may the column's label follow the row's; `allowed_starts`, `allowed_ends`
    (L,): may a sequence start or end with this label; None: all may. A mask (B, T) is on where a
    sequence has a step, at its first at least; None: everywhere. A ValueError names what is wrong
    with emissions, labels or mask; on a GPU, where looking at a mask would stop the host at
    each step, training asserts it on the device.
    """

    def __init__(
        self,
        num_labels: int,
        allowed: Tensor | None = None,
        allowed_starts: Tensor | None = None,
        allowed_ends: Tensor | None = None,
    ) -> None:
        super().__init__(num_labels, batch_first=True)
        for name, shape, value in (
            ("allowed", (num_labels, num_labels), allowed),
            ("allowed_starts", (num_labels,), allowed_starts),
            ("allowed_ends", (num_labels,), allowed_ends),
        ):
            if value is not None and (value.dtype != torch.bool or value.shape != shape):
                raise ValueError(
                    f"{name}: expected bool {shape}, got {value.dtype} {tuple(value.shape)}"
                )
            forbidden = None if value is None else ~value
            self.register_buffer(f"_not_{name}", forbidden, persistent=False)

    def scores(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return start (L,), end (L,) and transitions (L, L), FORBIDDEN where not allowed."""
        pairs = (
            (self.start_transitions, self._not_allowed_starts),
            (self.end_transitions, self._not_allowed_ends),
            (self.transitions, self._not_allowed),
        )
        start, end, transitions = (
            p.to(dtype) if no is None else p.to(dtype).masked_fill(no, FORBIDDEN) for p, no in pairs
        )
        return start, end, transitions

    def forward(
        self,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor | None = None,
        reduction: str = "sum",
    ) -> Tensor:
        """Return the log-likelihood, reduced as in pytorch-crf: none, sum, mean or token_mean."""
        values = self.log_likelihood(emissions, tags, mask)
        if reduction == "none":
            return values
        if reduction == "sum":
            return values.sum()
        if reduction == "mean":
            return values.mean()
        if reduction == "token_mean":
            return values.sum() / (tags.numel() if mask is None else mask.sum())
        raise ValueError(f"reduction={reduction!r}: expected one of none, sum, mean, token_mean")

    def log_likelihood(
        self, emissions: Tensor, labels: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return log p(labels), (B,), in the emissions' precision, fp32 at least; what `labels`
        (B, T) say off the mask doesn't count."""
        mask = self._checked_mask(emissions, mask)
        if labels.shape != mask.shape:
            raise ValueError(f"labels: expected {tuple(mask.shape)}, got {tuple(labels.shape)}")
        if labels.device.type == "cpu":
            bad = labels.masked_fill(~mask, 0)
            if bad.numel() and not 0 <= int(bad.min()) <= int(bad.max()) < self.num_tags:
                raise ValueError(f"labels: expected 0 to {self.num_tags - 1} where the mask is on")
        return self._log_likelihood(emissions, labels, mask)

    def log_partition(self, emissions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return log Z, (B,): of the sum over all paths of e to their score."""
        return -self._log_likelihood(emissions, None, self._checked_mask(emissions, mask))

    def marginals(self, emissions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return each label's probability at each step, (B, T, L), 0 off the mask; not
        differentiable."""
        mask = self._checked_mask(emissions, mask)
        values = marginals(emissions, *self.scores(torch.float64), mask)
        return values.to(_precision(emissions))

    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> list[list[int]]:
        """Return each sequence's best path: the labels that pytorch-crf's decode gives, of several
        best paths the same one too, in one transfer from the device."""
        self._check_emissions(emissions, mask)
        with torch.no_grad(), exact(emissions.device):
            if mask is None:
                mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
            scores = self.scores(self.transitions.dtype)
            dtype = torch.promote_types(_precision(emissions), scores[0].dtype)
            values, start, end, transitions, on = _on_host((emissions, *scores, mask.bool()), dtype)
        is_on = on > 0
        if not (is_on[:, 0].all() and (is_on[:, 1:] <= is_on[:, :-1]).all()):
            raise ValueError(_WRONG_MASK)
        return best_paths(values, start, end, transitions, is_on.sum(1))

    def _log_likelihood(self, emissions: Tensor, labels: Tensor | None, mask: Tensor) -> Tensor:
        start, end, transitions = self.scores(torch.float64)
        values = log_likelihood(emissions, start, end, transitions, labels, mask)
        return values.to(_precision(emissions))

    def _check_emissions(self, emissions: Tensor, mask: Tensor | None) -> None:
        size = tuple(emissions.shape)
        if emissions.dim() != 3 or size[2] != self.num_tags or size[1] == 0:
            raise ValueError(
                f"emissions: expected (B, T, {self.num_tags}) with T of 1 or more, got {size}"
            )
        if mask is not None and tuple(mask.shape) != size[:2]:
            raise ValueError(f"mask: expected {size[:2]}, got {tuple(mask.shape)}")

    def _checked_mask(self, emissions: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mask as bool, right-padded for certain."""
        self._check_emissions(emissions, mask)
        if mask is None:
            return torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        mask = mask.bool()
        is_right = _is_right_padded(mask).all()
        if mask.device.type != "cpu":
            torch._assert_async(is_right, _WRONG_MASK)
        elif not is_right:
            raise ValueError(_WRONG_MASK)
        return mask


_WRONG_MASK = (
    "mask: expected each sequence to be on from its first step to its last, without holes; put "
    "the steps that count first and pad behind them"
)


def _is_right_padded(mask: Tensor) -> Tensor:
    """Return whether each row is on at its first step and never again once it is off, (B,)."""
    return mask[:, 0] & (mask[:, 1:] <= mask[:, :-1]).all(1)


def _on_host(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[NDArray[np.floating[Any]]]:
    """Return the tensors as arrays of one dtype, in one transfer from their device."""
    parts = [tensor.to(dtype) for tensor in tensors]
    if parts[0].device.type != "cpu":
        flat = torch.cat([part.flatten() for part in parts]).cpu()
        pieces = torch.split(flat, [part.numel() for part in parts])
        parts = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    return [part.numpy() for part in parts]


def _precision(emissions: Tensor) -> torch.dtype:
    return torch.promote_types(emissions.dtype, torch.float32)
