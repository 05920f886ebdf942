"""What a launch would do, for dry_run=true: stages, shards, steps, windows and memory, estimated
without a tokenizer.

Reads a sample of records and the encoder's config.json; writes nothing, loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qa_dist.cluster.submit import Place
from qa_dist.contaminated import describe_contamination
from qa_dist.data.prepared import Prepared
from qa_dist.data.tokenizer import read_model_config
from qa_dist.plan import Plan, sample_passages
from qa_dist.recipe import Recipe, SourceSplit, form_of, source_splits, trained_sources
from qa_dist.text.windows import cut_windows

_CHARS_PER_TOKEN = 4.4  # English, WordPiece of 30,000: SQuAD's contexts have 4.3 to 4.6
_BYTES_PER_PARAMETER = 16  # fp32 weights, gradients and AdamW's two moments
_BYTES_PER_FROZEN = {"none": 2, "nf4": 0.6}  # embeddings stay in 16 bits
_SAMPLE = 64


def print_forecast(
    recipe: Recipe, place: Place, plan: Plan, prepared: Prepared, stages: Sequence[str]
) -> None:
    """Print the stages with their elements, and about how much there is to do."""
    splits = source_splits(recipe)
    windows = {
        split.name: round(
            plan.num_questions[split.name] * windows_per_question(recipe, plan, split)
        )
        for split in splits
    }
    trained = trained_sources(recipe)
    steps_per_epoch = sum(
        math.ceil(windows[split.name] / recipe.train.batch_windows)
        for split in splits
        if split.part == "train" and split.source in trained
    )
    steps = recipe.train.max_steps or max(1, round(recipe.train.epochs * steps_per_epoch))
    checkpoints = math.ceil(steps / recipe.train.checkpoint_every_steps)
    if recipe.evaluation.when == "at_end":
        checkpoints = min(checkpoints, recipe.train.keep_checkpoints + 1)
    shards = sum(prepared.num_shards.values())
    num_eval = checkpoints * sum(
        prepared.num_shards[split.name]
        for split in splits
        if split.part != "train" and split.source in trained
    )
    missing = sum(len(prepared.missing(split)) for split in prepared.num_shards)
    elements = {
        "prepare": f"{shards} shards, {missing} to make, {place.max_parallel} at once; "
        f"{prepared.folder}",
        "train": f"about {steps:,} steps of {recipe.train.batch_windows} windows, "
        f"{place.num_ranks} ranks, {place.num_gpus or 'no'} GPUs; about "
        f"{memory_gb(recipe):.1f} GB per rank",
        "evaluate": f"up to {num_eval} elements (checkpoint x shard), {place.max_parallel} at once",
        "aggregate": "1 element",
    }
    print("stages:")
    for stage in stages:
        print(f"  {stage:10s} {elements[stage]}")
    for line in describe_contamination(recipe, plan):
        print(line)
    for split, num in plan.num_questions.items():
        print(
            f"{split}: {num:,} questions, about {windows[split]:,} windows in "
            f"{prepared.num_shards[split]} shards"
        )
    print("dry run: nothing was written")


def windows_per_question(recipe: Recipe, plan: Plan, split: SourceSplit) -> float:
    """Return about how many windows a question of a split has, from a sample of its records."""
    if form_of(recipe, recipe.sources[split.source]) == "text":
        return 1.0  # what is too long is cut
    data = recipe.data
    num_questions = num_windows = 0
    for passage in sample_passages(recipe, plan, split, _SAMPLE):
        for example in passage.examples:
            start, end = 0, len(passage.context)
            if example.words:  # of a document's sentences each has windows of its own
                start, end = example.words[0][0], example.words[-1][1]
            tokens = round((end - start) / _CHARS_PER_TOKEN)
            history = example.history[-2 * data.history_turns :] if data.history_turns else ()
            question = sum(
                len(text) / _CHARS_PER_TOKEN + 1 for text in (*history, example.question)
            )
            room = data.max_length_tokens - 3 - min(round(question), data.max_question_tokens)
            num_windows += len(cut_windows(tokens, room, data.window_overlap_tokens))
            num_questions += 1
    return num_windows / max(1, num_questions)


def memory_gb(recipe: Recipe) -> float:
    """Return about the memory of one rank: state of all parameters, and activations of one
    micro-batch; in GB."""
    config = read_model_config(recipe.model.name)
    hidden = int(config.get("hidden_size", 768))
    inner = int(config.get("intermediate_size", 4 * hidden))
    layers = int(config.get("num_hidden_layers", 12))
    bytes_per_value = 4 if recipe.train.precision == "fp32" else 2
    tokens = min(
        recipe.train.micro_batch_tokens, recipe.train.batch_windows * recipe.data.max_length_tokens
    )
    kept = layers * (12 * hidden + 3 * inner)
    if recipe.model.gradient_checkpointing:  # each layer's input, and all of the one in work
        kept = layers * hidden + kept // layers
    activations = tokens * kept * bytes_per_value
    trained = num_trained(recipe)
    frozen = num_parameters(recipe) - trained if trained < num_parameters(recipe) else 0
    state = trained * _BYTES_PER_PARAMETER + frozen * _BYTES_PER_FROZEN[recipe.model.quantization]
    return float(np.round((state + activations) / 1e9, 2))


def checkpoint_gb(recipe: Recipe) -> float:
    """Return about the size of a checkpoint: weights and AdamW's two moments; in GB."""
    return 12 * num_trained(recipe) / 1e9


def num_trained(recipe: Recipe) -> int:
    """Return about how many parameters are trained and saved: a language model's adapters alone, if
    it has any."""
    model = recipe.model
    if model.head != "causal_lm" or not model.lora_rank:
        return num_parameters(recipe)
    config = read_model_config(model.name)
    shapes = _linear_shapes(config)
    of_layer = sum(rows + columns for rows, columns in shapes)  # two matrices beside each
    return model.lora_rank * int(config.get("num_hidden_layers", 12)) * of_layer


def num_parameters(recipe: Recipe) -> int:
    """Return about how many parameters the base has, from its config.json."""
    config = read_model_config(recipe.model.name)
    hidden = int(config.get("hidden_size", 768))
    layers = int(config.get("num_hidden_layers", 12))
    own_layers = int(config.get("num_hidden_groups", layers))  # ALBERT shares them
    embedding = int(config.get("embedding_size", hidden))
    vocab = int(config.get("vocab_size", 30_000))
    of_layer = sum(rows * columns for rows, columns in _linear_shapes(config))
    return vocab * embedding + own_layers * of_layer


def _linear_shapes(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the sizes of a layer's matrices: four of attention, and two behind it, or three where
    one of them is a gate (Qwen, Llama)."""
    hidden = int(config.get("hidden_size", 768))
    inner = int(config.get("intermediate_size", 4 * hidden))
    heads = int(config.get("num_attention_heads", 12))
    keys = hidden * int(config.get("num_key_value_heads", heads)) // heads
    num_behind = 3 if config.get("hidden_act") == "silu" else 2
    attention = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    return attention + [(hidden, inner)] * num_behind
