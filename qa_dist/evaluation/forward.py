"""A trained model on batches of a shard's windows: what all kinds of prediction begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qa_dist.data.collate import Batch
from qa_dist.records import PAD_MULTIPLE

_POOL_WINDOWS = 4096


@dataclass(frozen=True)
class Forward:
    """A model in evaluation mode."""

    model: Any
    source: int
    """Whose head and adapter: the source's number among the trained ones."""
    device: torch.device
    precision: str
    """"bf16" or "fp32"."""

    @property
    def pad_multiple(self) -> int:
        """What rows are padded to: tensor cores take 8 tokens, a CPU would compute the padding."""
        return 1 if self.device.type == "cpu" else PAD_MULTIPLE

    @property
    def head(self) -> nn.Module:
        """The source's head."""
        head: nn.Module = self.model.heads[self.source]
        return head

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Return the encoder's last hidden states in fp32, computed in the run's precision:
        (B, T, H)."""
        is_bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            hidden: torch.Tensor = self.model.hidden(batch, self.source)
        return hidden.float()


def batches_by_length(lengths: NDArray[Any], batch_tokens: int) -> Iterator[list[int]]:
    """Yield window numbers in batches of like length, within some thousands of neighbours: little
    padding. `lengths`: tokens of each window: (windows,)."""
    for first in range(0, len(lengths), _POOL_WINDOWS):
        pool = lengths[first : first + _POOL_WINDOWS].astype(np.int64)
        order = first + np.argsort(-pool, kind="stable")
        at = 0
        while at < len(order):
            width = -(-int(lengths[order[at]]) // PAD_MULTIPLE) * PAD_MULTIPLE
            count = max(1, batch_tokens // width)
            yield order[at : at + count].tolist()
            at += count
