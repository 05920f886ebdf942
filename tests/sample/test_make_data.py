"""The bundled files: official schema, true offsets, every kind of answer, made by the script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import qa_dist.sample
from qa_dist.sample import make_data

FOLDER = Path(qa_dist.sample.__file__).parent
SQUAD_FILES = ("squad2-train", "squad2-dev")
COQA_FILES = ("coqa-train", "coqa-dev")


def read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def stories(name: str) -> list[str]:
    if name in COQA_FILES:
        return [entry["story"] for entry in read(name)["data"]]
    return [p["context"] for article in read(name)["data"] for p in article["paragraphs"]]


def test_the_shipped_files_are_what_the_script_makes() -> None:
    for name, text in make_data.make_files().items():
        assert (FOLDER / name).read_bytes() == text.encode(), f"{name}: make it again (README.md)"


def test_main_writes_the_files_of_a_seed(tmp_path: Path) -> None:
    make_data.main(["--out", str(tmp_path / "new"), "--seed", "5"])
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new").iterdir()}
    assert written == make_data.make_files(5)
    assert written != make_data.make_files(0)


def test_no_story_is_in_two_files_or_twice_in_one() -> None:
    texts = [text for name in COQA_FILES + SQUAD_FILES for text in stories(name)]
    assert len(texts) == len(set(texts))


def test_files_are_small() -> None:
    for name in COQA_FILES + SQUAD_FILES:
        assert (FOLDER / f"{name}.json").stat().st_size < 600_000


def test_offsets_are_exercised_by_letters_outside_ascii() -> None:
    for name in COQA_FILES + SQUAD_FILES:
        assert any(not text.isascii() for text in stories(name))
        assert (FOLDER / f"{name}.json").read_bytes().isascii()


def test_stories_read_like_stories() -> None:
    for text in stories("coqa-train") + stories("coqa-dev"):
        assert 6 <= len(re.findall(r"\.", text)) <= 12
        assert "{" not in text
        assert "  " not in text


# ---- CoQA ----


@pytest.mark.parametrize("name", COQA_FILES)
def test_coqa_has_the_official_keys(name: str) -> None:
    dataset = read(name)
    assert dataset["version"] == "1.0"
    expected = ["source", "id", "filename", "story", "questions", "answers"]
    expected += ["additional_answers", "name"] if name == "coqa-dev" else ["name"]
    for entry in dataset["data"]:
        assert list(entry) == expected
        assert re.fullmatch(r"3[0-9a-z]{29}", entry["id"])
        assert entry["name"] == entry["filename"]
    assert len({entry["id"] for entry in dataset["data"]}) == len(dataset["data"])


@pytest.mark.parametrize("name", COQA_FILES)
def test_coqa_turns_are_numbered_alike_in_all_lists(name: str) -> None:
    for entry in read(name)["data"]:
        turn_ids = list(range(1, len(entry["questions"]) + 1))
        assert 8 <= len(turn_ids) <= 14
        assert [question["turn_id"] for question in entry["questions"]] == turn_ids
        assert [answer["turn_id"] for answer in entry["answers"]] == turn_ids
        for annotator in ("0", "1", "2") if name == "coqa-dev" else ():
            answers = entry["additional_answers"][annotator]
            assert [answer["turn_id"] for answer in answers] == turn_ids


def coqa_answers(name: str) -> list[tuple[str, dict[str, Any]]]:
    pairs = []
    for entry in read(name)["data"]:
        for answers in [entry["answers"], *entry.get("additional_answers", {}).values()]:
            pairs += [(entry["story"], answer) for answer in answers]
    return pairs


@pytest.mark.parametrize("name", COQA_FILES)
def test_coqa_spans_are_in_the_story(name: str) -> None:
    for story, answer in coqa_answers(name):
        keys = ["span_start", "span_end", "span_text", "input_text", "turn_id"]
        assert list(answer) == keys
        start, end = answer["span_start"], answer["span_end"]
        if answer["input_text"] == "unknown":
            assert (start, end, answer["span_text"]) == (-1, -1, "unknown")
            continue
        assert 0 <= start < end <= len(story)
        assert story[start:end] == answer["span_text"]
        if answer["input_text"].lower() not in ("yes", "no"):
            core = re.sub(r"^(a|the|in) (?=\w+$)", "", answer["input_text"].lower())
            assert core in answer["span_text"].lower()


@pytest.mark.parametrize("name", COQA_FILES)
def test_coqa_has_every_kind_of_answer_and_many_follow_up_questions(name: str) -> None:
    data = read(name)["data"]
    answers = [answer["input_text"].lower() for entry in data for answer in entry["answers"]]
    for kind in ("yes", "no", "unknown"):
        assert answers.count(kind) > 0.05 * len(answers)
    questions = [q["input_text"] for entry in data for q in entry["questions"]]
    leaning = [q for q in questions if re.search(r"\b(it|its|she|he|her|his)\b|^And |^What ab", q)]
    assert len(leaning) > 0.4 * len(questions)
    assert {entry["source"] for entry in data} == {
        "mctest",
        "gutenberg",
        "race",
        "cnn",
        "wikipedia",
    }


def test_annotators_agree_on_yes_no_and_unknown() -> None:
    for entry in read("coqa-dev")["data"]:
        for answers in entry["additional_answers"].values():
            for first, other in zip(entry["answers"], answers, strict=True):
                kinds = {"yes", "no", "unknown"}
                first_kind, other_kind = first["input_text"].lower(), other["input_text"].lower()
                assert {first_kind} & kinds == {other_kind} & kinds


# ---- SQuAD 2.0 ----


@pytest.mark.parametrize("name", SQUAD_FILES)
def test_squad_has_the_official_keys_and_true_offsets(name: str) -> None:
    dataset = read(name)
    assert dataset["version"] == "v2.0"
    ids = []
    for article in dataset["data"]:
        assert set(article) == {"title", "paragraphs"}
        for paragraph in article["paragraphs"]:
            assert set(paragraph) == {"qas", "context"}
            for question in paragraph["qas"]:
                ids.append(question["id"])
                assert question["question"].endswith("?")
                assert bool(question["answers"]) is not question["is_impossible"]
                assert ("plausible_answers" in question) is question["is_impossible"]
                for answer in question["answers"] + question.get("plausible_answers", []):
                    start, text = answer["answer_start"], answer["text"]
                    assert paragraph["context"][start : start + len(text)] == text
    assert all(re.fullmatch(r"[0-9a-f]{24}", question_id) for question_id in ids)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", SQUAD_FILES)
def test_squad_has_both_answerable_and_impossible_questions(name: str) -> None:
    impossible = [
        question["is_impossible"]
        for article in read(name)["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    assert 0.15 < sum(impossible) / len(impossible) < 0.5
