"""EM and F1 by hand at each threshold, breakdowns, and what the official scripts would say."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import (
    evaluate_all,
    rows_of,
)

from qa_dist.evaluation.aggregate import aggregate
from qa_dist.evaluation.score_spans import score_spans
from qa_dist.files import read_json, write_json
from qa_dist.recipe import Recipe, Source
from qa_dist.records import ANSWER_NOTHING, show_threshold
from qa_dist.run_dir import RunDir, step_name
from qa_dist.text.decode import best_threshold

ROOT = Path(__file__).resolve().parents[2]
NewRun = Callable[..., RunDir]


# ---- figures and thresholds


def totals(rows: list[dict[str, Any]], threshold: float) -> tuple[float, float]:
    """EM and F1 in percent by hand."""
    em, f1 = [], []
    for row in rows:
        odds = float("inf") if row["null_odds"] is None else row["null_odds"]
        prefix = "null_" if odds > threshold else ""
        em.append(row[f"{prefix}exact"])
        f1.append(row[f"{prefix}f1"])
    return 100 * sum(em) / len(em), 100 * sum(f1) / len(f1)


def as_number(threshold: float | None, best: float) -> float:
    return best if threshold is None else threshold


def test_figures_at_each_threshold_by_hand(evaluated: RunDir) -> None:
    rows, held = rows_of(evaluated), rows_of(evaluated, "heldout")

    def tune(rows: list[dict[str, Any]]) -> float:
        odds, f1, null_f1 = (
            np.array([row[k] for row in rows]) for k in ("null_odds", "f1", "null_f1")
        )
        return best_threshold(odds, f1, null_f1)

    scores = read_json(evaluated.scores_file(8))
    assert scores["headline"] == "tuned" and scores["partial"] is False
    assert scores["num_questions"] == len(rows)
    by_hand = {"at_0": 0.0, "tuned": tune(held), "oracle": tune(rows)}
    assert list(scores["scores"]) == list(by_hand)
    for name, threshold in by_hand.items():
        figures = scores["scores"][name]
        em, f1 = totals(rows, threshold)
        assert (figures["em"], figures["f1"]) == pytest.approx((em, f1), rel=1e-12)
        assert as_number(figures["threshold"], threshold) == threshold
        assert figures["f1_low"] <= figures["f1"] <= figures["f1_high"]
    best = scores["scores"]["oracle"]["f1"]
    assert all(figures["f1"] <= best for figures in scores["scores"].values())


def test_breakdowns_add_up_to_the_total(evaluated: RunDir) -> None:
    scores = read_json(evaluated.scores_file(8))
    total = scores["scores"]["tuned"]["f1"] * scores["num_questions"]
    assert {"answer_type", "turn", "domain"} >= set(scores["by"]) and scores["by"]
    for table in scores["by"].values():
        assert sum(row["num_questions"] for row in table.values()) == scores["num_questions"]
        parts = sum(row["f1"] * row["num_questions"] for row in table.values())
        assert parts == pytest.approx(total)


def test_squad_v1_always_answers(new_run: NewRun) -> None:
    run = new_run("squad_v1", 1)
    evaluate_all(run)
    aggregate(run)
    scores = read_json(run.scores_file(8))
    assert list(scores["scores"]) == ["always_answer"]
    rows = rows_of(run)
    em, f1 = (100 * sum(row[k] for row in rows) / len(rows) for k in ("exact", "f1"))
    assert scores["scores"]["always_answer"]["em"] == pytest.approx(em)
    assert scores["scores"]["always_answer"]["f1"] == pytest.approx(f1)
    official = read_json(run.predictions / step_name(8) / "official.json")
    assert official == {row["id"]: row["text"] for row in rows}
    assert not (run.predictions / step_name(8) / "null_odds.json").exists()


def test_a_threshold_under_which_nothing_is_answered_is_kept_as_such(tmp_path: Path) -> None:
    """Not as none at all, which means that each question is answered."""
    rows = [
        {
            **{"id": f"q{i}", "group": "a", "rule": "squad_v2", "facets": {}, "text": "x"},
            **{"null_odds": -5.0 - i, "exact": 0.0, "f1": 0.0, "null_exact": 1.0, "null_f1": 1.0},
        }
        for i in range(4)
    ]
    recipe = Recipe(sources=[Source(task="squad")])
    scores = score_spans(recipe, recipe.sources[0], rows, rows, tmp_path, "")
    tuned = scores["scores"]["tuned"]
    assert (scores["headline"], tuned["threshold"], tuned["f1"]) == ("tuned", ANSWER_NOTHING, 100.0)
    assert json.loads((tmp_path / "official.json").read_text()) == {f"q{i}": "" for i in range(4)}
    assert show_threshold(tuned["threshold"]) == "answers nothing"


@pytest.mark.parametrize("count", [1, 256, 257, 600])
def test_rows_are_taken_some_at_a_time_and_none_is_lost(count: int, tmp_path: Path) -> None:
    """Each with its own numbers and text, whatever their order."""
    rows = [
        {
            **{"id": f"q{i:03d}", "group": "a", "rule": "squad_v2", "facets": {}, "text": f"t{i}"},
            **{"null_odds": float(-i), "exact": i % 2, "f1": i / count},
            **{"null_exact": 0.0, "null_f1": 0.0},
        }
        for i in range(count)
    ]
    recipe = Recipe(sources=[Source(task="squad")])
    scores = score_spans(recipe, recipe.sources[0], iter(rows[::-1]), None, tmp_path, "")
    figures = scores["scores"]["at_0"]
    assert scores["num_questions"] == count
    assert figures["em"] == pytest.approx(100 * (count // 2) / count)
    assert figures["f1"] == pytest.approx(100 * (count - 1) / 2 / count)
    for name, key in (("official", "text"), ("null_odds", "null_odds")):
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found == {row["id"]: row[key] for row in rows}


def test_the_official_files_are_those_that_write_json_would_write(tmp_path: Path) -> None:
    """Byte for byte, whatever ids and texts hold; rows in another order than their ids'."""
    names = {"b, \n  c": 'say "a", "b": 1', "é\u2028": "\\", "a": "", "d": "line\nend, 東"}
    odds: list[float | None] = [1e-7, None, -3.25, 12345678.9]
    rows = [
        {
            **{"id": name, "group": "a", "rule": "squad_v2", "facets": {}, "text": text},
            **{"null_odds": value, "exact": 1.0, "f1": 1.0, "null_exact": 0.0, "null_f1": 0.0},
        }
        for (name, text), value in zip(names.items(), odds, strict=True)
    ]
    recipe = Recipe(sources=[Source(task="squad")])
    score_spans(recipe, recipe.sources[0], rows, None, tmp_path, "")
    expected = {
        "official": {name: names[name] if name == "a" else "" for name in sorted(names)},
        "answers": {name: names[name] for name in sorted(names)},
        "null_odds": {
            name: 1e9 if value is None else value
            for name, value in sorted(zip(names, odds, strict=True))
        },
    }
    for name, values in expected.items():
        write_json(tmp_path / "expected.json", values)
        written = (tmp_path / f"{name}.json").read_bytes()
        assert written == (tmp_path / "expected.json").read_bytes(), name
        write_json(tmp_path / "expected.json", {**values, "a": "other"})
        assert written != (tmp_path / "expected.json").read_bytes(), "control"


# ---- official.json, scored by the official rules


def official_report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("score_job", ROOT / "jobs" / "score.py")
    assert spec and spec.loader
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    status = job.main(words)
    out, err = capsys.readouterr()
    assert status == 0 and err == "", err
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize("kind", ["coqa", "squad_v1", "squad_v2"])
def test_the_official_score_of_official_json_is_the_headline(
    new_run: NewRun,
    small_files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    run = new_run(kind, 2)
    evaluate_all(run)
    aggregate(run)
    scores = read_json(run.scores_file(8))
    figures = scores["scores"][scores["headline"]]
    assert 0 < figures["f1"] < 100, "control: neither all right nor all wrong"
    folder = run.predictions / step_name(8)
    files = [f"data={small_files[kind]}", f"predictions={folder / 'official.json'}"]
    report = official_report(capsys, f"task={kind}", *files)
    if kind == "coqa":
        assert report["overall"]["em"] == round(figures["em"], 1)
        assert report["overall"]["f1"] == round(figures["f1"], 1)
        exact = official_report(capsys, "task=coqa", *files, "rounded=false")["overall"]
        assert exact["em"] == pytest.approx(figures["em"], rel=1e-12)
        assert exact["f1"] == pytest.approx(figures["f1"], rel=1e-12)
    else:
        name = "exact_match" if kind == "squad_v1" else "exact"
        assert report[name] == pytest.approx(figures["em"], rel=1e-12)
        assert report["f1"] == pytest.approx(figures["f1"], rel=1e-12)
    if kind == "squad_v2":
        assert report["total"] == scores["num_questions"]
        files = [f"data={small_files[kind]}", f"predictions={folder / 'answers.json'}"]
        files += [f"null_scores={folder / 'null_odds.json'}"]
        for name, row in scores["scores"].items():
            report = official_report(
                capsys, "task=squad_v2", *files, f"null_threshold={row['threshold']}"
            )
            assert report["f1"] == pytest.approx(row["f1"], rel=1e-12), name
        assert report["best_f1"] == pytest.approx(scores["scores"]["oracle"]["f1"], rel=1e-12)
