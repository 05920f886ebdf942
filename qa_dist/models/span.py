"""Span head: start and end logits over the window's tokens, and logits for the task's answer
classes.

One softmax for the start and one for the end, each over the T tokens where a span may lie and the C
answer classes (yes, no, unknown) behind them; C = 0 outside CoQA, where the CLS token stands for
"no answer" (Devlin et al. 2019, section 4.3). B windows, T tokens, H hidden, N candidates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from qa_dist.data.collate import Batch
from qa_dist.text.decode import SpanScores, best_spans


class SpanHead(nn.Module):
    """`qa_outputs` (H -> start, end) and `class_outputs` (H of the first token -> C classes)."""

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.qa_outputs = nn.Linear(hidden_size, 2)
        self.class_outputs = nn.Linear(hidden_size, num_classes) if num_classes else None

    def forward(self, hidden: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, (B, T + C) each; -inf where no span may start or end."""
        logits = self.qa_outputs(hidden)  # (B, T, 2)
        logits = logits.masked_fill(~batch.candidate_mask.unsqueeze(-1), float("-inf"))
        start, end = logits.unbind(-1)  # (B, T) each
        if self.class_outputs is not None:
            classes = self.class_outputs(hidden[:, 0])  # (B, C)
            start, end = torch.cat((start, classes), 1), torch.cat((end, classes), 1)
        return start, end

    def loss(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean of start and end cross-entropy, summed over windows: ()."""
        start, end = self(hidden, batch)
        loss = nn.functional.cross_entropy(start, batch.starts, reduction="sum")
        return (loss + nn.functional.cross_entropy(end, batch.ends, reduction="sum")) / 2

    def span_scores(
        self, hidden: torch.Tensor, batch: Batch, n_best: int, max_answer_tokens: int
    ) -> SpanScores:
        """Return the best spans of each window, start logit + end logit, and its null score."""
        logits = self(hidden, batch)
        starts, ends = (part.float().cpu().numpy() for part in logits)  # (B, T + C) each
        width, rows = batch.input_ids.shape[1], np.arange(len(starts))
        classes = (starts[:, width:] + ends[:, width:]).astype(float)
        nulls = (starts[rows, batch.nulls_at] + ends[rows, batch.nulls_at]).astype(float)
        starts[rows, batch.nulls_at] = ends[rows, batch.nulls_at] = -np.inf
        scores, firsts, lasts = best_spans(
            starts[:, :width], ends[:, :width], n_best, max_answer_tokens
        )
        return SpanScores(scores, firsts, lasts, classes, nulls)
