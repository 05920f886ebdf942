"""The span head on tiny random encoders of each family, and its loss by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel

from qa_dist.data.collate import Batch
from qa_dist.models import build_model
from qa_dist.models.multitask import MultitaskModel
from qa_dist.models.span import SpanHead
from qa_dist.recipe import Model, Recipe, Source, Train
from qa_dist.records import InputError

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


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with random weights for each family."""
    folders = {}
    for name, (config_name, more) in FAMILIES.items():
        torch.manual_seed(0)
        config = getattr(transformers, config_name)(**{**SMALL, **more})
        folders[name] = str(tmp_path_factory.mktemp(name))
        AutoModel.from_config(config).save_pretrained(folders[name])
    return folders


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


# ---- encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_a_step_with_a_finite_loss(
    encoders: dict[str, str], family: str
) -> None:
    model = build(Model(name=encoders[family]), 3, seed=0)
    batch = make_batch()
    start, end = forward(model, batch)
    assert start.shape == end.shape == (2, 8 + 3)
    loss = model(batch)
    assert torch.isfinite(loss)
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == [], "DDP needs a gradient for each parameter"
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_token_types_reach_the_encoders_that_know_them(
    encoders: dict[str, str], family: str
) -> None:
    model = build(Model(name=encoders[family]), 0, seed=0).eval()
    batch = make_batch(0)
    with torch.no_grad():
        one = forward(model, batch)[0]
        batch.token_type_ids.zero_()
        other = forward(model, batch)[0]
    assert torch.equal(one, other) == (family not in KNOWS_SEGMENTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("settings", "is_random"),
    [
        ({"attention_dropout": 0.0, "hidden_dropout": 0.0}, False),
        ({"attention_dropout": 0.5, "hidden_dropout": 0.0}, True),
        ({"attention_dropout": 0.0, "hidden_dropout": 0.5}, True),
    ],
)
def test_dropout_is_the_recipes_in_each_family(
    encoders: dict[str, str], family: str, settings: dict[str, float], is_random: bool
) -> None:
    model = build(Model(name=encoders[family], **settings), 0, seed=0).train()
    batch = make_batch(0)
    with torch.no_grad():
        draws = [forward(model, batch)[0] for _ in range(2)]
    assert torch.equal(draws[0], draws[1]) != is_random


def test_dropout_of_none_is_what_the_config_says(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"], attention_dropout=None), 0, seed=0)
    assert model.encoder.config.attention_probs_dropout_prob == 0.1
    assert model.encoder.config.hidden_dropout_prob == 0.1


def test_padding_changes_no_logit_of_a_real_token(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"]), 0, seed=0).eval()
    batch = make_batch(0)
    with torch.no_grad():
        padded = forward(model, batch)[0][1, 3:5]
        assert batch.attention_mask is not None
        one = replace(
            batch,
            input_ids=batch.input_ids[1:, :6],
            token_type_ids=batch.token_type_ids[1:, :6],
            attention_mask=None,
            candidate_mask=batch.candidate_mask[1:, :6],
        )
        alone = forward(model, one)[0][0, 3:5]
    torch.testing.assert_close(padded, alone)


def test_an_encoder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"model.name={tmp_path}/none: can't load this encoder"):
        build(Model(name=f"{tmp_path}/none"), 0, seed=0)


def test_hidden_dropout_that_an_encoder_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.FunnelConfig(vocab_size=20, block_sizes=[1], d_model=8, n_head=1)
    assert not hasattr(config, "hidden_dropout_prob") and not hasattr(config, "dropout")
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.hidden_dropout=0.3: .* has no such setting"):
        build(Model(name=str(tmp_path), hidden_dropout=0.3), 0, seed=0)


# ---- the head


def test_a_new_head_depends_on_the_seed_alone(encoders: dict[str, str]) -> None:
    def head(seed: int) -> list[torch.Tensor]:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever drew before
        head = build(Model(name=encoders["electra"]), 3, seed).heads[0]
        assert isinstance(head, SpanHead) and head.class_outputs is not None
        return [head.qa_outputs.weight, head.class_outputs.weight]

    first, again, other = head(1), head(1), head(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_building_a_model_leaves_the_generator_alone(encoders: dict[str, str]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(Model(name=encoders["distilbert"]), 3, seed=1)
    before = torch.rand(3)
    assert torch.equal(before, expected)


def test_no_span_starts_or_ends_where_none_may(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"]), 3, seed=0)
    batch = make_batch()
    for logits in forward(model, batch):
        assert torch.equal(torch.isfinite(logits[:, :8]), batch.candidate_mask)
        assert torch.isfinite(logits[:, 8:]).all(), "classes are always possible"
        assert logits.dtype == torch.float32


def test_a_class_has_one_logit_for_start_and_end(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"]), 3, seed=0)
    start, end = forward(model, make_batch())
    assert torch.equal(start[:, 8:], end[:, 8:])
    assert build(Model(name=encoders["bert"]), 0, seed=0).heads[0].class_outputs is None


# ---- the loss


def test_the_loss_of_spans_and_classes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch()  # window 0: span 4..5; window 1: class 2, at 8 + 2
    minus = float("-inf")
    start = torch.full((2, 11), minus)
    end = torch.full((2, 11), minus)
    start[0, [3, 4, 5, 6]] = torch.tensor([1.0, 2.0, 0.0, 0.0])
    end[0, [3, 4, 5, 6]] = torch.tensor([0.0, 0.0, 3.0, 1.0])
    start[1, [3, 4]] = end[1, [3, 4]] = torch.tensor([1.0, -1.0])
    start[:, 8:] = end[:, 8:] = torch.tensor([0.5, 0.0, 2.0])
    e = np.exp

    def minus_log_share(target: float, others: list[float]) -> float:
        return float(np.log(e(target) + sum(e(x) for x in others)) - target)

    start_0 = minus_log_share(2.0, [1.0, 0.0, 0.0, 0.5, 0.0, 2.0])
    end_0 = minus_log_share(3.0, [0.0, 0.0, 1.0, 0.5, 0.0, 2.0])
    both_1 = minus_log_share(2.0, [1.0, -1.0, 0.5, 0.0])
    expected = (start_0 + end_0) / 2 + both_1
    head = SpanHead(4, 3)
    monkeypatch.setattr(head, "forward", lambda hidden, batch: (start, end))
    assert float(head.loss(torch.zeros(2, 8, 4), batch)) == pytest.approx(expected, rel=1e-6)
