"""A small random chat model of Qwen2's kind: byte-level BPE, ChatML, two layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = (
    "system user assistant Answer the question from the text in one or a few sentences.",
    "Text: Question: Say so if the text doesn't hold the answer. as few words as possible",
    "Does the drug lower the error rate? The drug lowers the rate of errors by 18 %.",
    "The text does not include that detail. A cat sat on the mat and Ann met Bob in May.",
)


def chat_tokenizer(texts: Iterable[str] = TEXTS, template: str | None = CHATML) -> Any:
    """Return a fast tokenizer, trained on `texts`, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(list(texts) * 3, trainer)
    loaded = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    loaded.chat_template = template
    return loaded


def make_chat_model(folder: Path, texts: Iterable[str] = TEXTS, **settings: Any) -> Path:
    """Write a model with random weights and its tokenizer to `folder`; return it."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    tokenizer = chat_tokenizer(texts)
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = Qwen2Config(
        **{
            "vocab_size": 512,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **settings,
        }
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder
