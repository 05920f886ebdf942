"""Outcomes and paired tests of real (tiny) runs; what they are read from is made by the stages."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import add_noisy_checkpoint, evaluate_all

from qa_dist.evaluation.aggregate import aggregate
from qa_dist.evaluation.compare import (
    Answers,
    compare_answers,
    compare_runs,
    count_parameters,
    last_scored,
    read_answers,
    read_epochs,
    read_outcome,
    read_published,
)
from qa_dist.files import read_json
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "recipes"


@pytest.fixture(scope="module")
def other(
    evaluated: RunDir, new_run: Callable[..., RunDir], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The same questions answered by other weights, in one shard instead of two."""
    run = new_run("coqa", 1)
    shutil.rmtree(run.checkpoints)
    add_noisy_checkpoint(run, seed=11)
    evaluate_all(run)
    aggregate(run)
    return run


# ---- one run


@pytest.mark.parametrize("kind", ["coqa", "squad_v2", "squad_v1"])
def test_answers_add_up_to_the_scores(new_run: Callable[..., RunDir], kind: str) -> None:
    run = new_run(kind, 2)
    evaluate_all(run)
    aggregate(run)
    scores = read_json(run.scores_file(8))
    answers = read_answers(run, 8)
    assert len(answers.groups) == scores["num_questions"]
    assert len(set(answers.groups.values())) == scores["num_groups"]
    for metric in ("em", "f1"):
        values = answers.scores[metric].values()
        expected = scores["scores"][scores["headline"]][metric]
        assert math.fsum(values) / len(values) == pytest.approx(expected, abs=1e-9)


def test_an_outcome_is_what_the_files_say(finished_run: RunDir) -> None:
    outcome = read_outcome(finished_run, RECIPES)
    scores = read_json(finished_run.scores_file(8))
    figures = scores["scores"][scores["headline"]]
    assert (outcome.name, outcome.step, outcome.of) == ("tiny_coqa/main", 8, 8)
    assert outcome.figures == {k: v for k, v in figures.items() if k != "threshold"}
    assert outcome.num_questions == 48
    assert outcome.windows_per_s and outcome.memory_gb
    assert outcome.step_s == pytest.approx(8 / outcome.windows_per_s)
    assert outcome.published is None, "the demo's expectation is its own"


def test_parameters_are_those_of_the_weights(finished_run: RunDir, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(finished_run.checkpoints / "step-00000008" / "model.safetensors")
    expected = sum(tensor.numel() for tensor in weights.values())
    assert count_parameters(finished_run, 8) == expected
    assert count_parameters(finished_run, 3) == expected, (
        "its checkpoint has gone, others are there"
    )
    assert count_parameters(RunDir(tmp_path), 8) is None


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
    assert figures["coqa_bert"] == (68.5, 78.4)
    assert figures["coqa_albert"] == (71.5, 81.0)
    assert figures["coqa_roberta"] == (72.2, 81.6)
    assert figures["squad2_spanbert"] == (None, 83.6)
    assert not {"coqa_electra", "coqa_mobilebert", "coqa_tinybert", "tiny_coqa"} & figures.keys()
    assert figures["squad1_bert"] == (81.2, 88.5)
    table = (RECIPES.parents[1] / "README.md").read_text()
    for name, published in figures.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        for metric, figure in zip(("EM", "F1"), published, strict=True):
            assert figure is None or f"{metric} {figure}" in row, "the README says the same"


def test_no_recipe_no_published_figure(tmp_path: Path) -> None:
    assert read_published(tmp_path / "none.yaml") is None


# ---- two sides


def test_a_run_against_itself_differs_in_nothing(evaluated: RunDir) -> None:
    pair = compare_runs(("a", [evaluated]), ("b", [evaluated]))
    assert pair.num_left_out == 0
    assert all(
        (d.mean, d.low, d.high, d.p_value) == (0, 0, 0, 1) for d in pair.differences.values()
    )


def test_the_difference_is_that_of_the_scores(evaluated: RunDir, other: RunDir) -> None:
    """However many shards each was evaluated in."""
    pair = compare_runs(("a", [evaluated]), ("b", [other]))
    for metric in ("em", "f1"):
        ours, theirs = (read_outcome(r, RECIPES).figures[metric] for r in (evaluated, other))
        assert pair.differences[metric].mean == pytest.approx(theirs - ours, abs=1e-9)
        assert pair.differences[metric].low < pair.differences[metric].high
    back = compare_runs(("b", [other]), ("a", [evaluated]))
    assert back.differences["f1"].mean == pytest.approx(-pair.differences["f1"].mean)


def answers(f1: dict[str, float]) -> Answers:
    groups = {question: question[0] for question in f1}
    return Answers(groups, {"em": dict.fromkeys(f1, 0.0), "f1": f1})


def test_seeds_are_averaged_per_question() -> None:
    first = [answers({"a1": 0.0, "b1": 100.0}), answers({"a1": 100.0, "b1": 100.0})]
    pair = compare_answers(("x", first), ("y", [answers({"a1": 60.0, "b1": 90.0})]))
    assert pair.differences["f1"].mean == pytest.approx((10.0 - 10.0) / 2)
    assert (pair.differences["f1"].low, pair.differences["f1"].high) == (-10.0, 10.0)


def test_only_shared_questions_count_and_the_rest_is_said() -> None:
    first = answers({"a1": 0.0, "b1": 0.0, "c1": 100.0})
    second = answers({"a1": 50.0, "b1": 50.0, "d1": 100.0})
    pair = compare_answers(("x", [first]), ("y", [second]))
    assert (pair.num_questions, pair.num_left_out) == (2, 2)
    assert pair.differences["f1"].mean == 50.0
    with pytest.raises(InputError, match="x and y: have no question in common"):
        compare_answers(("x", [first]), ("y", [answers({"z1": 1.0})]))
