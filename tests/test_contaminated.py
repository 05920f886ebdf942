"""Dev questions in the training data: shown before anything is queued, whatever the split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prepared_data import made_articles, make_recipe, write_articles

from qa_dist.contaminated import describe_contamination, dev_questions
from qa_dist.plan import Plan, make_plan, save_plan
from qa_dist.recipe import Model, Recipe, Source

ROWS = [
    ("a", "Is aspirin of any use after surgery in older women with diabetes?"),
    ("b", "is Aspirin of any use after surgery in older women with diabetes"),
    ("c", "Is aspirin of any use after surgery in older men with diabetes?"),
    ("d", "Why is the sky blue?"),
]


def write(path: Path, ids: str) -> Path:
    rows = [{"id": i, "question": q, "answer": "Yes, it is."} for i, q in ROWS if i in ids]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan_of(
    model: Path, folder: Path, train: str, dev: str, **settings: int
) -> tuple[Recipe, Plan]:
    files = {
        part: str(write(folder / f"{part}.jsonl", ids))
        for part, ids in (("train", train), ("dev", dev))
    }
    source = Source(task="prompted_qa", train=files["train"], dev=files["dev"], **settings)
    recipe = Recipe(name="x", sources=[source], model=Model(name=str(model), head="causal_lm"))
    return recipe, make_plan(recipe, folder / "prepared")


def test_same_and_near_questions_are_shown(tiny_chat: Path, tmp_path: Path) -> None:
    same, near = describe_contamination(*plan_of(tiny_chat, tmp_path, "bcd", "a"))
    assert same == (
        "train: 1 of 3 questions are in the dev data too and will be left out (train = dev: b = a)"
    )
    assert near.startswith("train: 1 are nearly dev questions (80% of the words or more) and stay")
    assert near.endswith("(train ~ dev: c ~ a)")


def test_clean_data_says_nothing(tiny_chat: Path, tmp_path: Path) -> None:
    assert list(describe_contamination(*plan_of(tiny_chat, tmp_path, "d", "a"))) == []


def test_only_the_questions_that_are_used_count(tiny_chat: Path, tmp_path: Path) -> None:
    recipe, plan = plan_of(tiny_chat, tmp_path, "d", "abc", max_dev_examples=1)
    save_plan(plan)
    assert len(dev_questions(recipe, 0, "train", plan.folder)) == 1
    assert dev_questions(recipe, 0, "dev", plan.folder) == frozenset()


def test_a_split_of_one_file_is_checked_too(tiny_chat: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", "abcd")
    source = Source(task="prompted_qa", train=str(path), dev_fraction=0.5)
    recipe = Recipe(name="x", sources=[source], model=Model(name=str(tiny_chat), head="causal_lm"))
    plan = make_plan(recipe, tmp_path / "prepared")
    text = "\n".join(describe_contamination(recipe, plan))
    assert "nearly dev questions" in text or "in the dev data too" in text


def test_other_tasks_are_left_alone(
    tiny_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Path(__file__).resolve().parents[1] / "qa_dist" / "sample" / "coqa-dev.json"
    train = tmp_path / "train.json"  # the same questions in another file
    train.write_text(sample.read_text() + "\n")
    source = Source(task="coqa", train=str(train), dev=str(sample))
    recipe = Recipe(name="x", sources=[source], model=Model(name=str(tiny_chat), head="causal_lm"))
    plan = make_plan(recipe, tmp_path / "prepared")
    assert list(describe_contamination(recipe, plan)) == []
    assert dev_questions(recipe, 0, "train", plan.folder) == frozenset()


def test_each_question_of_a_doubled_id_counts(tiny_chat: Path, tmp_path: Path) -> None:
    """Two dev lines share an id, and both are scored: neither may be trained on."""
    recipe, _ = plan_of(tiny_chat, tmp_path, "ab", "cd")
    for part, ids in (("train", "acd"), ("dev", "cd")):
        path = tmp_path / f"{part}.jsonl"
        lines = "".join(
            json.dumps({"id": "same", "question": q, "answer": "Yes, it is."}) + "\n"
            for i, q in ROWS
            if i in ids
        )
        path.write_text(lines)
    plan = make_plan(recipe, tmp_path / "prepared")
    save_plan(plan)
    assert len(dev_questions(recipe, 0, "train", plan.folder)) == 2
    same, near = describe_contamination(recipe, plan)
    assert same.startswith("train: 2 of 3 questions are in the dev data too")
    assert near.startswith("train: 1 are nearly dev questions")


def test_a_question_near_two_dev_questions_counts_once(tiny_chat: Path, tmp_path: Path) -> None:
    (near,) = describe_contamination(*plan_of(tiny_chat, tmp_path, "c", "ab"))
    assert near.startswith("train: 1 are nearly dev questions")
    assert near.endswith("(train ~ dev: c ~ a, c ~ b)")


@pytest.mark.parametrize("is_same", [True, False])
def test_a_dev_file_that_is_the_training_file_is_said(
    words_encoder: Path, tmp_path: Path, is_same: bool
) -> None:
    train = write_articles(tmp_path / "train.json", made_articles(2))
    dev = write_articles(tmp_path / "copy.json", made_articles(2 if is_same else 3))
    recipe = make_recipe(words_encoder, train, dev)
    lines = list(describe_contamination(recipe, make_plan(recipe, tmp_path / "prepared")))
    said = f"sources.0.dev={dev}: is the very file that is trained on"
    assert [line.partition(",")[0] for line in lines] == [said] * is_same
