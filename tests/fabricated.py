"""Runs that were never run, made of the files that a run leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_dist.files import write_json
from qa_dist.run_dir import RunDir, shard_name, step_name

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@dataclass(frozen=True)
class FakeRun:
    """A run's folder, filled by hand."""

    run: RunDir

    def beat(self, stage: str, index: int, state: str, **facts: Any) -> None:
        """Write a heartbeat."""
        self.run.status.mkdir(exist_ok=True)
        path = self.run.status_file(stage, index)
        path.write_text(json.dumps({"state": state, **facts}))

    def submit(
        self,
        stage: str,
        job: int,
        elements: Sequence[int] = (0,),
        is_array: bool = False,
        attempt: int = 1,
    ) -> None:
        """Note a job, and its elements as waiting."""
        path = self.run.jobs
        there = json.loads(path.read_text()) if path.exists() else []
        one = {"stage": stage, "job": job, "elements": list(elements), "after": []}
        path.write_text(json.dumps([*there, {**one, "attempt": attempt, "is_array": is_array}]))
        for element in elements:
            self.beat(stage, element, "waiting", step=0)

    def prepare(self, *elements: int) -> None:
        """Make shards of the split train."""
        prepared = json.loads(self.run.run_json.read_text())["prepared"]
        for element in elements:
            name = shard_name("train", element, prepared["num_shards"]["train"])
            folder = Path(prepared["folder"]) / name
            folder.mkdir(parents=True)
            (folder / "MANIFEST.json").write_text('{"files": {}}')

    def train(self, step: int, of: int) -> None:
        """Save a checkpoint; the last one ends the training."""
        folder = self.run.checkpoints / step_name(step)
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text('{"files": {}}')
        state = "done" if step == of else "running"
        self.beat("train", 0, state, step=step, of=of, unit="steps", attempt=1)

    def evaluate(self, step: int, shard: str = "dev-00000-of-00001") -> None:
        """Write the marker of one element's predictions."""
        path = self.run.predictions_file(step, shard).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    def score(self, step: int) -> None:
        """Write a checkpoint's scores."""
        figures = {"at_0": {"em": 61.25, "f1": 70.5}}
        write_json(
            self.run.scores_file(step), {"step": step, "headline": "at_0", "scores": figures}
        )

    def log(self, name: str, text: str) -> None:
        """Write a log."""
        path = self.run.logs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def fabricate(
    folder: Path, num_shards: int = 1, where: str = "slurm", name: str = "one"
) -> FakeRun:
    """Make a run that was launched and has done nothing yet."""
    run = RunDir(folder / "runs" / "tiny" / name)
    run.root.mkdir(parents=True, mode=0o700)
    run.logs.mkdir()
    prepared = {"folder": str(folder / "prepared" / "f00"), "fingerprint": "f00"}
    prepared |= {"num_shards": {"train": num_shards, "dev": 1}}
    shard = folder / "prepared" / "f00" / "dev-00000-of-00001"
    if not shard.exists():
        shard.mkdir(parents=True)
        (shard / "MANIFEST.json").write_text('{"files": {}}')
    facts = {"id": "0" * 32, "recipe": "tiny", "name": name, "created": "2026-01-02T03:04:05+0000"}
    write_json(run.run_json, {**facts, "attempt": 1, "prepared": prepared})
    run.recipe.write_text("name: tiny\ntrain:\n  batch_windows: 8\n")
    (run.root / "profile.yaml").write_text(f"name: here\nwhere: {where}\n")
    return FakeRun(run)
