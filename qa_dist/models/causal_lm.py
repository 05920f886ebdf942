"""A causal language model that learns to write answers: QLoRA (Dettmers et al. 2023), or plain.

The base is a value: any causal model of transformers'. With model.quantization=nf4 its linear
layers are held in 4 bits, double quantised, and are frozen; with model.lora_rank adapters are put
beside all of its linear layers (not the output layer), and they alone are trained and saved. In: a
Batch whose windows end in the answer's tokens, which are the context's. B windows, T tokens, N
answer tokens.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qa_dist.data.collate import Batch, Positions, moved
from qa_dist.models.attention import is_packed, make_packed, pack
from qa_dist.recipe import Model
from qa_dist.records import InputError

BASE_DIGEST = "base_digest"
_SAMPLE_BYTES = 1 << 16
_EXPECTED = (
    "Expected a folder with config.json and safetensors weights, or a hub model in the local "
    "cache, of a causal language model such as Qwen/Qwen2.5-3B-Instruct"
)


class CausalLmModel(nn.Module):
    """A language model, with or without adapters, and the digest of the base that these fit."""

    def __init__(self, language_model: nn.Module, base_digest: bytes, has_adapter: bool) -> None:
        super().__init__()
        self.language_model: Any = language_model
        self.has_adapter = has_adapter
        self.is_packed = is_packed(language_model)
        """Whether batches are computed as packed rows; a packed model can't write answers."""
        self.register_buffer(BASE_DIGEST, torch.tensor(list(base_digest), dtype=torch.uint8))

    def forward(self, batch: Batch, source: int = 0) -> torch.Tensor:
        """Return the summed cross-entropy of the answers' tokens, in fp32: (). All sources are
        learnt alike."""
        causal: Any = self.language_model
        if self.has_adapter:
            causal = causal.base_model.model
        ids, starts = batch.input_ids, np.arange(len(batch.lengths)) * batch.input_ids.shape[1]
        inputs: dict[str, Any] = {}  # nothing looks to its right, where padding is: no mask
        if self.is_packed:
            row = pack(batch)
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            inputs = {"position_ids": row.take(places), **row.arguments}
            ids, starts = row.take(ids), np.cumsum(batch.lengths) - batch.lengths
        hidden = causal.get_decoder()(input_ids=ids, use_cache=False, **inputs).last_hidden_state
        # A token is foretold at the one before it. Logits of prompts would be most of the memory.
        answers = moved(_answer_places(batch, starts), hidden.device)  # (N,)
        before = hidden.flatten(0, 1).index_select(0, answers - 1)  # (N, H)
        logits = causal.get_output_embeddings()(before)  # (N, V)
        targets = ids.flatten().index_select(0, answers)  # (N,)
        return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what a checkpoint keeps: the trained parameters and the base's digest, not the
        frozen base."""
        trained = {n: p.detach() for n, p in self.named_parameters() if p.requires_grad}
        return {**trained, BASE_DIGEST: getattr(self, BASE_DIGEST)}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Put back what `state_dict` returned. Raises InputError unless it has exactly these
        tensors, trained on the same base."""
        own = self.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
        differing = [n for n in {**expected, **shapes} if shapes.get(n) != expected.get(n)]
        if differing:
            raise InputError(
                f"the checkpoint's weights aren't those of this model: {len(differing)} tensors "
                f"differ in name or shape, {differing[0]} first; were model.lora_rank or "
                "model.name changed? Give back the old ones, or start anew with fresh=true"
            )
        if not torch.equal(state_dict[BASE_DIGEST].cpu(), own[BASE_DIGEST].cpu()):
            raise InputError(
                "the checkpoint's adapter was trained on another base: the files of model.name "
                "have changed since; put the old ones back, or start anew with fresh=true"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state_dict[name])
        return [], []  # no missing and no unexpected ones

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Within it the model is the base that it was made of."""
        if not self.has_adapter:
            raise ValueError("without an adapter the base is gone: its own weights were trained")
        with self.language_model.disable_adapter():
            yield


def _answer_places(batch: Batch, starts: Positions) -> torch.Tensor:
    """Return where the answers' tokens are, (N,), on the CPU, window by window; `starts`: where
    each window begins, (B,).

    From what the host knows of a batch: `candidate_mask` on a GPU would make it wait for the GPU.
    """
    # An answer ends its window.
    bounds = zip(starts + batch.context_at, starts + batch.lengths, strict=True)
    return torch.from_numpy(np.concatenate([np.arange(first, end) for first, end in bounds]))


def build_causal_lm(model: Model, seed: int, as_rows: bool = False) -> CausalLmModel:
    """Load the base model and put new adapters on it, whose weights depend on `seed` only.
    `as_rows`: it computes batches as packed rows (attention.py).

    Raises InputError naming model.name if the base can't be loaded.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    # The frozen part in bf16 where that is native; what is trained is fp32 whatever this says.
    is_bf16 = on_cuda and torch.cuda.is_bf16_supported() and model.lora_rank > 0
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    options: dict[str, Any] = {}
    if model.quantization == "nf4":
        options["quantization_config"] = _nf4(dtype)
    try:
        config = transformers.AutoConfig.from_pretrained(model.name, trust_remote_code=False)
        if model.attention_dropout is not None and hasattr(config, "attention_dropout"):
            config.attention_dropout = model.attention_dropout
        language_model = transformers.AutoModelForCausalLM.from_pretrained(
            model.name,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,  # base_digest knows these weights only
            device_map={"": device},
            **options,
        )
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"model.name={model.name}: can't load this language model ({reason}). {_EXPECTED}"
        ) from error
    if as_rows:
        make_packed(language_model)
    if model.gradient_checkpointing:
        enable = getattr(
            language_model,
            "activation_checkpointing_enable",  # its name from transformers 5.20 or so on
            language_model.gradient_checkpointing_enable,
        )
        enable({"use_reentrant": False})
    if model.lora_rank:
        language_model = _with_adapter(language_model, model, seed)
    digest = base_digest(model.name, model.quantization)
    return CausalLmModel(language_model, digest, has_adapter=model.lora_rank > 0)


def base_digest(name: str, quantization: str) -> bytes:
    """Return a digest of the base: its config, the sizes of its weights' files and a part of each.

    Reading all of 6 GB on each rank would take longer than loading them.
    """
    from transformers.utils import cached_file

    digest = hashlib.sha256(quantization.encode())
    paths = [Path(str(cached_file(name, "config.json")))]
    paths += sorted(paths[0].parent.glob("*.safetensors"))
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            for place in range(0, size, max(_SAMPLE_BYTES, size // 16)):
                stream.seek(place)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.digest()


def _nf4(compute_dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _with_adapter(language_model: Any, model: Model, seed: int) -> Any:
    import peft

    settings = peft.LoraConfig(
        r=model.lora_rank,
        lora_alpha=model.lora_alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=model.lora_dropout,
        target_modules="all-linear",  # but for the output layer
        task_type="CAUSAL_LM",
    )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks by a name that will go
        torch.manual_seed(seed)
        return peft.get_peft_model(language_model, settings)
