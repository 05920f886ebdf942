"""CRF head: labels O, B, I over the context's tokens, of which the answer is one run B I ... I.

Trained on all sequences of labels in which I follows B or I; a window without the answer is all O.
Evaluated on those with one span at most: a span's score is log p(its labels), the null score
log p(all O), so windows compare though their lengths differ. Question and special tokens take no
part: the context's tokens are gathered, so that the chain has no holes.

Worked example. Two tokens of context, no transition scores, emissions O, B, I of 0, 1, 0 and 0, 0,
2. The legal paths are OO 0, OB 0, BO 1, BB 1, BI 3, so log Z = log(2 e^0 + 2 e^1 + e^3) = 3.315.
The span of both tokens scores 3 - 3.315 = -0.315, the first alone -2.315, the second alone and null
-3.315 each; null odds are -3. BB holds two spans: it counts in Z, but is no candidate.

B windows, T tokens, S tokens of context at most, H hidden, N candidates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from qa_dist.data.collate import Batch, moved
from qa_dist.models.crf import LinearChainCRF
from qa_dist.text.decode import SpanScores

O, B, I = range(3)  # noqa: E741


class SpanCrfHead(nn.Module):
    """`label_outputs` (H -> O, B, I) and `crf`, the chain's transitions."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.label_outputs = nn.Linear(hidden_size, 3)
        allowed = torch.ones(3, 3, dtype=torch.bool)
        allowed[O, I] = False
        self.crf = LinearChainCRF(3, allowed, allowed[O])

    def loss(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return -log p(labels), summed over windows: ()."""
        emissions, mask, positions = self._chain(hidden, batch)
        start, end = batch.starts[:, None], batch.ends[:, None]
        # The null position lies outside the context, so a window without the answer is all O.
        labels = B * (positions == start) + I * ((positions > start) & (positions <= end))
        return -self.crf.log_likelihood(emissions, labels, mask).sum()

    def span_scores(
        self, hidden: Tensor, batch: Batch, n_best: int, max_answer_tokens: int
    ) -> SpanScores:
        """Return the best spans of each window by log p(span's labels), all spans looked at, and
        its null score, log p(all O)."""
        emissions, mask, positions = self._chain(hidden, batch)
        nulls = self.crf.log_likelihood(emissions, torch.zeros_like(positions), mask).double()
        count = _context_mask(batch).sum(1)
        gains = self._gains(emissions.double(), count, max_answer_tokens)  # (B, S, D)
        most = min(n_best, gains[0].numel())
        best, at = gains.flatten(1).topk(most)  # (B, N) each
        found = torch.cat((nulls[:, None], nulls[:, None] + best, at.double()), 1).cpu().numpy()
        nulls_, scores, cells = np.split(found, [1, 1 + most], axis=1)
        first, more = np.divmod(cells.astype(np.int64), gains.shape[2])
        first += batch.context_at[:, None]
        classes = np.empty((len(found), 0))
        return SpanScores(scores, first, first + more, classes, nulls_[:, 0])

    def _chain(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return emissions (B, S, 3), mask (B, S) and positions in the window (B, S) of the
        context's tokens. A window without any has one step."""
        width = batch.input_ids.shape[1]
        first = moved(torch.from_numpy(batch.context_at), hidden.device)
        steps = torch.arange(width - int(batch.context_at.min()), device=hidden.device)
        positions = (first[:, None] + steps).clamp(max=width - 1)
        mask = steps < _context_mask(batch).sum(1, keepdim=True).clamp(min=1)
        emissions = self.label_outputs(hidden)  # (B, T, 3)
        index = positions[:, :, None].expand(-1, -1, 3)
        return emissions.gather(1, index), mask, positions

    def _gains(self, emissions: Tensor, count: Tensor, max_answer_tokens: int) -> Tensor:
        """Return what each span's path scores above all O, float64: (B, S, D), of the span that
        begins at a step and goes on for so many more tokens; -inf: there is no such span.

        All but the labels at its two ends are sums of steps from I to I, and these are differences
        of running sums: begin[first] + close[last].
        """
        start, end, moves = self.crf.scores(torch.float64)
        size = emissions.shape[1]
        steps = torch.arange(size, device=emissions.device)
        is_last = steps == count[:, None] - 1
        above = emissions - emissions[:, :, :1]  # (B, S, 3)
        running = (above[:, :, I] + moves[I, I] - moves[O, O]).cumsum(1)
        enter = torch.where(steps == 0, start[B] - start[O], moves[O, B] - moves[O, O])
        leave = torch.where(
            is_last[:, :, None], end - end[O], moves[:, O] - moves[O, O]
        )  # (B, S, 3)
        alone = enter + above[:, :, B] + leave[:, :, B]
        begin = enter + above[:, :, B] + moves[B, I] - moves[I, I] - running
        close = (running + leave[:, :, I]).masked_fill(steps >= count[:, None], float("-inf"))
        longest = max(1, min(max_answer_tokens, size))
        padded = nn.functional.pad(close, (0, longest - 1), value=float("-inf"))
        gains = begin[:, :, None] + padded.unfold(1, longest, 1)  # (B, S, D)
        alone = alone.masked_fill(steps >= count[:, None], float("-inf"))
        return torch.cat((alone[:, :, None], gains[:, :, 1:]), 2)


def _context_mask(batch: Batch) -> Tensor:
    """Return which tokens are the context's, (B, T): the candidates without the null position."""
    nulls_at = moved(torch.from_numpy(batch.nulls_at), batch.candidate_mask.device)
    places = torch.arange(batch.candidate_mask.shape[1], device=nulls_at.device)
    return batch.candidate_mask & (places != nulls_at[:, None])
