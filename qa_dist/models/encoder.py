"""The encoder of a recipe: any transformers base model, by name, without its pooler.

What each architecture wants of its inputs (segment ids or none) follows from its own config. What
would go wrong in silence is refused (weights whose names don't fit would leave an encoder of random
ones) or mended (MobileBERT's padding).
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from qa_dist.data.collate import Batch
from qa_dist.data.tokenizer import read_model_config
from qa_dist.models.attention import is_packed, make_packed, pack
from qa_dist.models.dropout import use_fast_dropout
from qa_dist.recipe import PACKED_FAMILIES, Model
from qa_dist.records import InputError


def load_encoder(model: Model, as_rows: bool = False) -> nn.Module:
    """Load an encoder in fp32, with the recipe's dropout. `as_rows`: it computes batches as
    packed rows (attention.py).

    Raises InputError naming model.name if it can't be loaded.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        # by model_type, which older files lack; from_pretrained would insist on it
        config = transformers.AutoConfig.for_model(**read_model_config(model.name))
        _set_dropout(config, model)
        encoder, found = transformers.AutoModel.from_pretrained(
            model.name,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            **without_pooler(config),
        )
    except InputError:
        raise
    except Exception as error:  # of the many libraries that have a hand in it
        raise InputError(
            f"model.name={model.name}: can't load this encoder ({_reason(error)}). Expected a "
            "folder with config.json and weights (model.safetensors, or pytorch_model.bin with "
            "tensors only), or a hub model in the local cache; without internet, download it on "
            "another machine"
        ) from error
    _check_complete(model.name, encoder, found["missing_keys"])
    _mend_padding(encoder)
    use_fast_dropout(encoder)
    if as_rows:
        make_packed(encoder)
    if model.gradient_checkpointing and not encoder.supports_gradient_checkpointing:
        kind = type(encoder).__name__
        raise InputError(f"model.gradient_checkpointing=true: {kind} can't do that; leave it out")
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
    """Return the last hidden states of a batch: (B, T, H); of a packed encoder, 0 in padding."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    if getattr(encoder.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    if not is_packed(encoder):
        hidden: torch.Tensor = encoder(**inputs, attention_mask=_mask(encoder, batch))[0]
        return hidden
    row = pack(batch)
    inputs = {name: row.take(rectangle) for name, rectangle in inputs.items()}
    positions = row.take(_positions(encoder.config, batch))
    hidden = encoder(**inputs, position_ids=positions, **row.arguments)[0]
    return row.put(hidden, len(batch.input_ids))


def _mask(encoder: Any, batch: Batch) -> torch.Tensor | None:
    """Return what tells an encoder where padding is; None where there is none.

    Four dimensions are taken as they are; of two, transformers asks each time whether they hide
    anything, for which the host waits for a GPU, and makes (B, 1, T, T) of them.
    """
    mask, config = batch.attention_mask, encoder.config
    is_known = config.model_type in PACKED_FAMILIES and config._attn_implementation == "sdpa"
    if mask is None or not is_known:
        return mask
    return mask[:, None, None]


def _positions(config: Any, batch: Batch) -> torch.Tensor:
    """Return each token's position in its window as its encoder counts it: (B, T)."""
    ids = batch.input_ids
    if config.model_type == "roberta":  # from the one after padding's, which tokens like it have
        is_counted = ids != int(config.pad_token_id)
        return is_counted.cumsum(1) * is_counted + int(config.pad_token_id)
    return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's advice is to open it nevertheless
        return "its weights' file is damaged, or holds more than tensors, which could run code"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_complete(name: str, encoder: Any, missing: Iterable[str]) -> None:
    """Raise InputError if tensors of the encoder weren't among the weights: they'd be random."""
    names = sorted(key for key in missing if not key.startswith("pooler."))  # serves no head
    if names:
        total = len(encoder.state_dict())
        raise InputError(
            f"model.name={name}: {len(names)} of the encoder's {total} tensors aren't among its "
            f"weights, such as {names[0]}; they would stay random. Are these the weights of "
            f"another architecture than config.json's {encoder.config.model_type!r}?"
        )


def _mend_padding(encoder: Any) -> None:
    """Let padding count for nothing.

    MobileBERT's embedding mixes in each token's neighbours, so that a window's last token would see
    whether padding follows it. It sees zeros beyond the end, so let it see zeros in padding too.
    """
    if encoder.config.model_type == "mobilebert":
        with torch.no_grad():
            encoder.get_input_embeddings().weight[encoder.config.pad_token_id].zero_()


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
