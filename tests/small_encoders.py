"""Tiny random encoders of each family, a batch for them, and a model on top."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qa_dist.data.collate import Batch
from qa_dist.models import build_model
from qa_dist.models.multitask import MultitaskModel
from qa_dist.recipe import Model, Recipe, Source, Train

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {}),
    "tinybert": ("BertConfig", {"hidden_size": 12, "num_attention_heads": 3}),
    "albert": ("AlbertConfig", {"embedding_size": 8}),
    "roberta": ("RobertaConfig", {"type_vocab_size": 1, "pad_token_id": 1}),
    "electra": ("ElectraConfig", {"embedding_size": 8}),
    "mobilebert": (
        "MobileBertConfig",
        {"embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2},
    ),
    "distilbert": ("DistilBertConfig", {"hidden_dim": 32}),
}
# ALBERT and DistilBERT were trained with one segment or none; RoBERTa has one.
KNOWS_SEGMENTS = ("bert", "tinybert", "albert", "electra", "mobilebert")


def make_batch(num_classes: int = 3) -> Batch:
    """Two windows of 8 tokens, the second padded; targets: a span, and the last class (or CLS)."""
    torch.manual_seed(1)
    real = torch.ones(2, 8, dtype=torch.bool)
    real[1, 6:] = False
    candidates = torch.zeros(2, 8, dtype=torch.bool)
    candidates[0, 3:7] = True
    candidates[1, 3:5] = True
    types = torch.zeros(2, 8, dtype=torch.int64)
    types[:, 3:] = 1
    last = 8 + num_classes - 1 if num_classes else 3
    return Batch(
        input_ids=torch.randint(5, 50, (2, 8)),
        token_type_ids=types,
        attention_mask=real,
        candidate_mask=candidates,
        starts=torch.tensor([4, last]),
        ends=torch.tensor([5, last]),
        labels=None,
        nulls_at=np.array([last, last]),
        context_at=np.array([3, 3]),
        context_from=np.array([0, 0]),
        lengths=np.array([8, 6]),
    )


def build(model: Model, num_classes: int, seed: int) -> MultitaskModel:
    recipe = Recipe(sources=[Source(task="squad")], model=model, train=Train(seed=seed))
    built = build_model(recipe, [["class"] * num_classes])
    assert isinstance(built, MultitaskModel)
    return built


def forward(model: MultitaskModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    start, end = model.heads[0](model.hidden(batch), batch)
    return start, end
