"""The cluster that other tests rely on is a real one: what they use of SLURM works in it, it
disturbs nobody, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_clusters import ROOT, Cluster, new_folder, processes_of, running, tool

pytestmark = pytest.mark.slurm

CATCHES_USR2 = (
    'srun bash -c \'trap "echo USR2 $SLURM_PROCID; exit 0" USR2; echo ready $SLURM_PROCID; '
    "while :; do sleep 0.1; done'"
)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# -- requeueing takes long: all kinds of it go on while other tests run, and are looked at last ----

LOOPS = (
    'echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"; '
    '[ "$SLURM_RESTART_COUNT" = 1 ] && exit; '
    'srun bash -c \'trap "echo USR2" USR2; trap "echo TERM; exit" TERM; echo ready; '
    "while :; do sleep 0.1; : > beat-$SLURM_JOB_ID; done'"
)
"""Waits in its first attempt, telling which signals come, and ends at once in its second."""


@dataclass
class Requeued:
    """Jobs that something befell, each on a node of its own."""

    cluster: Cluster
    folder: Path
    ids: dict[str, str]
    nodes: dict[str, str]

    def lines(self, name: str) -> list[str]:
        """Wait until a job has run a second time; return what it wrote."""
        ended = self.cluster.wait_for_end(self.ids[name], timeout_s=120)
        assert ended["JobState"] == "COMPLETED", self.cluster.situation()
        assert ended["Restarts"] == "1"
        return lines_of(self.folder / name)


@pytest.fixture(scope="module")
def requeued(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Requeued]:
    folder = tmp_path_factory.mktemp("requeued")
    names = ("preempted", "asked", "lost", "unreachable")
    with running("nodes=6", "grace_s=2") as cluster:
        options = ("--exclusive", "--signal=USR2@60", f"--chdir={folder}")
        ids = {name: cluster.sbatch(LOOPS, *options, output=folder / name) for name in names}
        for name in names:
            cluster.wait_for(lambda name=name: "ready" in lines_of(folder / name), f"{name} runs")
        nodes = {name: cluster.job(ids[name])["BatchHost"] for name in names}
        cluster.kill(nodes["lost"])
        cluster.kill(nodes["unreachable"], tasks_live_on=True)
        cluster.run("scontrol", "requeue", ids["asked"])
        cluster.sbatch("true", "--partition=high", f"--nodelist={nodes['preempted']}")
        yield Requeued(cluster, folder, ids, nodes)


@pytest.mark.slow
def test_jobs_run_on_nodes_of_their_own_until_something_befalls_them(requeued: Requeued) -> None:
    assert len(set(requeued.nodes.values())) == 4
    assert lines_of(requeued.folder / "lost")[0] == f"attempt 0 on {requeued.nodes['lost']}"


# -- what SLURM does -----------------------------------------------------------------------------


def test_srun_runs_on_different_nodes_whose_names_need_not_resolve(cluster: Cluster) -> None:
    ended = cluster.run("srun", "-N2", "-n4", "--ntasks-per-node=2", "printenv", "SLURMD_NODENAME")
    assert sorted(ended.stdout.split()) == ["n1", "n1", "n2", "n2"]


def test_a_batch_job_starts_within_seconds_and_submits_and_requeues_by_itself(
    cluster: Cluster, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    began_at = time.monotonic()
    script = "srun -N2 printenv SLURMD_NODENAME; sbatch -o /dev/null --wrap true; squeue -h | wc -l"
    cluster.wait_for_end(cluster.sbatch(script, "-N2", output=out))
    assert time.monotonic() - began_at < 10
    assert sorted(lines_of(out)[:2]) == ["n1", "n2"]
    assert lines_of(out)[2].startswith("Submitted batch job ")


def test_an_array_runs_each_element(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch("echo $SLURM_ARRAY_TASK_ID", "--array=0-7", output=tmp_path / "%a")
    cluster.wait_for(lambda: len(list(tmp_path.iterdir())) == 8, "eight files")
    cluster.wait_for(
        lambda: {one["JobState"] for one in cluster.jobs(job)} == {"COMPLETED"}, "all elements done"
    )
    assert {path.name: path.read_text().strip() for path in tmp_path.iterdir()} == {
        str(index): str(index) for index in range(8)
    }


def test_an_array_beyond_the_limit_is_refused_whole(cluster: Cluster) -> None:
    ended = cluster.run("sbatch", "--array=0-8", "--wrap=true", check=False)
    assert ended.returncode != 0
    assert "Invalid job array specification" in ended.stderr
    assert not cluster.run("squeue", "--noheader").stdout


def test_dependencies_are_kept(cluster: Cluster) -> None:
    good, bad = cluster.sbatch("sleep 1"), cluster.sbatch("sleep 1; exit 3")
    kill = "--kill-on-invalid-dep=yes"
    after_good = cluster.sbatch("true", f"--dependency=afterok:{good}", kill)
    after_bad = cluster.sbatch("true", f"--dependency=afterok:{bad}", kill)
    assert cluster.wait_for_end(bad)["ExitCode"] == "3:0"
    assert cluster.wait_for_end(after_bad)["JobState"] == "CANCELLED"
    assert cluster.wait_for_end(after_good)["JobState"] == "COMPLETED"


def test_usr2_reaches_every_task(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = cluster.sbatch(CATCHES_USR2, "-N2", "-n4", output=out)
    cluster.wait_for(lambda: len(lines_of(out)) == 4, "four tasks ready")
    cluster.run("scancel", "--signal=USR2", job)
    assert cluster.wait_for_end(job)["JobState"] == "COMPLETED"
    # It reaches what the tasks started as well: their `sleep` dies of it.
    heard = [line for line in lines_of(out) if line.startswith("USR2")]
    assert sorted(heard) == [f"USR2 {rank}" for rank in range(4)]


def test_sacct_knows_ended_jobs(cluster: Cluster) -> None:
    job = cluster.sbatch("exit 3", "--job-name=counted")
    words = ("sacct", "-X", "-n", "-P", "-j", job, "--format=JobName,State,ExitCode")
    # The record of its start may come after that of its end: until then its name is "allocation".
    cluster.wait_for(
        lambda: cluster.run(*words).stdout.strip() == "counted|FAILED|3:0", "sacct knows it"
    )


# -- the other flavour ---------------------------------------------------------------------------


def test_plain_has_no_accounting_and_soon_forgets(plain_cluster: Cluster) -> None:
    ended = plain_cluster.run("sacct", check=False)
    assert ended.returncode != 0
    assert "accounting storage is disabled" in ended.stderr
    job = plain_cluster.sbatch("true")
    plain_cluster.wait_for_state(job, "PURGED")


def test_plain_requeues_only_what_asked_for_it(plain_cluster: Cluster) -> None:
    job = plain_cluster.sbatch("sleep 60")
    plain_cluster.wait_for_state(job, "RUNNING")
    assert plain_cluster.job(job)["Requeue"] == "0"
    ended = plain_cluster.run("scontrol", "requeue", job, check=False)
    assert ended.returncode != 0 and "disabled" in ended.stderr
    asking = plain_cluster.sbatch("true", "--requeue")
    assert plain_cluster.job(asking)["Requeue"] == "1"


# -- coming and going ----------------------------------------------------------------------------


def test_two_clusters_dont_see_each_other(cluster: Cluster) -> None:
    with running("nodes=1", "flavour=plain") as other:
        job = cluster.sbatch("sleep 60", "--job-name=here")
        other_job = other.sbatch("sleep 60", "--job-name=there")
        cluster.wait_for_state(job, "RUNNING")
        other.wait_for_state(other_job, "RUNNING")
        assert cluster.run("squeue", "-h", "-o", "%j").stdout.split() == ["here"]
        assert other.run("squeue", "-h", "-o", "%j").stdout.split() == ["there"]
    assert not processes_of(other.folder)
    assert cluster.job(job)["JobState"] == "RUNNING"
    assert cluster.run("srun", "-N4", "true").returncode == 0


def traces() -> set[str]:
    """What might be left outside a cluster's folder, by name."""
    places = ("/etc", "/run", "/run/lock", "/var/lib", "/var/log", "/var/spool", "/dev/shm")
    names = ("slurm", "munge", "mysql", "maria", "rehearsal")
    return {
        str(path)
        for place in places
        for path in (Path(place).iterdir() if Path(place).is_dir() else ())
        if any(name in path.name for name in names)
    }


def test_down_leaves_no_process_and_no_file() -> None:
    before = traces(), Path("/etc/hosts").read_bytes()
    with running("nodes=2") as cluster:
        again = tool("up", f"folder={cluster.folder}")
        assert again.returncode == 0 and "up already" in again.stdout
        # A task that leaves its session, and a step whose slurmstepd dies before it.
        job = cluster.sbatch("setsid sleep 600 & srun /bin/sleep 600", "-N2", "--export=NONE")
        cluster.wait_for_state(job, "RUNNING")
        cluster.wait_for(
            lambda: sum(" sleep" in line for line in cluster.processes()) == 3, "three tasks"
        )
        client = subprocess.Popen(["srun", "-w", "n1", "sleep", "600"], env=cluster.env)
        cluster.kill("n2", tasks_live_on=True)
        cluster.kill("slurmctld")
        cluster.down()
        assert client.wait(10) != 0
        assert not cluster.processes()
        assert not cluster.folder.exists()
        assert (traces(), Path("/etc/hosts").read_bytes()) == before
        cluster.down()
    assert not cluster.folder.exists()


def test_a_daemon_that_died_is_brought_back(cluster: Cluster) -> None:
    cluster.kill("n2")
    cluster.kill("slurmctld")
    assert "ready in" in cluster.up()
    assert cluster.run("srun", "-w", "n2", "hostname").returncode == 0


@pytest.mark.parametrize("when", ["munge.socket", "database.part", "database", "slurmctld.pid"])
def test_down_clears_up_after_an_up_that_was_killed(when: str) -> None:
    folder = new_folder()
    words = [sys.executable, str(ROOT / "slurm" / "cluster" / "up"), f"folder={folder}", "nodes=2"]
    starting = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    give_up_at = time.monotonic() + 60
    while not (folder / when).exists() and time.monotonic() < give_up_at:
        time.sleep(0.002)
    starting.send_signal(signal.SIGKILL)
    assert starting.wait() == -signal.SIGKILL, "it had ended before"
    assert processes_of(folder)
    ended = tool("down", f"folder={folder}")
    assert ended.returncode == 0, ended.stderr
    assert not processes_of(folder)
    assert not folder.exists()


# -- what is refused -----------------------------------------------------------------------------


def test_words_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    for word, said in (
        ("nodes=many", "expected a whole number"),
        ("nodes=0", "expected at least 1"),
        ("flavour=sweet", "expected one of full, plain"),
        ("node=3", "expected name=value with one of folder, nodes"),
    ):
        ended = tool("up", f"folder={folder}", word)
        assert ended.returncode == 2 and said in ended.stderr, ended.stderr
    long = tool("up", f"folder={folder}/{'x' * 100}")
    assert long.returncode == 2 and "too long for a socket" in long.stderr
    assert not folder.exists()


def test_a_folder_that_is_no_clusters_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for verb in ("up", "down"):
        ended = tool(verb, f"folder={tmp_path}")
        assert ended.returncode == 2 and "isn't a cluster's" in ended.stderr
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_other_words_for_a_cluster_that_is_up_are_refused(cluster: Cluster) -> None:
    ended = tool("up", f"folder={cluster.folder}", "nodes=3")
    assert ended.returncode == 2 and "is a cluster with nodes=4" in ended.stderr


def test_a_daemon_that_doesnt_come_up_is_named_with_its_log_and_what_to_do() -> None:
    with running("nodes=1", "flavour=plain") as cluster:
        cluster.kill("slurmctld")
        (cluster.folder / "state" / "clustername").write_text("another")
        ended = tool("up", f"folder={cluster.folder}")
        assert ended.returncode == 1
        assert "slurmctld ended with status 1" in ended.stderr
        assert "CLUSTER NAME MISMATCH" in ended.stderr
        assert f"slurm/cluster/down folder={cluster.folder}" in ended.stderr


# -- what became of the jobs of the first test -----------------------------------------------------


@pytest.mark.slow
def test_a_job_that_is_asked_to_starts_again(requeued: Requeued) -> None:
    lines = requeued.lines("asked")
    assert lines[0] == f"attempt 0 on {requeued.nodes['asked']}"
    assert lines[-1].startswith("attempt 1 on ")


@pytest.mark.slow
def test_a_preempted_job_gets_usr2_then_term_then_starts_again(requeued: Requeued) -> None:
    lines = requeued.lines("preempted")
    assert [line for line in lines if line in ("USR2", "TERM")][:2] == ["USR2", "TERM"]
    assert lines[-1].startswith("attempt 1 on ")
    assert any("DUE TO PREEMPTION" in line for line in lines)
    words = ("sacct", "-X", "-n", "-P", "-D", "-j", requeued.ids["preempted"], "--format=State")
    states = requeued.cluster.run(*words).stdout.split()
    assert states[0] == "PREEMPTED"


@pytest.mark.slow
def test_a_job_on_a_lost_node_starts_again_on_another(requeued: Requeued) -> None:
    lines = requeued.lines("lost")
    assert lines[-1].startswith("attempt 1 on ")
    assert not lines[-1].endswith(f" on {requeued.nodes['lost']}")


@pytest.mark.slow
def test_tasks_outlive_a_node_that_was_only_cut_off(requeued: Requeued) -> None:
    lines = requeued.lines("unreachable")
    assert not lines[-1].endswith(f" on {requeued.nodes['unreachable']}")
    beat = requeued.folder / f"beat-{requeued.ids['unreachable']}"
    then = beat.stat().st_mtime_ns
    requeued.cluster.wait_for(lambda: beat.stat().st_mtime_ns > then, "the first attempt lives")
    lost = requeued.folder / f"beat-{requeued.ids['lost']}"
    assert lost.stat().st_mtime_ns < then
