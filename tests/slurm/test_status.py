"""What status, cancel and the queue make of a real SLURM's answers: waiting and why, array pieces,
jobs that end without a word, with accounting and without, and a controller that is down (S1-S4)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fabricated import FakeRun, fabricate
from slurm_clusters import ROOT, Cluster

from qa_dist.cluster.queue import queued_jobs
from qa_dist.cluster.status import RunStatus, collect
from qa_dist.cluster.stop import stop_run

pytestmark = pytest.mark.slurm


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    fake = fabricate(tmp_path, num_shards=4)
    fake.prepare(0, 1)
    return fake


def use(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])


def ask(fake: FakeRun) -> RunStatus:
    (found,) = collect([fake.run])
    return found


def element(fake: FakeRun, stage: int, index: int = 0) -> tuple[str, str]:
    one = ask(fake).stages[stage].elements[index]
    return one.state, one.note


def submit(fake: FakeRun, cluster: Cluster, script: str = "sleep 300") -> dict[str, str]:
    """Submit a job for each stage that does nothing of the kind; return the ids."""
    log = fake.run.logs / "submitit"
    log.mkdir(exist_ok=True)
    ids = {"prepare": cluster.sbatch(script, "--array=0-1%1")}
    fake.submit("prepare", int(ids["prepare"]), [2, 3], is_array=True)
    after = f"--dependency=afterok:{ids['prepare']}"
    ids["train"] = cluster.sbatch(script, after, "--kill-on-invalid-dep=yes")
    fake.submit("train", int(ids["train"]))
    return ids


def wait(cluster: Cluster, is_true: Callable[[], bool], what: str) -> None:
    cluster.wait_for(is_true, what, every_s=0.3)


def test_s1_what_runs_waits_and_why_even_while_the_controller_is_down(
    cluster: Cluster, fake: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(cluster, monkeypatch)
    submit(fake, cluster)
    wait(cluster, lambda: element(fake, 0, 2) == ("running", "starting"), "an element that runs")
    wait(cluster, lambda: "max_parallel" in element(fake, 0, 3)[1], "the limit of the array")
    assert element(fake, 0, 3)[0] == "waiting"
    assert element(fake, 1) == ("waiting", "the stage before it isn't done (Dependency)")
    assert ask(fake).stages[0].elements[2].nodes.startswith("n")
    fake.beat("prepare", 2, "running", step=1, of=2)
    cluster.wait_for_saved_state()
    cluster.kill("slurmctld")
    words = (sys.executable, str(ROOT / "jobs" / "status.py"), str(fake.run.root), "--json")
    started = time.monotonic()
    facts = json.loads(cluster.run(*words).stdout)
    assert time.monotonic() - started < 30
    assert "Unable to contact slurm controller" in facts["queue"] or "no answer" in facts["queue"]
    assert facts["stages"][0]["state"] == "running"
    cluster.up()
    wait(cluster, lambda: ask(fake).queue == "", "an answer again")
    assert element(fake, 0, 2) == ("running", "")


def test_s4_a_job_that_failed_takes_those_behind_it_along(
    cluster: Cluster, fake: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(cluster, monkeypatch)
    ids = submit(fake, cluster, "exit 3")
    cluster.wait_for_end(ids["train"])
    fake.beat("prepare", 2, "running", step=1, of=2)
    state, note = element(fake, 0, 2)
    assert state == "failed" and "ended without a word" in note
    assert element(fake, 1) == ("missing", "not run: the stage before it isn't done")


def test_s2_without_accounting_a_forgotten_job_is_not_waited_for(
    plain_cluster: Cluster, fake: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(plain_cluster, monkeypatch)
    ids = submit(fake, plain_cluster)
    wait(plain_cluster, lambda: element(fake, 0, 2)[0] == "running", "an element that runs")
    fake.beat("prepare", 2, "running", step=1, of=2)
    plain_cluster.run("scancel", "--signal=KILL", "--full", f"{ids['prepare']}_0")
    wait(plain_cluster, lambda: element(fake, 0, 2)[0] == "failed", "a failed element")
    assert "ended without a word" in element(fake, 0, 2)[1]


def test_what_is_cancelled_is_remembered_by_the_run(
    plain_cluster: Cluster, fake: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(plain_cluster, monkeypatch)
    ids = submit(fake, plain_cluster)
    first, second, _ = stop_run(fake.run)
    assert first.startswith(f"cancelled prepare: job {ids['prepare']} (")
    assert second.startswith(f"cancelled train: job {ids['train']} (pending")
    plain_cluster.wait_for(lambda: not queued_jobs(map(int, ids.values())), "jobs are forgotten")
    assert element(fake, 0, 2) == ("missing", "it was cancelled")
    assert stop_run(fake.run) == ["nothing to cancel: none of its jobs is waiting or running"]


def test_an_array_with_gaps_is_read_whole(
    plain_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(plain_cluster, monkeypatch)
    for asked, indices in (("0-6:2", (0, 2, 4, 6)), ("0,3,5-7%2", (0, 3, 5, 6, 7))):
        job = plain_cluster.sbatch("true", "--begin=now+600", f"--array={asked}")
        (found,) = queued_jobs([int(job)])
        assert found.indices == indices
