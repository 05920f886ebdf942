"""Packed rows: each window's hidden states, loss and gradients are those of the padded batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_model import make_chat_model
from small_encoders import build

from qa_dist.data.collate import Batch
from qa_dist.models import attention
from qa_dist.models.attention import (
    PACKED,
    PackedRow,
    make_packed,
    pack,
    packed_attention,
    resolve_packing,
    varlen_options,
)
from qa_dist.models.causal_lm import build_causal_lm
from qa_dist.models.encoder import encode, load_encoder
from qa_dist.models.multitask import MultitaskModel
from qa_dist.recipe import PACKED_FAMILIES, Model
from qa_dist.records import InputError

ENCODERS = [family for family in PACKED_FAMILIES if family != "qwen2"]
LENGTHS = (9, 24, 1, 17)
NO_DROPOUT: dict[str, Any] = {"attention_dropout": 0.0, "hidden_dropout": 0.0}

torch.set_num_threads(1)


def ragged(
    lengths: tuple[int, ...] = LENGTHS, pad: int = 0, width: int = 0, context_at: int = 0
) -> Batch:
    """Return windows of these lengths, padded with `pad`, that have targets."""
    width = max(width, *lengths)
    draw = torch.Generator().manual_seed(1)
    size = (len(lengths), width)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 50, size, generator=draw).where(real, pad)
    none = np.zeros(len(lengths), dtype=np.int64)
    ends = torch.tensor(lengths) - 1
    return Batch(
        input_ids=ids,
        token_type_ids=(torch.arange(width) > 3).long().where(real, 0),
        attention_mask=real,
        candidate_mask=real,
        starts=ends // 2,
        ends=ends,
        labels=None,
        nulls_at=none,
        context_at=np.minimum(none + context_at, np.array(lengths) - 1),
        context_from=none,
        lengths=np.array(lengths),
    )


def pad_of(family: str) -> int:
    return 1 if family == "roberta" else 0


def both(encoders: dict[str, str], family: str, **more: Any) -> list[MultitaskModel]:
    """Return one model padded and the same one packed."""
    models = [build(Model(name=encoders[family], **NO_DROPOUT, **more), 0, seed=0) for _ in "ab"]
    make_packed(models[1].encoder)
    return models


def largest_difference(a: torch.Tensor, b: torch.Tensor, lengths: np.ndarray[Any, Any]) -> float:
    """Return how far two tensors, (B, T, H), are apart at their windows' tokens."""
    real = torch.arange(a.shape[1]) < torch.from_numpy(lengths)[:, None]
    return float((a - b)[real].abs().max())


def gradients(model: torch.nn.Module, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    loss = model(batch)
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found
    return loss.item(), found


def assert_same_training(models: list[Any], batch: Batch) -> None:
    (loss, expected), (packed_loss, found) = (gradients(model, batch) for model in models)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-4)


# -- the row ---------------------------------------------------------------------------------------


def test_a_row_is_the_windows_one_after_another() -> None:
    batch = ragged((3, 2))
    row = pack(batch)
    assert row.index.tolist() == [0, 1, 2, 3, 4] and row.cu_lengths.tolist() == [0, 3, 5]
    assert (row.longest, row.cu_lengths.dtype) == (3, torch.int32)
    wide = ragged((2, 3, 1), width=5)
    row = pack(wide)
    assert row.index.tolist() == [0, 1, 5, 6, 7, 10] and row.longest == 3
    taken = row.take(wide.input_ids)
    assert taken.tolist() == [wide.input_ids.flatten()[row.index].tolist()]
    hidden = taken[..., None].float().expand(1, 6, 2)
    real = wide.attention_mask
    assert real is not None
    expected = wide.input_ids * real
    assert torch.equal(row.put(hidden, 3), expected[..., None].float().expand(3, 5, 2))


# -- encoders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_hidden_states_are_those_of_the_padded_batch(encoders: dict[str, str], family: str) -> None:
    padded, packed = both(encoders, family)
    batch = ragged(pad=pad_of(family))
    with torch.no_grad():
        expected, found = padded.eval().hidden(batch), packed.eval().hidden(batch)
    assert found.shape == expected.shape
    assert largest_difference(found, expected, batch.lengths) < 1e-5
    assert not found[0, batch.lengths[0] :].any(), "padding stays 0"


@pytest.mark.parametrize("family", ENCODERS)
def test_windows_that_see_each_other_differ(
    encoders: dict[str, str], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: the same row without its windows' ends."""
    padded, packed = both(encoders, family)
    batch = ragged(pad=pad_of(family))

    def unseparated(row: PackedRow) -> dict[str, Any]:
        whole = torch.tensor([0, len(row.index)], dtype=torch.int32)
        return {"cu_seq_lens_q": whole, "max_length_q": len(row.index)}

    monkeypatch.setattr(PackedRow, "arguments", property(unseparated))
    with torch.no_grad():
        expected, found = padded.eval().hidden(batch), packed.eval().hidden(batch)
    assert largest_difference(found, expected, batch.lengths) > 1e-3


@pytest.mark.parametrize("family", ENCODERS)
def test_positions_that_go_on_over_windows_differ(
    encoders: dict[str, str], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of RoBERTa also those that begin at 0, as other encoders' do."""
    padded, packed = both(encoders, family)
    batch = ragged((9, 12, 1, 8), pad=pad_of(family))
    positions = {"going on": torch.arange(48).view(4, 12).clamp(max=39)}
    if family == "roberta":
        positions["from 0"] = torch.arange(12).expand(4, 12)
    for wrong in positions.values():
        monkeypatch.setattr("qa_dist.models.encoder._positions", lambda *_, w=wrong: w)
        with torch.no_grad():
            expected, found = padded.eval().hidden(batch), packed.eval().hidden(batch)
        assert largest_difference(found, expected, batch.lengths) > 1e-3


def test_a_pad_token_in_a_text_has_the_position_that_roberta_gives_it(
    encoders: dict[str, str],
) -> None:
    padded, packed = both(encoders, "roberta")
    batch = ragged(pad=1)
    batch.input_ids[1, 5] = 1
    with torch.no_grad():
        expected, found = padded.eval().hidden(batch), packed.eval().hidden(batch)
    assert largest_difference(found, expected, batch.lengths) < 1e-5


@pytest.mark.parametrize(
    ("family", "is_checkpointing"),
    [(f, c) for f in ENCODERS for c in (False, True) if not (c and f == "albert")],  # it can't
)
def test_loss_and_gradients_are_those_of_the_padded_batch(
    encoders: dict[str, str], family: str, is_checkpointing: bool
) -> None:
    """Checkpointing computes the layers again in the backward pass, far from `encode`."""
    models = both(encoders, family, gradient_checkpointing=is_checkpointing)
    assert_same_training(models, ragged(pad=pad_of(family)))


def test_adapters_of_an_encoder_learn_the_same(encoders: dict[str, str]) -> None:
    models = both(encoders, "bert", lora_rank=2, freeze_encoder=True)
    assert models[1].is_packed and not models[0].is_packed
    for model in models:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.05)
    assert_same_training(models, ragged())


def test_hidden_dropout_is_drawn_in_a_row_too(encoders: dict[str, str]) -> None:
    model = build(Model(name=encoders["bert"], hidden_dropout=0.5), 0, seed=0).train()
    make_packed(model.encoder)
    batch = ragged()
    assert not torch.equal(model.hidden(batch), model.hidden(batch))


def test_a_mask_in_four_dimensions_hides_the_same(encoders: dict[str, str]) -> None:
    for family in ENCODERS:
        encoder = load_encoder(Model(name=encoders[family])).eval()
        batch = ragged(pad=pad_of(family))
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        if family != "roberta":
            inputs["token_type_ids"] = batch.token_type_ids
        with torch.no_grad():
            plain = encoder(**inputs, attention_mask=batch.attention_mask)[0]
            blind = encoder(**inputs)[0]
            found = encode(encoder, batch)
        assert largest_difference(found, plain, batch.lengths) == 0
        assert largest_difference(found, blind, batch.lengths) > 1e-3


# -- a language model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("more", [{}, {"lora_rank": 4}, {"gradient_checkpointing": True}])
def test_a_language_model_learns_the_same(base: Path, more: dict[str, Any]) -> None:
    settings = Model(name=str(base), head="causal_lm", **more)
    models = [build_causal_lm(settings, seed=0, as_rows=as_rows) for as_rows in (False, True)]
    assert [model.is_packed for model in models] == [False, True]
    assert_same_training(models, ragged(context_at=5))


def test_a_language_models_windows_are_apart(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Model(name=str(base), head="causal_lm")
    models = [build_causal_lm(settings, 0, as_rows).eval() for as_rows in (False, True)]
    batch = ragged(context_at=5)
    whole = property(lambda r: {"cu_seq_lens_q": r.cu_lengths[[0, -1]], "max_length_q": 51})
    monkeypatch.setattr(PackedRow, "arguments", whole)
    with torch.no_grad():
        padded, packed = (model(batch).item() for model in models)
    assert packed != pytest.approx(padded, rel=1e-4)


# -- what it would get wrong -----------------------------------------------------------------------


def test_a_packed_model_refuses_what_it_would_get_wrong(encoders: dict[str, str]) -> None:
    encoder: Any = load_encoder(Model(name=encoders["bert"]), as_rows=True)
    assert encoder.config._attn_implementation == PACKED
    with pytest.raises(ValueError, match="packed rows only"):
        encoder(input_ids=ragged().input_ids)
    q = torch.zeros(1, 2, 4, 8)
    at = torch.tensor([0, 4], dtype=torch.int32)
    for wrong in ({"dropout": 0.1}, {"sliding_window": 2}):
        with pytest.raises(ValueError, match="neither dropout nor a sliding window"):
            packed_attention(encoder, q, q, q, None, cu_seq_lens_q=at, max_length_q=4, **wrong)  # type: ignore[arg-type]


def test_each_version_of_torchs_function_gets_its_own_options() -> None:
    names = frozenset({"query", "is_causal"})
    assert varlen_options(names, True, 0.5) == {"is_causal": True}
    names = frozenset({"query", "scale", "window_size"})
    assert varlen_options(names, True, 0.5) == {"scale": 0.5, "window_size": (-1, 0)}
    here = attention._varlen_parameters()
    assert here, "this torch has it"
    options = varlen_options(here, False, 0.5)
    assert options.keys() <= here and options["window_size"] == (-1, -1)


# -- where it is used ------------------------------------------------------------------------------


def test_on_a_cpu_batches_are_packed_only_if_asked(encoders: dict[str, str]) -> None:
    model = Model(name=encoders["bert"])
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for precision in ("fp32", "bf16"):
        assert resolve_packing("auto", model, precision) == (False, "")
        assert resolve_packing("off", model, precision) == (False, "")
        assert resolve_packing("on", model, precision) == (True, "")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def test_on_a_gpu_batches_are_packed_where_nothing_is_in_the_way(
    encoders: dict[str, str], on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(name=encoders["bert"])
    assert resolve_packing("auto", model, "bf16") == (True, "")
    assert resolve_packing("off", model, "bf16") == (False, "")
    cases: dict[str, tuple[Model, str]] = {
        "attention dropout is 0.1": (replace(model, attention_dropout=0.1), "bf16"),
        "attention dropout is 0.1, which": (replace(model, attention_dropout=None), "bf16"),
        "is a mobilebert; bert, roberta": (Model(name=encoders["mobilebert"]), "bf16"),
        "train.precision is fp32": (model, "fp32"),
        "attention heads are 4 wide": (Model(name=encoders["tinybert"]), "bf16"),
    }
    for why, (wrong, precision) in cases.items():
        is_packed, obstacle = resolve_packing("auto", wrong, precision)
        assert not is_packed and why in obstacle
        with pytest.raises(InputError, match=f"train.packing=on: .*{why}"):
            resolve_packing("on", wrong, precision)
    monkeypatch.setattr(attention, "_varlen_parameters", frozenset)
    assert "has no varlen_attn" in resolve_packing("auto", model, "bf16")[1]


def test_an_old_gpu_and_a_sliding_window_are_in_the_way(
    base: Path, tmp_path: Path, on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_packing("auto", Model(name=str(base)), "bf16") == (True, "")
    sliding = make_chat_model(tmp_path, use_sliding_window=True, sliding_window=8)
    assert "sliding window" in resolve_packing("auto", Model(name=str(sliding)), "bf16")[1]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    assert "T4 is older" in resolve_packing("auto", Model(name=str(base)), "bf16")[1]


# -- on a GPU --------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", ENCODERS)
def test_on_a_gpu_hidden_states_and_gradients_are_those_of_the_padded_batch(
    encoders: dict[str, str], family: str
) -> None:
    """bf16: 8 bits of a number are kept, and layer norms bring hidden states to about 1."""
    models = [model.cuda() for model in both(encoders, family)]
    batch = ragged(pad=pad_of(family)).to(torch.device("cuda"))
    hidden = []
    with torch.autocast("cuda", torch.bfloat16):
        for model in models:
            hidden.append(model.eval().hidden(batch).detach().float().cpu())
        results = [gradients(model, batch) for model in models]
    assert largest_difference(hidden[1], hidden[0], batch.lengths) < 0.06
    assert results[1][0] == pytest.approx(results[0][0], rel=0.02)
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(gradient, results[0][1][name], atol=0.05, rtol=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("heads", [(4, 4, False), (8, 2, True)])
def test_on_a_gpu_the_kernel_gives_what_sdpa_gives(heads: tuple[int, int, bool]) -> None:
    num_heads, num_kv_heads, is_causal = heads
    lengths = [90, 240, 1, 171]
    at = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32, device="cuda")
    torch.manual_seed(0)
    sizes = [(1, n, sum(lengths), 64) for n in (num_heads, num_kv_heads, num_kv_heads)]
    parts = [torch.randn(size, device="cuda") for size in sizes]
    module: Any = torch.nn.Identity()
    module.is_causal = is_causal

    def attend(*inputs: torch.Tensor) -> list[torch.Tensor]:
        leaves = [part.detach().requires_grad_() for part in inputs]
        out, _ = packed_attention(
            module,
            *leaves,
            None,
            scaling=0.125,
            cu_seq_lens_q=at.to(inputs[0].device),
            max_length_q=240,
        )
        out.float().square().sum().backward()
        return [out.detach().float().cpu(), *(leaf.grad.float().cpu() for leaf in leaves)]  # type: ignore[union-attr]

    found = attend(*(part.bfloat16() for part in parts))
    expected = attend(*(part.bfloat16().float().cpu() for part in parts))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
    at = torch.tensor([0, sum(lengths)], dtype=torch.int32, device="cuda")
    whole = attend(*(part.bfloat16().float().cpu() for part in parts))
    assert (found[0] - whole[0]).norm() > 0.2 * whole[0].norm()
