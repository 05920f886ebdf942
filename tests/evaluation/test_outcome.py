"""Outcomes of a real (tiny) run, learning curves by hand, published figures from recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qa_dist.evaluation.outcome import (
    last_scored,
    published_for,
    read_epochs,
    read_outcome,
    read_published,
    read_shapes,
)
from qa_dist.files import read_json, write_text
from qa_dist.recipe_loading import load_recipe, recipe_to_yaml
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "recipes"


def test_an_outcome_is_what_the_files_say(finished_run: RunDir) -> None:
    outcome = read_outcome(finished_run, RECIPES)
    scores = read_json(finished_run.scores_file(8))
    figures = scores["scores"][scores["headline"]]
    assert (outcome.name, outcome.step, outcome.of) == ("tiny_coqa/main", 8, 8)
    coqa = outcome.sources["coqa"]
    assert coqa.figures == {k: v for k, v in figures.items() if k != "threshold"}
    assert coqa.num_questions == 48
    assert coqa.own == scores["own_history"] and coqa.floor is None
    assert outcome.windows_per_s and outcome.memory_gb
    assert outcome.step_s == pytest.approx(8 / outcome.windows_per_s)
    assert outcome.published is None, "the demo's expectation is its own"


def test_parameters_are_those_of_the_weights(finished_run: RunDir, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(finished_run.checkpoints / "step-00000008" / "model.safetensors")
    expected = {name: list(tensor.shape) for name, tensor in weights.items()}
    assert read_shapes(finished_run, 8) == expected
    assert read_shapes(finished_run, 3) == expected, "its checkpoint has gone, others are there"
    assert read_shapes(RunDir(tmp_path), 8) == {}
    outcome = read_outcome(finished_run, RECIPES)
    assert outcome.parameters == sum(tensor.numel() for tensor in weights.values())
    assert not outcome.adapters_only


def test_a_checkpoint_of_adapters_alone_is_known(finished_run: RunDir, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    run = RunDir(tmp_path / "tiny_coqa" / "main")
    shutil.copytree(finished_run.root, run.root)
    weights = run.checkpoints / "step-00000008" / "model.safetensors"
    tensors = {f"layer.lora_{part}.default.weight": torch.zeros(4, 8) for part in "AB"}
    save_file({**tensors, "base_digest": torch.zeros(32)}, weights)
    outcome = read_outcome(run, RECIPES)
    assert (outcome.parameters, outcome.adapters_only) == (64, True)
    save_file({**tensors, "head.weight": torch.zeros(2)}, weights)
    assert not read_outcome(run, RECIPES).adapters_only


def test_a_run_without_scores_is_named(finished_run: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "tiny_coqa" / "main"
    shutil.copytree(finished_run.root, folder)
    shutil.rmtree(folder / "scores")
    with pytest.raises(InputError, match=r"tiny_coqa/main: has no scores yet; .*status"):
        last_scored(RunDir(folder))


# ---- learning curves


def test_epochs_by_hand(tmp_path: Path) -> None:
    """4 steps an epoch, logged each 3 and at the end: the line at 6 is the second epoch's."""
    run = RunDir(tmp_path)
    run.scores.mkdir()
    for step, f1 in ((3, 10.0), (8, 40.0)):
        scores = {"headline": "at_0", "scores": {"at_0": {"em": f1 / 2, "f1": f1}}}
        run.scores_file(step).write_text(json.dumps(scores))
    lines: list[dict[str, Any]] = [
        {"step": 3, "train/loss": 4.0, "train/epoch": 0.75},
        {"step": 3, "validation/loss": 3.5},
        {"step": 6, "train/loss": 3.0, "train/epoch": 1.5},
        {"step": 8, "train/loss": 2.0, "train/epoch": 2.0},
        {"step": 8, "validation/loss": 2.5},
    ]
    first, second = read_epochs(run, lines)
    assert (first.epoch, first.train_loss, first.validation_loss, first.f1) == (1, 4.0, 3.5, 10.0)
    assert second.train_loss == pytest.approx((3 * 3.0 + 2 * 2.0) / 5)
    assert (second.epoch, second.validation_loss, second.em, second.f1) == (2, 2.5, 20.0, 40.0)
    assert read_epochs(run, []) == []


# ---- published figures


def test_published_figures_stand_in_the_recipes_alone() -> None:
    found = {path.stem: read_published(path) for path in RECIPES.glob("*.yaml")}
    figures = {name: (p.em, p.f1) for name, p in found.items() if p}
    assert figures["coqa_bert"] == ("68.5", "78.4")
    assert figures["coqa_albert"] == ("71.5", "81.0")
    assert figures["coqa_roberta"] == ("72.2", "81.6")
    assert figures["squad2_spanbert"] == (None, "83.6")
    assert not {"coqa_electra", "coqa_mobilebert", "coqa_tinybert", "tiny_coqa"} & figures.keys()
    assert figures["ner_conll2003_bert"] == (None, "94.5 to 95.5")
    assert figures["squad1_bert"] == ("81.2", "88.5")
    table = (RECIPES.parents[1] / "README.md").read_text()
    rows = {
        name: line for name in figures for line in table.splitlines() if f"| `{name}` |" in line
    }
    assert len(rows) >= 6
    for name, row in rows.items():
        for metric, figure in zip(("EM", "F1"), figures[name], strict=True):
            assert figure is None or f"{metric} {figure}" in row, "the README says the same"


def test_no_recipe_no_published_figure(tmp_path: Path) -> None:
    assert read_published(tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    ("changes", "applies"),
    [
        ([], True),
        (["model.name=/somewhere/spanbert-base-cased"], True),
        (["sources.0.train=/data/train-v2.0.json", "sources.0.dev=/data/dev-v2.0.json"], True),
        (["train.learning_rate=1e-5"], True),
        (["model.name=/somewhere/all-MiniLM-L6-v2"], False),
        (["model.head=span_crf"], False),
        (["sources.0.train=/data/train-v1.1.json"], False),
        (["sources.0.max_train_examples=1500"], False),
        (["sources.0.max_dev_examples=500"], False),
    ],
)
def test_published_figures_are_about_the_recipe_as_shipped(
    tmp_path: Path, changes: list[str], applies: bool
) -> None:
    run = RunDir(tmp_path / "squad2_spanbert" / "main")
    run.root.mkdir(parents=True)
    recipe = load_recipe("squad2_spanbert", changes, RECIPES)
    write_text(run.recipe, recipe_to_yaml(recipe))
    published = published_for(run, RECIPES / "squad2_spanbert.yaml")
    assert published and (published.f1, published.applies) == ("83.6", applies)
