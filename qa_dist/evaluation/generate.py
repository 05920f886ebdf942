"""A language model on one shard: prompts -> written answers, with the adapter on and off.

Greedy, in batches of like length, padded on the left; an answer ends at the end of its turn or
after evaluation.max_new_tokens. The base is the same model, as it was quantised, with the adapter
off. Whatever a model's generation_config.json says (temperature, repetition penalty) isn't applied.
An answer doesn't depend on what else is in its batch but for rounding: where two tokens score
almost the same, another batch may choose the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from qa_dist.data.shards import Split
from qa_dist.data.tokenizer import load_chat_tokenizer
from qa_dist.evaluation.forward import Forward, batches_by_length
from qa_dist.recipe import Recipe, Source
from qa_dist.text.metrics import question_scores
from qa_dist.text.prompts import Prompter, scored_answer


class TextPredictor:
    """One model on one shard."""

    def __init__(self, recipe: Recipe, source: Source, forward: Forward, data: Split) -> None:
        self.settings, self.forward, self.shard = recipe.evaluation, forward, data.shards[0]
        self.tokenizer = load_chat_tokenizer(recipe.model.name)
        self.prompter = Prompter(self.tokenizer, recipe.model.name)
        self._stops = {self.prompter.end_id, self.tokenizer.eos_token_id} - {None}
        self._take_over_settings(forward.model)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (windows done, row) for each question of the shard, in the shard's order."""
        sizes = np.diff(self.shard["question_tokens_offsets"].astype(np.int64))
        sizes += self.settings.max_new_tokens
        rows: dict[int, dict[str, Any]] = {}
        next_example = num_done = 0
        for examples in batches_by_length(sizes, self.settings.batch_tokens):
            prompts = [self.shard.ragged("question_tokens", i).tolist() for i in examples]
            tuned = self._answers(prompts)
            base: list[str] | None = None
            if self.forward.model.has_adapter:
                base = self._answers(prompts, without_adapter=True)
            for i, example in enumerate(examples):
                rows[example] = self._row(example, tuned[i], None if base is None else base[i])
            num_done += len(examples)
            while next_example in rows:
                yield num_done, rows.pop(next_example)
                next_example += 1

    def _take_over_settings(self, model: Any) -> None:
        """Put our settings in the place of those of the model's files: what a call doesn't set is
        taken from there."""
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self._stops),
            pad_token_id=self.prompter.pad_id,
        )
        inner = model.language_model
        inner.generation_config = config
        if model.has_adapter:
            inner.base_model.model.generation_config = config

    @torch.inference_mode()
    def _answers(self, prompts: list[list[int]], without_adapter: bool = False) -> list[str]:
        """Return what the model writes after each prompt."""
        forward, pad = self.forward, self.prompter.pad_id
        width = -(-max(map(len, prompts)) // forward.pad_multiple) * forward.pad_multiple
        ids = torch.full((len(prompts), width), pad, dtype=torch.int64)  # (B, T)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        is_bf16 = forward.precision == "bf16"
        is_off = forward.model.adapter_off() if without_adapter else nullcontext()
        with is_off, torch.autocast(forward.device.type, torch.bfloat16, enabled=is_bf16):
            whole = forward.model.language_model.generate(
                input_ids=ids.to(forward.device),
                attention_mask=mask.to(forward.device),
            )  # (B, T + N)
        return [self._text(row) for row in whole[:, width:].tolist()]

    def _text(self, tokens: list[int]) -> str:
        """Return an answer's text: what stands before the first token that ends it."""
        at = next((i for i, token in enumerate(tokens) if token in self._stops), len(tokens))
        text: str = self.tokenizer.decode(
            tokens[:at], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def _row(self, example: int, tuned: str, base: str | None) -> dict[str, Any]:
        """Return a question's answers as they were written, with their scores by the official
        rule."""
        facts = self.shard.example(example)
        rule, answers = facts["rule"], facts["answers"]
        exact, f1 = question_scores(rule, scored_answer(rule, tuned), answers)
        row = {**facts, "text": tuned, "null_odds": None, "exact": exact, "f1": f1}
        row["base_text"] = base
        if base is not None:
            exact, f1 = question_scores(rule, scored_answer(rule, base), answers)
            row |= {"base_exact": exact, "base_f1": f1}
        return row
