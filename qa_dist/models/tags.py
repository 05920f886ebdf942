"""Tag head: a logit for each label (O, B-PER, I-PER, ...) on each token.

What `BertForTokenClassification` puts on BERT (Devlin et al. 2019, section 5.3): dropout and one
linear layer. Only the first token of each word carries a label. B windows, T tokens, H hidden, L
labels.
"""

from __future__ import annotations

import torch
from torch import nn

from qa_dist.data.collate import NO_TARGET, Batch

DROPOUT = 0.1
"""Before the layer: the hidden dropout that BERT's own configurations give."""


class TagHead(nn.Module):
    """`dropout` and `classifier` (H -> L)."""

    def __init__(self, hidden_size: int, num_labels: int, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_labels)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of each label on each token: (B, T, L)."""
        logits: torch.Tensor = self.classifier(self.dropout(hidden))
        return logits

    def loss(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy summed over the labelled tokens: ()."""
        if batch.labels is None:
            raise ValueError("these windows have no labels: they are of another form")
        return nn.functional.cross_entropy(
            self.logits(hidden).flatten(0, 1),
            batch.labels.flatten(),
            ignore_index=NO_TARGET,
            reduction="sum",
        )
