"""Prepared data made by the real stage, in this process, for tests of what reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qa_dist.data.prepared import Prepared
from qa_dist.files import write_json, write_text
from qa_dist.plan import make_plan, save_plan
from qa_dist.prepare import prepare_element
from qa_dist.recipe import Data, Model, Recipe, Source
from qa_dist.recipe_loading import recipe_to_yaml
from qa_dist.run_dir import RunDir

WINDOWING = Data(max_length_tokens=64, window_overlap_tokens=16, max_question_tokens=32)


def make_recipe(
    encoder: Path, train: Path, dev: Path | None = None, task: str = "squad", **settings: Any
) -> Recipe:
    """Return a recipe with small windows; `settings` are fields of Source or Data."""
    of_data = {name: settings.pop(name) for name in list(settings) if hasattr(WINDOWING, name)}
    if dev is None:
        settings.setdefault("dev_fraction", 0.25)
    source = Source(task=task, train=str(train), dev=str(dev or ""), **settings)
    data = replace(WINDOWING, **of_data)
    return Recipe(name="test", sources=[source], data=data, model=Model(name=str(encoder)))


def open_run(root: Path, recipe: Recipe, num_shards: int = 1) -> tuple[RunDir, Prepared]:
    """Make a run's folder and plan, as a launch does, but no shards yet."""
    plan = make_plan(recipe, root / "prepared")
    prepared = plan.prepared(num_shards, max_parallel=1)
    run = RunDir(root / "run")
    write_text(run.recipe, recipe_to_yaml(recipe))
    write_json(run.run_json, {"id": "x", "attempt": 1, "prepared": prepared.to_json()})
    save_plan(plan)
    return run, prepared


def prepare(root: Path, recipe: Recipe, num_shards: int = 1) -> Prepared:
    """Prepare all of a recipe's data under `root`."""
    run, prepared = open_run(root, recipe, num_shards)
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
    return prepared


def logical_windows(prepared: Prepared, split: str) -> Iterator[dict[str, Any]]:
    """Yield all that a window is, but not where it lies."""
    table = prepared.open(split)
    for number in range(table.num_windows):
        shard, row = table.locate(number)
        example = int(shard["window_example"][row])
        context = int(shard["example_context"][example])
        names = ("from", "to", "kind", "start", "end", "length")
        starts, ends = shard.char_spans(context)
        yield {
            **{name: int(shard[f"window_{name}"][row]) for name in names},
            **shard.example(example),
            "question_tokens": shard.ragged("question_tokens", example).tolist(),
            "context_tokens": shard.ragged("context_tokens", context).tolist(),
            "context": shard.context_text(context),
            "chars": list(zip(starts.tolist(), ends.tolist(), strict=True)),
        }


def question(
    name: Any, context: str, answer: str | None, start: int | None = None
) -> dict[str, Any]:
    """Return one SQuAD 2.0 question; `answer` None: unanswerable, `start` None: its first place."""
    answers: list[dict[str, Any]] = []
    if answer is not None:
        first = context.index(answer) if start is None else start
        answers.append({"text": answer, "answer_start": first})
    return {
        "id": name,
        "question": "what is it",
        "answers": answers,
        "is_impossible": answer is None,
    }


def write_articles(path: Path, articles: Sequence[Sequence[dict[str, Any]]]) -> Path:
    """Write a SQuAD 2.0 file: a list of articles, each a list of paragraphs."""
    data = [{"title": f"article {i}", "paragraphs": list(a)} for i, a in enumerate(articles)]
    path.write_text(json.dumps({"version": "v2.0", "data": data}))
    return path


def made_articles(num: int, paragraphs: int = 2, questions: int = 3) -> list[list[dict[str, Any]]]:
    """Return articles of some length: an answer each, every third question has none."""
    articles = []
    for a in range(num):
        article = []
        for p in range(paragraphs):
            places = f"cat{p}", "sat", "on", "one", "mat", "in", f"room{a * 7 + p}"
            words = [f"word{a}", "the", *places]
            context = " ".join(words * (3 * (1 + (a + p) % 4))) + f" and the end{a}."
            qas = [
                question(f"{a}-{p}-{q}", context, None if q % 3 == 2 else words[(a + q) % 9])
                for q in range(questions)
            ]
            article.append({"context": context, "qas": qas})
        articles.append(article)
    return articles
