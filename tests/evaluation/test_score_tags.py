"""Figures of tags: seqeval's own, with intervals, by type, and a file that conlleval reads."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from qa_dist.evaluation.score_tags import score_tags
from qa_dist.recipe import Evaluation, Recipe, Source

RECIPE = Recipe(sources=[Source(task="ner")], evaluation=Evaluation(num_resamples=100))
TAGS = ("O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def made_rows(num: int, num_groups: int) -> list[dict[str, Any]]:
    draw = random.Random(3)
    rows = []
    for i in range(num):
        gold = [draw.choice(TAGS) for _ in range(draw.randint(1, 9))]
        tags = [tag if draw.random() < 0.8 else draw.choice(TAGS) for tag in gold]
        words = [f"w{k}" for k in range(len(gold))]
        row = {"id": f"s{i:03d}", "group": f"g{i % num_groups}", "gold": gold, "tags": tags}
        rows.append({**row, "words": words, "facets": {}, "rule": "ner"})
    return rows


def scored(rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    return score_tags(RECIPE, RECIPE.sources[0], rows, None, folder, "")


def test_figures_are_seqevals(tmp_path: Path) -> None:
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval isn't installed")
    iob2 = pytest.importorskip("seqeval.scheme").IOB2
    rows = made_rows(80, 20)
    scores = scored(rows, tmp_path)
    gold, tags = [row["gold"] for row in rows], [row["tags"] for row in rows]
    for name, mode in (("default", {}), ("strict", {"mode": "strict", "scheme": iob2})):
        figures = scores["scores"][name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = metrics.classification_report(gold, tags, output_dict=True, **mode)
        micro = report["micro avg"]
        assert figures["f1"] == 100 * micro["f1-score"]
        assert figures["precision"] == pytest.approx(100 * micro["precision"], rel=1e-14)
        assert figures["recall"] == pytest.approx(100 * micro["recall"], rel=1e-14)
        assert figures["accuracy"] == pytest.approx(100 * metrics.accuracy_score(gold, tags))
        right = sum(a == b for a, b in zip(gold, tags, strict=True))
        assert figures["em"] == 100 * right / 80
        for metric in ("f1", "precision", "recall", "accuracy", "em"):
            assert figures[f"{metric}_low"] < figures[metric] < figures[f"{metric}_high"]
        if name == "default":
            for kind, of_type in scores["by"]["entity_type"].items():
                assert of_type["f1"] == 100 * report[kind]["f1-score"]
                assert of_type["num_entities"] == report[kind]["support"]
    assert scores["scores"]["default"]["f1"] != scores["scores"]["strict"]["f1"]
    assert (scores["headline"], scores["num_questions"], scores["num_groups"]) == (
        "default",
        80,
        20,
    )


def test_intervals_are_over_documents(tmp_path: Path) -> None:
    rows = made_rows(80, 80)
    alone = scored(rows, tmp_path)["scores"]["default"]
    for i, row in enumerate(rows):
        row["group"] = f"g{i // 40}"
    together = scored(rows, tmp_path)["scores"]["default"]
    assert together["f1"] == alone["f1"]
    assert together["f1_low"] != alone["f1_low"]


def test_no_entities_at_all_score_nothing(tmp_path: Path) -> None:
    row = {**made_rows(1, 1)[0], "gold": ["O"], "tags": ["O"], "words": ["a"]}
    scores = scored([row], tmp_path)
    figures = scores["scores"]["default"]
    assert (figures["f1"], figures["f1_low"], figures["f1_high"]) == (0, 0, 0)
    assert (figures["accuracy"], figures["em"]) == (100, 100)
    assert scores["by"] == {"entity_type": {}}


def test_conlleval_can_read_the_tags(tmp_path: Path) -> None:
    rows = made_rows(2, 2)
    rows[0] |= {"words": ["New York", "\u00a0"], "gold": ["B-LOC", "O"], "tags": ["B-LOC", "I-LOC"]}
    rows[1] |= {"words": ["a"], "gold": ["O"], "tags": ["O"]}
    scored(rows, tmp_path)
    text = (tmp_path / "official.conll").read_text()
    assert text == "New_York B-LOC B-LOC\n_ O I-LOC\n\na O O\n\n"
