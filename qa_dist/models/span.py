"""Span head on any encoder: start and end logits over the window's tokens, and logits for the
task's answer classes.

One softmax for the start and one for the end, each over the T tokens where a span may lie and the C
answer classes (yes, no, unknown) behind them; C = 0 outside CoQA, where the CLS token stands for
"no answer" (Devlin et al. 2019, section 4.3). The encoder is a value: any transformers base model.
B windows, T tokens, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qa_dist.data.collate import Batch
from qa_dist.models.encoder import load_encoder
from qa_dist.recipe import Model


class SpanModel(nn.Module):
    """Encoder, `qa_outputs` (H -> start, end) and `class_outputs` (H of the first token -> C
    classes)."""

    def __init__(self, encoder: nn.Module, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.qa_outputs = nn.Linear(hidden_size, 2)
        self.class_outputs = nn.Linear(hidden_size, num_classes) if num_classes else None

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        candidate_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return start and end logits, (B, T + C) each, in fp32; -inf where no span may start or
        end."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if getattr(self.encoder.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = token_type_ids
        hidden = self.encoder(**inputs).last_hidden_state  # (B, T, H)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            logits = self.qa_outputs(hidden)  # (B, T, 2)
            logits = logits.masked_fill(~candidate_mask.unsqueeze(-1), float("-inf"))
            start, end = logits.unbind(-1)  # (B, T) each
            if self.class_outputs is not None:
                classes = self.class_outputs(hidden[:, 0])  # (B, C)
                start, end = torch.cat((start, classes), 1), torch.cat((end, classes), 1)
        return start, end


def build_model(model: Model, num_classes: int, seed: int) -> SpanModel:
    """Load the encoder and put a new head on it, whose weights depend on `seed` only.

    Raises InputError naming model.name if the encoder can't be loaded.
    """
    encoder = load_encoder(model)
    config: Any = encoder.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        span_model = SpanModel(encoder, config.hidden_size, num_classes)
        for layer in (span_model.qa_outputs, span_model.class_outputs):
            if layer is not None:
                nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
                nn.init.zeros_(layer.bias)
    return span_model


def span_loss(start: torch.Tensor, end: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the summed loss of a micro-batch: mean of start and end cross-entropy, summed over
    windows."""
    loss = nn.functional.cross_entropy(start, batch.starts, reduction="sum")
    return (loss + nn.functional.cross_entropy(end, batch.ends, reduction="sum")) / 2
