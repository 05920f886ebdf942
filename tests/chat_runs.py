"""Runs of a small language model that tests launch: files of questions, and the launch's words."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = ("Ann", "Bob", "Eve", "Tom", "Mia", "Max", "Lea", "Jim")
THINGS = ("a cat", "a red ball", "the old book", "two dogs", "some bread", "a drum")


def write_questions(path: Path, num: int, start: int = 0) -> Path:
    """Write a .jsonl file of questions, some of whose answers aren't in their contexts."""
    rows = []
    for i in range(start, start + num):
        name, thing = NAMES[i % len(NAMES)], THINGS[i % len(THINGS)]
        answer = f"{name} found {thing} on day {i}."
        row = {
            "id": f"q{i}",
            "question": f"What did {name} find on day {i}?",
            "answer": "The text does not include that detail." if i % 5 == 4 else answer,
            "context": f"It was day {i}. {'It rained. ' * (i % 3)}{answer} Then it was late.",
        }
        rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat_words(
    model: Path, folder: Path, *more: str, recipe: str = "academic_qwen_qlora"
) -> list[str]:
    """Return words for jobs/launch.py: few and short questions, in this process. `more` replace
    those of the same key."""
    words = [
        f"recipe={recipe}",
        "profile=debug",
        "name=main",
        f"prepared_dir={folder / 'prepared'}",
        f"model.name={model}",
        "model.lora_rank=64",  # so that some of the adapters are large enough for 8-bit moments
        f"sources.0.train={write_questions(folder / 'train.jsonl', 24)}",
        f"sources.0.dev={write_questions(folder / 'dev.jsonl', 10, start=100)}",
        "data.max_length_tokens=192",
        "train.batch_windows=4",
        "train.micro_batch_tokens=192",
        "train.min_micro_batches_per_step=2",
        "train.max_steps=5",
        "train.checkpoint_every_steps=2",
        "train.log_every_steps=1",
        "train.learning_rate=5e-3",
        "evaluation.max_new_tokens=12",
        "evaluation.num_resamples=50",
        "data.num_shards=1",
    ]
    return list({word.partition("=")[0]: word for word in (*words, *more)}.values())
