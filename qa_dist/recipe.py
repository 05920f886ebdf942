"""Every setting of an experiment: frozen dataclasses with defaults, units and checks. Defaults live here only.

A recipe is loaded as defaults <- YAML file <- command line (see recipe_loading.py). Nothing here reads files or
imports torch. A check returns sentences, so that all that is wrong is said at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TASKS = ("squad", "coqa")
HEADS = ("span",)
PRECISIONS = ("bf16", "fp32")
BAD_RECORD_POLICIES = ("skip", "stop")
EVALUATE_WHEN = ("at_end",)


@dataclass(frozen=True)
class Source:
    """One dataset: where its training and dev questions come from."""

    task: str = ""
    """How the files are read and scored: "squad" (SQuAD 1.1 and 2.0 JSON, or a hub name) or "coqa"."""
    train: str = ""
    """A local JSON file, or a hub dataset's name such as "rajpurkar/squad_v2" (its split "train")."""
    dev: str = ""
    """As `train` (a hub dataset's split "validation"). Empty: `dev_fraction` of the training groups."""
    dev_fraction: float = 0.0
    """Share of the training file's groups (articles, stories) that become the dev split; needs an empty `dev`."""
    heldout_fraction: float = 0.0
    """Share of the training groups kept out of training to tune the no-answer threshold on; 0: not tuned."""
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
    """Question with its history; the oldest tokens of the history go first, the current question stays."""
    history_turns: int = 2
    """Earlier question-answer pairs shown before the question (CoQA)."""
    on_bad_record: str = "skip"
    """"skip": drop, count and report records that can't be used; "stop": an error at the first."""
    num_shards: int = 0
    """Files that each split is prepared in, one array element each; 0: as many as run at once here."""


@dataclass(frozen=True)
class Model:
    """The encoder (a value, never a file) and its head."""

    name: str = ""
    """A hub name such as "bert-base-uncased", or a folder with config.json, safetensors and tokenizer files."""
    head: str = "span"
    """"span": start and end logits over the tokens, and logits for the task's answer classes."""
    lower_case: bool | None = None
    """Tell the tokenizer to lower-case (or not); None: what the model's own files say. SpanBERT needs false."""
    attention_dropout: float | None = 0.0
    """Dropout of attention weights; 0 keeps the fast attention kernels; None: what the model's own config says."""
    hidden_dropout: float | None = None
    """Dropout of hidden states; None: what the model's own config says."""


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
    precision: str = "bf16"
    """"bf16" (autocast, weights in fp32) or "fp32"."""
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
    """"at_end": all kept checkpoints, after training."""
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
    sources: list[Source] = field(default_factory=list)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    evaluation: Evaluation = field(default_factory=Evaluation)


@dataclass(frozen=True)
class Profile:
    """Where jobs run; one YAML each in slurm/profiles."""

    name: str = ""
    where: str = "local"
    """"process": all in this very process; "local": processes of this machine; "slurm": a cluster's jobs."""
    gpus_per_node: int = -1
    """GPUs to use on each node; -1: all that this machine has."""
    ranks_per_node: int = 0
    """Training processes on each node; 0: one per GPU, or one where there is none."""
    max_parallel: int = 0
    """Array elements that run at once; 0: as many as this machine has cores (GPUs, where a stage uses one)."""
    timeout_min: int = 10_000
    """Longest time for one job, in minutes."""
    recipe_defaults: dict[str, str] = field(default_factory=dict)
    """Recipe settings that this profile changes unless the command line gives them, e.g. {"train.max_steps": "2"}."""
