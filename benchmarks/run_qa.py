"""The peer of prepare.py: run_qa.py's features of questions and contexts, in `datasets.map`.

What transformers' examples/pytorch/question-answering/run_qa.py does to its training data, line by
line, for a tokenizer that pads on the right, with its defaults but for what a script sets here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_LENGTH, STRIDE = 384, 128


class Theirs:
    """run_qa's map over (question, context) pairs."""

    def __init__(self, root: Path, model: Path, questions: list[dict[str, Any]]) -> None:
        from datasets import Dataset, disable_progress_bars
        from transformers import AutoTokenizer

        disable_progress_bars()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.questions = Dataset.from_list(questions)
        self.cache = root / "cache.arrow"

    def make(self) -> Any:
        """Map, and write the Arrow cache."""
        return self.questions.map(
            self.features,
            batched=True,
            remove_columns=self.questions.column_names,
            load_from_cache_file=False,
            cache_file_name=str(self.cache),
        )

    def windows(self) -> list[tuple[list[int], int, int]]:
        """Return (token ids without padding, start, end) of each window.

        Where an answer is the context's last token run_qa's search for its start runs on through
        the padding; the end is right, and taken for both.
        """
        found = []
        for row in self.make():
            length = sum(row["attention_mask"])
            start, end = row["start_positions"], row["end_positions"]
            found.append((row["input_ids"][:length], start if start < length else end, end))
        return found

    def features(self, examples: dict[str, list[Any]]) -> Any:
        """run_qa.py's prepare_train_features, for a tokenizer that pads on the right."""
        questions = [question.lstrip() for question in examples["question"]]
        tokenized = self.tokenizer(
            questions,
            examples["context"],
            truncation="only_second",
            max_length=MAX_LENGTH,
            stride=STRIDE,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        sample_mapping = tokenized.pop("overflow_to_sample_mapping")
        offset_mapping = tokenized.pop("offset_mapping")
        tokenized["start_positions"], tokenized["end_positions"] = [], []
        for i, offsets in enumerate(offset_mapping):
            input_ids = tokenized["input_ids"][i]
            cls_index = input_ids.index(self.tokenizer.cls_token_id)
            sequence_ids = tokenized.sequence_ids(i)
            answers = examples["answers"][sample_mapping[i]]
            start, end = cls_index, cls_index
            if answers["answer_start"]:
                start_char = answers["answer_start"][0]
                end_char = start_char + len(answers["text"][0])
                first, last = 0, len(input_ids) - 1
                while sequence_ids[first] != 1:
                    first += 1
                while sequence_ids[last] != 1:
                    last -= 1
                if offsets[first][0] <= start_char and offsets[last][1] >= end_char:
                    while first < len(offsets) and offsets[first][0] <= start_char:
                        first += 1
                    while offsets[last][1] >= end_char:
                        last -= 1
                    start, end = first - 1, last + 1
            tokenized["start_positions"].append(start)
            tokenized["end_positions"].append(end)
        return tokenized


def with_history(path: Path, model: Path, num_turns: int) -> list[dict[str, Any]]:
    """Return a CoQA file's turns as rows for Theirs: so many turns before are put in front of a
    question."""
    from transformers import AutoTokenizer

    separator = AutoTokenizer.from_pretrained(model).sep_token
    flat = []
    for story in json.loads(path.read_text())["data"]:
        history: list[str] = []
        for question, answer in zip(story["questions"], story["answers"], strict=True):
            asked = [*history[-2 * num_turns :], question["input_text"]]
            flat.append(
                {
                    "id": f"{story['id']}#{question['turn_id']}",
                    "question": separator.join(asked),
                    "context": story["story"],
                    "answers": {
                        "text": [answer["span_text"]],
                        "answer_start": [answer["span_start"]],
                    },
                }
            )
            history += [question["input_text"].strip(), answer["input_text"].strip()]
    return flat
