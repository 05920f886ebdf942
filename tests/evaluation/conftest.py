"""A run whose model answers at random, so that each score differs; not evaluated yet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from runs import add_noisy_checkpoint, evaluate_all, make_run

from qa_dist.evaluation.aggregate import aggregate
from qa_dist.run_dir import RunDir

SAMPLE = Path(__file__).resolve().parents[2] / "qa_dist" / "sample"


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few stories and articles of the sample: all of a file's questions are evaluated."""
    folder = tmp_path_factory.mktemp("small_files")
    coqa = json.loads((SAMPLE / "coqa-dev.json").read_text())
    squad = json.loads((SAMPLE / "squad2-dev.json").read_text())
    # One question each of 9 stories and paragraphs, or a few: enough for 7 shards.
    stories = [{**s, **{k: s[k][:4] for k in ("questions", "answers")}} for s in coqa["data"][:9]]
    for story in stories:
        if more := story.get("additional_answers"):
            story["additional_answers"] = {k: rows[:4] for k, rows in more.items()}
    paragraphs = [p for article in squad["data"] for p in article["paragraphs"]][:12]
    articles = [{"title": f"t{i}", "paragraphs": [p]} for i, p in enumerate(paragraphs)]
    answered = [
        {**p, "qas": [{"id": q["id"], "question": q["question"], "answers": q["answers"]}]}
        for p in paragraphs
        for q in p["qas"]
        if q["answers"]
    ]
    contents = {
        "coqa": {**coqa, "data": stories},
        "squad_v2": {"version": "v2.0", "data": articles},
        "squad_v1": {"version": "1.1", "data": [{"title": "t", "paragraphs": answered}]},
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps(content))
    return paths


NewRun = Callable[..., RunDir]


@pytest.fixture(scope="session")
def new_run(
    launch_words: list[str],
    small_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[NewRun]:
    """Make a run of a kind of data in so many shards, with a noisy checkpoint at step 8."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(kind: str = "coqa", num_shards: int = 1, *more: str) -> RunDir:
        folder = tmp_path_factory.mktemp(f"{kind}{num_shards}")
        given = [
            f"sources.0.task={'coqa' if kind == 'coqa' else 'squad'}",
            f"sources.0.train={small_files[kind]}",
            f"sources.0.dev={small_files[kind]}",
            "sources.0.max_dev_examples=0",
            f"data.num_shards={num_shards}",
            f"prepared_dir={folder / 'prepared'}",
            "data.max_length_tokens=96",
            "data.window_overlap_tokens=24",
            "data.max_question_tokens=40",
        ]
        if kind != "squad_v1":
            given.append("sources.0.heldout_fraction=0.4")
        run = make_run(launch_words, folder, *given, *more)
        add_noisy_checkpoint(run)
        return run

    yield make
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def evaluated(new_run: NewRun) -> RunDir:
    """A CoQA run in two shards, evaluated and aggregated. Copy it to change it."""
    run = new_run("coqa", 2)
    evaluate_all(run)
    aggregate(run)
    return run


@pytest.fixture
def copied(evaluated: RunDir, tmp_path: Path) -> RunDir:
    """A copy of that run, to be damaged."""
    shutil.copytree(evaluated.root, tmp_path / "main")
    (tmp_path / "main").chmod(0o700)
    return RunDir(tmp_path / "main")
