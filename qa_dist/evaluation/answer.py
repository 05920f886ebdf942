"""A run's newest checkpoint on a text of one's own: its entities, and the answer to a question.

In: a finished run, a text, perhaps a question. Out: places in that very text, so that an answer is
written as it stands there and an entity is whole words. The text goes the way of all data: into
windows of a shard (in a temporary folder), through the model, and out by the same decoding.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from qa_dist.checkpoint import load_model_state, reading
from qa_dist.data.prepared import Prepared, read_prepared
from qa_dist.data.shard_writer import ShardWriter
from qa_dist.data.shards import Shard, open_split
from qa_dist.evaluation.elements import finished_steps
from qa_dist.evaluation.predict import load_trained, make_predictor
from qa_dist.files import BrokenFileError, read_json_if_there
from qa_dist.recipe import Recipe, form_of, source_names, source_splits, trained_sources
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.records import NULL_KIND, Example, InputError, Passage, Target
from qa_dist.run_dir import RunDir, step_name
from qa_dist.tasks import TASKS, ner
from qa_dist.text.tags import OUTSIDE, find_entities
from qa_dist.text.words import split_sentences
from qa_dist.windowing import Counts, load_maker


def read_text(run: RunDir, text: str, question: str | None = None) -> dict[str, Any]:
    """Return what a run's newest checkpoint finds in a text.

    {"run", "step", "found": [...]}, a dict for each source of the run: {"source", "entities":
    [{"type", "start", "end", "text"}]}, or for one that answers questions, if there is a question,
    {"source", "answer", "start", "end", "score", "null_odds", "threshold"}: "answer" is "" where
    none is given (CoQA: "unknown"), start and end are None where it isn't a piece of the text.
    Places are half-open, in characters. Raises InputError where there is no checkpoint, or the run
    can't answer.
    """
    recipe, prepared = load_saved_recipe(run.recipe), read_prepared(run)
    forms = {place: form_of(recipe, recipe.sources[place]) for place in trained_sources(recipe)}
    _check_asked(run, text, question, set(forms.values()))
    steps = finished_steps(run)
    if not steps:
        raise InputError(f"{run.checkpoints}: there is no checkpoint; train the run first")
    model = _load_model(run, recipe, prepared, steps[-1])
    found = []
    for place, form in forms.items():
        name = source_names(recipe)[place]
        reader = _Reader(run, recipe, prepared, model, place)
        if form == "tags":
            found.append({"source": name, "entities": reader.entities(text)})
        elif question is not None:
            threshold = _threshold(run, recipe, prepared, steps[-1], place)
            found.append({"source": name, **reader.answer(text, question, threshold)})
    return {"run": f"{recipe.name}/{run.root.name}", "step": steps[-1], "found": found}


def _check_asked(run: RunDir, text: str, question: str | None, forms: set[str]) -> None:
    if "text" in forms:
        raise InputError(
            f"{run.root}: its model writes answers; only heads that point can be asked"
        )
    for key, value in (("--text", text), ("--question", question)):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{key}: isn't valid UTF-8; give it in the terminal's encoding"
            ) from None
        if value is not None and not value.strip():
            raise InputError(f"{key}: is empty; give some words")
    if question is None and forms == {"span"}:
        raise InputError(f"{run.root}: answers questions; give one with --question")
    if question is not None and "span" not in forms:
        raise InputError(f"{run.root}: finds entities and answers no questions; drop --question")


def _load_model(run: RunDir, recipe: Recipe, prepared: Prepared, step: int) -> nn.Module:
    path = run.checkpoints / step_name(step)
    try:
        with reading(path):
            return load_trained(run, recipe, prepared, load_model_state(path))
    except BrokenFileError as error:
        raise InputError(f"{error}. Launch the run again: it makes what is broken anew") from error


def _threshold(run: RunDir, recipe: Recipe, prepared: Prepared, step: int, place: int) -> float:
    """Return what null odds must exceed for no answer: the score file's headline, if there is one;
    infinity where each question was answerable (SQuAD 1.1)."""
    scores: Mapping[str, Any] = read_json_if_there(run.scores_file(step)) or {}
    scores = scores.get("sources", {source_names(recipe)[place]: scores})[
        source_names(recipe)[place]
    ]
    if "headline" in scores:
        threshold = scores["scores"][scores["headline"]]["threshold"]
        return math.inf if threshold is None else float(threshold)
    dev = {split.source: split.name for split in source_splits(recipe) if split.part == "dev"}
    shard = Shard(prepared.shards(dev[place])[0])
    is_v1 = shard.num_examples and shard.example(0)["rule"] == "squad_v1"
    return math.inf if is_v1 else 0.0


class _Reader:
    """One source's head on single passages."""

    def __init__(
        self, run: RunDir, recipe: Recipe, prepared: Prepared, model: nn.Module, place: int
    ) -> None:
        self._run, self._recipe, self._model, self._place = run, recipe, model, place
        dev = {split.source: split.name for split in source_splits(recipe) if split.part == "dev"}
        self._classes = prepared.classes(dev[place])
        self._task = TASKS[recipe.sources[place].task]

    def entities(self, text: str) -> list[dict[str, Any]]:
        """Return the entities of a text, in order; it is read a sentence at a time, or with the
        others around each where the model was trained so."""
        sentences = split_sentences(text)
        records = [
            {"id": str(i), "words": [text[a:b] for a, b in words], "tags": [OUTSIDE] * len(words)}
            for i, words in enumerate(sentences)
        ]
        by_document = self._recipe.data.document_context
        passages = [
            ner.read_passage({"sentences": some}, "text", lambda *_: None, for_training=False)
            for some in ([records] if by_document else [[record] for record in records])
        ]
        return [
            {"type": kind, "start": start, "end": end, "text": text[start:end]}
            for words, row in zip(sentences, self._rows(passages), strict=True)
            for kind, first, last in find_entities(row["tags"])
            for start, end in [(words[first][0], words[last][1])]
        ]

    def answer(self, text: str, question: str, threshold: float) -> dict[str, Any]:
        """Return the best answer to a question about a text."""
        example = Example(
            id="text",
            question=question,
            history=(),
            target=Target(NULL_KIND),
            answers=(),
            rule="squad_v2",
            group="text",
        )
        (row,) = self._rows([Passage(text, (example,))])
        answer, score, span = row["n_best"][0] if row["n_best"] else ("", None, None)
        odds = math.inf if row["null_odds"] is None else row["null_odds"]
        if odds > threshold or not row["n_best"]:
            answer, score, span = self._task.NULL_TEXT, None, None
        start, end = span or (None, None)
        return {
            "answer": answer,
            "start": start,
            "end": end,
            "score": score,
            "null_odds": row["null_odds"],
            "threshold": threshold if math.isfinite(threshold) else None,
        }

    def _rows(self, passages: list[Passage]) -> list[dict[str, Any]]:
        """Return the predictions for the passages' examples, in order."""
        source = self._recipe.sources[self._place]
        maker = load_maker(self._recipe, source, "dev", Counts(), self._classes)
        with tempfile.TemporaryDirectory() as folder:
            writer = ShardWriter(Path(folder) / "text-00000-of-00001", maker.vocab_size)
            maker.add(writer, passages)
            writer.finish(template=maker.template.to_json(), classes=list(maker.classes))
            data = open_split([writer.folder])
            predictor = make_predictor(self._run, self._recipe, self._model, self._place, data)
            return [row for _, row in predictor.rows() if row is not None]
