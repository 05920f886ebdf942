"""The other history, with models made up: one that is always right, one that never is, and data
prepared with that model's answers in the gold ones' places, which must give the same windows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prepared_data import make_recipe, prepare

from qa_dist.data.shards import Split, open_split
from qa_dist.evaluation.own_history import OWN, OwnHistoryPredictor, Row, add_own_history
from qa_dist.recipe import Recipe
from qa_dist.text.metrics import question_scores

SAMPLE = Path(__file__).resolve().parents[2] / "qa_dist" / "sample"
Answer = Callable[[str], str | None]
"""Question id -> the model's answer; None: it gives none."""


@pytest.fixture(scope="module")
def stories() -> dict[str, Any]:
    """Three conversations of 3 to 6 turns; the second has a turn without a question."""
    whole = json.loads((SAMPLE / "coqa-dev.json").read_text())
    data = copy.deepcopy(whole["data"][:3])
    for story, num_turns in zip(data, (6, 5, 3), strict=True):
        story.pop("additional_answers", None)
        for key in ("questions", "answers"):
            story[key] = story[key][:num_turns]
    data[1]["questions"][1]["input_text"] = " "
    return {**whole, "data": data}


@dataclass(frozen=True)
class MadeUp:
    """A model on a shard."""

    split: Split
    answer: Answer

    def rows(self) -> Iterator[tuple[int, Row]]:
        yield from enumerate(predicted(self.split, self.answer))


class Made:
    """Those conversations, prepared."""

    def __init__(self, folder: Path, encoder: Path, stories: dict[str, Any], **more: Any) -> None:
        folder.mkdir()
        path = folder / "coqa.json"
        path.write_text(json.dumps(stories))
        self.recipe: Recipe = make_recipe(encoder, path, path, task="coqa", **more)
        self.data = open_split(prepare(folder, self.recipe).shards("dev"))
        shard = self.data.shards[0]
        self.facts = [shard.example(i) for i in range(shard.num_examples)]
        self.calls: list[dict[str, Any]] = []
        """Windows that were predicted, by question id."""

    def rows(self, answer: Answer) -> list[Row]:
        """Return the rows of a model, with its own history."""
        rows = list(predicted(self.data, answer))

        def load(split: Split) -> MadeUp:
            self.calls.append(windows(split))
            return MadeUp(split, answer)

        for _ in add_own_history(self.recipe, self.data, rows, "unknown", load):
            pass
        return rows

    @property
    def asked(self) -> dict[str, Any]:
        return {key: value for call in self.calls for key, value in call.items()}


def predicted(split: Split, answer: Answer) -> Iterator[Row]:
    shard = split.shards[0]
    for example in range(shard.num_examples):
        facts = shard.example(example)
        text = answer(facts["id"])
        exact, f1 = question_scores("coqa", text or "x", facts["answers"])
        odds = 1.0 if text is None else -1.0
        scores = {"exact": exact, "f1": f1, "null_exact": 0.0, "null_f1": 0.0}
        yield {"id": facts["id"], "text": text or "x", "null_odds": odds, **scores}


def windows(split: Split) -> dict[str, Any]:
    """Return what a model sees of each question: its tokens, and its windows of the context."""
    shard = split.shards[0]
    found: dict[str, Any] = {}
    for example in range(shard.num_examples):
        tokens = shard.ragged("question_tokens", example).tolist()
        context = shard.context_text(int(shard["example_context"][example]))
        found[shard.example(example)["id"]] = {"question": tokens, "on": context, "windows": []}
    names = ("from", "to", "length")
    for row in range(split.num_windows):
        example = int(shard["window_example"][row])
        window = [int(shard[f"window_{name}"][row]) for name in names]
        found[shard.example(example)["id"]]["windows"].append(window)
    return found


def with_answers(stories: dict[str, Any], answer: Callable[[str], str]) -> dict[str, Any]:
    """Return the conversations with other gold answers."""
    changed = copy.deepcopy(stories)
    for story in changed["data"]:
        for row in story["answers"]:
            row["input_text"] = answer(f"{story['id']}#{row['turn_id']}") or row["input_text"]
    return changed


def made_up(question: str) -> str:
    """Answers of different lengths."""
    return " ".join(["the zebra"] * (1 + int(question.rsplit("#")[1]) % 3)) + question[-1]


def test_a_model_that_answers_gold_has_the_same_history(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any]
) -> None:
    made = Made(tmp_path / "gold", tiny_encoder, stories)
    gold = {facts["id"]: facts["answers"][0] for facts in made.facts}
    for row in made.rows(gold.__getitem__):
        assert row[OWN] == {key: row[key] for key in row[OWN]}
        assert row[OWN]["exact"] == 1
    assert made.calls == []


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_questions_are_those_of_data_with_the_models_answers(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any], turns: int
) -> None:
    made = Made(tmp_path / "gold", tiny_encoder, stories, history_turns=turns)
    other = with_answers(stories, made_up)
    expected = windows(Made(tmp_path / "own", tiny_encoder, other, history_turns=turns).data)
    made.rows(made_up)
    before = windows(made.data)
    first_turns = {facts["id"] for facts in made.facts if facts["asked"]["at"] == 0}
    assert len(first_turns) == 3
    assert made.asked.keys() == before.keys() - first_turns, "a first turn has no history"
    for question, asked in made.asked.items():
        assert asked == expected[question]
        assert asked != before[question], "control: it isn't what the shard has"
    assert {question: before[question] for question in first_turns} == {
        question: expected[question] for question in first_turns
    }


def test_conversations_go_side_by_side(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any]
) -> None:
    made = Made(tmp_path / "gold", tiny_encoder, stories)
    made.rows(made_up)
    by_turn = [{question.rsplit("#")[0] for question in call} for call in made.calls]
    assert [len(call) for call in made.calls] == [3, 3, 2, 2, 1]  # 6, 5 and 3 turns, less the first
    assert all(len(names) == len(call) for names, call in zip(by_turn, made.calls, strict=True))


def test_no_answer_goes_on_as_unknown(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any]
) -> None:
    made = Made(tmp_path / "gold", tiny_encoder, stories)
    other = with_answers(stories, lambda question: "unknown")
    expected = windows(Made(tmp_path / "own", tiny_encoder, other).data)
    rows = made.rows(lambda question: None)
    for question, asked in made.asked.items():
        assert asked == expected[question]
    assert all(row[OWN]["null_odds"] == 1.0 for row in rows)


def test_a_turn_that_was_not_drawn_keeps_its_gold_answer(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any]
) -> None:
    made = Made(tmp_path / "gold", tiny_encoder, stories, max_dev_examples=8)
    there = {facts["id"] for facts in made.facts}
    assert len(there) == 8
    other = with_answers(stories, lambda question: made_up(question) if question in there else "")
    expected = windows(Made(tmp_path / "own", tiny_encoder, other).data)
    made.rows(made_up)
    assert made.asked
    for question, asked in made.asked.items():
        assert asked == expected[question]


def test_scores_are_those_of_the_other_history(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any]
) -> None:
    """A model that is right until its history is its own."""
    made = Made(tmp_path / "gold", tiny_encoder, stories)
    answers = {id(made.data): made_up}

    def load(split: Split) -> MadeUp:
        return MadeUp(split, answers.get(id(split), lambda question: "lost"))

    predictor = OwnHistoryPredictor(made.recipe, made.data, "unknown", load)
    rows = [row for _, row in predictor.rows() if row is not None]
    for row, facts in zip(rows, made.facts, strict=True):
        is_first = facts["asked"]["at"] == 0
        assert row[OWN]["text"] == (made_up(row["id"]) if is_first else "lost")
        assert row["text"] == made_up(row["id"]), "the row itself stays"


def test_without_history_there_is_nothing_to_ask_again(
    tmp_path: Path, tiny_encoder: Path, stories: dict[str, Any]
) -> None:
    made = Made(tmp_path / "gold", tiny_encoder, stories, history_turns=0)
    rows = made.rows(made_up)
    assert made.calls == []
    assert all(row[OWN]["text"] == row["text"] for row in rows)
