"""Packed batches: all windows of a micro-batch in one row of tokens, without padding.

A model that was made packed (`make_packed`) computes attention by `packed_attention`, which keeps
the windows of a row apart: on CUDA by torch's varlen_attn, on the CPU by one call per window, which
is there for tests. What goes in and comes out stays a rectangle, so that heads know nothing of it.

Worked example. Windows of 3 and 2 tokens, T = 3: the flattened batch has places 0 to 5, of which 5
is padding. index = 0 1 2 3 4, cu_lengths = 0 3 5, longest = 3, and each token's position in its
window is its place modulo T: 0 1 2 0 1.

B windows, T tokens of the longest, N real tokens in all, H hidden, A heads, D hidden per head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qa_dist.data.collate import Batch, moved
from qa_dist.data.tokenizer import read_model_config
from qa_dist.recipe import PACKED_FAMILIES, Model
from qa_dist.records import InputError

PACKED = "qa_dist_varlen"
"""The name of our attention function among transformers' own."""
_HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class PackedRow:
    """Where a batch's real tokens are, window by window."""

    index: Tensor  # (N,) int64: places in the flattened batch
    cu_lengths: Tensor  # (B + 1,) int32: where each window begins in the row, and N
    longest: int
    width: int
    """T."""

    def take(self, rectangle: Tensor) -> Tensor:
        """Return a (B, T) tensor's values as the row: (1, N)."""
        return rectangle.flatten().index_select(0, self.index)[None]

    def put(self, hidden: Tensor, num_windows: int) -> Tensor:
        """Return the row's hidden states, (1, N, H), where they belong: (B, T, H), 0 in padding."""
        flat = hidden.new_zeros(num_windows * self.width, hidden.shape[-1])
        return flat.index_copy(0, self.index, hidden[0]).view(num_windows, self.width, -1)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `packed_attention` needs, by the names that transformers hands on."""
        return {
            "cu_seq_lens_q": self.cu_lengths,
            "cu_seq_lens_k": self.cu_lengths,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }


def pack(batch: Batch) -> PackedRow:
    """Return a batch's row. Computed from what the host knows: nothing waits for a device."""
    width, device = batch.input_ids.shape[1], batch.input_ids.device
    cu_lengths = np.concatenate(([0], np.cumsum(batch.lengths)))
    shifts = np.arange(len(batch.lengths)) * width - cu_lengths[:-1]
    index = np.arange(cu_lengths[-1]) + np.repeat(shifts, batch.lengths)
    return PackedRow(
        moved(torch.from_numpy(index), device),
        moved(torch.from_numpy(cu_lengths.astype(np.int32)), device),
        int(batch.lengths.max()),
        width,
    )


def make_packed(model: Any) -> None:
    """Have a model of transformers' compute packed rows from now on, and nothing else."""
    from transformers import AttentionInterface

    # No mask function goes with it: so transformers makes no mask, nor looks for the windows' ends
    # in the positions, which would make the host wait for the GPU.
    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)


def is_packed(model: Any) -> bool:
    """Return whether a model of transformers' (or of peft's, around one) wants packed rows."""
    return bool(model.config._attn_implementation == PACKED)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each window of a row: query (1, A, N, D), key and value (1, A or fewer, N, D)
    in; (1, N, A, D) out.

    Raises ValueError for what it would get wrong in silence: a padded batch, dropout, a window that
    slides.
    """
    if cu_seq_lens_q is None or max_length_q is None or attention_mask is not None:
        raise ValueError("this model was made packed: it takes packed rows only")
    if dropout or sliding_window is not None:
        raise ValueError("packed attention knows neither dropout nor a sliding window")
    is_causal = bool(getattr(module, "is_causal", False))
    if query.device.type == "cpu":
        return _by_window(query, key, value, cu_seq_lens_q, scaling, is_causal), None
    # Qwen2's rotation leaves query and key in fp32 under autocast; its value, as the others, is in
    # half precision.
    half = value.dtype if value.dtype in _HALVES else torch.bfloat16
    parts = [part[0].transpose(0, 1).to(half) for part in (query, key, value)]  # (N, A, D) each
    if parts[1].shape[1] != parts[0].shape[1] and "enable_gqa" not in _varlen_parameters():
        times = parts[0].shape[1] // parts[1].shape[1]
        parts[1:] = [part.repeat_interleave(times, 1) for part in parts[1:]]
    options = varlen_options(_varlen_parameters(), is_causal, scaling)
    at = cu_seq_lens_q
    out = _varlen_attn()(*parts, at, at, max_length_q, max_length_q, **options)
    return out[None].to(value.dtype), None


def _by_window(
    query: Tensor, key: Tensor, value: Tensor, at: Tensor, scaling: float | None, is_causal: bool
) -> Tensor:
    lengths = at.diff().tolist()
    parts = zip(*(torch.split(part, lengths, 2) for part in (query, key, value)), strict=True)
    is_grouped = key.shape[1] != query.shape[1]
    found = [
        nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=is_causal, scale=scaling, enable_gqa=is_grouped
        )
        for q, k, v in parts
    ]
    return torch.cat(found, 2).transpose(1, 2)


# -- torch's own function --------------------------------------------------------------------------


def _varlen_attn() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@cache
def _varlen_parameters() -> frozenset[str]:
    """Return the names of varlen_attn's parameters, which differ between versions; empty: this
    torch hasn't got it (older than 2.10)."""
    try:
        return frozenset(inspect.signature(_varlen_attn()).parameters)
    except ImportError:
        return frozenset()


def varlen_options(
    parameters: frozenset[str], is_causal: bool, scaling: float | None
) -> dict[str, Any]:
    """Return the options of a call of varlen_attn, of torch 2.10 (`is_causal`), 2.11
    (`window_size`, `scale`) or later (`enable_gqa`), given the names of its parameters."""
    options: dict[str, Any] = {}
    if "window_size" in parameters:
        options["window_size"] = (-1, 0) if is_causal else (-1, -1)
    else:
        options["is_causal"] = is_causal
    if "scale" in parameters:  # else it is D ** -0.5, which is what all PACKED_FAMILIES ask for
        options["scale"] = scaling
    if "enable_gqa" in parameters:
        options["enable_gqa"] = True
    return options


# -- where it can be used --------------------------------------------------------------------------


def resolve_packing(
    asked: str, model: Model, precision: str, is_training: bool = True
) -> tuple[bool, str]:
    """Return whether batches are packed, and what is in the way of it ("": nothing, or nobody
    asked). `asked`: train.packing; `precision`: "bf16" or "fp32".

    "auto" packs on CUDA where nothing is in the way. Raises InputError for "on" where something is,
    but not unless `is_training`: answers differ in no more than the rounding.
    """
    if asked == "off" or (asked == "auto" and not torch.cuda.is_available()):
        return False, ""
    obstacle = next(_obstacles(model, precision), "")
    if obstacle and asked == "on" and is_training:
        raise InputError(
            f"train.packing=on: {obstacle}; give train.packing=off (a run that began packed stays "
            "so: start it anew with fresh=true)"
        )
    return not obstacle, obstacle


def _obstacles(model: Model, precision: str) -> Iterator[str]:
    """Yield why a model's batches can't be packed here."""
    from transformers import AutoConfig

    facts = read_model_config(model.name)
    family = facts.get("model_type")
    if family not in PACKED_FAMILIES:
        yield f"{model.name} is a {family}; {', '.join(PACKED_FAMILIES)} can be packed"
        return
    config = AutoConfig.for_model(**facts)
    dropout = model.attention_dropout
    if dropout is None:
        names = ("attention_probs_dropout_prob", "attention_dropout")
        dropout = max(getattr(config, name, None) or 0.0 for name in names)
    if dropout > 0:
        yield f"attention dropout is {dropout:g}, which packed attention hasn't got"
    if getattr(config, "use_sliding_window", False):
        yield f"{model.name} attends within a sliding window"
    if not torch.cuda.is_available():
        return
    if not _varlen_parameters():
        yield f"torch {torch.__version__} has no varlen_attn; 2.10 and newer have"
    if precision != "bf16":
        yield f"train.precision is {precision}, and the GPU's kernel computes in bf16"
    if torch.cuda.get_device_capability() < (8, 0):
        yield f"{torch.cuda.get_device_name()} is older than the kernel's oldest, an A100"
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size % 8 or size > 256:
        yield f"attention heads are {size} wide; the GPU's kernel takes multiples of 8 up to 256"
