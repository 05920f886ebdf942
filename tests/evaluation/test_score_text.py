"""The prompted-QA table, on answers worked out by hand, and the report beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from written_answers import ANSWERS, ROWS, make_row, score

from qa_dist.text.metrics import CoqaGold, question_scores, score_coqa


def test_figures(tmp_path: Path) -> None:
    scores = score(tmp_path, ROWS)
    assert scores["headline"] == "tuned"
    assert scores["num_questions"] == 4
    tuned, base, floor = (scores["scores"][name] for name in ("tuned", "base", "floor"))
    # Overlaps: 3 of 4 keywords, 0 of 3, all, 1 of 3; and of the base 1 of 4, all, 0, 0.
    assert tuned["keyword_overlap"] == pytest.approx(100 * (3 / 4 + 0 + 1 + 1 / 3) / 4)
    assert base["keyword_overlap"] == pytest.approx(100 * (1 / 4 + 1 + 0 + 0) / 4)
    assert (tuned["em"], base["em"]) == (25.0, 25.0)
    assert (tuned["refusal_accuracy"], base["refusal_accuracy"]) == (100.0, 50.0)
    assert (tuned["refusals_expected"], tuned["refusals_found"]) == (1, 1)
    assert base["refusals_found"] == 0
    assert tuned["length_words"] == (3 + 1 + 7 + 1) / 4
    assert tuned["f1_low"] <= tuned["f1"] <= tuned["f1_high"]
    assert floor["keyword_overlap"] == 0
    assert floor["length_words"] == (4 + 3 + 7 + 3) / 4, "each expected answer is used once"
    compared = scores["compared"]
    assert {k: compared[k] for k in ("win", "tie", "loss")} == {"win": 3, "tie": 0, "loss": 1}
    gain = tuned["keyword_overlap"] - base["keyword_overlap"]
    assert compared["keyword_overlap_gain"] == pytest.approx(gain)
    assert compared["keyword_overlap_gain_low"] < gain < compared["keyword_overlap_gain_high"]


def test_the_tie_margin_counts(tmp_path: Path) -> None:
    compared = score(tmp_path, ROWS, tie_margin=0.5)["compared"]
    assert {k: compared[k] for k in ("win", "tie", "loss")} == {"win": 1, "tie": 2, "loss": 1}


def test_the_order_of_rows_changes_no_figure(tmp_path: Path) -> None:
    some = [make_row(f"q{i}", "a b c d" * i, "b", "c d" * (i % 3)) for i in range(1, 30)]
    ours, theirs = score(tmp_path, some), score(tmp_path, some[::-1])
    for name, figures in ours["scores"].items():
        for key in ("em", "f1", "keyword_overlap", "refusal_accuracy", "length_words"):
            assert figures[key] == theirs["scores"][name][key]


def test_one_question_without_a_base(tmp_path: Path) -> None:
    scores = score(tmp_path, [make_row("q1", "Red balloons.", None, "Red balloons")])
    assert scores["scores"].keys() == {"tuned"}
    assert "compared" not in scores
    assert scores["scores"]["tuned"]["keyword_overlap"] == 100.0
    report = (tmp_path / "academic/main/report/step-00000004.md").read_text()
    assert "Base" not in report


def test_by_facets(tmp_path: Path) -> None:
    kinds = ("yes", "no", "yes", "maybe")
    rows = [{**row, "facets": {"decision": d}} for row, d in zip(ROWS, kinds, strict=True)]
    by = score(tmp_path, rows)["by"]["decision"]
    assert {name: figures["num_questions"] for name, figures in by.items()} == {
        "yes": 2,
        "no": 1,
        "maybe": 1,
    }
    assert by["yes"]["keyword_overlap"] == pytest.approx(100 * (3 / 4 + 1) / 2)


def test_coqa_has_the_official_scores(tmp_path: Path) -> None:
    golds = {("s1", 1): ["white", "a white cat"], ("s1", 2): ["yes"], ("s2", 1): ["in a barn"]}
    ours = {("s1", 1): "white cat", ("s1", 2): "Yes.", ("s2", 1): "the farm"}
    rows = []
    for (story, turn), answers in golds.items():
        exact, f1 = question_scores("coqa", ours[story, turn], answers)
        row = make_row(f"{story}#{turn}", answers[0], "no", ours[story, turn], rule="coqa")
        facets = {"turn": str(turn), "domain": "mctest"}
        row |= {"answers": answers, "exact": exact, "f1": f1, "group": story, "facets": facets}
        rows.append(row)
    scores = score(tmp_path, rows)
    official = score_coqa(
        {key: CoqaGold("mctest", tuple(answers)) for key, answers in golds.items()},
        ours,
        rounded=False,
    )
    assert math.isclose(scores["scores"]["tuned"]["f1"], official["overall"]["f1"])
    assert math.isclose(scores["scores"]["tuned"]["em"], official["overall"]["em"])
    assert scores["num_groups"] == 2
    path = tmp_path / "academic/main/predictions/step-00000004/official.json"
    assert json.loads(path.read_text())[0] == {"id": "s1", "turn_id": 1, "answer": "white cat"}


def test_prompted_answers_are_kept_by_id(tmp_path: Path) -> None:
    score(tmp_path, ROWS)
    path = tmp_path / "academic/main/predictions/step-00000004/official.json"
    assert json.loads(path.read_text()) == {i: texts[2] for i, texts in ANSWERS.items()}


def test_unanswerable_questions_of_squad(tmp_path: Path) -> None:
    """What was written is read for refusals, overlap and length; "" is for the official rule."""
    none = {"rule": "squad_v2", "answers": []}
    rows = [
        make_row("q1", "", "in 1990", "Unknown.", **none, exact=1.0, f1=1.0),
        make_row("q2", "A cat.", "a", "cat", rule="squad_v2"),
    ]
    scores = score(tmp_path, rows)
    tuned = scores["scores"]["tuned"]
    assert (tuned["em"], tuned["keyword_overlap"]) == (100.0, 100.0)
    assert (tuned["refusals_expected"], tuned["refusals_found"]) == (1, 1)
    assert tuned["refusal_accuracy"] == 100.0
    assert scores["scores"]["base"]["refusal_accuracy"] == 50.0
    assert tuned["length_words"] == 1.0
    run = tmp_path / "academic/main"
    assert "): Unknown.\n" in (run / "report/step-00000004.md").read_text()
    official = json.loads((run / "predictions/step-00000004/official.json").read_text())
    assert official == {"q1": "", "q2": "cat"}
