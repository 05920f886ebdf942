"""A text of one's own: entities are whole words of it, an answer stands in it as it is written."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fitted import fit, made_sentences, write_conll
from prepared_data import make_recipe, open_run, write_articles

from qa_dist.data.prepared import Prepared
from qa_dist.evaluation.answer import read_text
from qa_dist.files import write_json
from qa_dist.prepare import prepare_element
from qa_dist.recipe import Recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

HEIGHT = "Mount Everest rises 8,848.86 metres above the sea."
ASKED = "How high does it rise?"
CITY = "The town of Oslo has one tram."


def squad_file(folder: Path, is_v1: bool = False) -> Path:
    """Two paragraphs with the same question; only the first has the answer."""
    right: dict[str, Any] = {"id": "a", "question": ASKED, "is_impossible": False}
    right["answers"] = [{"text": "8,848.86 metres", "answer_start": 20}]
    wrong: dict[str, Any] = {"id": "b", "question": ASKED, "is_impossible": True, "answers": []}
    paragraphs = [{"context": HEIGHT, "qas": [right]}, {"context": CITY, "qas": [wrong]}]
    if is_v1:
        del right["is_impossible"], paragraphs[1]
    return write_articles(folder / "squad.json", [paragraphs] * 1)


def run_of(root: Path, recipe: Recipe) -> tuple[RunDir, Prepared]:
    run, prepared = open_run(root, recipe)
    for element in range(len(prepared.elements())):
        prepare_element(run, element)
    return run, prepared


def ner_recipe(root: Path, encoder: Path) -> Recipe:
    path = write_conll(root / "all.conll", made_sentences(14))
    return make_recipe(encoder, path, path, "ner")


def squad_recipe(root: Path, encoder: Path, is_v1: bool = False) -> Recipe:
    path = squad_file(root, is_v1)
    return make_recipe(encoder, path, path)


def both(root: Path, encoder: Path) -> Recipe:
    ner, squad = ner_recipe(root, encoder), squad_recipe(root, encoder)
    return replace(ner, sources=[*ner.sources, *squad.sources])


Make = Callable[[Path, Path], Recipe]
Fitted = Callable[[Make], RunDir]


@pytest.fixture(scope="module")
def fitted(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path
) -> Callable[[Make], RunDir]:
    """Make a run of a kind once, its model fitted to its data."""
    runs: dict[Make, RunDir] = {}

    def make(kind: Make) -> RunDir:
        if kind not in runs:
            root = tmp_path_factory.mktemp("run")
            run, prepared = run_of(root, kind(root, tiny_encoder))
            fit(run, prepared, steps=120 if kind is both else 60)
            runs[kind] = run
        return runs[kind]

    return make


@pytest.mark.parametrize("kind", [ner_recipe, both])
def test_entities_are_whole_words_with_their_places(fitted: Fitted, kind: Make) -> None:
    text = "Anna Lee  went to\nthe U.S.\u00a0and then Mary's Tom went to New York."
    found = read_text(fitted(kind), text)
    (entities,) = [one["entities"] for one in found["found"]]
    tagged = {(e["type"], e["text"]) for e in entities}
    # what the small model makes of words that it never saw ("'s") isn't the point here
    assert {
        ("PER", "Anna Lee"),
        ("LOC", "the U.S."),
        ("PER", "Mary"),
        ("LOC", "New York"),
    } <= tagged
    assert [e["start"] for e in entities] == sorted(e["start"] for e in entities)
    for entity in entities:
        start, end = entity["start"], entity["end"]
        assert text[start:end] == entity["text"]
        assert not (text[max(0, start - 1) : start] + text[start]).isalpha() or start == 0
        assert not text[end - 1 : end + 1].isalpha() or end == len(text), "whole words"


def test_long_texts_are_read_sentence_by_sentence(fitted: Fitted) -> None:
    text = "Mary went to Oslo. " * 40
    (found,) = read_text(fitted(ner_recipe), text)["found"]
    assert [e["text"] for e in found["entities"]] == ["Mary", "Oslo"] * 40
    assert found["entities"][-1]["start"] == text.rindex("Oslo")


@pytest.mark.parametrize("by_document", [False, True])
def test_long_sentences_are_read_in_windows(
    tmp_path: Path, tiny_encoder: Path, by_document: bool
) -> None:
    path = write_conll(tmp_path / "all.conll", made_sentences(14), per_document=7)
    recipe = make_recipe(tiny_encoder, path, path, "ner", document_context=by_document)
    run, prepared = run_of(tmp_path, recipe)
    fit(run, prepared)  # a random head finds entities all over
    text = "Tom went home! " + "Mary went to Oslo and then " * 40 + "\n\nthe end"
    (found,) = read_text(run, text)["found"]
    places = [(e["start"], e["end"]) for e in found["entities"]]
    assert places == sorted(places) and len(places) > 40 and places[-1][0] > 900
    assert all(text[e["start"] : e["end"]] == e["text"] for e in found["entities"])


def test_words_of_which_nothing_is_left_are_no_entities(fitted: Fitted) -> None:
    assert read_text(fitted(ner_recipe), "\u200b \u200b")["found"][0]["entities"] == []


@pytest.mark.parametrize("kind", [squad_recipe, both])
def test_an_answer_stands_in_the_text_as_it_is_written(fitted: Fitted, kind: Make) -> None:
    found = read_text(fitted(kind), HEIGHT, ASKED)
    (answer,) = [one for one in found["found"] if "answer" in one]
    assert answer["answer"] == "8,848.86 metres"
    assert (answer["start"], answer["end"]) == (20, 35)
    assert answer["source"] == "squad" and answer["threshold"] == 0
    assert ("entities" in found["found"][0]) == (kind is both)
    found = read_text(fitted(kind), CITY, ASKED)
    (answer,) = [one for one in found["found"] if "answer" in one]
    assert (answer["answer"], answer["start"], answer["score"]) == ("", None, None)
    assert answer["null_odds"] > 0


@pytest.mark.parametrize(("threshold", "is_answered"), [(-1e9, False), (1e9, True), (None, True)])
def test_the_threshold_of_the_scores_decides(
    tmp_path: Path, tiny_encoder: Path, threshold: float | None, is_answered: bool
) -> None:
    run, prepared = run_of(tmp_path, squad_recipe(tmp_path, tiny_encoder))
    fit(run, prepared)
    figures = {"threshold": threshold, "em": 0.0, "f1": 0.0}
    write_json(run.scores_file(1), {"headline": "tuned", "scores": {"tuned": figures}})
    (answer,) = read_text(run, CITY, ASKED)["found"]
    assert bool(answer["answer"]) == is_answered
    assert answer["threshold"] == threshold
    assert not is_answered or CITY[answer["start"] : answer["end"]] == answer["answer"]


def test_squad_v1_always_answers(tmp_path: Path, tiny_encoder: Path) -> None:
    run, prepared = run_of(tmp_path, squad_recipe(tmp_path, tiny_encoder, is_v1=True))
    fit(run, prepared)
    (answer,) = read_text(run, CITY, ASKED)["found"]
    assert answer["answer"] and answer["threshold"] is None
    assert math.isfinite(answer["score"])


def test_runs_that_can_not_be_asked(tmp_path: Path, tiny_encoder: Path) -> None:
    run, prepared = run_of(tmp_path, ner_recipe(tmp_path, tiny_encoder))
    with pytest.raises(InputError, match="there is no checkpoint; train the run first"):
        read_text(run, "Mary")
    fit(run, prepared)
    with pytest.raises(InputError, match="answers no questions; drop --question"):
        read_text(run, "Mary", "Who?")
    for text in ("", " \n"):
        with pytest.raises(InputError, match="--text: is empty"):
            read_text(run, text)
    with pytest.raises(InputError, match="--text: isn't valid UTF-8"):
        read_text(run, "\udcff")
    weights = run.checkpoints / "step-00000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"model\.safetensors: its sha256 differs"):
        read_text(run, "Mary")


def test_a_run_whose_prepared_data_is_gone(tmp_path: Path, tiny_encoder: Path) -> None:
    run, prepared = run_of(tmp_path, ner_recipe(tmp_path, tiny_encoder))
    fit(run, prepared)
    shutil.rmtree(prepared.shards("dev")[0])
    with pytest.raises(InputError, match=r"dev-00000-of-00001: isn't .* Launch the run again"):
        read_text(run, "Mary")


def test_a_question_is_needed_where_questions_are_answered(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    run, _ = run_of(tmp_path, squad_recipe(tmp_path, tiny_encoder))
    with pytest.raises(InputError, match="answers questions; give one with --question"):
        read_text(run, HEIGHT)
    with pytest.raises(InputError, match="--question: is empty"):
        read_text(run, HEIGHT, " ")
