"""A dry run's estimates against what really comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fitted import made_sentences, write_conll
from prepared_data import make_recipe, prepare
from runs import make_run
from transformers import BertConfig, BertModel

from qa_dist.cluster.forecast import (
    checkpoint_gb,
    memory_gb,
    num_parameters,
    num_trained,
    print_forecast,
    windows_per_question,
)
from qa_dist.cluster.submit import Place
from qa_dist.data.prepared import read_prepared
from qa_dist.plan import make_plan
from qa_dist.recipe import Model, Recipe, Train, source_splits
from qa_dist.recipe_loading import load_saved_recipe

ROOT = Path(__file__).resolve().parents[2]
PLACE = Place(num_ranks=2, num_gpus=0, max_parallel=3, num_cores=4)


def test_the_number_of_windows_is_about_right(launch_words: list[str], tmp_path: Path) -> None:
    run = make_run(launch_words, tmp_path)
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    plan = make_plan(recipe, prepared.folder.parent)
    for split in source_splits(recipe):
        guess = plan.num_questions[split.name] * windows_per_question(recipe, plan, split)
        assert guess == pytest.approx(prepared.open(split.name).num_windows, rel=0.1)
    short = replace(recipe, data=replace(recipe.data, max_length_tokens=80))
    short = replace(short, data=replace(short.data, window_overlap_tokens=20))
    assert windows_per_question(short, plan, source_splits(short)[0]) > 1.5, (
        "control: long contexts, more windows"
    )


def test_what_a_forecast_says(
    launch_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(launch_words, tmp_path)
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    plan = make_plan(recipe, prepared.folder.parent)
    print_forecast(recipe, PLACE, plan, prepared, ["prepare", "train", "evaluate"])
    text = capsys.readouterr().out
    assert "2 shards, 0 to make, 3 at once" in text
    assert "about 8 steps of 8 windows, 2 ranks, no GPUs" in text
    assert "up to 3 elements (checkpoint x shard)" in text, "2 newest and the best, 1 dev shard"
    assert "train: 128 questions, about " in text and "aggregate" not in text
    assert text.endswith("dry run: nothing was written\n")
    fewer = replace(recipe, train=replace(recipe.train, keep_checkpoints=1))
    each = replace(fewer, evaluation=replace(recipe.evaluation, when="each_checkpoint"))
    for asked, count in ((fewer, 2), (each, 3)):
        print_forecast(asked, PLACE, plan, prepared, ["evaluate"])
        assert f"up to {count} elements (checkpoint x shard)" in capsys.readouterr().out


def test_epochs_become_steps(
    launch_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(launch_words, tmp_path, "train.max_steps=0", "train.epochs=2")
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    plan = make_plan(recipe, prepared.folder.parent)
    print_forecast(recipe, PLACE, plan, prepared, ["train"])
    expected = 2 * prepared.open("train").num_windows / 8
    steps = int(capsys.readouterr().out.partition("about ")[2].split()[0])
    assert steps == pytest.approx(expected, rel=0.1)


def test_memory_counts_parameters_and_one_micro_batch(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=30_000, hidden_size=128, num_attention_heads=2)
    config.num_hidden_layers, config.intermediate_size = 2, 512
    config.save_pretrained(tmp_path)
    num_parameters = sum(p.numel() for p in BertModel(config, add_pooling_layer=False).parameters())

    def guess(**train: int) -> float:
        return memory_gb(Recipe(model=Model(name=str(tmp_path)), train=Train(**train)))

    state = 16 * num_parameters / 1e9
    assert guess(micro_batch_tokens=8) == pytest.approx(state, rel=0.1)
    assert guess(micro_batch_tokens=8192) > 1.2 * guess(micro_batch_tokens=8)


def test_adapters_on_a_4_bit_base_take_little(tmp_path: Path) -> None:
    sizes = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 2}
    of_qwen = {"vocab_size": 151936, "hidden_act": "silu", **sizes, **heads}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", **of_qwen}))

    def recipe(**model: Any) -> Recipe:
        named = Model(name=str(tmp_path), head="causal_lm", **model)
        return Recipe(model=named, train=Train(micro_batch_tokens=8192))

    qlora = recipe(lora_rank=16, quantization="nf4", gradient_checkpointing=True)
    assert num_parameters(qlora) == pytest.approx(3.09e9, rel=0.01)  # as Qwen2.5-3B's card says
    assert num_trained(qlora) == 29_933_568  # what peft counts
    assert checkpoint_gb(qlora) < 0.5 < 30 < checkpoint_gb(recipe())
    assert memory_gb(qlora) < memory_gb(recipe(lora_rank=16)) < memory_gb(recipe())
    plain = recipe(lora_rank=16, quantization="nf4")
    assert memory_gb(qlora) < 0.5 * memory_gb(plain)


def test_a_forecast_loads_no_torch() -> None:
    code = "import sys, qa_dist.cluster.forecast; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("by_document", [False, True])
def test_sentences_of_a_document_are_about_a_window_each(
    tiny_encoder: Path, tmp_path: Path, by_document: bool
) -> None:
    path = write_conll(tmp_path / "all.conll", made_sentences(40), per_document=10)
    recipe = make_recipe(tiny_encoder, path, path, "ner", document_context=by_document)
    prepared = prepare(tmp_path, recipe)
    plan = make_plan(recipe, tmp_path / "prepared")
    split = source_splits(recipe)[0]
    guess = 40 * windows_per_question(recipe, plan, split)
    assert guess == pytest.approx(prepared.open("train").num_windows, rel=0.4)
