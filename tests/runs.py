"""What tests compare of runs: the artefacts that must be Equal (faults.md), and what is left
over."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qa_dist import faults
from qa_dist.attempts import new_attempt
from qa_dist.cluster import open_run
from qa_dist.files import file_sha256, read_json
from qa_dist.plan import make_plan, save_plan
from qa_dist.prepare import prepare_element
from qa_dist.recipe_loading import load_recipe, load_saved_recipe, split_arguments
from qa_dist.run_dir import RunDir, step_name
from qa_dist.scalars import read_scalars

ROOT = Path(__file__).resolve().parent.parent
_OWN_KEYS = ("name", "prepared_dir")


def rows_of(run: RunDir, split: str = "dev", step: int = 8) -> list[dict[str, Any]]:
    """Return the predictions of a split, shard by shard."""
    from qa_dist.data.prepared import read_prepared

    paths = [run.predictions_file(step, p.name) for p in read_prepared(run).shards(split)]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def final_state(run: RunDir, step: int = 8) -> dict[str, Any]:
    """Return all that must be the same, to the last bit, however often a run was interrupted."""
    folder = run.checkpoints / step_name(step)
    return {
        "weights": file_sha256(folder / "model.safetensors"),
        "optimizer": file_sha256(folder / "optimizer.safetensors"),
        "state": read_json(folder / "train_state.json"),
        "scalars": curve(run),
        "checkpoints": sorted(path.name for path in run.checkpoints.glob("step-*")),
        "scores": {path.name: _without_run(path) for path in sorted(run.scores.glob("*.json"))},
    }


def curve(run: RunDir) -> list[dict[str, Any]]:
    """Return scalars.jsonl without what the clock decides."""
    return [
        {key: value for key, value in line.items() if not key.startswith("speed/")}
        for line in read_scalars(run.scalars)
    ]


def windows_sha256(run: RunDir, step: int = 8) -> str:
    """Return the chained hash of all windows trained on."""
    state = read_json(run.checkpoints / step_name(step) / "train_state.json")
    return str(state["windows_sha256"])


def artefacts(run: RunDir) -> dict[str, str]:
    """Return the sha256 of each file of a run but attempts' own: status, logs, locks, run.json."""
    passing = {"status", "logs", "run.json"}
    return {
        str(path.relative_to(run.root)): file_sha256(path)
        for path in sorted(run.root.rglob("*"))
        if path.is_file()
        and path.suffix != ".lock"
        and path.relative_to(run.root).parts[0] not in passing
    }


def processes_of(run: RunDir) -> list[str]:
    """Return the command lines of processes that work for a run (its path is in them)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(run.root) in line:
                found.append(f"{folder.name}: {line}")
    return found


def temporary_files(run: RunDir) -> list[Path]:
    """Return what a killed process left half written."""
    return [path for path in run.root.rglob("*") if path.name.endswith((".tmp", ".part"))]


def fault_environ(fault: str, log: Path) -> dict[str, str]:
    """Return the environment that injects `fault` and logs that it fired."""
    return {faults.VARIABLE: fault, faults.LOG_VARIABLE: str(log)}


def fired(log: Path) -> list[tuple[str, str, int | None]]:
    """Return (point, action, step) of each fault that fired."""
    return [(f["point"], f["action"], f["step"]) for f in faults.read_log(log)]


def _without_run(path: Path) -> dict[str, Any]:
    scores = json.loads(path.read_text())
    return {key: value for key, value in scores.items() if key != "run"}


def make_run(words: Sequence[str], folder: Path, *more: str) -> RunDir:
    """Open a run in this process as a launch would, its data prepared, its first attempt begun.

    `words` are those of the fixture launch_words, of which `more` replace those of the same key.
    """
    given = {word.partition("=")[0]: word for word in (*words, *more)}
    keys, overrides = split_arguments(list(given.values()), ("recipe", "profile", *_OWN_KEYS))
    recipe = load_recipe(keys["recipe"], overrides, ROOT / "configs" / "recipes")
    plan = make_plan(recipe, Path(keys["prepared_dir"]))
    run = open_run.open_root(folder / "runs", keys["name"], recipe.name)
    prepared = plan.prepared(recipe.data.num_shards, 1)
    prepared = open_run.open_run(run, recipe, plan, prepared, is_fresh=False)
    save_plan(plan)
    for element, (split, index) in enumerate(prepared.elements()):
        if prepared.shards(split)[index] in prepared.missing(split):
            prepare_element(run, element)
    new_attempt(run)
    return run


def add_noisy_checkpoint(run: RunDir, step: int = 8, seed: int = 3) -> None:
    """Save weights that nobody trained, whose answers and null odds differ among the questions."""
    import torch

    from qa_dist.checkpoint import save_checkpoint
    from qa_dist.data.collate import collate
    from qa_dist.data.prepared import read_prepared, read_template
    from qa_dist.models import build_model
    from qa_dist.tasks import null_class

    recipe = load_saved_recipe(run.recipe)
    recipe = replace(recipe, train=replace(recipe.train, seed=seed))
    split = read_prepared(run).open("dev")
    model: Any = build_model(recipe, [split.classes]).eval()
    windows, absent = range(split.num_windows), null_class(recipe, recipe.sources[0])
    batch = collate(split, windows, read_template(split), absent)
    with torch.no_grad():
        name = "label_outputs" if recipe.model.head == "span_crf" else "qa_outputs"
        getattr(model.heads[0], name).weight *= 40
        first = model.hidden(batch)[:, 0]
        head = getattr(model.heads[0], "class_outputs", None)
        if head is not None:  # all questions' first tokens are nearly the same
            head.weight *= 6 / (first @ head.weight.T).std(0, keepdim=True).T
            head.bias.copy_(8 - (first @ head.weight.T).mean(0))
    facts = read_json(run.run_json)
    identity = {"run": facts["id"], "data": facts["prepared"]["fingerprint"]}
    state = model.state_dict()
    save_checkpoint(run.checkpoints, step, state, {}, {"step": step}, identity, attempt=1)


def with_each_checkpoint(run: RunDir, every: int) -> None:
    """Have a run evaluate each checkpoint, of which there is one each so many steps."""
    text = run.recipe.read_text()
    text = re.sub(r"when: \w+", "when: each_checkpoint", text)
    run.recipe.write_text(
        re.sub(r"checkpoint_every_steps: \d+", f"checkpoint_every_steps: {every}", text)
    )


def evaluate_all(run: RunDir) -> None:
    """Do the elements of the evaluate stage in this process."""
    from qa_dist.evaluation.elements import elements as evaluate_elements
    from qa_dist.evaluation.predict import evaluate_element

    for element in evaluate_elements(run):
        evaluate_element(run, element)
