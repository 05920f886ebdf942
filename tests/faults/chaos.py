"""Disturb trainings on a SLURM cluster at random for minutes; they must end as if nothing were.

    python tests/faults/chaos.py minutes=3 seed=7 [folder=/tmp/chaos]
    python tests/faults/chaos.py minutes=3 seed=7 folder=/shared/chaos profile=mine.yaml

The first starts a cluster of its own on this machine (slurm/cluster) and picks from: a rank is
killed, or frozen for 3 s; USR2; a node is lost and comes back; slurmctld is killed and comes back;
the disk is full for 5 s (as root, on a small file system in memory). The second, for a real
cluster, disturbs nothing but its own jobs: all their ranks are killed or frozen, USR2, a requeue. A
run that failed is launched again; when one is through, the next begins. Status 0: each has the same
weights, moments, windows and scalars as an undisturbed run, and no process, shared memory or
temporary file was left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "slurm")]
# ruff: noqa: E402

from runs import final_state, processes_of, temporary_files
from slurm_cases import PROFILE, SlurmCase, ranks_of
from slurm_clusters import ENDED, PURGED, Cluster, running

from qa_dist.files import read_json_if_there
from qa_dist.run_dir import RunDir

NUM_STEPS = 40
RECIPE = [
    "recipe=tiny_coqa",
    "stages=prepare,train",
    "sources.0.max_train_examples=128",
    "sources.0.max_dev_examples=48",
    "train.batch_windows=8",
    f"train.max_steps={NUM_STEPS}",
    "train.checkpoint_every_steps=5",
    "train.log_every_steps=2",
    "train.validation_windows=16",
    "data.num_shards=1",
]
SLOW_STEPS = "point=train.step;action=sleep:0.4;times=100000"
CALM_S = (1.0, 5.0)
"""Between two faults, once a training has begun."""
END_S = 900.0
"""How long the last run may take to its end once no more faults come."""


class StuckError(Exception):
    """A run didn't end, or something was left; the message says what."""


@dataclass
class Chaos:
    """Faults for the jobs of one run at a time."""

    cluster: Cluster
    is_own: bool
    """Whether daemons may be killed, and processes by their numbers."""
    folder: Path
    dice: random.Random
    profile: str
    counts: dict[str, int] = field(default_factory=dict)
    began_at: float = field(default_factory=time.monotonic)
    deck: list[Callable[[str], str]] = field(default_factory=list)
    """Faults to come before any comes again."""

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.began_at:6.1f} s  {text}", flush=True)

    # -- runs --------------------------------------------------------------------------------------

    def case(self, name: str) -> SlurmCase:
        """Return a run of this name, not launched yet."""
        words = [*RECIPE, f"name={name}", f"prepared_dir={self.folder / 'prepared'}"]
        case = SlurmCase(self.cluster, words, self.folder)
        case.run = RunDir(self.folder / "runs" / "tiny_coqa" / name)
        (self.folder / "here.yaml").write_text(self.profile)
        return case

    def launch(self, case: SlurmCase, fault: str = "") -> str:
        """Launch until it is let in; return the job's id, empty if nothing is left to do."""
        while True:
            done = case.launch(fault=fault)
            if done.returncode == 0:
                is_new = "submitted" in done.stdout
                return str(read_json_if_there(case.run.jobs)[-1]["job"]) if is_new else ""
            lines = (done.stderr or done.stdout).strip().splitlines()
            self.tell(f"launch refused: {lines[0][:200] if lines else done.returncode}")
            self.mend()
            time.sleep(2)

    def state(self, job: str) -> str:
        return self.cluster.job(job)["JobState"]

    def mend(self) -> None:
        """Bring back what was killed."""
        if self.is_own:
            self.cluster.up()

    def disturb(self, case: SlurmCase, until: float) -> None:
        """Run a training to its end, with faults as long as there is time for them."""
        job = self.launch(case, SLOW_STEPS)
        give_up_at = max(until, time.monotonic()) + END_S
        while job:
            if time.monotonic() > give_up_at:
                raise StuckError(f"{case.run.root}: didn't end\n{self.cluster.situation()}")
            state = self.state(job)
            if state in (*ENDED, PURGED):
                if state != "COMPLETED" or case.status().get("state") != "done":
                    error = str(case.status().get("error", "")).strip().splitlines()
                    self.tell(f"job {job} {state}: {error[0][:160] if error else 'without a word'}")
                job = self.launch(case, SLOW_STEPS)
            elif time.monotonic() < until and self._trains(case, state):
                time.sleep(self.dice.uniform(*CALM_S))
                if self._trains(case, self.state(job)):
                    self.fault(case, job)
            time.sleep(0.5)
        self.tell(f"{case.run.root.name} is through, after {self._attempts(case)} attempts")

    def _trains(self, case: SlurmCase, state: str) -> bool:
        status = case.status()
        fresh = time.time() - float(status.get("updated_at", 0)) < 10
        return state == "RUNNING" and status.get("state") == "running" and fresh

    def _attempts(self, case: SlurmCase) -> int:
        return int((read_json_if_there(case.run.run_json) or {}).get("attempt", 0))

    # -- faults ------------------------------------------------------------------------------------

    def fault(self, case: SlurmCase, job: str) -> None:
        """Pick one and do it."""
        self.deck = self.deck or self._shuffled()
        action = self.deck.pop()
        name, step = action.__name__, case.status().get("step")
        self.counts[name] = self.counts.get(name, 0) + 1
        self.tell(f"{name.replace('_', ' ')}: job {job}, step {step} {action(job)}".rstrip())

    def _shuffled(self) -> list[Callable[[str], str]]:
        own = [self.kill_rank, self.freeze_rank, self.lose_node, self.lose_slurmctld]
        if self.is_own and (self.folder / "runs").is_mount():
            own.append(self.fill_disk)
        elsewhere = [self.kill_all, self.freeze_all, self.requeue]
        deck = [self.usr2, *(own if self.is_own else elsewhere)]
        self.dice.shuffle(deck)
        return deck

    def usr2(self, job: str) -> str:
        self._signal(job, "USR2")
        return ""

    def kill_all(self, job: str) -> str:
        self._signal(f"{job}.0", "KILL")  # of the job it would be a cancellation
        return ""

    def freeze_all(self, job: str) -> str:
        self._signal(f"{job}.0", "STOP")
        time.sleep(3)
        self._signal(f"{job}.0", "CONT")
        return "for 3 s"

    def requeue(self, job: str) -> str:
        self.cluster.run("scontrol", "requeue", job, check=False)
        return ""

    def _signal(self, job: str, name: str) -> None:
        self.cluster.run("scancel", f"--signal={name}", job, check=False)

    def kill_rank(self, job: str) -> str:
        return self._to_a_rank(job, [signal.SIGKILL])

    def freeze_rank(self, job: str) -> str:
        return self._to_a_rank(job, [signal.SIGSTOP, signal.SIGCONT])

    def _to_a_rank(self, job: str, signals: Sequence[signal.Signals]) -> str:
        ranks = ranks_of(job)
        if not ranks:
            return "(gone)"
        rank = self.dice.choice(sorted(ranks))
        for number, signum in enumerate(signals):
            time.sleep(3 if number else 0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[rank], signum)
        return f"rank {rank}"

    def lose_node(self, job: str) -> str:
        nodes = self.cluster.job(job).get("NodeList", "")
        names = self.cluster.run("scontrol", "show", "hostnames", nodes).stdout.split()
        name, away_s = self.dice.choice(names), self.dice.choice([2, 15, 45])
        self.cluster.kill(name)
        time.sleep(away_s)
        self.mend()
        return f"{name} for {away_s} s"

    def lose_slurmctld(self, job: str) -> str:
        away_s = self.dice.choice([1, 5, 15])
        self.cluster.kill("slurmctld")
        time.sleep(away_s)
        self.mend()
        return f"for {away_s} s"

    def fill_disk(self, job: str) -> str:
        path = self.folder / "runs" / "filler"
        with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
        time.sleep(5)
        path.unlink()
        return "for 5 s"

    # -- the end -----------------------------------------------------------------------------------

    def check(self, case: SlurmCase, expected: dict[str, Any]) -> list[str]:
        """Return what differs from the undisturbed run, and what was left."""
        ours = trained_state(case.run)
        problems = [f"{name} differs" for name in expected if ours[name] != expected[name]]
        problems += [f"left: {path}" for path in temporary_files(case.run)]
        problems += [f"left: {path}" for path in case.run.status.glob("rendezvous-*")]
        give_up_at = time.monotonic() + 20
        while (left := processes_of(case.run)) and time.monotonic() < give_up_at:
            time.sleep(0.5)
        return [f"{case.run.root.name}: {text}" for text in (*problems, *left)]


def trained_state(run: RunDir) -> dict[str, Any]:
    return {k: v for k, v in final_state(run, NUM_STEPS).items() if k != "scores"}


def run(
    cluster: Cluster, folder: Path, minutes: float, seed: int, profile: str = ""
) -> tuple[list[str], dict[str, int]]:
    """Return the problems found (none: all is well), and how often each fault came."""
    chaos = Chaos(cluster, not profile, folder, random.Random(seed), profile or PROFILE)
    shared_memory = set(Path("/dev/shm").iterdir())
    undisturbed = chaos.case("undisturbed")
    job = chaos.launch(undisturbed)
    while chaos.state(job) not in (*ENDED, PURGED):
        time.sleep(0.5)
    expected = trained_state(undisturbed.run)
    chaos.tell(f"the undisturbed run is there; {minutes} minutes of faults, seed={seed}")
    until, number, problems = time.monotonic() + 60 * minutes, 0, list[str]()
    while time.monotonic() < until:
        number += 1
        case = chaos.case(f"disturbed-{number}")
        chaos.disturb(case, until)
        problems += chaos.check(case, expected)
    chaos.mend()
    new = set(Path("/dev/shm").iterdir()) - shared_memory
    problems += [f"left: {path}" for path in sorted(new)]
    return problems, chaos.counts


def mount_small_disk(folder: Path) -> bool:
    """Have a folder on a file system of its own that is soon full; return whether we may mount."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=300m,mode=700", "tmpfs", str(folder)]
    if os.getuid() == 0 and subprocess.run(words, capture_output=True).returncode == 0:
        return True
    print("no small file system can be mounted here: the disk won't be full")
    return False


def main(argv: Sequence[str]) -> int:
    """Return the exit status: 0 all is well, 1 something isn't, 2 bad words."""
    keys = dict(word.partition("=")[::2] for word in argv)
    try:
        minutes, seed = float(keys.pop("minutes")), int(keys.pop("seed"))
        profile = Path(keys.pop("profile")).read_text() if "profile" in keys else ""
        given = keys.pop("folder", "")
        if keys or (profile and not given):
            raise KeyError("folder" if profile else next(iter(keys)))
    except (KeyError, ValueError, OSError) as error:
        print(f"{(__doc__ or '').strip()}\n\nerror: {error!r}", file=sys.stderr)
        return 2
    os.umask(0o077)
    folder = Path(given or tempfile.mkdtemp(prefix="qa-chaos-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"runs are in {folder}")
    is_mounted = not profile and mount_small_disk(folder / "runs")
    problems, counts = ["interrupted"], dict[str, int]()
    try:
        with contextlib.nullcontext(Here(folder)) if profile else running("nodes=4") as cluster:
            problems, counts = run(cluster, folder, minutes, seed, profile)
    except StuckError as error:
        problems = [str(error)]
    finally:
        if is_mounted and problems:
            print(f"`umount {folder / 'runs'}` when you have looked at the runs there")
        elif is_mounted:
            subprocess.run(["umount", "--lazy", str(folder / "runs")], check=False)
    done = ", ".join(f"{n} x {name.replace('_', ' ')}" for name, n in sorted(counts.items()))
    print("\n".join([f"faults: {done or 'none'}", *(problems or ["all is well"])]))
    return 1 if problems else 0


class Here(Cluster):
    """The cluster that this shell's commands talk to."""

    @property
    def env(self) -> dict[str, str]:
        return dict(os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
