"""What is kept of a recipe's files is used again instead of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fitted import made_sentences, write_conll
from prepared_data import (
    made_articles,
    make_recipe,
    write_articles,
)

from qa_dist import source_files
from qa_dist.plan import make_plan, save_plan
from qa_dist.recipe import Recipe


@pytest.fixture
def encoder(words_encoder: Path) -> Path:
    return words_encoder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_articles(tmp_path / "train.json", made_articles(8))


@pytest.fixture
def recipe(encoder: Path, data: Path) -> Recipe:
    return make_recipe(encoder, data, heldout_fraction=0.25)


def test_the_saved_index_is_used_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(recipe, tmp_path)
    save_plan(plan)
    monkeypatch.setattr(source_files, "open_source", None)  # reading the data again would fail
    again = make_plan(recipe, tmp_path)
    for name, values in plan.indexes[0]["train"].arrays().items():
        assert np.array_equal(values, again.indexes[0]["train"].arrays()[name])
    assert again.num_questions == plan.num_questions


def test_labels_are_read_once_and_kept(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write_conll(tmp_path / "train.conll", made_sentences(6), per_document=2)
    dev = write_conll(tmp_path / "dev.conll", [[("x", "B-MISC")]], per_document=1)
    recipe = make_recipe(encoder, train, dev, "ner")
    plan = make_plan(recipe, tmp_path / "prepared")
    assert plan.labels == [["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]], "of the training file alone"
    assert plan.num_questions == {"train": 6, "dev": 1}
    save_plan(plan)
    calls: list[str] = []
    monkeypatch.setattr(source_files, "source_labels", lambda name, _: calls.append(name))
    assert source_files.read_labels(plan.folder, recipe, 0) == plan.labels[0] and calls == []
    (plan.folder / "index" / "0-labels.json").write_text("[]")
    make_plan(recipe, tmp_path / "prepared")
    assert calls == [str(train)], "control: without a whole index the file is read again"
