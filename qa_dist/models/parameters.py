"""What a model is made of: parameters of encoder, adapters and heads, as printed before training.

Published counts include an encoder's pooler, which none of our heads uses and we leave out: the
table says both, so that figures can be compared. B, T, H play no part; nothing is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qa_dist.models.encoder import without_pooler
from qa_dist.models.multitask import MultitaskModel


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    name: str
    parameters: int
    trained: int
    pooler: int = 0
    """Parameters that the published encoder has besides, in the pooler that we leave out."""


def count_parameters(model: nn.Module) -> list[Part]:
    """Return the parts of a model, its total last. Works on the meta device."""
    if not isinstance(model, MultitaskModel):
        adapted = [(".lora_" in name, p) for name, p in model.named_parameters()]
        base, adapter = ([p for is_in, p in adapted if is_in is want] for want in (False, True))
        if not adapter:
            return [_part("model", base)]
        parts = [_part("base", base), _part("adapter", adapter)]
        return [*parts, _total(parts)]
    named = list(model.encoder.named_parameters())
    pooler = count_pooler(model.encoder)
    parts = [_part("encoder", [p for name, p in named if ".lora_" not in name], pooler)]
    for name, head in zip(model.names, model.heads, strict=True):
        adapter = [p for n, p in named if ".lora_" in n and f".{name}." in n]
        if adapter:
            parts.append(_part(f"adapter {name}", adapter))
        parts.append(_part(f"head {name}", list(head.parameters())))
    return [*parts, _total(parts)]


def count_pooler(encoder: nn.Module) -> int:
    """Return the parameters of the pooler that an encoder was built without; 0: it has none."""
    import transformers

    config = encoder.config
    if not without_pooler(config):
        return 0
    with torch.device("meta"):
        whole = transformers.AutoModel.from_config(config)
        bare = transformers.AutoModel.from_config(config, add_pooling_layer=False)
    return int(whole.num_parameters() - bare.num_parameters())


def show_parameters(parts: Sequence[Part]) -> list[str]:
    """Return the table's lines."""
    lines = []
    for part in parts:
        line = f"{part.name:16s} {part.parameters:>13,}"
        if part.pooler:
            line += (
                f"  ({part.parameters + part.pooler:,} with the pooler, left out: no head uses it)"
            )
        if part.trained != part.parameters:
            line += f"  trained: {part.trained:,}"
        lines.append(line)
    return lines


def _part(name: str, parameters: Sequence[nn.Parameter], pooler: int = 0) -> Part:
    trained = sum(_size(p) for p in parameters if p.requires_grad)
    return Part(name, sum(map(_size, parameters)), trained, pooler)


def _size(parameter: Any) -> int:
    """Return how many numbers a parameter stands for: of a 4-bit one, two per byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(parameter.shape if state is None else state.shape)


def _total(parts: Sequence[Part]) -> Part:
    sums = (sum(getattr(part, n) for part in parts) for n in ("parameters", "trained", "pooler"))
    return Part("total", *sums)
