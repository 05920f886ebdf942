"""Every setting of an experiment: frozen dataclasses with defaults, units and checks.

Defaults live here only. A recipe is loaded as defaults <- YAML file <- command line (see
recipe_loading.py). Nothing here reads files or imports torch. A check returns sentences that
start with the full key, so that all that is wrong is said at once.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

TASKS = ("squad", "coqa", "prompted_qa")
HEADS = ("span", "causal_lm")
PRECISIONS = ("auto", "bf16", "fp32")
BAD_RECORD_POLICIES = ("skip", "stop")
EVALUATE_WHEN = ("at_end", "each_checkpoint")
QUANTIZATIONS = ("none", "nf4")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
ENGINES = ("ddp", "fsdp", "zero1", "zero2", "zero3")
MAX_TEXT_CHARS = 4096  # Linux's PATH_MAX: longer than any path that can be opened


@dataclass(frozen=True)
class Source:
    """One dataset: where its training and dev questions come from."""

    task: str = ""
    """How files are read and scored: "squad" (SQuAD 1.1 and 2.0 JSON, or a hub name) or "coqa"."""
    train: str = ""
    """A local JSON file, or a hub dataset's name such as "rajpurkar/squad_v2" (split "train")."""
    dev: str = ""
    """As `train` (a hub dataset's "validation"). Empty: `dev_fraction` of the training groups."""
    dev_fraction: float = 0.0
    """Share of the training groups (articles, stories) that become the dev split, without `dev`."""
    heldout_fraction: float = 0.0
    """Share of the training groups kept out to tune the no-answer threshold on; 0: not tuned."""
    max_train_examples: int = 0
    """Train on so many questions, drawn at random without replacement; 0: all."""
    max_dev_examples: int = 0
    """Evaluate on so many questions, drawn at random; 0: all."""
    subset_seed: int = 0
    """Seeds the draws above and the choice of groups."""


@dataclass(frozen=True)
class Data:
    """How examples become windows."""

    max_length_tokens: int = 384
    """Longest window, question and special tokens included."""
    window_overlap_tokens: int = 128
    """Context tokens that two windows in a row share."""
    max_question_tokens: int = 64
    """Question with its history; the history's oldest tokens go first, the question stays."""
    history_turns: int = 2
    """Earlier question-answer pairs shown before the question (CoQA)."""
    on_bad_record: str = "skip"
    """"skip": drop, count and report records that can't be used; "stop": an error at the first."""
    num_shards: int = 0
    """Files that each split is prepared in, one array element each; 0: as many as run at once."""


@dataclass(frozen=True)
class Model:
    """The encoder (a value, never a file) and its head."""

    name: str = ""
    """A hub name ("bert-base-uncased"), or a folder: config.json, safetensors, tokenizer files."""
    head: str = "span"
    """"span": start and end logits over the tokens, and logits for the task's answer classes."""
    lower_case: bool | None = None
    """Whether the tokenizer lower-cases; None: what the model's files say. SpanBERT needs false."""
    attention_dropout: float | None = 0.0
    """Dropout of attention weights; 0 keeps fast kernels; None: what the model's config says."""
    hidden_dropout: float | None = None
    """Dropout of hidden states; None: what the model's config says."""
    lora_rank: int = 0
    """Rank of the adapters; 0: none, all weights are trained."""
    lora_alpha: float = 16.0
    """Adapters' output is scaled by this over the rank."""
    lora_dropout: float = 0.0
    """Dropout of the adapters' input."""
    quantization: str = "none"
    """"nf4"."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward."""


@dataclass(frozen=True)
class Train:
    """One training run."""

    epochs: float = 3.0
    """Passes over the training windows."""
    max_steps: int = 0
    """Stop after so many steps, schedule included; 0: as `epochs` says."""
    batch_windows: int = 32
    """Windows in one step (optimizer update), over all ranks."""
    micro_batch_tokens: int = 16384
    """Most tokens, padding included, in one forward-backward of one rank: what memory allows."""
    min_micro_batches_per_step: int = 1
    """Each step is cut into at least so many micro-batches: the most ranks that can share it."""
    learning_rate: float = 3e-5
    """Highest rate, after the warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up; 0: as `warmup_fraction` says."""
    warmup_fraction: float = 0.1
    """Share of all steps spent warming up; then the rate falls linearly to 0."""
    weight_decay: float = 0.01
    """AdamW's; biases and normalisation weights are left out."""
    adam_epsilon: float = 1e-8
    """AdamW's denominator term."""
    clip_norm: float = 1.0
    """Global gradient norm is clipped to this; 0: not clipped."""
    precision: str = "auto"
    """"bf16" (autocast, weights in fp32), "fp32", or "auto": bf16 where it's computed natively."""
    engine: str = "ddp"
    """"ddp": all on each rank; sharded over ranks: "fsdp" all, DeepSpeed's "zero1" the moments,
    "zero2" gradients too, "zero3" weights too. A run may go on with another one."""
    optimizer: str = "adamw"
    """"adamw", "adamw_8bit", "paged_adamw_8bit"."""
    seed: int = 42
    """Seeds order, dropout and the new head's weights."""
    checkpoint_every_steps: int = 500
    """A checkpoint after each so many steps, and after the last."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, beside the one with the lowest validation loss."""
    log_every_steps: int = 10
    """Scalars and heartbeat are written each so many steps."""
    validation_windows: int = 512
    """Dev windows for the validation loss at each checkpoint; 0: none."""


@dataclass(frozen=True)
class Evaluation:
    """What is scored, and how answers are chosen."""

    when: str = "at_end"
    """"at_end": all kept checkpoints, after training. "each_checkpoint": each one, on SLURM while
    training goes on; none is deleted before it is evaluated, whatever `keep_checkpoints` says."""
    n_best: int = 20
    """Candidates kept for each question."""
    max_answer_tokens: int = 30
    """Longest span considered."""
    batch_tokens: int = 16384
    """Most tokens, padding included, in one forward pass."""
    num_resamples: int = 1000
    """Bootstrap resamples behind each interval."""


@dataclass(frozen=True)
class Recipe:
    """One experiment. `name` is its file's name in configs/recipes."""

    name: str = ""
    """What its runs' folder is called; the YAML file's own name unless the file says otherwise."""
    sources: list[Source] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    evaluation: Evaluation = field(default_factory=Evaluation)


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
    "data.max_length_tokens": Limits(8, 65535, "a number of tokens"),
    "data.window_overlap_tokens": Limits(0, 65536, "a number of tokens"),
    "data.max_question_tokens": Limits(1, 65536, "a number of tokens"),
    "data.history_turns": Limits(0, 1000, "a number of turns"),
    "data.num_shards": Limits(0, 99999, "a number of files"),
    "model.attention_dropout": _SHARE,
    "model.hidden_dropout": _SHARE,
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
    "train.seed": _SEED,
    "train.checkpoint_every_steps": Limits(1, _MANY, "a number of steps"),
    "train.keep_checkpoints": Limits(1, 100_000, "a number of checkpoints"),
    "train.log_every_steps": Limits(1, _MANY, "a number of steps"),
    "train.validation_windows": Limits(0, _MANY, "a number of windows"),
    "evaluation.n_best": Limits(1, 1000, "a number of candidates"),
    "evaluation.max_answer_tokens": Limits(1, 65536, "a number of tokens"),
    "evaluation.batch_tokens": Limits(8, _MANY, "a number of tokens"),
    "evaluation.num_resamples": Limits(1, 1_000_000, "a number of resamples"),
}
CHOICES = {
    "sources.task": TASKS,
    "data.on_bad_record": BAD_RECORD_POLICIES,
    "model.head": HEADS,
    "train.precision": PRECISIONS,
    "train.engine": ENGINES,
    "evaluation.when": EVALUATE_WHEN,
}


def check_recipe(recipe: Recipe) -> list[str]:
    """Return a sentence for each thing wrong with `recipe`; it starts with `<full key>=<value>`."""
    faults = [*_check_sources(recipe)]
    for section in ("data", "model", "train", "evaluation"):
        faults += check_fields(f"{section}.", section, getattr(recipe, section))
    if not recipe.model.name:
        faults.append("model.name=: expected a hub name or a folder; give model.name=...")
    return [*faults, *_check_windowing(recipe.data), *_check_steps(recipe)]


def is_periodic(step: int, every: int, last: int) -> bool:
    """Return whether a checkpoint belongs to the run's course, each `every` steps and after the
    last; others were written because of a stop."""
    return step % every == 0 or step == last


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
            yield f"{given}: expected one of {', '.join(choices)}"
        elif limits and value is not None and not (math.isfinite(value) and limits.holds(value)):
            yield f"{given}: expected {limits}"


def _check_sources(recipe: Recipe) -> Iterator[str]:
    if not recipe.sources:
        yield "sources=[]: expected one source; give sources.0.task=..., .train=... and .dev=..."
    if len(recipe.sources) > 1 and recipe.model.head == "span":
        given = f"sources=[{len(recipe.sources)} of them]"
        yield f"{given}: expected exactly one with model.head=span; make a recipe for each"
    for index, source in enumerate(recipe.sources):
        key = f"sources.{index}"
        yield from check_fields(f"{key}.", "sources", source)
        if not source.train:
            yield f"{key}.train=: expected a JSON file or a hub name; give {key}.train=..."
        if not source.dev and source.dev_fraction == 0:
            other = f"{key}.dev_fraction=0.1 to split the training groups"
            yield f"{key}.dev=: expected a JSON file or a hub name to score; give it, or {other}"
        if source.dev and source.dev_fraction > 0:
            given = f"{key}.dev_fraction={source.dev_fraction}"
            yield f"{given}: expected 0 where {key}.dev is given; leave one of the two out"
        if source.dev_fraction + source.heldout_fraction >= 1:
            yield (
                f"{key}.heldout_fraction={source.heldout_fraction}: expected less than 1 together"
                f" with {key}.dev_fraction={source.dev_fraction}; lower one, to leave some to train"
            )


def _check_windowing(data: Data) -> Iterator[str]:
    """The limits of text/windows.py, said before anything is tokenised."""
    length, overlap = data.max_length_tokens, data.window_overlap_tokens
    if overlap >= length:
        wanted = f"less than data.max_length_tokens={length}; a third of it is usual"
        yield f"data.window_overlap_tokens={overlap}: expected {wanted}"
        return
    # beside the question: 4 special tokens at most (RoBERTa), the overlap, and new context tokens
    new_tokens = max(1, (length - overlap) // 8)
    limit = length - 4 - overlap - new_tokens
    if limit < data.max_question_tokens:
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
