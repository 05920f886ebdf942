"""Windows -> tensors: assemble [CLS] question [SEP] context slice [SEP] and pad to the longest of
the batch.

Shapes: B windows, T tokens. Positions of targets count in the assembled window; a position of T + k
stands for answer class k (see models/span.py). Knows shards and the pair template; knows no model
and no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from qa_dist.data.shards import KIND_CLASS, KIND_NULL, KIND_SPAN, NO_LABEL, Shard, Split
from qa_dist.records import PAD_MULTIPLE
from qa_dist.text.windows import PairTemplate

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]
NO_TARGET = -100
"""Of a token without a label: what torch's cross-entropy leaves out."""


@dataclass(frozen=True)
class Batch:
    """Tensors of some windows."""

    input_ids: torch.Tensor  # (B, T) int64
    token_type_ids: torch.Tensor  # (B, T) int64
    attention_mask: torch.Tensor | None  # (B, T) bool; None where nothing is padded
    candidate_mask: torch.Tensor  # (B, T) bool: where a span may start or end
    starts: torch.Tensor  # (B,) int64: target position, or T + k for answer class k
    ends: torch.Tensor  # (B,) int64
    labels: torch.Tensor | None  # (B, T) int64, NO_TARGET elsewhere; form "tags" only
    nulls_at: Positions  # (B,) where "not in this window" stands, as in `starts`
    context_at: Positions  # (B,) position of the first context token
    context_from: Positions  # (B,) its number in the context
    lengths: Positions  # (B,) real tokens of each window

    @property
    def num_tokens(self) -> int:
        """Real tokens, without padding."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        if device.type == "cpu":
            return self
        tensors: dict[str, Any] = {
            name: moved(value, device)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU's tensor on `device`; a GPU fetches it while the host goes on, which needs
    memory that stays in its place."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def collate(
    split: Split,
    windows: Sequence[int],
    template: PairTemplate,
    null_class: int | None,
    pad_multiple: int = PAD_MULTIPLE,
) -> Batch:
    """Return the tensors of the windows with these global numbers.

    `null_class`: the answer class that stands for "not in this window" (0 where there is no such
    thing); None: the CLS token does.
    `pad_multiple`: T is the longest window's length, rounded up to a multiple of this.
    """
    rows = [split.locate(int(w)) for w in windows]
    longest = max(int(shard["window_length"][row]) for shard, row in rows)
    width = -(-longest // pad_multiple) * pad_multiple
    size = (len(rows), width)
    ids = np.full(size, template.pad_id, dtype=np.int64)
    types = np.zeros(size, dtype=np.int64)
    real = np.zeros(size, dtype=bool)
    candidates = np.zeros(size, dtype=bool)
    targets = np.empty((2, len(rows)), dtype=np.int64)
    nulls_at = np.empty(len(rows), dtype=np.int64)
    context_at = np.empty(len(rows), dtype=np.int64)
    context_from = np.empty(len(rows), dtype=np.int64)
    labels = None
    if len(rows[0][0]["context_labels"]):
        labels = np.full(size, NO_TARGET, dtype=np.int64)
    for i, (shard, row) in enumerate(rows):
        at, length = _assemble(shard, row, template, ids[i], types[i])
        start, end = int(shard["window_from"][row]), int(shard["window_to"][row])
        real[i, :length] = True
        candidates[i, at : at + end - start] = True
        if labels is not None:
            _put_labels(shard, row, labels[i], at - start)
        context_at[i], context_from[i] = at, start
        kind = int(shard["window_kind"][row])
        if kind == KIND_SPAN:
            targets[0, i] = at + int(shard["window_start"][row]) - start
            targets[1, i] = at + int(shard["window_end"][row]) - start
        elif kind >= KIND_CLASS:
            targets[:, i] = width + kind - KIND_CLASS
        if null_class is None:
            nulls_at[i] = null_at = (
                template.null_position % length
            )  # negative: counted from the window's end
            candidates[i, null_at] = True
        else:
            nulls_at[i] = null_at = width + null_class
        if kind == KIND_NULL:
            targets[:, i] = null_at
    return Batch(
        input_ids=torch.from_numpy(ids),
        token_type_ids=torch.from_numpy(types),
        attention_mask=None if real.all() else torch.from_numpy(real),
        candidate_mask=torch.from_numpy(candidates),
        starts=torch.from_numpy(targets[0]),
        ends=torch.from_numpy(targets[1]),
        labels=None if labels is None else torch.from_numpy(labels),
        nulls_at=nulls_at,
        context_at=context_at,
        context_from=context_from,
        lengths=real.sum(axis=1),
    )


def _assemble(
    shard: Shard,
    row: int,
    template: PairTemplate,
    ids: Positions,
    types: Positions,
) -> tuple[int, int]:
    """Fill one row of ids and types; return where the context starts and the window's length."""
    example = int(shard["window_example"][row])
    context = shard.ragged("context_tokens", int(shard["example_context"][example]))
    parts: tuple[Any, ...] = (
        template.before,
        shard.ragged("question_tokens", example),
        template.between,
        context[int(shard["window_from"][row]) : int(shard["window_to"][row])],
        template.after,
    )
    position = context_at = 0
    for number, (part, type_id) in enumerate(zip(parts, template.type_ids, strict=True)):
        if number == 3:
            context_at = position
        ids[position : position + len(part)] = part
        types[position : position + len(part)] = type_id
        position += len(part)
    return context_at, position


def _put_labels(shard: Shard, row: int, labels: Positions, shift: int) -> None:
    """Fill one row's labels: those of the tokens that this window answers for."""
    context = int(shard["example_context"][shard["window_example"][row]])
    first, last = int(shard["window_start"][row]), int(shard["window_end"][row])
    known = shard.labels(context)[first : last + 1].astype(np.int64)
    labels[first + shift : last + 1 + shift] = np.where(known == NO_LABEL, NO_TARGET, known)
