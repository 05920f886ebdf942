"""Each recipe of configs/recipes: it is forecast, and trains two steps of a small model of its kind
to scores, in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_model import make_chat_model
from chat_runs import write_questions
from encoders import ARCHITECTURES, make_encoder
from fitted import made_sentences, write_conll
from zygote import Zygote

from qa_dist.files import read_json
from qa_dist.recipe import Recipe, source_names
from qa_dist.recipe_loading import load_recipe
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "qa_dist" / "sample"
RECIPES = ROOT / "configs" / "recipes"
SMALL = [
    "profile=debug",
    "name=main",
    "model.lower_case=null",
    "data.window_overlap_tokens=32",
    "train.validation_windows=8",
    "evaluation.num_resamples=20",
    "evaluation.max_new_tokens=8",
]


def architecture_of(name: str) -> str:
    """Return whose small model stands for a recipe's: the last word of its name that is one."""
    return next((word for word in name.split("_")[::-1] if word in ARCHITECTURES), "bert")


def files_of(task: str, folder: Path) -> tuple[Path, Path]:
    """Return small training and dev files of a task."""
    if task == "ner":
        sentences = made_sentences(60)
        train = write_conll(folder / "train.txt", sentences[:40])
        return train, write_conll(folder / "dev.txt", sentences[40:])
    if task == "prompted_qa":
        train = write_questions(folder / "train.jsonl", 12)
        return train, write_questions(folder / "dev.jsonl", 6, start=100)
    kind = "squad2" if task == "squad" else task
    return SAMPLE / f"{kind}-train.json", SAMPLE / f"{kind}-dev.json"


def small_words(recipe: Recipe, folder: Path) -> list[str]:
    """Return what makes a recipe small enough for a test."""
    is_writer = recipe.model.head == "causal_lm"
    make = make_chat_model if is_writer else make_encoder
    own = (folder / "model",) if is_writer else (folder / "model", architecture_of(recipe.name))
    length = "data.max_length_tokens=512" if is_writer else "data.max_length_tokens=128"
    words = [*SMALL, length, f"model.name={make(*own)}", f"prepared_dir={folder / 'prepared'}"]
    for i, source in enumerate(recipe.sources):
        train, dev = files_of(source.task, folder)
        words += [f"sources.{i}.train={train}", f"sources.{i}.dev={dev}"]
        words += [f"sources.{i}.max_train_examples=32", f"sources.{i}.max_dev_examples=6"]
    return words


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_recipe_is_forecast_and_trains_two_steps_to_scores(
    zygote: Zygote, tmp_path: Path, name: str
) -> None:
    recipe = load_recipe(name, [], RECIPES)
    words = [f"recipe={name}", *small_words(recipe, tmp_path), f"runs_dir={tmp_path / 'runs'}"]
    forecast = zygote.run("launch", *words, "dry_run=true")
    assert forecast.status == 0 and "dry run: nothing was written" in forecast.text, forecast.text
    assert not (tmp_path / "runs").exists()
    done = zygote.run("launch", *words)
    assert done.status == 0, done.text
    scores = read_json(RunDir(tmp_path / "runs" / name / "main").scores_file(2))
    names = source_names(recipe)
    for of_source in scores["sources"].values() if len(names) > 1 else [scores]:
        figures = of_source["scores"][of_source["headline"]]
        assert of_source["num_questions"] == 6
        assert 0 <= figures["em"] <= 100 and 0 <= figures["f1"] <= 100
