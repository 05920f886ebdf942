"""Heads on encoders of each family: inputs, dropout, padding, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from small_encoders import FAMILIES, KNOWS_SEGMENTS, build, forward, make_batch

from qa_dist.recipe import Model
from qa_dist.records import InputError


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
    with pytest.raises(InputError, match=f"model.name={tmp_path}/none: there is no such folder"):
        build(Model(name=f"{tmp_path}/none"), 0, seed=0)


def test_hidden_dropout_that_an_encoder_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.FunnelConfig(vocab_size=20, block_sizes=[1], d_model=8, n_head=1)
    assert not hasattr(config, "hidden_dropout_prob") and not hasattr(config, "dropout")
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model.hidden_dropout=0.3: .* has no such setting"):
        build(Model(name=str(tmp_path), hidden_dropout=0.3), 0, seed=0)
