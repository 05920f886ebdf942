"""Written answers: greedy, cut at the end of the turn, with the adapter on and off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_runs import chat_words
from runs import make_run
from transformers import GenerationConfig

from qa_dist.data.prepared import read_prepared
from qa_dist.evaluation.forward import Forward
from qa_dist.evaluation.generate import TextPredictor
from qa_dist.models import build_model
from qa_dist.models.causal_lm import CausalLmModel
from qa_dist.recipe import Recipe
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.run_dir import RunDir
from qa_dist.text.metrics import question_scores

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tiny_chat: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("generate")
    return make_run(chat_words(tiny_chat, folder), folder)


@pytest.fixture(scope="module")
def recipe(run: RunDir) -> Recipe:
    return load_saved_recipe(run.recipe)


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> CausalLmModel:
    """A model with an adapter that changes what it says."""
    model: Any = build_model(recipe, [[]])
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def rows_of(run: RunDir, recipe: Recipe, model: CausalLmModel, **settings: Any) -> list[Any]:
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, **settings))
    data = read_prepared(run).open("dev")
    predictor = TextPredictor(recipe, recipe.sources[0], Forward(model, 0, CPU, "fp32"), data)
    found = list(predictor.rows())
    assert [done for done, _ in found][-1] == data.num_windows
    return [row for _, row in found]


def next_tokens(model: CausalLmModel, prompt: list[int], num: int, stop: int) -> list[int]:
    """Return what greedy search writes, token by token, without a cache or padding."""
    ids = list(prompt)
    for _ in range(num):
        with torch.no_grad():
            logits = model.language_model(input_ids=torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == stop:
            break
    return ids[len(prompt) :]


def test_rows_are_what_greedy_search_writes(
    run: RunDir, recipe: Recipe, model: CausalLmModel
) -> None:
    rows = rows_of(run, recipe, model)
    shard = read_prepared(run).open("dev").shards[0]
    assert [row["id"] for row in rows] == [shard.example(i)["id"] for i in range(10)]
    predictor = TextPredictor(
        recipe, recipe.sources[0], Forward(model, 0, CPU, "fp32"), read_prepared(run).open("dev")
    )
    for i, row in enumerate(rows):
        prompt = shard.ragged("question_tokens", i).tolist()
        stop = predictor.prompter.end_id
        assert row["text"] == predictor._text(next_tokens(model, prompt, 12, stop))
        with model.adapter_off():
            assert row["base_text"] == predictor._text(next_tokens(model, prompt, 12, stop))
        assert (row["exact"], row["f1"]) == question_scores("prompted", row["text"], row["answers"])
    assert any(row["text"] != row["base_text"] for row in rows)
    assert len({row["text"] for row in rows}) > 3


@pytest.mark.parametrize("batch_tokens", [8, 400])
def test_answers_dont_depend_on_the_batch(
    run: RunDir, recipe: Recipe, model: CausalLmModel, batch_tokens: int
) -> None:
    assert rows_of(run, recipe, model, batch_tokens=batch_tokens) == rows_of(run, recipe, model)


def test_no_answer_is_longer_than_allowed(
    run: RunDir, recipe: Recipe, model: CausalLmModel
) -> None:
    short, long = (rows_of(run, recipe, model, max_new_tokens=n) for n in (1, 12))
    assert all(
        theirs["text"].startswith(ours["text"]) or "\ufffd" in ours["text"]
        for ours, theirs in zip(short, long, strict=True)
    )
    assert sum(len(row["text"]) for row in short) < sum(len(row["text"]) for row in long)


def test_an_answer_ends_with_its_turn(run: RunDir, recipe: Recipe, model: CausalLmModel) -> None:
    data = read_prepared(run).open("dev")
    predictor = TextPredictor(recipe, recipe.sources[0], Forward(model, 0, CPU, "fp32"), data)
    end = predictor.prompter.end_id
    tokens = predictor.tokenizer(" A cat sat")["input_ids"]
    assert predictor._text([*tokens, end, *tokens]) == "A cat sat"
    assert predictor._text([end, *tokens]) == ""
    assert predictor._text(tokens) == "A cat sat"


def test_settings_of_the_models_files_arent_applied(
    run: RunDir, recipe: Recipe, model: CausalLmModel
) -> None:
    before = rows_of(run, recipe, model)
    inner: Any = model.language_model
    for owner in (inner, inner.base_model.model):
        owner.generation_config = GenerationConfig(repetition_penalty=5.0, min_new_tokens=12)
    assert rows_of(run, recipe, model) == before


def test_without_an_adapter_there_is_no_base(run: RunDir, recipe: Recipe) -> None:
    plain = replace(recipe, model=replace(recipe.model, lora_rank=0, quantization="none"))
    model: Any = build_model(plain, [[]])
    rows = rows_of(run, plain, model.eval())
    assert all(row["base_text"] is None and "base_f1" not in row for row in rows)


def test_what_was_written_is_kept_of_unanswerable_questions(
    tiny_chat: Path, recipe: Recipe, model: CausalLmModel, tmp_path: Path
) -> None:
    sample = Path(__file__).resolve().parents[2] / "qa_dist" / "sample" / "squad2-dev.json"
    more = (
        "sources.0.task=squad",
        *(f"sources.0.{part}={sample}" for part in ("train", "dev")),
        *("sources.0.max_train_examples=8", "sources.0.max_dev_examples=20"),
    )
    run = make_run(chat_words(tiny_chat, tmp_path, *more), tmp_path)
    data = read_prepared(run).open("dev")
    predictor = TextPredictor(recipe, recipe.sources[0], Forward(model, 0, CPU, "fp32"), data)
    facts = [data.shards[0].example(i) for i in range(20)]
    example = next(i for i in range(20) if not facts[i]["answers"])
    assert facts[example]["rule"] == "squad_v2"
    row = predictor._row(example, "Unknown.", "unknown to us")
    assert (row["text"], row["base_text"]) == ("Unknown.", "unknown to us")
    assert (row["exact"], row["f1"], row["base_exact"], row["base_f1"]) == (1, 1, 0, 0)
