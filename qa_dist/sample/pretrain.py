"""Pre-train the bundled encoder: a small BERT that has read the micro-world, by masked words only.

    python -m qa_dist.sample.pretrain --out DIR     (50 minutes on one CPU core; seed 1000003)

Out: a folder for AutoModel and AutoTokenizer. Read are texts.py's texts, of other seeds than the
bundled files. Three layers are trained, then a fourth is put on top. Nothing but hidden words is
ever asked here, no span.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from qa_dist.sample.texts import NO_LABEL, MaskedText, Stage, make_texts
from qa_dist.sample.vocabulary import PAD, Vocabulary, make_tokenizer, make_vocabulary

SEED = 1000003
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
INIT_STD = 0.05
MAX_LENGTH = 256
LONGEST = 135  # tokens


@dataclass(frozen=True)
class Phase:
    """A training of its own, with warm-up and decay, of the model so far with layers put on top."""

    num_layers: int
    num_steps: int
    stages: tuple[Stage, ...]


# First short texts, until looking up is learned, then texts like the bundled ones; then sentences
# are asked whether they answer; and once more short texts, then long ones.
SHORT = Stage(until=0.48, min_facts=2, num_turns=4, max_history=2, is_shifted=True)
FULL = Stage(until=1.0, min_facts=5, num_turns=8, max_history=2, is_shifted=True)
PHASES = (
    Phase(
        num_layers=3,
        num_steps=5000,
        stages=(
            replace(SHORT, until=0.16, max_history=0, is_shifted=False),
            replace(SHORT, until=0.32, max_history=1, is_shifted=False),
            SHORT,
            replace(SHORT, until=0.72, min_facts=4, num_turns=7),
            replace(FULL, min_facts=6, num_turns=10, is_shifted=False),
        ),
    ),
    Phase(
        num_layers=4,
        num_steps=2500,
        stages=(replace(FULL, recalled=0.8, marked=0.8),),
    ),
    Phase(
        num_layers=4,
        num_steps=1900,
        stages=(
            replace(SHORT, until=0.37, num_turns=5, max_history=1, recalled=0.6, marked=0.7),
            replace(SHORT, until=0.63, min_facts=3, num_turns=7, recalled=0.7, marked=0.7),
            replace(FULL, recalled=0.8, marked=0.7),
        ),
    ),
)


# ---- Batches ----


def make_batches(
    rng: random.Random, vocabulary: Vocabulary, stages: tuple[Stage, ...], num_steps: int
) -> Iterator[list[Tensor]]:
    """Yield token ids, types, attention mask, positions, labels, weights, each (B, T)."""
    pool: list[MaskedText] = []
    for step in range(num_steps):
        stage = next(stage for stage in stages if step < stage.until * num_steps)
        while len(pool) < 8 * BATCH_SIZE:
            pool += make_texts(rng, vocabulary, stage)
        rng.shuffle(pool)
        texts, pool = pool[:BATCH_SIZE], pool[BATCH_SIZE:]
        yield _collate(texts, stage.is_shifted)


def _collate(texts: list[MaskedText], is_shifted: bool) -> list[Tensor]:
    longest = max(len(text.token_ids) for text in texts)
    shape = (len(texts), longest)
    ids = torch.full(shape, PAD)  # (B, T)
    types = torch.zeros(shape, dtype=torch.long)  # (B, T)
    attention_mask = torch.zeros(shape, dtype=torch.long)  # (B, T)
    labels = torch.full(shape, NO_LABEL)  # (B, T)
    weights = torch.zeros(shape)  # (B, T)
    for row, text in enumerate(texts):
        length = len(text.token_ids)
        ids[row, :length] = torch.tensor(text.token_ids)
        types[row, text.story_start : length] = 1
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.tensor(text.labels)
        weights[row, :length] = torch.tensor(text.weights)
    shift = (torch.rand(len(texts), 1) * max(0, LONGEST - longest)).long()  # (B, 1)
    positions = torch.arange(longest)[None] + (shift if is_shifted else 0 * shift)  # (B, T)
    return [ids, types, attention_mask, positions, labels, weights]


# ---- Training ----


def make_model(vocab_size: int, num_layers: int) -> BertForMaskedLM:
    """Return a small random BERT whose positions start as sinusoids, which speeds up learning."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=INIT_STD,
    )
    model = BertForMaskedLM(config)
    width = config.hidden_size
    rates = torch.exp(-math.log(1000.0) * torch.arange(0, width, 2) / width)  # (H/2)
    angles = torch.arange(MAX_LENGTH)[:, None] * rates[None]  # (positions, H/2)
    table = model.bert.embeddings.position_embeddings.weight  # (positions, H)
    with torch.no_grad():
        table[:, 0::2] = INIT_STD * torch.sin(angles)
        table[:, 1::2] = INIT_STD * torch.cos(angles)
    return model


def grow(model: BertForMaskedLM, num_layers: int) -> BertForMaskedLM:
    """Return the model with new layers on top, which at first pass on what they get."""
    grown = make_model(model.config.vocab_size, num_layers)
    known = model.state_dict()
    grown.load_state_dict(known, strict=False)
    with torch.no_grad():
        for name, parameter in grown.named_parameters():
            if name not in known and name.endswith("output.dense.weight"):
                parameter.zero_()
    return grown


def train(
    model: BertForMaskedLM,
    vocabulary: Vocabulary,
    stages: tuple[Stage, ...],
    num_steps: int,
    seed: int,
) -> None:
    """Train in place; print loss and the share of hidden words found."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98)
    )
    started = time.monotonic()
    num_found = num_hidden = 0.0
    batches = make_batches(random.Random(seed), vocabulary, stages, num_steps)
    for step, (ids, types, attention_mask, positions, labels, weights) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate_factor(step, num_steps)
        hidden = model.bert(
            input_ids=ids,
            token_type_ids=types,
            attention_mask=attention_mask,
            position_ids=positions,
        ).last_hidden_state  # (B, T, H)
        is_labelled = labels != NO_LABEL
        logits = model.cls(hidden[is_labelled])  # (N, V)
        targets, weight = labels[is_labelled], weights[is_labelled]  # (N), (N)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")  # (N)
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        num_found += (weight * (logits.argmax(-1) == targets)).sum().item()
        num_hidden += weight.sum().item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            share = num_found / num_hidden
            print(f"step {step + 1} loss {loss:.3f} found {share:.3f} {seconds:.0f} s", flush=True)
            num_found = num_hidden = 0.0


def _rate_factor(step: int, num_steps: int) -> float:
    """Return the part of the learning rate: warm-up, level, then linear decay from 60 %."""
    done = step / num_steps
    return min(1.0, step / 100) * (1.0 if done < 0.6 else max(0.02, (1.0 - done) / 0.4))


# ---- Files ----


def write_encoder(model: BertForMaskedLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what AutoModel and AutoTokenizer load; weights in half precision to keep them small."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.bert.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_diff_dict()
    config |= {
        "architectures": ["BertModel"],
        "dtype": "float32",
        "attention_probs_dropout_prob": 0.0,
    }
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    BertTokenizer(
        tokenizer_object=tokenizer, do_lower_case=True, model_max_length=MAX_LENGTH
    ).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Pre-train and write the encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "encoder")
    parser.add_argument("--steps", type=int, help="of each phase; for a trial")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.get_vocab_size(), PHASES[0].num_layers)
    for index, phase in enumerate(PHASES):
        model = grow(model, phase.num_layers)
        num_steps = chosen.steps or phase.num_steps
        train(model, make_vocabulary(tokenizer), phase.stages, num_steps, chosen.seed + index)
    write_encoder(model, tokenizer, chosen.out)


if __name__ == "__main__":
    main()
