"""Paired tests of real (tiny) runs; what they are read from is made by the stages."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from runs import add_noisy_checkpoint, evaluate_all

from qa_dist.evaluation.aggregate import aggregate
from qa_dist.evaluation.compare import (
    Answers,
    compare_answers,
    compare_runs,
    compare_sides,
    read_answers,
)
from qa_dist.evaluation.outcome import read_outcome
from qa_dist.files import read_json, write_json, write_text
from qa_dist.recipe import Model, Recipe, Source, Train
from qa_dist.recipe_loading import recipe_to_yaml
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


def joint_run(folder: Path, only: str, right: int) -> RunDir:
    """Write what a run on sentences and questions leaves; `right`: entities that it finds of 4."""
    sources = [Source(task=task, train="x", dev="x") for task in ("ner", "squad")]
    train, model = replace(Train(), only=only), Model(name="m")
    recipe = Recipe(name="joint", sources=sources, train=train, model=model)
    run = RunDir(folder / "runs" / "joint" / only)
    counts = {f"{task}.{part}": 1 for task in ("ner", "squad") for part in ("train", "dev")}
    prepared = {"folder": str(folder), "fingerprint": "f", "num_shards": counts}
    write_json(run.run_json, {"id": "x", "prepared": prepared})
    write_text(run.recipe, recipe_to_yaml(recipe))
    sentence = {"id": "s", "group": "d", "rule": "ner", "exact": 0, "entities": [right, 4, 4]}
    question = {"id": "q", "group": "a", "rule": "squad_v2", "null_odds": 2.0}
    question |= {"exact": 0.0, "f1": 0.5, "null_exact": 1.0, "null_f1": 1.0}
    rows = {"ner": sentence, "squad": question}
    headlines = {"ner": {"em": 0.0, "f1": 25.0 * right}, "squad": {"threshold": 1.0, "f1": 100.0}}
    scores = {
        name: {"num_questions": 1, "headline": "h", "scores": {"h": headlines[name]}}
        for name in (rows if only == "all" else [only])
    }
    for name in scores:
        write_text(run.predictions_file(4, f"{name}.dev-00000-of-00001"), json.dumps(rows[name]))
    whole = {"sources": scores, "headline": "mean"} if only == "all" else scores[only]
    write_json(run.scores_file(4), whole)
    return run


def test_a_joint_training_stands_against_those_on_one_source_alone(tmp_path: Path) -> None:
    joint, ner, squad = (joint_run(tmp_path, *of) for of in (("all", 3), ("ner", 2), ("squad", 0)))
    (pair,) = compare_runs(("alone", [ner]), ("joint", [joint]))
    assert (pair.source, pair.num_questions) == ("ner", 1)
    assert pair.differences["f1"].mean == pytest.approx(25.0)
    (pair,) = compare_runs(("alone", [squad]), ("joint", [joint]))
    assert pair.source == "squad"
    assert pair.differences["f1"].mean == 0, "neither answers, and rightly"
    both = compare_runs(("a", [joint]), ("b", [joint]))
    assert [pair.source for pair in both] == ["ner", "squad"]
    assert compare_runs(("a", [ner]), ("b", [squad])) == [], "nothing in common"


@pytest.mark.parametrize("order", [("all", "ner", "squad"), ("ner", "squad", "all")])
def test_interference_is_joint_less_alone_wherever_the_joint_run_stands(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    right = {"all": 3, "ner": 2, "squad": 0}
    sides = [(only, [joint_run(tmp_path, only, right[only])]) for only in order]
    pairs, notes = compare_sides(sides)
    found = [(pair.source, pair.second, pair.first) for pair in pairs]
    assert found == [("ner", "all", "ner"), ("squad", "all", "squad")] and not notes
    assert pairs[0].differences["f1"].mean == pytest.approx(25.0), "joint is better"


def test_sides_alike_are_set_against_the_first(tmp_path: Path) -> None:
    alone, squad = (joint_run(tmp_path, *of) for of in (("ner", 2), ("squad", 0)))
    pairs, notes = compare_sides([("a", [alone]), ("b", [alone]), ("c", [squad])])
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b")]
    assert notes == ["a and c were trained on nothing in common"]
