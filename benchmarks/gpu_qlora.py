"""LoRA on a language model of 3B parameters, real tokens/s, against padded batches of peft's own.

    python benchmarks/gpu_qlora.py [device=cuda] [shape=3b] [batch=8] [runs=5]

The base has Qwen2.5-3B's shape and random weights, which change no time: in 4 bits (NF4, double
quantisation, paged 8-bit AdamW) where bitsandbytes is installed, else in bf16 with AdamW: the note
says which. Adapters of rank 16 on all linear layers, no gradient checkpointing, one step 8 windows
of random tokens: prompts of 150 to 700 tokens and answers of 20 to 120, drawn once (log-normal
about 330 and 60, as PubMedQA's abstracts and long answers are).

The peer is what the documentation of peft and bitsandbytes shows: AutoModelForCausalLM (sdpa),
get_peft_model, bf16 autocast, windows in random order, padded on the right to the batch's longest
(a multiple of 8), labels -100 on prompts and padding, model(**batch).loss, the same optimizer and
clipping. Ours is build_causal_lm with packed rows on a GPU, as jobs/train.py has it, on the same
windows, batched by like length, with making the batch. Losses of all batches, from the same
weights, are compared before any time is taken.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from side_by_side import Row, compared, in_turn, measured, run_script

SHAPES = {"tiny": (64, 2, 4, 2, 128, 512), "3b": (2048, 36, 16, 2, 11008, 151_936)}
"""Hidden, layers, heads, heads of keys and values, inner, vocabulary."""
NUM_BATCHES = 12
Window = tuple[list[int], int]
"""Tokens, and how many of them are the prompt's."""


def rows(device: str = "cuda", shape: str = "3b", batch: int = 8, runs: int = 5) -> Iterator[Row]:
    """Measure both rows."""
    import torch

    if (device == "cuda") != torch.cuda.is_available():
        raise SystemExit(f"device={device}: not what this machine computes on")
    has_4_bits = importlib.util.find_spec("bitsandbytes") is not None
    with tempfile.TemporaryDirectory() as folder:
        write_base(Path(folder), shape)
        windows = make_windows(NUM_BATCHES * batch, SHAPES[shape][-1])
        ours = Ours(folder, has_4_bits, device, windows, batch)
        theirs = Theirs(folder, has_4_bits, ours, windows, batch)
        compare(ours, theirs)

        def clock() -> float:
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

        # Each run trains on all windows: the same tokens, however they are batched.
        def epoch(side: Any) -> Any:
            return lambda: [side.step() for _ in range(NUM_BATCHES)]

        seconds = in_turn(epoch(ours), epoch(theirs), runs, clock=clock)
        tokens = sum(len(ids) for ids, _ in windows)
        base = "NF4" if has_4_bits else "bf16, as bitsandbytes isn't installed"
        note = f"{shape}, {base}, {'packed' if ours.model.is_packed else 'padded'}"
        libraries = ("torch", "transformers", "peft")
        row = compared(
            "LoRA, against padded",
            seconds,
            ">= 1.5",
            work=float(tokens),
            unit="real tokens/s",
            libraries=libraries,
            note=note,
        )
        yield row
        yield measured(
            "LoRA, real tokens/s",
            row.ours,
            "real tokens/s",
            ">= 12000",
            runs=runs,
            libraries=libraries,
            note=note,
        )


def write_base(folder: Path, shape: str) -> None:
    """Write a base of this shape with random weights, in bf16."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    width, layers, heads, kv_heads, inner, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def make_windows(count: int, vocabulary: int) -> list[Window]:
    """Return windows of random tokens, in random order."""
    rng = random.Random(0)

    def length(middle: float, least: int, most: int) -> int:
        return min(most, max(least, int(middle * rng.lognormvariate(0, 0.4))))

    windows = []
    for _ in range(count):
        prompt, answer = length(330, 150, 700), length(60, 20, 120)
        windows.append(([rng.randrange(3, vocabulary) for _ in range(prompt + answer)], prompt))
    return windows


def pad(windows: Sequence[Window], multiple: int) -> tuple[Any, Any]:
    """Return token ids and which are real, (B, T) each."""
    import torch

    longest = max(len(ids) for ids, _ in windows)
    width = -(-longest // multiple) * multiple
    ids = torch.zeros((len(windows), width), dtype=torch.int64)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, _) in enumerate(windows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        real[row, : len(tokens)] = True
    return ids, real


class Side:
    """What both have: an optimizer for adapters, and batches in turn."""

    def __init__(
        self, model: Any, has_4_bits: bool, device: str, batches: Sequence[Sequence[Window]]
    ) -> None:
        import torch

        from qa_dist.recipe import Train
        from qa_dist.training.optim import build_optimizer

        self.torch, self.model, self.device = torch, model.train(), torch.device(device)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        name = "paged_adamw_8bit" if has_4_bits else "adamw"
        self.optimizer = build_optimizer(model, Train(optimizer=name, weight_decay=0.0))
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-5
        self.batches = itertools.cycle(batches)

    def loss(self, windows: Sequence[Window]) -> Any:
        """Return the mean loss of the answers' tokens."""
        raise NotImplementedError

    def step(self) -> None:
        """Do one update."""
        with self.torch.autocast(self.device.type, self.torch.bfloat16):
            loss = self.loss(next(self.batches))
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Ours(Side):
    """build_causal_lm's model on batches of like length."""

    def __init__(
        self, base: str, has_4_bits: bool, device: str, windows: Sequence[Window], size: int
    ) -> None:
        from qa_dist.models.attention import resolve_packing
        from qa_dist.models.causal_lm import build_causal_lm
        from qa_dist.recipe import Model

        quantization = "nf4" if has_4_bits else "none"
        settings = Model(
            name=base, head="causal_lm", lora_rank=16, lora_alpha=32.0, quantization=quantization
        )
        as_rows, why = resolve_packing("auto", settings, "bf16")
        if why:
            print(f"not packed: {why}", file=sys.stderr)
        by_length = sorted(windows, key=lambda window: len(window[0]))
        batches = [by_length[at : at + size] for at in range(0, len(by_length), size)]
        random.Random(1).shuffle(batches)
        super().__init__(build_causal_lm(settings, 0, as_rows), has_4_bits, device, batches)
        self.model.to(self.device)

    def loss(self, windows: Sequence[Window]) -> Any:
        import numpy as np

        from qa_dist.data.collate import Batch

        ids, real = pad(windows, 8 if self.device.type == "cuda" else 1)
        prompts = np.array([prompt for _, prompt in windows])
        lengths = np.array([len(tokens) for tokens, _ in windows])
        none, zeros = np.zeros_like(prompts), self.torch.zeros(len(windows), dtype=ids.dtype)
        batch = Batch(
            input_ids=ids,
            token_type_ids=self.torch.zeros_like(ids),
            attention_mask=real,
            candidate_mask=real,
            starts=zeros,
            ends=zeros,
            labels=None,
            nulls_at=none,
            context_at=prompts,
            context_from=none,
            lengths=lengths,
        ).to(self.device)
        return self.model(batch) / int((lengths - prompts).sum())


class Theirs(Side):
    """peft's model on padded batches in random order."""

    def __init__(
        self, base: str, has_4_bits: bool, ours: Ours, windows: Sequence[Window], size: int
    ) -> None:
        import peft
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        dtype = next(p.dtype for p in ours.model.parameters() if not p.requires_grad)
        dtype = dtype if dtype.is_floating_point else torch.bfloat16
        options: dict[str, Any] = {"dtype": dtype, "device_map": {"": ours.device}}
        if has_4_bits:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
        config = peft.LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, **options), config)
        batches = [windows[at : at + size] for at in range(0, len(windows), size)]
        super().__init__(model, has_4_bits, ours.device.type, batches)

    def loss(self, windows: Sequence[Window]) -> Any:
        ids, real = pad(windows, 8)
        labels = ids.masked_fill(~real, -100)
        for row, (_, prompt) in enumerate(windows):
            labels[row, :prompt] = -100
        inputs = {"input_ids": ids, "attention_mask": real.long(), "labels": labels}
        return self.model(**{name: x.to(self.device) for name, x in inputs.items()}).loss


def compare(ours: Ours, theirs: Theirs) -> None:
    """Check that both compute the same losses; new adapters change nothing yet.

    The base is random, so that any windows' loss is near the logarithm of the vocabulary: what
    differs must be small beside the losses' own spread from batch to batch.
    """
    torch = ours.torch
    with torch.no_grad(), torch.autocast(ours.device.type, torch.bfloat16):
        pairs = [
            (float(ours.loss(windows)), float(theirs.loss(windows)))
            for windows in itertools.islice(theirs.batches, NUM_BATCHES)
        ]
    limit = 0.2 * statistics.stdev(other for _, other in pairs)
    if not max(abs(mine - other) for mine, other in pairs) <= limit:
        raise SystemExit(f"losses differ by more than {limit:.1e}: {pairs}: not the same work")


if __name__ == "__main__":
    sys.exit(run_script(rows, __doc__))
