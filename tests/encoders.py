"""Small random models of the six architectures, each with a tokenizer of its own kind.

The tokenizers are trained on the bundled sample's stories and questions; the models have the
traits that set the architectures apart (ALBERT's and ELECTRA's own embedding size, MobileBERT's
bottleneck, RoBERTa's single segment), at 32 hidden and 2 layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).resolve().parent.parent / "qa_dist" / "sample"
VOCAB_SIZE = 400
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {}),
    "albert": ("AlbertConfig", {"embedding_size": 16}),
    "roberta": (
        "RobertaConfig",
        {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 258},
    ),
    "mobilebert": (
        "MobileBertConfig",
        {
            **{"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
            **{"use_bottleneck": True, "num_feedforward_networks": 2},
        },
    ),
    "tinybert": ("BertConfig", {"hidden_size": 24, "num_attention_heads": 3}),
    "electra": ("ElectraConfig", {"embedding_size": 16}),
}


def make_encoder(folder: Path, architecture: str) -> Path:
    """Write a folder such as a user downloads: config, weights, tokenizer; return it."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    if architecture == "roberta":
        vocab_size = _write_byte_level_bpe(folder)
    elif architecture == "albert":
        vocab_size = _write_unigram(folder)
    else:
        vocab_size = _write_wordpiece(folder, with_settings=architecture != "tinybert")
    config_name, traits = ARCHITECTURES[architecture]
    config = getattr(transformers, config_name)(**{**_SMALL, **traits, "vocab_size": vocab_size})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config)
    if architecture == "tinybert":
        _write_as_published(model, folder)
    else:
        model.save_pretrained(folder)
    return folder


def _write_as_published(model: Any, folder: Path) -> None:
    """As TinyBERT's hub checkpoints are: weights with a prefix and heads of their own in a .bin
    file, a config without model_type, a vocabulary and no settings."""
    import torch

    width = model.config.hidden_size
    state = {f"bert.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {"fit_denses.0.weight": torch.zeros(48, width), "fit_denses.0.bias": torch.zeros(48)}
    torch.save(state, folder / "pytorch_model.bin")
    known = (*_SMALL, "vocab_size", "type_vocab_size", "hidden_act", "initializer_range")
    facts = {"pre_trained": "", **{name: getattr(model.config, name) for name in known}}
    (folder / "config.json").write_text(json.dumps(facts))


def sample_texts() -> Iterator[str]:
    for story in json.loads((SAMPLE / "coqa-train.json").read_text())["data"]:
        yield story["story"]
        yield from (question["input_text"] for question in story["questions"])


def _write_wordpiece(folder: Path, with_settings: bool) -> int:
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(sample_texts(), vocab_size=VOCAB_SIZE, show_progress=False)
    if with_settings:
        BertTokenizerFast(tokenizer_object=trained._tokenizer).save_pretrained(folder)
    else:
        trained.save_model(str(folder))
    return int(trained.get_vocab_size())


def _write_byte_level_bpe(folder: Path) -> int:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(
        sample_texts(), vocab_size=VOCAB_SIZE, special_tokens=special, show_progress=False
    )
    trained.save_model(str(folder))
    loaded = RobertaTokenizerFast.from_pretrained(folder)
    loaded.save_pretrained(folder)
    return len(loaded)


def _write_unigram(folder: Path) -> int:
    import sentencepiece
    from transformers import AlbertTokenizerFast

    ids = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sample_texts(),
        model_prefix=str(folder / "spiece"),
        vocab_size=VOCAB_SIZE,
        model_type="unigram",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    loaded = AlbertTokenizerFast.from_pretrained(folder)
    loaded.save_pretrained(folder)
    return len(loaded)
