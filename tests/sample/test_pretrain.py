"""The bundled encoder loads and is small; the script that made it runs, and grows a model."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

import qa_dist.sample
from qa_dist.sample import pretrain
from qa_dist.sample.make_data import NUM_STORIES, SEED
from qa_dist.sample.vocabulary import make_tokenizer, make_vocabulary

ENCODER = Path(qa_dist.sample.__file__).parent / "encoder"


def test_the_encoder_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in ENCODER.iterdir()}
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(sizes) == expected
    assert sum(sizes.values()) < 2_000_000


def test_the_encoder_loads_as_a_float32_bert_with_a_fast_tokenizer() -> None:
    model = AutoModel.from_pretrained(ENCODER, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    assert model.config.model_type == "bert"
    assert model.config.attention_probs_dropout_prob == 0.0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.is_fast
    assert len(tokenizer) == model.config.vocab_size <= 800
    ids = tokenizer("Where does Zoë live?", "Zoë lives in Rome.")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids.count(tokenizer.sep_token_id) == 2
    assert tokenizer.unk_token_id not in ids
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state
    assert hidden.shape == (1, len(ids), 128)


def test_pre_training_reads_another_seed_than_the_bundled_files() -> None:
    bundled = [100 * SEED + index for index in range(len(NUM_STORIES))]
    assert not {pretrain.SEED + index for index in range(len(pretrain.PHASES))} & set(bundled)


def test_a_grown_model_at_first_computes_nearly_the_same() -> None:
    small = pretrain.make_model(40, num_layers=1)
    grown = pretrain.grow(small, num_layers=2)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before, after = small(input_ids=ids).logits, grown(input_ids=ids).logits
    assert grown.config.num_hidden_layers == 2
    assert (before - after).abs().max() < 1e-3


def test_positions_start_as_sinusoids_and_shifted_texts_use_late_ones() -> None:
    vocabulary = make_vocabulary(make_tokenizer())
    short = pretrain.SHORT
    rng = random.Random(0)
    positions = next(pretrain.make_batches(rng, vocabulary, (replace(short, until=1.0),), 1))[3]
    assert positions.shape[0] == pretrain.BATCH_SIZE
    assert (positions.diff(dim=1) == 1).all()
    assert positions.max() > positions.shape[1]
    assert positions.max() < pretrain.LONGEST


def test_two_steps_train_and_write_a_folder_that_loads(tmp_path: Path) -> None:
    num_threads = torch.get_num_threads()
    try:
        pretrain.main(["--out", str(tmp_path), "--steps", "2", "--seed", "1"])
    finally:
        torch.set_num_threads(num_threads)
    model = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    shipped = AutoModel.from_pretrained(ENCODER, add_pooling_layer=False)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in shipped.named_parameters()
    }
