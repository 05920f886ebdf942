"""What came out of one run: scores of each source, what it took, its learning curve.

In: a run's folder (scores, scalars, the checkpoint's header) and its recipe's head comment, which
is the one place where a published figure stands. Out: an Outcome. No torch.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qa_dist.evaluation.elements import UNTRAINED, WEIGHTS, finished_steps
from qa_dist.files import read_json, read_setting, read_status
from qa_dist.recipe import Recipe, Source, source_names, trained_sources
from qa_dist.recipe_loading import load_recipe, load_saved_recipe
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, step_name
from qa_dist.scalars import read_scalars


@dataclass(frozen=True)
class Published:
    """Figures that others reported, as a recipe's head comment says: "81.0", "94.5 to 95.5"."""

    em: str | None
    f1: str | None
    applies: bool = True
    """Whether the run's model, head and data are those of the recipe as it is shipped."""


@dataclass(frozen=True)
class Epoch:
    """What was known of a run when an epoch was over."""

    epoch: int
    train_loss: float | None
    """Mean over the epoch's steps."""
    validation_loss: float | None
    """That of the last checkpoint within the epoch, as are the scores."""
    em: float | None
    f1: float | None


@dataclass(frozen=True)
class Scores:
    """What one source of a run scored, at its headline threshold."""

    num_questions: int
    headline: str
    threshold: float | None
    figures: dict[str, float]
    """em, em_low, em_high and the same of f1, in percent; of tags also precision and more."""
    own: dict[str, Any] | None
    """The same with the model's own answers as history, and "gap"; None: not made."""
    floor: dict[str, float] | None
    """The figures before training (evaluation.floor); None: not made."""


@dataclass(frozen=True)
class Outcome:
    """What came out of one run, at the last checkpoint that was scored."""

    name: str
    """recipe/name."""
    step: int
    of: int | None
    """Steps of the whole training, as far as known: fewer were scored if it isn't over."""
    sources: dict[str, Scores]
    """By the name of the source: its task, or "squad2" for the second with one task."""
    parameters: int | None
    """Of the saved weights; None where no checkpoint is left."""
    adapters_only: bool
    """Whether these are adapters alone, beside a frozen base that isn't saved."""
    windows_per_s: float | None
    """In training, over all ranks: the median of what was logged."""
    step_s: float | None
    memory_gb: float | None
    """The most that rank 0 used."""
    epochs: list[Epoch]
    published: Published | None


def read_outcome(run: RunDir, recipes: Path) -> Outcome:
    """Read what came out of a run; raise InputError if it has no scores yet."""
    step = last_scored(run)
    lines = read_scalars(run.scalars)
    rates = [line["speed/windows_per_s"] for line in lines if line.get("speed/windows_per_s")]
    rate = statistics.median(rates[1:] or rates) if rates else None  # the first has the start in it
    batch = int(read_setting(run.recipe, "batch_windows") or 0)
    memory = [line["speed/memory_gb"] for line in lines if line.get("speed/memory_gb")]
    floor = scores_of_sources(run, UNTRAINED) if run.scores_file(UNTRAINED).is_file() else {}
    shapes = read_shapes(run, step)
    return Outcome(
        name=run_label(run),
        step=step,
        of=read_status(run.status_file("train", 0)).get("of"),
        sources={
            name: _read_scores(facts, floor.get(name))
            for name, facts in scores_of_sources(run, step).items()
        },
        parameters=sum(map(math.prod, shapes.values())) if shapes else None,
        adapters_only=bool(shapes) and all(".lora_" in name for name in shapes),
        windows_per_s=rate,
        step_s=batch / rate if rate else None,
        memory_gb=max(memory, default=None),
        epochs=read_epochs(run, lines),
        published=published_for(run, recipes / f"{run.root.parent.name}.yaml"),
    )


def scores_of_sources(run: RunDir, step: int) -> dict[str, Any]:
    """Return what scores/step-*.json says of each source, by name."""
    scores = read_json(run.scores_file(step))
    if "sources" in scores:
        return dict(scores["sources"])
    recipe = load_saved_recipe(run.recipe)
    return {source_names(recipe)[trained_sources(recipe)[0]]: scores}


def _read_scores(facts: Mapping[str, Any], floor: Mapping[str, Any] | None) -> Scores:
    figures = headline_figures(facts)
    threshold = figures.pop("threshold", None)
    return Scores(
        facts["num_questions"],
        facts["headline"],
        threshold,
        figures,
        facts.get("own_history"),
        headline_figures(floor) if floor else None,
    )


def headline_figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(facts["scores"][facts["headline"]])


def run_label(run: RunDir) -> str:
    """Return recipe/name."""
    return f"{run.root.parent.name}/{run.root.name}"


def last_scored(run: RunDir) -> int:
    """Return the last step with scores; raise InputError if there is none."""
    steps = _scored_steps(run)
    if not steps:
        raise InputError(
            f"{run_label(run)}: has no scores yet; `python jobs/status.py {run_label(run)}` says "
            "how far it is"
        )
    return steps[-1]


def _scored_steps(run: RunDir) -> list[int]:
    return sorted(int(path.stem[5:]) for path in run.scores.glob("step-*.json"))


_NO_WEIGHTS = ("__metadata__", "base_digest")
"""What a weights file holds beside its parameters."""


def read_shapes(run: RunDir, step: int) -> dict[str, list[int]]:
    """Return the parameters' shapes by name, of this step's checkpoint or another's; of none: it
    has gone."""
    for there in dict.fromkeys((step, *reversed(finished_steps(run)))):
        path = run.checkpoints / step_name(there) / WEIGHTS
        if path.is_file():
            with path.open("rb") as weights:  # safetensors: a length, then JSON
                size = int.from_bytes(weights.read(8), "little")
                header: dict[str, Any] = json.loads(weights.read(size))
            return {n: facts["shape"] for n, facts in header.items() if n not in _NO_WEIGHTS}
    return {}


def read_epochs(run: RunDir, lines: Sequence[Mapping[str, Any]]) -> list[Epoch]:
    """Return the learning curve by epoch, from the lines of scalars.jsonl and scores/*.json."""
    logged = [line for line in lines if line.get("train/epoch")]
    if not logged:
        return []
    steps_per_epoch: float = logged[-1]["step"] / logged[-1]["train/epoch"]

    def epoch_of(step: int) -> int:
        return math.ceil(round(float(step / steps_per_epoch), 6))

    losses: dict[int, list[tuple[int, float]]] = {}  # epoch -> (steps, mean loss over them)
    before = 0
    for line in logged:
        part = (line["step"] - before, line["train/loss"])
        losses.setdefault(epoch_of(line["step"]), []).append(part)
        before = line["step"]
    validation = {
        epoch_of(line["step"]): line["validation/loss"]
        for line in lines
        if line.get("validation/loss") is not None
    }
    scored = {}
    for step in _scored_steps(run):
        scores = read_json(run.scores_file(step))
        scored[epoch_of(step)] = scores["scores"][scores["headline"]]
    return [
        Epoch(
            epoch,
            sum(n * loss for n, loss in losses[epoch]) / sum(n for n, _ in losses[epoch])
            if epoch in losses
            else None,
            validation.get(epoch),
            scored.get(epoch, {}).get("em"),
            scored.get(epoch, {}).get("f1"),
        )
        for epoch in sorted({*losses, *validation, *scored})
    ]


def read_published(recipe: Path) -> Published | None:
    """Return the figures that a recipe's head comment expects: "# Expected: F1 81.0, EM 71.5 ...".

    Those up to the first bracket, which tells where they are from; None: the comment gives none.
    """
    try:
        text = recipe.read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^# Expected: ([^(]*)", text, re.MULTILINE)
    found = dict(re.findall(r"\b(EM|F1) ([\d.]*\d(?: to [\d.]*\d)?)", match[1])) if match else {}
    return Published(found.get("EM"), found.get("F1")) if found else None


def published_for(run: RunDir, recipe: Path) -> Published | None:
    """Return what a recipe's head comment expects, and whether it is about this run: it isn't if
    the run has another model, head or data than the recipe as it is shipped."""
    found = read_published(recipe)
    if found is None:
        return None
    shipped = load_recipe(str(recipe), (), recipe.parent)
    return replace(found, applies=_about(load_saved_recipe(run.recipe)) == _about(shipped))


_OFFICIAL = {
    "train-v1.1.json": "squad",
    "dev-v1.1.json": "squad",
    "train-v2.0.json": "squad_v2",
    "dev-v2.0.json": "squad_v2",
}
"""SQuAD's files as they are published -> the hub dataset with the same questions."""


def _about(recipe: Recipe) -> list[Any]:
    """Return what published figures are about, wherever files and models lie."""

    def data(source: Source) -> list[Any]:
        files = [Path(place).name for place in (source.train, source.dev)]
        parts = [source.dev_fraction, source.max_train_examples, source.max_dev_examples]
        return [source.task, *(_OFFICIAL.get(file, file) for file in files), *parts]

    model = [Path(recipe.model.name).name, recipe.model.head]
    return [model, recipe.train.only, [data(source) for source in recipe.sources]]
