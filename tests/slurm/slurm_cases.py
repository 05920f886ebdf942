"""One run on a cluster, launched again and again: what tests of the real cluster share."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from runs import fault_environ, fired, temporary_files
from slurm_clusters import ROOT, Cluster

from qa_dist.files import read_json, read_status
from qa_dist.processes import is_alive
from qa_dist.run_dir import RunDir

PROFILE = """
where: slurm
partition: low
nodes: 2
gpus_per_node: 0
ranks_per_node: 2
cpus_per_task: 1
timeout_min: 30
signal_lead_s: 90
master_interface: lo
"""


FOUR_PARTS = "train.min_micro_batches_per_step=4"


class SlurmCase:
    """One run on a cluster, launched again and again by the same words."""

    def __init__(self, cluster: Cluster, words: list[str], folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.code = ROOT
        """The checkout to launch from."""
        profile = folder / "here.yaml"
        profile.write_text(PROFILE)
        own = ("profile=", "runs_dir=")
        self.words = [word for word in words if not word.startswith(own)]
        self.words += [f"profile={profile}", f"runs_dir={folder / 'runs'}"]
        self.words.append(FOUR_PARTS)
        self.run = RunDir(folder / "runs" / "tiny_coqa" / "main")
        self.log = folder / "faults.log"

    def launch(self, *more: str, fault: str = "") -> subprocess.CompletedProcess[str]:
        """Run jobs/launch.py; it returns once all is submitted."""
        return self.cluster.run(
            sys.executable,
            str(self.code / "jobs" / "launch.py"),
            *self.words,
            *more,
            check=False,
            cwd=self.folder,
            env={**fault_environ(fault, self.log), "COLUMNS": "160"},
        )

    def submits(self, *more: str, fault: str = "") -> dict[str, str]:
        """Launch; return the id of each stage's job."""
        done = self.launch(*more, fault=fault)
        assert done.returncode == 0, done.stdout + done.stderr
        return {job["stage"]: str(job["job"]) for job in read_json(self.run.jobs)}

    def goes_on_to_the_end(self, *more: str) -> None:
        """Launch, wait until all its jobs have ended, and check that all is there."""
        ids = self.submits(*more)
        self.wait_for_scores(ids["aggregate"])

    def wait_for_scores(self, aggregate: str) -> None:
        self.cluster.wait_for_end(aggregate, timeout_s=240)
        assert self.status("aggregate")["state"] == "done", self.failure()
        assert temporary_files(self.run) == []

    def status(self, stage: str = "train") -> dict[str, Any]:
        return read_status(self.run.status_file(stage, 0))

    def wait_for_step(self, step: int) -> None:
        self.cluster.wait_for(
            lambda: self.status().get("state") == "running" and self.status()["step"] >= step,
            f"step {step}",
            timeout_s=120,
        )

    def failure(self) -> str:
        """What the first stage that didn't end well says."""
        said = {path.name: read_status(path) for path in sorted(self.run.status.iterdir())}
        errors = [f"{name}: {facts['error']}" for name, facts in said.items() if "error" in facts]
        states = {name: facts.get("state") for name, facts in said.items()}
        return "\n".join([str(states), *errors[:1]])

    def fired(self) -> list[tuple[str, str, int | None]]:
        return fired(self.log)


def scores(run: RunDir) -> dict[str, Any]:
    """EM, F1 and intervals of each step; thresholds are logits, whose last digits may differ."""
    return {
        path.name: {
            name: {key: value for key, value in figures.items() if key != "threshold"}
            for name, figures in read_json(path)["scores"].items()
        }
        for path in sorted(run.scores.glob("*.json"))
    }


def slowly(fault: str = "") -> str:
    """A fault to inject, beside steps that take long enough to be met."""
    slow = "point=train.step;action=sleep:0.5;times=1000"
    return f"{fault}|{slow}" if fault else slow


def ranks_of(job: str) -> dict[int, int]:
    """Return the process of each rank of a job of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = (entry / "environ").read_text(errors="replace").split("\0")
            environ = dict(line.partition("=")[::2] for line in lines)
            is_rank = "SLURM_STEP_ID" in environ  # the batch script and srun have none
            if is_rank and environ["SLURM_JOB_ID"] == job and is_alive(int(entry.name)):
                found[int(environ["SLURM_PROCID"])] = int(entry.name)
    return found
