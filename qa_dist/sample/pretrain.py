"""Pre-train the bundled encoder: a small BERT that has read the micro-world, by masked words only.

    python -m qa_dist.sample.pretrain --out DIR     (25 minutes on one CPU core; seed 1000003)

Out: a folder for AutoModel and AutoTokenizer. Read is text of other seeds than the bundled files:
conversations before their story, laid out as fine-tuning lays them out. A word that stands in both
is hidden in one of the two, to be found in the other by who and what was asked; where the last
question has no answer, its first word is to be recalled at [CLS]. No span is ever trained here.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from qa_dist.sample import words
from qa_dist.sample.conversations import make_turns
from qa_dist.sample.stories import make_story, pick
from qa_dist.sample.vocabulary import (
    CLS,
    MASK,
    PAD,
    SEP,
    Vocabulary,
    make_tokenizer,
    make_vocabulary,
)

SEED = 1000003
NUM_STEPS = 5000
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
INIT_STD = 0.05
MAX_LENGTH = 256
LONGEST = 135  # tokens

NO_LABEL = -100
OTHER_WEIGHT = 0.3  # of words that can only be guessed, against 1 for those that can be found


@dataclass(frozen=True)
class Stage:
    """What is read during a part of the training."""

    until: float
    """Fraction of all steps."""
    min_facts: int
    num_turns: int
    """Questions per story."""
    max_history: int
    """Turns before the last one."""
    is_shifted: bool
    """Whether texts start anywhere within LONGEST, so that all positions are learned."""


# First short texts, until looking up is learned; then texts like the bundled ones.
STAGES = (
    Stage(until=0.16, min_facts=2, num_turns=4, max_history=0, is_shifted=False),
    Stage(until=0.32, min_facts=2, num_turns=4, max_history=1, is_shifted=False),
    Stage(until=0.48, min_facts=2, num_turns=4, max_history=2, is_shifted=True),
    Stage(until=0.72, min_facts=4, num_turns=7, max_history=2, is_shifted=True),
    Stage(until=1.00, min_facts=6, num_turns=10, max_history=2, is_shifted=False),
)


@dataclass(frozen=True)
class MaskedText:
    """One text with words hidden."""

    token_ids: list[int]
    story_start: int
    """Tokens before the story's first; token types are 0 before it and 1 from it on."""
    labels: list[int]
    """The hidden token, NO_LABEL where there is nothing to predict."""
    weights: list[float]


# ---- Texts ----


def make_texts(rng: random.Random, vocabulary: Vocabulary, stage: Stage) -> Iterator[MaskedText]:
    """Yield the masked texts of one story, one per turn: [CLS] q a ... q a? [SEP] story [SEP]."""
    num_facts = stage.min_facts + int(rng.random() * 3)
    story = make_story(rng, pick(rng, words.SOURCES), num_facts, has_frame=num_facts > 4)
    turns = make_turns(rng, story, stage.num_turns)
    story_ids = vocabulary.encode(story.text)
    questions = [vocabulary.encode(turn.question) for turn in turns]
    answers = [vocabulary.encode(turn.answer) for turn in turns]
    for last in range(len(turns)):
        token_ids = [CLS]
        for turn in range(max(0, last - stage.max_history), last):
            token_ids += [*questions[turn], SEP, *answers[turn], SEP]
        token_ids += [*questions[last], SEP]
        is_recalled = rng.random() < 0.4
        if not is_recalled:
            token_ids += [*answers[last], SEP]
        story_start = len(token_ids)
        token_ids += [*story_ids, SEP]
        recalled = answers[last][-1] if is_recalled else NO_LABEL
        yield _mask(rng, vocabulary, token_ids, story_start, recalled)


def _mask(
    rng: random.Random,
    vocabulary: Vocabulary,
    token_ids: list[int],
    story_start: int,
    recalled: int,
) -> MaskedText:
    """Hide values on one side only: in the conversation or in the story."""
    shown = list(token_ids)
    labels = [recalled, *[NO_LABEL] * (len(token_ids) - 1)]
    weights = [1.0] * len(token_ids)

    def hide(position: int) -> None:
        labels[position] = token_ids[position]
        draw = rng.random()
        if draw < 0.85:
            shown[position] = MASK
        elif draw < 0.95:
            shown[position] = pick(rng, vocabulary.values)

    places: dict[int, list[int]] = {}
    values = set(vocabulary.values)
    for position, token in enumerate(token_ids):
        if token in values:
            places.setdefault(token, []).append(position)
    for token, positions in places.items():
        told = [position for position in positions if position >= story_start]
        said = positions[: len(positions) - len(told)]
        if not told or not said:
            continue
        draw = rng.random() * (2.5 if token in vocabulary.names else 1.0)
        if draw < 0.4:
            for position in said:
                hide(position)
        elif draw < 0.8:
            hide(told[0] if len(told) == 1 else pick(rng, told))
    for position, token in enumerate(token_ids):
        if token in vocabulary.answers and rng.random() < 0.7:
            hide(position)
        elif position and labels[position] == NO_LABEL and token > MASK and rng.random() < 0.03:
            hide(position)
            weights[position] = OTHER_WEIGHT
    return MaskedText(shown, story_start, labels, weights)


def make_batches(
    rng: random.Random, vocabulary: Vocabulary, num_steps: int
) -> Iterator[list[Tensor]]:
    """Yield token ids, types, attention mask, positions, labels, weights, each (B, T)."""
    pool: list[MaskedText] = []
    for step in range(num_steps):
        stage = _stage(step / num_steps)
        while len(pool) < 8 * BATCH_SIZE:
            pool += make_texts(rng, vocabulary, stage)
        rng.shuffle(pool)
        texts, pool = pool[:BATCH_SIZE], pool[BATCH_SIZE:]
        yield _collate(texts, stage.is_shifted)


def _stage(done: float) -> Stage:
    return next(stage for stage in STAGES if done < stage.until)


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


def make_model(vocab_size: int) -> BertForMaskedLM:
    """Return a small random BERT whose positions start as sinusoids, which speeds up learning."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=3,
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


def train(model: BertForMaskedLM, vocabulary: Vocabulary, num_steps: int, seed: int) -> None:
    """Train in place; print loss and the share of hidden words found."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98)
    )
    started = time.monotonic()
    num_found = num_hidden = 0.0
    batches = make_batches(random.Random(seed), vocabulary, num_steps)
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
            print(
                f"step {step + 1}  loss {loss:.3f}  found {share:.3f}  {seconds:.0f} s", flush=True
            )
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
    BertTokenizerFast(
        tokenizer_object=tokenizer, do_lower_case=True, model_max_length=MAX_LENGTH
    ).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Pre-train and write the encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "encoder")
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer.get_vocab_size())
    train(model, make_vocabulary(tokenizer), chosen.steps, chosen.seed)
    write_encoder(model, tokenizer, chosen.out)


if __name__ == "__main__":
    main()
