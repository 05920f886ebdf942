"""One encoder with several heads: what a step of one source touches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_encoders import make_batch

from qa_dist.models import build_model
from qa_dist.models.multitask import MultitaskModel
from qa_dist.recipe import Model, Recipe, Source, Train

SOURCES = [Source(task="coqa"), Source(task="squad")]
CLASSES = [["yes", "no", "unknown"], []]


def build(encoder: str, seed: int = 0, only: str = "all", **settings: object) -> MultitaskModel:
    model = replace(Model(name=encoder, hidden_dropout=0.0), **settings)  # type: ignore[arg-type]
    recipe = Recipe(sources=SOURCES, model=model, train=Train(seed=seed, only=only))
    classes = CLASSES if only == "all" else [CLASSES[[s.task for s in SOURCES].index(only)]]
    built = build_model(recipe, classes)
    assert isinstance(built, MultitaskModel)
    return built


def test_each_source_has_its_own_head_on_one_encoder(encoders: dict[str, str]) -> None:
    model = build(encoders["bert"])
    coqa, squad = model(make_batch(3), 0), model(make_batch(0), 1)
    assert torch.isfinite(coqa) and torch.isfinite(squad)
    hidden = model.hidden(make_batch(0), 1)
    assert torch.allclose(squad, model.heads[1].loss(hidden, make_batch(0)))


def test_other_heads_get_gradients_of_zero(encoders: dict[str, str]) -> None:
    model = build(encoders["bert"])
    model(make_batch(3), 0).backward()
    owners = model.owners()
    assert set(owners.values()) == {0, 1}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name}: DDP waits for each"
        if owners.get(name) == 1:
            assert not parameter.grad.any()
        if owners.get(name) == 0:
            assert parameter.grad.any()


def test_a_single_source_owns_nothing_alone(encoders: dict[str, str]) -> None:
    assert build(encoders["bert"], only="squad").owners() == {}


def test_a_baseline_starts_with_the_joint_models_weights(encoders: dict[str, str]) -> None:
    joint, alone = build(encoders["bert"]), build(encoders["bert"], only="squad")
    assert len(alone.heads) == 1
    for name, weights in alone.heads[0].state_dict().items():
        assert torch.equal(weights, joint.heads[1].state_dict()[name])


@pytest.mark.parametrize("is_frozen", [False, True])
def test_adapters_belong_to_one_source_each(encoders: dict[str, str], is_frozen: bool) -> None:
    model = build(encoders["bert"], lora_rank=2, freeze_encoder=is_frozen)
    # B starts at 0, so A has no gradient yet
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter.data)
    owners, batch = model.owners(), make_batch(0)
    model(batch, 1).backward()
    touched = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    adapters = {n for n in owners if ".lora_" in n}
    assert {n for n in adapters if owners[n] == 1} <= touched
    assert not {n for n in owners if owners[n] == 0} & touched
    of_encoder = {n for n in touched if n.startswith("encoder.") and ".lora_" not in n}
    assert bool(of_encoder) != is_frozen
    first, other = model.hidden(batch, 0), model.hidden(batch, 1)
    assert not torch.allclose(first, other), "each source goes through its own adapter"
    assert torch.equal(model.hidden(batch, 0), first), "and comes back to it"
    assert all(p.requires_grad for n, p in model.named_parameters() if ".lora_" in n)


def test_adapters_depend_on_the_seed_alone(encoders: dict[str, str]) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        model = build(encoders["bert"], seed, lora_rank=2)
        return [p for n, p in model.named_parameters() if ".lora_A." in n]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
