"""Every setting of an experiment: frozen dataclasses with defaults and units.

Defaults live here only. A recipe is loaded as defaults <- YAML file <- command line (see
recipe_loading.py) and checked by recipe_checks.py. Nothing here reads files or imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TASKS = ("squad", "coqa", "ner", "prompted_qa")
HEADS = ("span", "span_crf", "causal_lm")
PRECISIONS = ("auto", "bf16", "fp32")
PACKINGS = ("auto", "on", "off")
PACKED_FAMILIES = ("bert", "roberta", "electra", "albert", "qwen2")
"""Model types whose attention goes through transformers' interface, and in which nothing else mixes
a token with its neighbours, as MobileBERT's embedding does."""
BAD_RECORD_POLICIES = ("skip", "stop")
EVALUATE_WHEN = ("at_end", "each_checkpoint")
MIXINGS = ("round_robin", "proportional", "temperature")
BALANCES = ("fixed", "uncertainty", "gradnorm")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
QUANTIZATIONS = ("none", "nf4")
ENGINES = ("ddp", "fsdp", "zero1", "zero2", "zero3")


@dataclass(frozen=True)
class Source:
    """One dataset: where its training and dev questions come from."""

    task: str = ""
    """How files are read and scored: "squad" (SQuAD 1.1 and 2.0 JSON, or a hub name), "coqa", "ner"
    (CoNLL columns or parquet), "prompted_qa" (JSONL, or PubMedQA's JSON)."""
    train: str = ""
    """A local file, or a hub dataset's name such as "rajpurkar/squad_v2" (split "train")."""
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
    weight: float = 1.0
    """What its loss counts beside the other sources' (with train.balance=fixed)."""


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
    document_context: bool = False
    """NER: a sentence's window is filled up with its document's sentences around it."""
    on_bad_record: str = "skip"
    """"skip": drop, count and report records that can't be used; "stop": an error at the first."""
    num_shards: int = 0
    """Files that each split is prepared in, one array element each; 0: as many as run at once."""


@dataclass(frozen=True)
class Model:
    """The encoder (a value, never a file) and its head."""

    name: str = ""
    """A hub name ("bert-base-uncased"), or a folder: config.json, weights, tokenizer files."""
    head: str = "span"
    """"span": start and end logits over the tokens, and logits for the task's answer classes;
    "span_crf": a chain of labels O, B, I; "causal_lm": a language model that writes the answer.
    A source of task ner has a head of its own, whatever this says."""
    lower_case: bool | None = None
    """Whether the tokenizer lower-cases; None: what the model's files say. SpanBERT needs false."""
    attention_dropout: float | None = 0.0
    """Dropout of attention weights; 0 keeps fast kernels; None: what the model's config says."""
    hidden_dropout: float | None = None
    """Dropout of hidden states; None: what the model's config says."""
    lora_rank: int = 0
    """Rank of LoRA adapters on the linear layers, of which each source has its own; 0: none."""
    lora_alpha: float = 16.0
    """Adapters are scaled by this / `lora_rank`."""
    lora_dropout: float = 0.0
    """Dropout before the adapters."""
    freeze_encoder: bool = False
    """Train heads and adapters only; a model with `quantization` is frozen anyhow."""
    quantization: str = "none"
    """"nf4": the frozen weights in 4 bits, double-quantised (QLoRA); "none": as they are."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""


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
    packing: str = "auto"
    """"on": a micro-batch is one row of tokens without padding (BERT, RoBERTa, ELECTRA, ALBERT,
    Qwen2; no attention dropout); "off": padded; "auto": on where it can be on a GPU, in bf16."""
    engine: str = "ddp"
    """"ddp": all on each rank; sharded over ranks: "fsdp" all, DeepSpeed's "zero1" the moments,
    "zero2" gradients too, "zero3" weights too. A run may go on with another one."""
    optimizer: str = "adamw"
    """"adamw"; "adamw_8bit": moments in 8 bits; "paged_adamw_8bit": which may leave the GPU (on a
    CPU the same as "adamw_8bit"). The latter two with train.engine=ddp only."""
    mixing: str = "round_robin"
    """Which source a step trains on, with several: in turn; "proportional" to their steps in an
    epoch; or "temperature": to the (1 / `mixing_temperature`)th power of those."""
    mixing_temperature: float = 2.0
    """1 is proportional, the higher the more evenly."""
    balance: str = "fixed"
    """What weighs the sources' losses: "fixed" their `weight`; "uncertainty" learned variances
    (Kendall et al. 2018); "gradnorm" equal rates of training (Chen et al. 2018)."""
    gradient_cosine_every_steps: int = 0
    """Write the cosine between the sources' gradients each so many steps; 0: never."""
    only: str = "all"
    """Train on this source alone, called by its task: a single-task baseline; "all": on all."""
    seed: int = 42
    """Seeds order, dropout and the new head's weights."""
    checkpoint_every_steps: int = 500
    """A checkpoint after each so many steps, and after the last; written while training goes on,
    from a copy in rank 0's memory."""
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
    floor: bool = False
    """Score the model before training as well, at step 0: its head is new and knows nothing."""
    own_history: bool = True
    """CoQA: score a second time with the model's own answers as history."""
    max_new_tokens: int = 128
    """Longest answer that a causal_lm writes."""
    tie_margin: float = 0.05
    """Keyword overlaps of base and tuned model closer than this are a tie."""


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


def is_periodic(step: int, every: int, last: int) -> bool:
    """Return whether a checkpoint belongs to the run's course, each `every` steps and after the
    last; others were written because of a stop."""
    return step % every == 0 or step == last


def form_of(recipe: Recipe, source: Source) -> str:
    """Return how a source is windowed, trained and scored: "span" (an answer's place in the
    context), "tags" (a label for each word) or "text" (written by a language model)."""
    if recipe.model.head == "causal_lm":
        return "text"
    return "tags" if source.task == "ner" else "span"


@dataclass(frozen=True)
class SourceSplit:
    """One split of one source: what shards are named after."""

    name: str
    """"train", "dev" or "heldout"; where there are several sources, "ner.train"."""
    source: int
    """The source's place in the recipe."""
    part: str
    """"train", "dev" or "heldout"."""


def source_names(recipe: Recipe) -> list[str]:
    """Return what each source is called: its task; of several with one task, "squad", "squad2"."""
    tasks = [source.task for source in recipe.sources]
    counts = [tasks[: i + 1].count(task) for i, task in enumerate(tasks)]
    return [f"{t}{n}" if n > 1 else t for t, n in zip(tasks, counts, strict=True)]


def source_splits(recipe: Recipe) -> list[SourceSplit]:
    """Return the splits of all sources, in order."""
    names, splits = source_names(recipe), []
    for i, source in enumerate(recipe.sources):
        prefix = f"{names[i]}." if len(names) > 1 else ""
        parts = ("train", "dev", "heldout") if source.heldout_fraction else ("train", "dev")
        splits += [SourceSplit(prefix + part, i, part) for part in parts]
    return splits


def trained_sources(recipe: Recipe) -> list[int]:
    """Return the places of the sources that this run trains on and is scored on."""
    return [i for i, name in enumerate(source_names(recipe)) if recipe.train.only in ("all", name)]


def split_part(name: str) -> str:
    """Return "train", "dev" or "heldout" of a split's name."""
    return name.rpartition(".")[2]
