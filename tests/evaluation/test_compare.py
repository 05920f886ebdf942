"""Paired tests of real (tiny) runs; what they are read from is made by the stages."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import add_noisy_checkpoint, evaluate_all

from qa_dist.evaluation.aggregate import aggregate
from qa_dist.evaluation.compare import (
    Answers,
    compare_answers,
    compare_runs,
    read_answers,
)
from qa_dist.evaluation.outcome import read_outcome
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


@pytest.mark.parametrize("kind", ["coqa", "squad_v2", "squad_v1"])
def test_answers_add_up_to_the_scores(new_run: Callable[..., RunDir], kind: str) -> None:
    run = new_run(kind, 2)
    evaluate_all(run)
    aggregate(run)
    scores = read_json(run.scores_file(8))
    (answers,) = read_answers(run, 8).values()
    assert len(answers.groups) == scores["num_questions"]
    assert len(set(answers.groups.values())) == scores["num_groups"]
    for metric in ("em", "f1"):
        above, below = zip(*answers.parts[metric].values(), strict=True)
        expected = scores["scores"][scores["headline"]][metric]
        assert math.fsum(above) / math.fsum(below) == pytest.approx(expected, abs=1e-9)


def test_a_run_against_itself_differs_in_nothing(evaluated: RunDir) -> None:
    (pair,) = compare_runs(("a", [evaluated]), ("b", [evaluated]))
    assert pair.num_left_out == 0
    assert all(
        (d.mean, d.low, d.high, d.p_value) == (0, 0, 0, 1) for d in pair.differences.values()
    )


def test_the_difference_is_that_of_the_scores(evaluated: RunDir, other: RunDir) -> None:
    """However many shards each was evaluated in."""
    (pair,) = compare_runs(("a", [evaluated]), ("b", [other]))
    for metric in ("em", "f1"):
        sources = [read_outcome(run, RECIPES).sources["coqa"] for run in (evaluated, other)]
        ours, theirs = (scores.figures[metric] for scores in sources)
        assert pair.differences[metric].mean == pytest.approx(theirs - ours, abs=1e-9)
        assert pair.differences[metric].low < pair.differences[metric].high
    (back,) = compare_runs(("b", [other]), ("a", [evaluated]))
    assert back.differences["f1"].mean == pytest.approx(-pair.differences["f1"].mean)


def answers(f1: dict[str, float]) -> Answers:
    groups = {question: question[0] for question in f1}
    parts = {question: (score, 1.0) for question, score in f1.items()}
    return Answers(groups, {"em": dict.fromkeys(f1, (0.0, 1.0)), "f1": parts})


def test_seeds_are_averaged_per_question() -> None:
    first = [answers({"a1": 0.0, "b1": 100.0}), answers({"a1": 100.0, "b1": 100.0})]
    pair = compare_answers("coqa", ("x", first), ("y", [answers({"a1": 60.0, "b1": 90.0})]))
    assert pair.differences["f1"].mean == pytest.approx((10.0 - 10.0) / 2)
    assert (pair.differences["f1"].low, pair.differences["f1"].high) == (-10.0, 10.0)


def test_tags_are_compared_by_their_entities() -> None:
    """Micro F1: 2 of 4 against 3 of 4 entities, however they lie in sentences."""
    groups = {"s1": "d1", "s2": "d2"}
    exact = dict.fromkeys(groups, (0.0, 1.0))
    first = Answers(groups, {"em": exact, "f1": {"s1": (200.0, 6.0), "s2": (0.0, 2.0)}})
    second = Answers(groups, {"em": exact, "f1": {"s1": (200.0, 6.0), "s2": (200.0, 2.0)}})
    pair = compare_answers("ner", ("joint", [first]), ("alone", [second]))
    assert pair.source == "ner"
    assert pair.differences["f1"].mean == pytest.approx(25.0)


def test_only_shared_questions_count_and_the_rest_is_said() -> None:
    first = answers({"a1": 0.0, "b1": 0.0, "c1": 100.0})
    second = answers({"a1": 50.0, "b1": 50.0, "d1": 100.0})
    pair = compare_answers("coqa", ("x", [first]), ("y", [second]))
    assert (pair.num_questions, pair.num_left_out) == (2, 2)
    assert pair.differences["f1"].mean == 50.0
    with pytest.raises(InputError, match="x and y: have no question of coqa in common"):
        compare_answers("coqa", ("x", [first]), ("y", [answers({"z1": 1.0})]))
