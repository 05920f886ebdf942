"""Row 3: training step time with the CRF head against the plain span head's.

    python benchmarks/crf_step.py [threads=2] [steps=20] [batch=8] [device=cpu] [shape=minilm]

Two models on one random encoder each, of the same weights: MiniLM's shape (6 layers, 384 wide) or
bert-base's (shape=base); `batch` windows a step of SQuAD's lengths as a bucket holds them (120 to
176 tokens), with the same answers. By default 8: steps are short then, so that there can be more of
them, and the head's small kernels weigh no less than with 16. Dropout, AdamW (fused), clipping and
precision (bf16 where the processor has it, as a recipe's "auto") are the same. Step by step in
turn, A B then B A. Ours is the step with `model.head: span_crf`, theirs the one with `span`.
Seconds per step; the ratio is ours by theirs, what the CRF costs: goal <= 1.05 on two CPU cores,
<= 1.10 with device=cuda.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from inputs import SHAPES
from side_by_side import Row, compared, in_turn, run_script

NUM_TOKENS, CONTEXT_AT = 176, 16


def rows(
    threads: int = 2, steps: int = 20, batch: int = 8, device: str = "cpu", shape: str = "minilm"
) -> Iterator[Row]:
    """Yield the one row."""
    import torch

    torch.set_num_threads(threads)
    place = torch.device(device)

    def clock() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    ours, theirs = (new_step(head, shape, batch, place) for head in ("span_crf", "span"))
    yield compared(
        f"step with CRF, {shape} B={batch} T={NUM_TOKENS}",
        in_turn(ours, theirs, steps, clock=clock),
        "<= 1.05" if device == "cpu" else "<= 1.10",
        is_ratio_of_times=True,
        libraries=("torch", "transformers"),
        note="" if device == "cpu" else torch.cuda.get_device_name(),
    )


def new_step(head_name: str, shape: str, num_windows: int, device: Any) -> Callable[[], None]:
    """Return what does one update of a new model with this head."""
    import torch
    from transformers import BertConfig, BertModel

    from qa_dist.models.dropout import use_fast_dropout
    from qa_dist.models.multitask import MultitaskModel
    from qa_dist.models.span import SpanHead
    from qa_dist.models.span_crf import SpanCrfHead
    from qa_dist.training.engine import resolve_precision

    torch.manual_seed(0)
    width, layers, attention, inner = SHAPES[shape]
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=attention,
        intermediate_size=inner,
        attention_probs_dropout_prob=0.0,
    )
    encoder = BertModel(config, add_pooling_layer=False)
    use_fast_dropout(encoder)
    head = SpanCrfHead(width) if head_name == "span_crf" else SpanHead(width, 0)
    model = MultitaskModel(encoder, [head], ["squad"]).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = new_batch(config.vocab_size, num_windows).to(device)
    is_bf16 = resolve_precision("auto") == "bf16"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            loss = model(batch)
        (loss / num_windows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def new_batch(vocab_size: int, num_windows: int) -> Any:
    """Return windows of random tokens, a quarter of them without an answer."""
    import numpy as np
    import torch

    from qa_dist.data.collate import Batch

    torch.manual_seed(1)
    size = (num_windows, NUM_TOKENS)
    candidates = torch.zeros(size, dtype=torch.bool)
    lengths = torch.linspace(120, NUM_TOKENS, num_windows).long()
    places = torch.arange(NUM_TOKENS)
    candidates[:] = (places >= CONTEXT_AT) & (places < lengths[:, None] - 1)
    candidates[:, 0] = True
    starts = torch.randint(CONTEXT_AT, 110, (num_windows,))
    starts[: num_windows // 4] = 0
    at = np.full(num_windows, CONTEXT_AT)
    return Batch(
        input_ids=torch.randint(vocab_size, size),
        token_type_ids=(torch.arange(NUM_TOKENS) >= CONTEXT_AT).long().expand(size).contiguous(),
        attention_mask=places < lengths[:, None],
        candidate_mask=candidates,
        starts=starts,
        ends=starts + 3 * (starts > 0),
        labels=None,
        nulls_at=np.zeros(num_windows, dtype=np.int64),
        context_at=at,
        context_from=np.zeros_like(at),
        lengths=lengths.numpy(),
    )


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
