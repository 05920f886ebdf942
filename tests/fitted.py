"""Small data of tagged sentences and questions, and models fitted to a run's training data in this
process, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qa_dist.data.prepared import Prepared, read_template
from qa_dist.files import read_json
from qa_dist.recipe import source_splits
from qa_dist.recipe_loading import load_saved_recipe
from qa_dist.run_dir import RunDir
from qa_dist.tasks import null_class

PEOPLE, PLACES = ("Mary", "Tom", "Anna Lee", "Ben"), ("Oslo", "New York", "the U.S.")

Sentence = list[tuple[str, str]]


def made_sentences(num: int) -> list[Sentence]:
    """Return sentences of words with IOB2 tags, the same for the same number; every 7th is long,
    every 11th has a word of which tokenizers leave nothing."""
    sentences = []
    for i in range(num):
        who, where = PEOPLE[i % len(PEOPLE)].split(), PLACES[i // 2 % len(PLACES)].split()
        sentence = [(word, f"{'BI'[k > 0]}-PER") for k, word in enumerate(who)]
        sentence += [("went", "O"), ("to", "O")]
        sentence += [(word, f"{'BI'[k > 0]}-LOC") for k, word in enumerate(where)]
        if i % 7 == 3:
            sentence = [*sentence, (f"and{i}", "O"), ("then", "O")] * 12
        if i % 11 == 5:
            sentence.insert(1, ("\u200b", "O"))
        sentences.append([*sentence, (".", "O")])
    return sentences


def write_conll(path: Path, sentences: Sequence[Sentence], per_document: int = 0) -> Path:
    """Write a file of two columns; with a -DOCSTART- before each so many sentences."""
    lines = []
    for i, sentence in enumerate(sentences):
        if per_document and i % per_document == 0:
            lines += ["-DOCSTART- O", ""]
        lines += [f"{word} {tag}" for word, tag in sentence] + [""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def fit(run: RunDir, prepared: Prepared, steps: int = 0, rate: float = 3e-3, seed: int = 0) -> Any:
    """Fit a run's model to its training windows, all of a source in each step, and save it as a
    checkpoint; return the model. 0 steps: a random one whose heads' answers differ."""
    import torch

    from qa_dist.checkpoint import save_checkpoint
    from qa_dist.data.collate import collate
    from qa_dist.models import build_model

    recipe = load_saved_recipe(run.recipe)
    splits = {(s.source, s.part): s.name for s in source_splits(recipe)}
    data = [prepared.open(splits[place, "train"]) for place in range(len(recipe.sources))]
    model: Any = build_model(recipe, [split.classes for split in data])
    if not steps:
        torch.manual_seed(seed)
        for parameter in model.heads.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.eval()  # without dropout
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so small matrices more would only wait for each other
    for step in range(steps):
        place = step % len(data)
        split, absent = data[place], null_class(recipe, recipe.sources[place])
        batch = collate(split, range(split.num_windows), read_template(split), absent)
        loss = model(batch, place) / int(split.targets().sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(num_threads)
    facts = read_json(run.run_json)
    identity = {"run": facts["id"], "data": facts["prepared"]["fingerprint"]}
    number = max(1, steps)
    save_checkpoint(
        run.checkpoints, number, model.state_dict(), {}, {"step": number}, identity, attempt=1
    )
    return model
