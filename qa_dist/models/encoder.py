"""The encoder of a recipe: any transformers base model, by name, without its pooler.

What each architecture wants of its inputs (segment ids or none) follows from its own config.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from qa_dist.data.collate import Batch
from qa_dist.models.dropout import use_fast_dropout
from qa_dist.recipe import Model
from qa_dist.records import InputError


def load_encoder(model: Model) -> nn.Module:
    """Load an encoder in fp32, with the recipe's dropout.

    Raises InputError naming model.name if it can't be loaded.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(model.name, trust_remote_code=False)
        _set_dropout(config, model)
        encoder = transformers.AutoModel.from_pretrained(
            model.name,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            **without_pooler(config),
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.name={model.name}: can't load this encoder ({reason}). Expected a folder with "
            "config.json and "
            "safetensors weights, or a hub model in the local cache; without internet, download "
            "it on another machine"
        ) from error
    use_fast_dropout(encoder)
    if model.gradient_checkpointing:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    return encoder  # type: ignore[no-any-return]


def without_pooler(config: Any) -> dict[str, bool]:
    """Return the arguments that leave out an encoder's pooler, which serves none of our heads."""
    import transformers

    base_class = transformers.MODEL_MAPPING.get(type(config), None)
    if base_class and "add_pooling_layer" in inspect.signature(base_class.__init__).parameters:
        return {"add_pooling_layer": False}
    return {}


def encode(encoder: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the last hidden states of a batch: (B, T, H)."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if getattr(encoder.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    hidden: torch.Tensor = encoder(**inputs).last_hidden_state
    return hidden


def _set_dropout(config: Any, model: Model) -> None:
    """Put the recipe's dropout into an encoder's config, under the names that this encoder has for
    it."""
    attention = [
        n for n in ("attention_probs_dropout_prob", "attention_dropout") if hasattr(config, n)
    ]
    hidden = [n for n in ("hidden_dropout_prob", "dropout") if hasattr(config, n)]
    if model.attention_dropout is not None:
        for name in attention:
            setattr(config, name, model.attention_dropout)
    if model.hidden_dropout is not None:
        if not hidden:
            raise InputError(
                f"model.hidden_dropout={model.hidden_dropout}: {model.name} has no such setting; "
                "leave it out"
            )
        for name in hidden:
            setattr(config, name, model.hidden_dropout)
