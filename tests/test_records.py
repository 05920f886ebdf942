"""What travels between the stages: frozen, plain, comparable, and light to import."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest

from qa_dist.records import (
    BadRecordError,
    Example,
    InputError,
    Passage,
    Prediction,
    Target,
)

EXAMPLE = Example(
    id="story#2",
    question="What color?",
    history=("Who has a cat?", "Ann"),
    target=Target("span", (4, 9)),
    answers=("white", "it is white"),
    rule="coqa",
    group="story",
)
PREDICTION = Prediction("q", ["white", "yes"], [7.5, 3.0], [(4, 9), None], null_score=5.0)


def test_records_are_frozen_and_compare_by_value() -> None:
    assert replace(EXAMPLE) == EXAMPLE
    assert replace(EXAMPLE, facets={"turn": "2"}) != EXAMPLE
    with pytest.raises(FrozenInstanceError):
        EXAMPLE.id = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        PREDICTION.null_score = 9.0  # type: ignore[misc]
    assert asdict(Passage("A cat.", (EXAMPLE,)))["examples"][0]["target"]["char_span"] == (4, 9)


def test_facets_are_not_shared_between_examples() -> None:
    other = Example("b", "?", (), Target("null"), (), "squad_v2", "g")
    assert other.facets == {} and other.facets is not replace(EXAMPLE, facets={}).facets
    assert other.target.char_span is None


def test_a_prediction_answers_with_its_best_candidate() -> None:
    assert PREDICTION.text == "white"
    assert PREDICTION.null_odds == 5.0 - 7.5  # below a threshold of 0: answered


def test_a_prediction_without_candidates_is_always_null() -> None:
    prediction = Prediction("q", [], [], [], null_score=-100.0)
    assert prediction.text == ""
    assert prediction.null_odds == float("inf") > 1e300  # above every threshold


def test_errors_carry_what_they_are_about() -> None:
    error = BadRecordError("story#2", "answer not in context")
    assert (error.record_id, error.reason) == ("story#2", "answer not in context")
    assert str(error) == "story#2: answer not in context"
    # a bad record is skipped or stops the stage by choice: neither may pass for the other
    assert not issubclass(BadRecordError, InputError)
    assert not issubclass(InputError, BadRecordError | ValueError | OSError)


def test_records_import_nothing_of_ours_and_nothing_heavy() -> None:
    code = (
        "import sys, qa_dist.records\n"
        "ours = {m for m in sys.modules if m.startswith('qa_dist.')} - {'qa_dist.records'}\n"
        "print(sorted(ours | {'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    folder = Path(__file__).parents[1]
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert shown.strip() == "[]"
