"""Encoders of the six architectures, as they are published: what would go wrong in silence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import ARCHITECTURES, make_encoder
from safetensors.torch import load_file, save_file

from qa_dist.models.encoder import load_encoder
from qa_dist.recipe import Model
from qa_dist.records import InputError

NUM_TOKENS = 11


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("architectures")
    return {name: make_encoder(root / name, name) for name in ARCHITECTURES}


@pytest.fixture
def copied(encoders: dict[str, Path], tmp_path: Path) -> Path:
    """A BERT to be damaged."""
    return Path(shutil.copytree(encoders["bert"], tmp_path / "bert"))


def load(folder: Path) -> Any:
    return load_encoder(Model(name=str(folder))).eval()


@torch.no_grad()
def hidden_states(encoder: Any, num_padding: int, **inputs: torch.Tensor) -> torch.Tensor:
    """Return the real tokens' hidden states of a row with so much padding behind it: (T, H)."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8, 300, (1, NUM_TOKENS), generator=generator)
    padding = torch.full((1, num_padding), encoder.config.pad_token_id)
    mask = torch.ones(1, NUM_TOKENS + num_padding, dtype=torch.bool)
    mask[0, NUM_TOKENS:] = False
    ids = torch.cat([ids, padding], 1)
    hidden = encoder(input_ids=ids, attention_mask=mask if num_padding else None, **inputs)
    return hidden.last_hidden_state[0, :NUM_TOKENS]  # type: ignore[no-any-return]


# ---- padding and positions


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_padding", [1, 13])
def test_a_padded_row_equals_one_alone(
    encoders: dict[str, Path], architecture: str, num_padding: int
) -> None:
    encoder = load(encoders[architecture])
    alone, padded = (hidden_states(encoder, num) for num in (0, num_padding))
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_control_padding_with_another_token_is_seen(encoders: dict[str, Path]) -> None:
    """MobileBERT's last token looks at its neighbour, masked or not."""
    encoder = load(encoders["mobilebert"])
    alone = hidden_states(encoder, 0)
    encoder.config.pad_token_id = 7
    assert (hidden_states(encoder, 3) - alone).abs().max() > 1e-3


def test_mobilebert_with_a_published_padding_vector_is_mended(
    encoders: dict[str, Path], tmp_path: Path
) -> None:
    """Its checkpoints were trained with a vector for [PAD], which isn't zero."""
    folder = shutil.copytree(encoders["mobilebert"], tmp_path / "mobilebert")
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("word_embeddings.weight"))
    assert not weights[name][0].any()
    weights[name][0] = 1.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    encoder = load(folder)
    torch.testing.assert_close(hidden_states(encoder, 5), hidden_states(encoder, 0))
    with torch.no_grad():
        encoder.get_input_embeddings().weight[0] = 1.0
    assert (hidden_states(encoder, 5) - hidden_states(encoder, 0)).abs().max() > 1e-3, "control"


def test_robertas_positions_begin_at_2(encoders: dict[str, Path]) -> None:
    """Token i sees row i + 2 of the table, padding or not: others of it change nothing."""
    for num_padding in (0, 5):
        encoder = load(encoders["roberta"])
        table = encoder.embeddings.position_embeddings.weight
        before = hidden_states(encoder, num_padding)
        with torch.no_grad():
            table[:2] += 1.0
            table[NUM_TOKENS + 2 :] += 1.0
        assert torch.equal(hidden_states(encoder, num_padding), before)
        with torch.no_grad():
            table[NUM_TOKENS + 1] += 1.0
        assert not torch.equal(hidden_states(encoder, num_padding), before)


# ---- traits


def test_an_encoder_has_no_pooler_and_its_own_embedding_size(encoders: dict[str, Path]) -> None:
    for name, folder in encoders.items():
        encoder = load(folder)
        assert not [key for key, _ in encoder.named_parameters() if "pooler" in key], name
        assert hidden_states(encoder, 0).shape == (NUM_TOKENS, encoder.config.hidden_size)
        width = encoder.get_input_embeddings().weight.shape[1]
        assert width == (16 if name in ("albert", "electra", "mobilebert") else width), name
    assert load(encoders["mobilebert"]).config.use_bottleneck


def test_token_types_are_what_the_config_says(encoders: dict[str, Path]) -> None:
    """RoBERTa's table has one row: a second segment would be an index error, so it gets none."""
    sizes = {name: load(folder).config.type_vocab_size for name, folder in encoders.items()}
    assert sizes.pop("roberta") == 1
    assert set(sizes.values()) == {2}


def test_what_an_encoder_cannot_do_is_refused_by_its_key(encoders: dict[str, Path]) -> None:
    asked = {"gradient_checkpointing": True}
    with pytest.raises(InputError, match=r"model\.gradient_checkpointing=true: Albert"):
        load_encoder(Model(name=str(encoders["albert"]), **asked))
    assert load_encoder(Model(name=str(encoders["bert"]), **asked)).is_gradient_checkpointing


# ---- files as they are published


def test_tinyberts_files_are_a_plain_bert(encoders: dict[str, Path]) -> None:
    """No model_type, weights in a .bin under a prefix, heads of its own beside them."""
    folder = encoders["tinybert"]
    assert "model_type" not in json.loads((folder / "config.json").read_text())
    assert not (folder / "model.safetensors").exists()
    encoder = load(folder)
    assert type(encoder).__name__ == "BertModel"
    saved = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, saved[f"bert.{name}"]), name


def test_a_bin_file_that_could_run_code_is_not_opened(copied: Path, tmp_path: Path) -> None:
    (copied / "model.safetensors").unlink()
    canary = tmp_path / "canary"

    class Code:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    torch.save({"weight": Code()}, copied / "pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors, which could run code") as error:
        load(copied)
    assert "weights_only" not in str(error.value), "torch's advice is to open it"
    assert not canary.exists()


def test_weights_that_are_not_there_or_damaged_are_named(copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for what in ("incomplete metadata", "no file named model.safetensors"):
        with pytest.raises(InputError, match=f"model.name={copied}: can't load .*{what}"):
            load(copied)
        path.unlink(missing_ok=True)


def test_weights_of_other_names_do_not_leave_a_random_encoder(copied: Path) -> None:
    path = copied / "model.safetensors"
    weights = load_file(path)
    save_file({f"other.{name}": w for name, w in weights.items()}, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"aren't among its weights, such as embeddings\.Layer"):
        load(copied)
    # the pooler serves no head, so nobody misses it
    kept = {name: w for name, w in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, path, {"format": "pt"})
    load(copied)


def test_old_names_of_normalisation_weights_are_understood(copied: Path) -> None:
    path = copied / "model.safetensors"
    before = load(copied).state_dict()
    weights = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(weights, path, {"format": "pt"})
    after = load(copied).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
