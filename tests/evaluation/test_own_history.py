"""The other history, with models made up: one that is always right, one that never is, and data
prepared with that model's answers in the gold ones' places, which must give the same windows."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prepared_data import make_recipe, prepare
from runs import evaluate_all

from qa_dist.data.prepared import read_prepared
from qa_dist.data.shards import Split, open_split
from qa_dist.evaluation import own_history
from qa_dist.evaluation.aggregate import aggregate
from qa_dist.evaluation.own_history import OWN, OwnHistoryPredictor, Row, add_own_history
from qa_dist.evaluation.score_spans import score_spans
from qa_dist.files import read_json
from qa_dist.recipe import Recipe, Source
from qa_dist.run_dir import RunDir
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


# ---- a real model


def rows_of(run: RunDir) -> list[Row]:
    paths = [run.predictions_file(8, path.name) for path in read_prepared(run).shards("dev")]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_first_turns_are_the_same_and_history_matters(evaluated: RunDir) -> None:
    rows = rows_of(evaluated)
    first = [row for row in rows if row["facets"]["turn"] == "1"]
    assert len(first) == 9
    assert all(row[OWN] == {key: row[key] for key in row[OWN]} for row in first)
    assert any(row[OWN]["text"] != row["text"] for row in rows), "control"


def test_asked_again_though_nothing_changed_a_question_has_the_same_answer(
    new_run: Callable[..., RunDir], evaluated: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows cut on the fly, in batches of turns, are those of the shard."""
    monkeypatch.setattr(own_history, "_is_same", lambda question, shard, example: False)
    run = new_run("coqa", 2)
    evaluate_all(run)
    for row, expected in zip(rows_of(run), rows_of(evaluated), strict=True):
        again, before = row[OWN], expected[OWN]
        assert again["null_odds"] == pytest.approx(before["null_odds"], rel=1e-3)
        assert {**again, "null_odds": 0} == {**before, "null_odds": 0}


def test_scores_have_both_and_the_gap(evaluated: RunDir) -> None:
    scores = read_json(evaluated.scores_file(8))
    own, gold = scores["own_history"], scores["scores"][scores["headline"]]
    for metric in ("em", "f1"):
        gap = own["gap"][metric]
        assert gap["mean"] == pytest.approx(gold[metric] - own[metric], abs=1e-9)
        assert gap["low"] <= gap["mean"] <= gap["high"]
    assert own["by"].keys() == scores["by"].keys()
    assert own["by"]["turn"]["1"] == scores["by"]["turn"]["1"]
    answers = {row["id"]: row[OWN] for row in rows_of(evaluated)}
    threshold = gold["threshold"] if gold["threshold"] is not None else math.inf
    kept = ["null_f1" if row["null_odds"] > threshold else "f1" for row in answers.values()]
    total = math.fsum(row[key] for row, key in zip(answers.values(), kept, strict=True))
    assert own["f1"] == pytest.approx(100 * total / len(answers), abs=1e-9)


def test_both_histories_by_hand(tmp_path: Path) -> None:
    """Two stories of two turns; the second turn of s is lost once the history is our own."""
    rows = []
    for name, f1, own_f1 in (("s#1", 1.0, 1.0), ("s#2", 0.8, 0.2), ("t#1", 0.0, 0.0)):
        story, turn = name.split("#")
        scores = {"exact": 0.0, "f1": f1, "null_exact": 0.0, "null_f1": 0.0}
        row = {"id": name, "group": story, "rule": "coqa", "text": "x", "null_odds": -1.0, **scores}
        facets = {"turn": turn, "domain": "mctest" if story == "s" else "race"}
        own = {"text": "y", "null_odds": -1.0, **scores, "f1": own_f1}
        rows.append({**row, "facets": facets, OWN: own})
    source = Source(task="coqa")
    found = score_spans(Recipe(sources=[source]), source, rows, None, tmp_path, "")
    own = found["own_history"]
    assert found["scores"]["at_0"]["f1"] == pytest.approx(60.0)
    assert own["f1"] == pytest.approx(40.0)
    assert own["gap"]["f1"]["mean"] == pytest.approx(20.0)
    assert own["gap"]["em"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    assert {turn: figures["f1"] for turn, figures in own["by"]["turn"].items()} == {
        "1": pytest.approx(50.0),
        "2": pytest.approx(20.0),
    }
    assert own["by"]["domain"]["mctest"]["f1"] == pytest.approx(60.0)
    assert own["by"]["domain"]["race"] == found["by"]["domain"]["race"]
    del rows[1][OWN]
    found = score_spans(Recipe(sources=[source]), source, rows, None, tmp_path, "")
    assert "own_history" not in found, "of some questions only it would be no figure"


@pytest.mark.parametrize(
    "more",
    [("coqa", "evaluation.own_history=false"), ("coqa", "data.history_turns=0"), ("squad_v2",)],
)
def test_only_conversations_are_asked_twice_and_only_if_wanted(
    new_run: Callable[..., RunDir], more: tuple[str, ...]
) -> None:
    run = new_run(more[0], 1, *more[1:])
    evaluate_all(run)
    assert all(OWN not in row for row in rows_of(run))
    aggregate(run)
    assert "own_history" not in read_json(run.scores_file(8))
