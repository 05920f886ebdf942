"""A real cluster as a test sees it: run commands in it, wait for jobs, kill daemons, stop it; see
slurm/cluster."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
PURGED = "PURGED"
"""The state of a job that slurmctld has forgotten."""
PREFIX = "qa-slurm-"


def tool(verb: str, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run slurm/cluster/up, down, kill or install."""
    return subprocess.run(
        [sys.executable, str(ROOT / "slurm" / "cluster" / verb), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """For subprocesses: this process' environment, pointed at the cluster."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH_"))}
        conf = str(self.folder / "slurm.conf")
        return {**kept, "SLURM_CONF": conf, "GLOO_SOCKET_IFNAME": "lo"}

    def run(
        self,
        *words: str,
        check: bool = True,
        timeout: float = 120,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with the cluster's environment; unless check=False it must succeed."""
        ended = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or self.folder,
            env={**self.env, **(env or {})},
        )
        if check:
            assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
        return ended

    def sbatch(self, script: str, *options: str, output: Path | None = None) -> str:
        """Submit a few lines of shell; return the job's id."""
        options = (
            "--parsable",
            f"--output={output or '/dev/null'}",
            "--open-mode=append",
            *options,
        )
        return self.run("sbatch", *options, f"--wrap={script}").stdout.strip()

    def jobs(self, job_id: str) -> list[dict[str, str]]:
        """Return what `scontrol show job` knows, one for each array element; none if purged."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job_id, check=False).stdout
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines() if line]

    def job(self, job_id: str) -> dict[str, str]:
        """Return the same of a job that is no array, or of one element such as 7_0."""
        return next(iter(self.jobs(job_id)), {"JobState": PURGED})

    def wait_for_state(self, job_id: str, *states: str, timeout_s: float = 60) -> dict[str, str]:
        """Wait until a job is in one of these states; return what is known of it then."""
        self.wait_for(
            lambda: self.job(job_id)["JobState"] in states,
            f"job {job_id} should be {' or '.join(states)}",
            timeout_s,
        )
        return self.job(job_id)

    def wait_for_end(self, job_id: str, timeout_s: float = 60) -> dict[str, str]:
        """Wait until a job has ended in whatever way."""
        return self.wait_for_state(job_id, *ENDED, PURGED, timeout_s=timeout_s)

    def wait_for(
        self, is_true: Callable[[], object], what: str, timeout_s: float = 60, every_s: float = 0.1
    ) -> None:
        """Wait until a condition holds; else fail, telling what the queue and slurmctld say."""
        give_up_at = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > give_up_at:
                pytest.fail(f"waited {timeout_s} s in vain: {what}\n{self.situation()}")
            time.sleep(every_s)

    def situation(self) -> str:
        """Return the queue, the nodes and the last lines of slurmctld's log."""
        shown = [self.run(name, check=False).stdout for name in ("squeue", "sinfo")]
        log = self.folder / "logs" / "slurmctld.out"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([*shown, *lines[-20:]])

    def cancel_all(self) -> None:
        """Cancel what is queued or runs, and wait until it has gone."""
        if self.run("scontrol", "ping", check=False).returncode:
            self.up()
        self.run("scancel", "--full", "--signal=KILL", "--user=" + str(os.getuid()), check=False)
        self.run("scancel", "--user=" + str(os.getuid()), check=False)
        self.wait_for(
            lambda: not self.run("squeue", "--noheader", check=False).stdout, "an empty queue"
        )

    def kill(self, name: str, tasks_live_on: bool = False) -> None:
        """Kill a daemon: slurmctld ..., or n2 with its steps and tasks unless those live on."""
        words = (f"name={name}", f"tasks_live_on={str(tasks_live_on).lower()}")
        ended = tool("kill", f"folder={self.folder}", *words)
        assert ended.returncode == 0, ended.stderr

    def wait_for_saved_state(self) -> None:
        """Wait until slurmctld has written down all that it knows now, so that it may be killed."""
        since, state = time.time(), self.folder / "state" / "job_state"
        self.run("scontrol", "update", "NodeName=n1", f"Comment=saved-{since}")
        self.wait_for(lambda: state.stat().st_mtime > since, "a saved state")

    def up(self) -> str:
        """Start again what was killed; return what `up` printed."""
        ended = tool("up", f"folder={self.folder}")
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def down(self) -> None:
        """Stop it; nothing is left behind."""
        ended = tool("down", f"folder={self.folder}")
        assert ended.returncode == 0, ended.stderr

    def processes(self) -> list[str]:
        """Return the live processes that have to do with the cluster, found independently of
        slurm/cluster: whatever has the folder's path in its words, environment or open files."""
        return processes_of(self.folder)


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), os.getppid()):
            continue
        with contextlib.suppress(OSError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            links = [str(link.readlink()) for link in (entry / "fd").iterdir()]
            links.append(str((entry / "cwd").readlink()))
            if state in "ZX":
                continue
            if str(folder).encode() in words or any(str(folder) in link for link in links):
                found.append(f"{entry.name} {(entry / 'comm').read_text().strip()}")
    return found


def new_folder() -> Path:
    """A short path, since sockets lie in it; its name says whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def started(folder: Path, *words: str) -> Cluster:
    """Start a cluster; skip the test where SLURM can't be installed, unless it is required."""
    ended = tool("up", f"folder={folder}", *words, timeout=900)
    if ended.returncode == 0:
        print(ended.stdout)
        return Cluster(folder)
    tool("down", f"folder={folder}")
    if ended.returncode == 2 and not (
        os.environ.get("CI") or os.environ.get("QA_DIST_REQUIRE_SLURM")
    ):
        pytest.skip(ended.stderr.strip())
    pytest.fail(ended.stderr.strip())


@contextlib.contextmanager
def running(*words: str) -> Iterator[Cluster]:
    """A cluster of one's own."""
    folder = new_folder()
    try:
        yield started(folder, *words)
    finally:
        tool("down", f"folder={folder}")
