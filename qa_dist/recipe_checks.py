"""What a recipe's values may be: limits, choices and relations, said all at once.

A check returns sentences that start with the full key. Reads no files, imports no torch.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from qa_dist.recipe import (
    BAD_RECORD_POLICIES,
    BALANCES,
    ENGINES,
    EVALUATE_WHEN,
    HEADS,
    MIXINGS,
    OPTIMIZERS,
    PACKINGS,
    PRECISIONS,
    QUANTIZATIONS,
    TASKS,
    Recipe,
    source_names,
    trained_sources,
)

MAX_TEXT_CHARS = 4096  # Linux's PATH_MAX: longer than any path that can be opened


@dataclass(frozen=True)
class Limits:
    """What a number may be; an open bound is not itself let in."""

    low: float
    high: float
    what: str
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        low = value > self.low if self.low_open else value >= self.low
        high = value < self.high if self.high_open else value <= self.high
        return low and high  # both False for nan

    def __str__(self) -> str:
        low = f"more than {self.low}" if self.low_open else f"at least {self.low}"
        high = f"less than {self.high}" if self.high_open else f"at most {self.high}"
        return f"{self.what}, {low} and {high}"


_SHARE = Limits(0, 1, "a share", high_open=True)
_MANY = 10**9  # of steps or examples: more than anyone has, and it still fits where int32 is used
_SEED = Limits(0, 2**32 - 1, "a whole number")

LIMITS = {
    "sources.dev_fraction": _SHARE,
    "sources.heldout_fraction": _SHARE,
    "sources.max_train_examples": Limits(0, _MANY, "a number of questions"),
    "sources.max_dev_examples": Limits(0, _MANY, "a number of questions"),
    "sources.subset_seed": _SEED,
    "sources.weight": Limits(0, 1e6, "a weight", low_open=True),
    "data.max_length_tokens": Limits(8, 65535, "a number of tokens"),
    "data.window_overlap_tokens": Limits(0, 65536, "a number of tokens"),
    "data.max_question_tokens": Limits(1, 65536, "a number of tokens"),
    "data.history_turns": Limits(0, 1000, "a number of turns"),
    "data.num_shards": Limits(0, 99999, "a number of files"),
    "model.attention_dropout": _SHARE,
    "model.hidden_dropout": _SHARE,
    "model.lora_rank": Limits(0, 4096, "a rank"),
    "model.lora_alpha": Limits(0, 65536, "a scale", low_open=True),
    "model.lora_dropout": _SHARE,
    "train.epochs": Limits(0, 10000, "a number of passes", low_open=True),
    "train.max_steps": Limits(0, _MANY, "a number of steps"),
    "train.batch_windows": Limits(1, 1_000_000, "a number of windows"),
    "train.micro_batch_tokens": Limits(8, _MANY, "a number of tokens"),
    "train.min_micro_batches_per_step": Limits(1, 1_000_000, "a number of micro-batches"),
    "train.learning_rate": Limits(0, 1, "a rate", low_open=True, high_open=True),
    "train.warmup_steps": Limits(0, _MANY, "a number of steps"),
    "train.warmup_fraction": _SHARE,
    "train.weight_decay": Limits(0, 1, "a rate", high_open=True),
    "train.adam_epsilon": Limits(0, 1, "a number", low_open=True, high_open=True),
    "train.clip_norm": Limits(0, 1e6, "a gradient norm"),
    "train.mixing_temperature": Limits(1, 1000, "a temperature"),
    "train.gradient_cosine_every_steps": Limits(0, _MANY, "a number of steps"),
    "train.seed": _SEED,
    "train.checkpoint_every_steps": Limits(1, _MANY, "a number of steps"),
    "train.keep_checkpoints": Limits(1, 100_000, "a number of checkpoints"),
    "train.log_every_steps": Limits(1, _MANY, "a number of steps"),
    "train.validation_windows": Limits(0, _MANY, "a number of windows"),
    "evaluation.n_best": Limits(1, 1000, "a number of candidates"),
    "evaluation.max_answer_tokens": Limits(1, 65536, "a number of tokens"),
    "evaluation.batch_tokens": Limits(8, _MANY, "a number of tokens"),
    "evaluation.num_resamples": Limits(1, 1_000_000, "a number of resamples"),
    "evaluation.max_new_tokens": Limits(1, 65536, "a number of tokens"),
    "evaluation.tie_margin": Limits(0, 1, "a difference of shares"),
}
CHOICES = {
    "sources.task": TASKS,
    "data.on_bad_record": BAD_RECORD_POLICIES,
    "model.head": HEADS,
    "model.quantization": QUANTIZATIONS,
    "train.mixing": MIXINGS,
    "train.balance": BALANCES,
    "train.optimizer": OPTIMIZERS,
    "train.precision": PRECISIONS,
    "train.packing": PACKINGS,
    "train.engine": ENGINES,
    "evaluation.when": EVALUATE_WHEN,
}
_WHY_NOT = {
    ("train.precision", "fp16"): "; fp16 overflows where bf16, as fast, doesn't: MobileBERT gives "
    "NaN in it",
}


def check_recipe(recipe: Recipe) -> list[str]:
    """Return a sentence for each thing wrong with `recipe`; it starts with `<full key>=<value>`."""
    faults = [*_check_sources(recipe)]
    for section in ("data", "model", "train", "evaluation"):
        faults += check_fields(f"{section}.", section, getattr(recipe, section))
    if not recipe.model.name:
        faults.append("model.name=: expected a hub name or a folder; give model.name=...")
    faults += _check_head(recipe)
    is_writer = recipe.model.head == "causal_lm"
    faults += _check_room(recipe) if is_writer else _check_windowing(recipe)
    return [*faults, *_check_steps(recipe)]


def text_fault(text: str) -> str:
    """Return why `text` can't be a value ("" if it can): values end up in logs, JSON and jobs."""
    if len(text) > MAX_TEXT_CHARS:
        return f"expected at most {MAX_TEXT_CHARS} characters, not {len(text)}"
    # Cc, Cf: control and invisible ones; Zl, Zp: line ends; Cs: half a surrogate, can't be written
    if any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") for c in text):
        return "expected no line breaks, control or invisible characters"
    return ""


def show_value(value: object) -> str:
    """Return `value` for a message: on one line, and no longer than a line."""
    text = "null" if value is None else str(value)
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= 80 else shown[:60] + "..." + shown[-10:]


def check_fields(
    prefix: str,
    section: str,
    part: Any,
    all_limits: Mapping[str, Limits] = LIMITS,
    all_choices: Mapping[str, tuple[str, ...]] = CHOICES,
) -> Iterator[str]:
    """Yield a sentence for each field of a dataclass out of its limits or choices."""
    for item in fields(part):
        value = getattr(part, item.name)
        table_key = f"{section}.{item.name}"
        given = f"{prefix}{item.name}={show_value(value)}"
        limits, choices = all_limits.get(table_key), all_choices.get(table_key)
        if isinstance(value, str) and (fault := text_fault(value)):
            yield f"{given}: {fault}"
        elif choices and value not in choices:
            why = _WHY_NOT.get((table_key, value), "")
            yield f"{given}: expected one of {', '.join(choices)}{why}"
        elif limits and value is not None and not (math.isfinite(value) and limits.holds(value)):
            yield f"{given}: expected {limits}"


def _check_sources(recipe: Recipe) -> Iterator[str]:
    if not recipe.sources:
        yield "sources=[]: expected one source; give sources.0.task=..., .train=... and .dev=..."
    for index, source in enumerate(recipe.sources):
        key = f"sources.{index}"
        yield from check_fields(f"{key}.", "sources", source)
        if not source.train:
            yield f"{key}.train=: expected a local file or a hub name; give {key}.train=..."
        if not source.dev and source.dev_fraction == 0:
            other = f"{key}.dev_fraction=0.1 to split the training groups"
            yield f"{key}.dev=: expected a local file or a hub name to score; give it, or {other}"
        if source.dev and source.dev_fraction > 0:
            given = f"{key}.dev_fraction={source.dev_fraction}"
            yield f"{given}: expected 0 where {key}.dev is given; leave one of the two out"
        if source.task == "ner" and source.heldout_fraction > 0:
            given = f"{key}.heldout_fraction={source.heldout_fraction}"
            yield f"{given}: expected 0, as tags have no threshold that it could tune; leave it out"
        if source.dev_fraction + source.heldout_fraction >= 1:
            yield (
                f"{key}.heldout_fraction={source.heldout_fraction}: expected less than 1 together"
                f" with {key}.dev_fraction={source.dev_fraction}; lower one, to leave some to train"
            )


def _check_head(recipe: Recipe) -> Iterator[str]:
    """What goes together of heads, tasks, adapters and several sources."""
    model, train, num = recipe.model, recipe.train, len(recipe.sources)
    tasks = {source.task for source in recipe.sources}
    is_writer = model.head == "causal_lm"
    if recipe.data.document_context and "ner" not in tasks:
        given = "data.document_context=true"
        yield f"{given}: expected false unless a source's task is ner, such as sources.0.task"
    if is_writer and num > 1:
        yield f"model.head=causal_lm: expected one source, not {num}; make a recipe for each"
    if is_writer and "ner" in tasks:
        yield "model.head=causal_lm: expected questions to answer, not task=ner; give head=span"
    for place, source in enumerate(recipe.sources):
        if is_writer and source.heldout_fraction:
            given = f"sources.{place}.heldout_fraction={source.heldout_fraction}"
            yield f"{given}: expected 0 with model.head=causal_lm, which has no threshold to tune"
    if not is_writer and "prompted_qa" in tasks:
        given = f"model.head={show_value(model.head)}"
        yield f"{given}: expected causal_lm, as the answers of task=prompted_qa aren't spans"
    if model.head == "span_crf" and "coqa" in tasks:
        given = "model.head=span_crf"
        yield f"{given}: expected span, as CoQA's yes, no and unknown aren't labels of tokens"
    if model.quantization != "none" and train.engine in ("fsdp", "zero3"):
        given = f"train.engine={train.engine}"
        yield f"{given}: expected ddp, zero1 or zero2, as 4-bit weights can't be shared out"
    if train.optimizer != "adamw" and train.engine != "ddp":
        given = f"train.optimizer={show_value(train.optimizer)}"
        yield f"{given}: expected adamw with train.engine={train.engine}, which shares moments out"
    if model.quantization != "none" and not (is_writer and model.lora_rank):
        given = f"model.quantization={model.quantization}"
        yield f"{given}: expected none without model.head=causal_lm and model.lora_rank > 0"
    if model.freeze_encoder and is_writer and not model.lora_rank:
        yield "model.freeze_encoder=true: expected model.lora_rank > 0: else nothing is trained"
    if train.packing == "on" and model.attention_dropout:
        given = f"model.attention_dropout={model.attention_dropout}"
        yield f"{given}: expected 0 with train.packing=on; packed attention has no dropout"
    if is_writer and model.hidden_dropout is not None:
        given = f"model.hidden_dropout={model.hidden_dropout}"
        yield f"{given}: expected nothing with model.head=causal_lm; there is model.lora_dropout"
    if is_writer and model.lower_case is not None:
        given = f"model.lower_case={model.lower_case}"
        yield f"{given}: expected nothing with model.head=causal_lm, whose tokenizer keeps case"
    if num > 1 and train.engine.startswith("zero"):
        given = f"train.engine={train.engine}"
        why = "as a head isn't updated in the steps that it sits out"
        yield f"{given}: expected ddp or fsdp with {num} sources, {why}"
    if num > 1 and model.freeze_encoder and train.gradient_cosine_every_steps:
        given = f"train.gradient_cosine_every_steps={train.gradient_cosine_every_steps}"
        yield f"{given}: expected 0 with model.freeze_encoder=true, as nothing shared is trained"
    if recipe.sources and not trained_sources(recipe):
        names = ", ".join(source_names(recipe))
        yield f"train.only={show_value(train.only)}: expected all, or one of {names}"


def _check_room(recipe: Recipe) -> Iterator[str]:
    """A prompt must fit beside what is written."""
    length, answer = recipe.data.max_length_tokens, recipe.evaluation.max_new_tokens
    if answer >= length:
        wanted = f"less than data.max_length_tokens={length}, as the prompt must fit too"
        yield f"evaluation.max_new_tokens={answer}: expected {wanted}; lower it"


def _check_windowing(recipe: Recipe) -> Iterator[str]:
    """The limits of text/windows.py, said before anything is tokenised."""
    data = recipe.data
    length, overlap = data.max_length_tokens, data.window_overlap_tokens
    if overlap >= length:
        wanted = f"less than data.max_length_tokens={length}; a third of it is usual"
        yield f"data.window_overlap_tokens={overlap}: expected {wanted}"
        return
    # beside the question: 4 special tokens at most (RoBERTa), the overlap, and new context tokens
    new_tokens = max(1, (length - overlap) // 8)
    limit = length - 4 - overlap - new_tokens
    if all(source.task == "ner" for source in recipe.sources):  # nothing is asked
        if limit < 0:
            given = f"data.window_overlap_tokens={overlap}"
            most = f"expected at most {overlap + limit}"
            yield f"{given}: {most} with data.max_length_tokens={length}"
    elif limit < data.max_question_tokens:
        yield (
            f"data.max_question_tokens={data.max_question_tokens}: expected at most {limit} with"
            f" data.max_length_tokens={length} and data.window_overlap_tokens={overlap}, as 4"
            f" special and {new_tokens} new context tokens must fit too; lower it or the overlap"
        )


def _check_steps(recipe: Recipe) -> Iterator[str]:
    train, length = recipe.train, recipe.data.max_length_tokens
    if train.min_micro_batches_per_step > train.batch_windows:
        given = f"train.min_micro_batches_per_step={train.min_micro_batches_per_step}"
        yield f"{given}: expected at most train.batch_windows={train.batch_windows}; lower it"
    if 0 < train.max_steps <= train.warmup_steps:
        given = f"train.warmup_steps={train.warmup_steps}"
        yield f"{given}: expected less than train.max_steps={train.max_steps}; lower it"
    for key, tokens in (
        ("train.micro_batch_tokens", train.micro_batch_tokens),
        ("evaluation.batch_tokens", recipe.evaluation.batch_tokens),
    ):
        if tokens < length:
            limit = f"at least data.max_length_tokens={length}, as one window must fit"
            yield f"{key}={tokens}: expected {limit}; raise it, or lower the length"
