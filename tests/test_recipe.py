"""What sources and splits are called, and what form a source has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qa_dist.recipe import (
    Model,
    Recipe,
    Source,
    Train,
    form_of,
    is_periodic,
    source_names,
    source_splits,
    split_part,
    trained_sources,
)

NER, SQUAD = Source(task="ner"), Source(task="squad", heldout_fraction=0.1)


def test_a_single_source_has_plain_split_names() -> None:
    splits = source_splits(Recipe(sources=[SQUAD]))
    assert [s.name for s in splits] == [s.part for s in splits] == ["train", "dev", "heldout"]


def test_several_sources_have_splits_of_their_own() -> None:
    recipe = Recipe(sources=[NER, SQUAD, NER])
    assert source_names(recipe) == ["ner", "squad", "ner2"]
    names = [(split.name, split.source) for split in source_splits(recipe)]
    assert names == [
        ("ner.train", 0),
        ("ner.dev", 0),
        ("squad.train", 1),
        ("squad.dev", 1),
        ("squad.heldout", 1),
        ("ner2.train", 2),
        ("ner2.dev", 2),
    ]
    assert [split_part(name) for name in ("ner.train", "dev")] == ["train", "dev"]


@pytest.mark.parametrize(("only", "places"), [("all", [0, 1]), ("ner", [0]), ("squad", [1])])
def test_a_baseline_trains_on_one_source(only: str, places: list[int]) -> None:
    recipe = Recipe(sources=[NER, SQUAD], train=Train(only=only))
    assert trained_sources(recipe) == places
    assert len(source_splits(recipe)) == 5, "the data stay the same, so runs share them"


def test_the_form_follows_from_head_and_task() -> None:
    recipe = Recipe(sources=[NER, SQUAD], model=Model(head="span_crf"))
    assert [form_of(recipe, source) for source in recipe.sources] == ["tags", "span"]
    written = replace(recipe, model=Model(head="causal_lm"))
    assert form_of(written, SQUAD) == "text"


def test_the_last_step_is_periodic_too() -> None:
    assert [step for step in range(1, 9) if is_periodic(step, 3, 8)] == [3, 6, 8]
