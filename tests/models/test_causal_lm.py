"""QLoRA on a small random model: the answer's tokens alone are learnt, and adapters alone kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import make_chat_model

from qa_dist.data.collate import Batch
from qa_dist.models.causal_lm import BASE_DIGEST, CausalLmModel, build_causal_lm
from qa_dist.models.parameters import count_parameters
from qa_dist.recipe import Model, Train
from qa_dist.records import InputError
from qa_dist.training.optim import build_optimizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def qlora(base: Path) -> Model:
    return Model(name=str(base), head="causal_lm", lora_rank=4, quantization="nf4")


def make_batch(lengths: list[tuple[int, int]], width: int = 0) -> Batch:
    """Return a batch of rows with so many prompt and answer tokens, padded on the right."""
    width = max(width, *(sum(pair) for pair in lengths))
    ids = torch.zeros((len(lengths), width), dtype=torch.int64)
    answers, real = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    draw = torch.Generator().manual_seed(1)
    for row, (prompt, answer) in enumerate(lengths):
        size = prompt + answer
        ids[row, :size] = torch.randint(3, 500, (size,), generator=draw)
        answers[row, prompt:size] = True
        real[row, :size] = True
    none = np.zeros(len(lengths), dtype=np.int64)
    values: dict[str, Any] = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": None if real.all() else real,
        "candidate_mask": answers,
        "starts": torch.zeros(len(lengths), dtype=torch.int64),
        "ends": torch.zeros(len(lengths), dtype=torch.int64),
        "labels": None,
        "nulls_at": none,
        "context_at": np.array([prompt for prompt, _ in lengths]),
        "context_from": none,
        "lengths": real.sum(1).numpy(),
    }
    return Batch(**values)


BATCH = make_batch([(20, 5), (9, 8)])


def train(model: CausalLmModel, steps: int = 3, optimizer: str = "adamw") -> list[float]:
    settings = Train(optimizer=optimizer)
    opt = build_optimizer(model, settings)
    model.train()
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = model(BATCH)
        loss.backward()
        for group in opt.param_groups:
            group["lr"] = 0.01
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_loss_is_that_of_the_answers_tokens(base: Path):
    import transformers

    model = build_causal_lm(Model(name=str(base), head="causal_lm"), seed=0).eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    labels = BATCH.input_ids.masked_fill(~BATCH.candidate_mask, -100)
    mask = BATCH.attention_mask
    with torch.no_grad():
        mean = plain(input_ids=BATCH.input_ids, attention_mask=mask, labels=labels).loss
        loss = model(BATCH)
    assert loss.item() == pytest.approx(mean.item() * 13, rel=1e-5)
    everything = plain(input_ids=BATCH.input_ids, labels=BATCH.input_ids).loss
    assert loss.item() != pytest.approx(everything.item() * 13, rel=1e-4)


def test_where_answers_are_is_known_without_looking_at_a_tensor(base: Path):
    """What reads a mask on a GPU waits for it; the loss is that of the mask, to the last bit."""
    model = build_causal_lm(Model(name=str(base), head="causal_lm"), seed=0).eval()
    batch = make_batch([(20, 5), (9, 8), (3, 1)], width=40)
    answers = batch.candidate_mask[:, 1:]
    inner = model.language_model
    hidden = inner.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    logits = inner.get_output_embeddings()(hidden[:, :-1][answers]).float()
    targets = batch.input_ids[:, 1:][answers]
    masked = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (expected,) = torch.autograd.grad(masked, [inner.get_input_embeddings().weight])
    blind = replace(batch, candidate_mask=torch.zeros((), dtype=torch.bool))
    loss = model(blind)
    (found,) = torch.autograd.grad(loss, [inner.get_input_embeddings().weight])
    assert loss.item() == masked.item()
    assert torch.equal(found, expected)
    fewer = replace(blind, context_at=batch.context_at + np.array([1, 0, 0]))
    assert model(fewer).item() != loss.item()


def test_padding_and_neighbours_change_nothing(qlora: Model):
    model = build_causal_lm(qlora, seed=0).eval()
    with torch.no_grad():
        both = model(BATCH)
        wide = model(make_batch([(20, 5), (9, 8)], width=40))
    assert wide.item() == pytest.approx(both.item(), rel=1e-5)


def test_adapters_alone_are_trained_on_all_linear_layers(qlora: Model):
    model = build_causal_lm(qlora, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in trained)
    kinds = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in trained}
    assert kinds == {*("q_proj", "k_proj", "v_proj", "o_proj"), "gate_proj", "up_proj", "down_proj"}
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    frozen = dict(model.language_model.named_parameters())
    four_bit = [p for name, p in frozen.items() if name.endswith("_proj.base_layer.weight")]
    assert len(four_bit) == 14 and all(p.dtype == torch.uint8 for p in four_bit)
    assert all(p.quant_state.nested and p.quant_state.quant_type == "nf4" for p in four_bit)
    assert set(model.state_dict()) == trained | {BASE_DIGEST}


def test_4_bit_weights_are_counted_whole(base: Path, qlora: Model):
    (plain,) = count_parameters(build_causal_lm(Model(name=str(base), head="causal_lm"), seed=0))
    parts = count_parameters(build_causal_lm(qlora, seed=0))
    assert [part.name for part in parts] == ["base", "adapter", "total"]
    assert parts[0].parameters == plain.parameters == plain.trained
    assert parts[0].trained == 0
    assert parts[1].parameters == parts[1].trained == parts[2].trained
    # Two layers of rank 4 beside 64 x 64 (twice), 64 x 32 (twice), 64 x 128 (thrice).
    assert parts[1].parameters == 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_8bit"])
def test_training_is_the_same_each_time(qlora: Model, optimizer: str):
    qlora = replace(qlora, lora_dropout=0.1, gradient_checkpointing=True)
    runs = []
    for _ in range(2):
        model = build_causal_lm(qlora, seed=3)
        runs.append((train(model, optimizer=optimizer), model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert runs[0][0][-1] < runs[0][0][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])
    assert train(build_causal_lm(qlora, seed=4), optimizer=optimizer) != runs[0][0]


def test_gradient_checkpointing_changes_no_figure(qlora: Model):
    one = build_causal_lm(replace(qlora, gradient_checkpointing=True), seed=3)
    assert train(one) == train(build_causal_lm(qlora, seed=3))


def test_the_adapters_start_depends_on_the_seed_alone(qlora: Model):
    torch.manual_seed(1)
    first = build_causal_lm(qlora, seed=0).state_dict()
    torch.manual_seed(2)
    again = build_causal_lm(qlora, seed=0).state_dict()
    other = build_causal_lm(qlora, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_without_its_adapter_it_is_the_base(qlora: Model):
    model = build_causal_lm(qlora, seed=0)
    model.eval()
    with torch.no_grad():
        before = model(BATCH)
    train(model)
    model.eval()
    with torch.no_grad():
        tuned = model(BATCH)
        with model.adapter_off():
            base = model(BATCH)
        again = model(BATCH)
    assert base.item() == before.item() != tuned.item() == again.item()


def test_what_is_saved_comes_back_into_a_new_model(qlora: Model):
    model = build_causal_lm(qlora, seed=0)
    train(model)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    other = build_causal_lm(qlora, seed=1)
    assert other.eval()(BATCH).item() != model.eval()(BATCH).item()
    other.load_state_dict(state)
    assert other(BATCH).item() == model(BATCH).item()


def test_exactly_the_saved_tensors_are_taken(qlora: Model):
    model = build_causal_lm(qlora, seed=0)
    state = model.state_dict()
    name = next(iter(state))
    fewer = {key: tensor for key, tensor in state.items() if key != name}
    for wrong in (fewer, {**state, "more": state[name]}, {**state, name: state[name][:1]}):
        with pytest.raises(InputError, match="1 tensors differ"):
            model.load_state_dict(wrong)


def test_a_checkpoint_of_another_base_is_refused(qlora: Model, tmp_path: Path):
    model = build_causal_lm(qlora, seed=0)
    other = make_chat_model(tmp_path, initializer_range=0.03)
    stranger = build_causal_lm(replace(qlora, name=str(other)), seed=0)
    with pytest.raises(InputError, match="trained on another base"):
        stranger.load_state_dict(model.state_dict())


def test_without_adapters_all_is_trained_and_there_is_no_base(base: Path):
    model = build_causal_lm(Model(name=str(base), head="causal_lm"), seed=0)
    assert all(p.requires_grad for p in model.parameters())
    assert len(model.state_dict()) == len(list(model.parameters())) + 1
    with pytest.raises(ValueError, match="without an adapter"), model.adapter_off():
        pass


def test_what_isnt_a_language_model_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"model\.name=.*can't load this language model"):
        build_causal_lm(Model(name=str(tmp_path), head="causal_lm"), seed=0)


def test_weights_that_the_digest_doesnt_cover_are_refused(base: Path, tmp_path: Path):
    """pytorch_model.bin may be changed under an adapter without a word, and may hold code."""
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    shutil.copy(base / "config.json", tmp_path)
    torch.save(plain.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.name=.*Expected .* safetensors"):
        build_causal_lm(Model(name=str(tmp_path), head="causal_lm"), seed=0)
    shutil.copy(base / "model.safetensors", tmp_path)
    build_causal_lm(Model(name=str(tmp_path), head="causal_lm"), seed=0)
