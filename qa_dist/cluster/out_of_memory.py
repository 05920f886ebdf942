"""What to try after a stage ran out of memory: settings that ask for less, the best first.

Knows an error by its class or words, since a GPU's and the processor's differ, and so that no torch
is needed here.
"""

from __future__ import annotations

import re

from qa_dist.recipe import Recipe
from qa_dist.run_dir import RunDir

_WORDS = re.compile(r"(CUDA|HIP|NCCL).{0,40}out of memory|can't allocate memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory was too small."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"MemoryError", "OutOfMemoryError"} & names) or bool(_WORDS.search(str(error)))


def memory_advice(run: RunDir, stage: str, error: BaseException) -> str:
    """Return what an error that means too little memory says, and what to try."""
    from qa_dist.recipe_loading import load_saved_recipe  # slow to load, for who only looks

    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    tries = _tries(load_saved_recipe(run.recipe), stage)
    return f"out of memory ({reason}). Try {', or '.join(tries)}"


def _tries(recipe: Recipe, stage: str) -> list[str]:
    length = recipe.data.max_length_tokens
    if stage == "evaluate":
        smaller = max(length, recipe.evaluation.batch_tokens // 2)
        if smaller < recipe.evaluation.batch_tokens:
            return [f"evaluation.batch_tokens={smaller} (scores stay the same)"]
        return ["a larger mem_gb in the profile"]
    if stage != "train":
        return ["more shards (data.num_shards=...), or a larger mem_gb in the profile"]
    train = recipe.train
    tries = []
    smaller = max(length, train.micro_batch_tokens // 2)
    if smaller < train.micro_batch_tokens:
        tries.append(
            f"train.micro_batch_tokens={smaller}, half as much at a time (a step has as many "
            "windows as before; what dropout draws changes, so it needs fresh=true or name=...)"
        )
    if train.engine != "zero3":
        engine = {"ddp": "zero1 or fsdp", "zero1": "fsdp", "zero2": "fsdp", "fsdp": "zero3"}
        tries.append(f"train.engine={engine[train.engine]} on several ranks; the run goes on")
    return [*tries, f"a data.max_length_tokens below {length}"]
