"""The bundled encoder loads and is small; its training text hides only what can be found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import qa_dist.sample
from qa_dist.sample import pretrain
from qa_dist.sample.make_data import NUM_STORIES, SEED
from qa_dist.sample.pretrain import NO_LABEL, STAGES
from qa_dist.sample.vocabulary import CLS, MASK, SEP, Vocabulary, make_tokenizer, make_vocabulary

ENCODER = Path(qa_dist.sample.__file__).parent / "encoder"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary(make_tokenizer())


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


def test_texts_are_laid_out_as_in_fine_tuning(vocabulary: Vocabulary) -> None:
    for text in pretrain.make_texts(random.Random(2), vocabulary, STAGES[-1]):
        assert text.token_ids[0] == CLS
        assert text.token_ids[-1] == SEP
        assert text.token_ids[text.story_start - 1] == SEP
        num_segments = text.token_ids.count(SEP)
        assert num_segments in (2, 3, 4, 5, 6, 7)
        assert len(text.token_ids) == len(text.labels) == len(text.weights) <= pretrain.LONGEST


def test_a_hidden_value_is_still_to_be_found_on_the_other_side(
    vocabulary: Vocabulary,
) -> None:
    num_checked = 0
    values = set(vocabulary.values)
    for text in pretrain.make_texts(random.Random(3), vocabulary, STAGES[-1]):
        sides = (text.token_ids[: text.story_start], text.token_ids[text.story_start :])
        for position, label in enumerate(text.labels):
            is_copy = position > 0 and label in values and text.weights[position] == 1.0
            if is_copy and text.token_ids[position] == MASK:
                assert label in sides[position < text.story_start]
                num_checked += 1
    assert num_checked > 8


def test_only_a_question_without_answer_is_recalled_at_cls(vocabulary: Vocabulary) -> None:
    texts = list(pretrain.make_texts(random.Random(4), vocabulary, STAGES[-1]))
    recalled = [text for text in texts if text.labels[0] != NO_LABEL]
    assert 0 < len(recalled) < len(texts)
    for text in recalled:
        question_mark = vocabulary.encode("?")[0]
        assert text.token_ids[text.story_start - 2] in (question_mark, MASK)


def test_pre_training_reads_another_seed_than_the_bundled_files() -> None:
    bundled = [100 * SEED + index for index in range(len(NUM_STORIES))]
    assert pretrain.SEED not in bundled


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
