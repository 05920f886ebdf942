"""Training step time with the CRF head against the plain head's, side by side.

    python benchmarks/crf_step.py [threads=2] [steps=20] [device=cpu] [shape=minilm|base]

Two models on one random encoder each, of the same weights: MiniLM's shape (6 layers, 384 wide) or
bert-base's; windows of one length (no padding) with the same answers, 16 a step; dropout, AdamW
(fused), clipping and precision (bf16 where the processor has it, as a recipe's "auto") are the
same. Step by step in turn, A B then B A. Ours is the step with `model.head: span_crf`, theirs the
one with `span`. Prints one JSON line: seconds per step, medians; ratio = median of the steps' own
ratios of ours to theirs: the goal is 1.05 or less on a CPU.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_STEPS = 2
NUM_WINDOWS, NUM_TOKENS, CONTEXT_AT = 16, 176, 16
SHAPES = {"minilm": (384, 6, 12, 1536), "base": (768, 12, 12, 3072)}
sys.path.insert(0, str(ROOT))


def main(argv: Sequence[str]) -> int:
    """Measure, print one JSON line, return 0."""
    import torch

    keys = dict(word.partition("=")[::2] for word in argv)
    if not set(keys) <= {"threads", "steps", "device", "shape"}:
        print(__doc__)
        return 2
    torch.set_num_threads(int(keys.get("threads", 2)))
    device, shape = torch.device(keys.get("device", "cpu")), keys.get("shape", "minilm")
    steps = {name: new_step(name, shape, device) for name in ("span_crf", "span")}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    turn = list(steps.items())
    for _ in range(WARM_UP_STEPS + int(keys.get("steps", 20))):
        for name, step in turn:
            started = time.perf_counter()
            step()
            if device.type != "cpu":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
        turn.reverse()
    print(json.dumps(result({k: v[WARM_UP_STEPS:] for k, v in seconds.items()}, shape, device)))
    return 0


def result(seconds: dict[str, list[float]], shape: str, device: Any) -> dict[str, Any]:
    """Return the row from the seconds of each step."""
    import torch

    pairs = zip(seconds["span_crf"], seconds["span"], strict=True)
    low, middle, high = statistics.quantiles([ours / theirs for ours, theirs in pairs], n=4)
    return {
        "name": f"crf_step {shape} B={NUM_WINDOWS} T={NUM_TOKENS}",
        "ours": round(statistics.median(seconds["span_crf"]), 5),
        "theirs": round(statistics.median(seconds["span"]), 5),
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "unit": "s per step",
        "runs": len(seconds["span"]),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def new_step(head_name: str, shape: str, device: Any) -> Callable[[], None]:
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
    batch = new_batch(config.vocab_size).to(device)
    is_bf16 = resolve_precision("auto") == "bf16"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            loss = model(batch)
        (loss / NUM_WINDOWS).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def new_batch(vocab_size: int) -> Any:
    """Return windows of random tokens, a quarter of them without an answer."""
    import numpy as np
    import torch

    from qa_dist.data.collate import Batch

    torch.manual_seed(1)
    size = (NUM_WINDOWS, NUM_TOKENS)
    candidates = torch.zeros(size, dtype=torch.bool)
    candidates[:, CONTEXT_AT : NUM_TOKENS - 1] = True
    candidates[:, 0] = True
    starts = torch.randint(CONTEXT_AT, NUM_TOKENS - 10, (NUM_WINDOWS,))
    starts[: NUM_WINDOWS // 4] = 0
    at = np.full(NUM_WINDOWS, CONTEXT_AT)
    return Batch(
        input_ids=torch.randint(vocab_size, size),
        token_type_ids=(torch.arange(NUM_TOKENS) >= CONTEXT_AT).long().expand(size).contiguous(),
        attention_mask=None,
        candidate_mask=candidates,
        starts=starts,
        ends=starts + 3 * (starts > 0),
        labels=None,
        nulls_at=np.zeros(NUM_WINDOWS, dtype=np.int64),
        context_at=at,
        context_from=np.zeros_like(at),
        lengths=np.full(NUM_WINDOWS, NUM_TOKENS),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
