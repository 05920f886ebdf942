"""A run whose data is prepared by short jobs of its own, for faults that need no training to be
shown, or one of a single process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from prepared_data import question, write_articles
from runs import fault_environ
from slurm_cases import SlurmCase
from slurm_clusters import ROOT, Cluster

from qa_dist.files import read_json, read_status


def write_squad(path: Path, sizes: list[int]) -> Path:
    """Write a SQuAD file: an article for each number, with that many questions of a window each."""
    articles = []
    for number, size in enumerate(sizes):
        context = f"the cat{number} sat on one mat in the room"
        qas = [question(f"{number}-{q}", context, f"cat{number}") for q in range(size)]
        articles.append([{"context": context, "qas": qas}])
    return write_articles(path, articles)


class SmallCase(SlurmCase):
    """A run on one node, with its own prepared data: of the words of a launch, `changes` replace
    those of the same key."""

    def __init__(self, cluster: Cluster, words: list[str], folder: Path, *changes: str) -> None:
        super().__init__(cluster, words, folder)
        own = ["nodes=1", "ranks_per_node=1", f"prepared_dir={folder / 'prepared'}"]
        words = [*self.words, *own, "train.max_steps=2", *changes]
        self.words = list({word.partition("=")[0]: word for word in words}.values())

    def start(self, *more: str, fault: str = "") -> subprocess.Popen[str]:
        """Launch without waiting for the launcher to end."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "launch.py"), *self.words, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**self.cluster.env, **fault_environ(fault, self.log), "COLUMNS": "160"},
        )

    def job(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run jobs/<name>.py with the run's folder."""
        script = str(ROOT / "jobs" / f"{name}.py")
        words = (sys.executable, script, str(self.run.root), *words)
        return self.cluster.run(*words, check=False, env={"COLUMNS": "160"})

    def stages(self) -> dict[str, dict[str, Any]]:
        """What jobs/status.py --json says of each stage."""
        facts = json.loads(self.job("status", "--json").stdout)
        return {stage["stage"]: stage for stage in facts["stages"]}

    def notes(self, stage: str) -> dict[int, str]:
        """Why elements aren't done."""
        return {one["index"]: one["note"] for one in self.stages()[stage]["not_done"]}

    def submitted(self) -> list[dict[str, Any]]:
        return list(read_json(self.run.jobs)) if self.run.jobs.exists() else []

    def element(self, index: int = 0, stage: str = "prepare") -> dict[str, Any]:
        return read_status(self.run.status_file(stage, index))

    def wait_for(self, state: str, *indices: int, stage: str = "prepare") -> None:
        """Wait until elements say that they are in a state."""
        self.cluster.wait_for(
            lambda: all(self.element(i, stage).get("state") == state for i in indices),
            f"{stage} {indices} {state}: {[self.element(i, stage) for i in indices]}",
            timeout_s=150,
        )

    def attempts(self, stage: str, index: int = 0) -> list[str]:
        """The attempts in which an element ran, by its logs."""
        return sorted(p.name.split("-")[2] for p in self.run.logs.glob(f"{stage}-{index}-*-0.out"))

    def is_stopped(self, process: subprocess.Popen[str]) -> bool:
        """Whether a process was stopped by a fault (SIGSTOP)."""
        text = Path(f"/proc/{process.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0] == "T"

    def goes_on(self, process: subprocess.Popen[str]) -> None:
        os.kill(process.pid, signal.SIGCONT)


def output_of(process: subprocess.Popen[str], status: int, timeout_s: float = 150) -> str:
    """Wait for a launcher's end; return what it printed."""
    text, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == status, text
    return text
