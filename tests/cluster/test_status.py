"""How runs are: disk first, then squeue, then accounting; what nobody knows isn't claimed."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fabricated import DOWN, FakeRun, fabricate
from fake_slurm import FakeSlurm

from qa_dist.cluster.status import RunStatus, collect
from qa_dist.files import write_json

GONE = "slurm_load_jobs error: Invalid job id specified"
CANCELLED = "slurmstepd: error: *** JOB 2 ON n1 CANCELLED AT 2026-11-21T03:11:56 ***\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake.has_no_accounting()
    fake.answers("squeue", "", GONE)
    return fake


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    return fabricate(tmp_path, num_shards=4)


def submit_all(fake: FakeRun, num_shards: int = 4) -> None:
    fake.submit("prepare", 1, range(num_shards), is_array=True)
    fake.submit("train", 2)
    fake.submit("evaluate", 3, range(2), is_array=True)
    fake.submit("aggregate", 4)


def ask(fake: FakeRun) -> RunStatus:
    (found,) = collect([fake.run])
    return found


def states(found: RunStatus) -> dict[str, list[str]]:
    return {stage.stage: [element.state for element in stage.elements] for stage in found.stages}


def notes(found: RunStatus, stage: str) -> list[str]:
    (one,) = [s for s in found.stages if s.stage == stage]
    return [element.note for element in one.elements]


# ---- on SLURM


def test_a_run_in_the_queue(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0)
    fake.beat("prepare", 1, "running", step=30, of=60, unit="records", seconds=10.0)
    slurm.answers(
        "squeue",
        "1|1|RUNNING|None|n2|1|(null)\n1|2-3%2|PENDING|JobArrayTaskLimit||N/A|(null)\n"
        "2|N/A|PENDING|Dependency||N/A|afterok:1_*(unfulfilled)\n"
        "3|0-1|PENDING|Dependency||N/A|afterok:2(unfulfilled)\n"
        "4|N/A|PENDING|Dependency||N/A|afterok:3_*(unfulfilled)\n",
    )
    found = ask(fake)
    assert states(found) == {
        "prepare": ["done", "running", "waiting", "waiting", "done"],
        "train": ["waiting"],
        "evaluate": ["waiting", "waiting"],
        "aggregate": ["waiting"],
    }
    assert found.state == "running" and found.where == "slurm" and found.queue == ""
    prepare = found.stages[0]
    assert prepare.elements[1].nodes == "n2" and prepare.elements[1].job == "1_1"
    assert "as many elements as the profile's max_parallel" in prepare.elements[2].note
    assert prepare.rate == 3.0 and prepare.eta_s == pytest.approx((30 + 2 * 60) / 3)
    assert notes(found, "train") == ["the stage before it isn't done (Dependency)"]


def test_training_tells_its_rate_loss_and_time_left(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.train(step=40, of=100)
    fake.run.scalars.write_text(
        '{"step": 20, "validation/loss": 2.5}\n{"step": 40, "train/loss": 1.25, '
        '"speed/windows_per_s": 16.0}\n{"step": 41, "train/lo'
    )
    slurm.answers("squeue", "2|N/A|RUNNING|None|n[1-2]|1|(null)\n")
    found = ask(fake)
    train = found.stages[1]
    assert (train.state, train.step, train.of, train.attempt) == ("running", 40, 100, 1)
    assert train.rate == 2.0 and train.eta_s == 30.0, "16 windows/s, 8 windows a step"
    assert (found.loss, found.validation_loss) == (1.25, 2.5)


def test_a_finished_run_asks_nobody(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.train(8, of=8)
    fake.evaluate(8)
    fake.score(8)
    fake.beat("aggregate", 0, "done")
    found = ask(fake)
    assert found.state == "done" and found.score == {"step": 8, "em": 61.25, "f1": 70.5}
    assert states(found)["evaluate"] == ["done"], "the surplus element isn't one"
    assert slurm.calls == []


def test_what_training_submits_at_each_checkpoint_waits_for_it(
    fake: FakeRun, slurm: FakeSlurm
) -> None:
    fake.run.recipe.write_text(
        "train:\n  batch_windows: 8\n  checkpoint_every_steps: 4\nevaluation:\n"
        "  when: each_checkpoint\n"
    )
    facts = json.loads(fake.run.run_json.read_text())
    fake.run.run_json.write_text(
        json.dumps({**facts, "stages": ["train", "evaluate", "aggregate"]})
    )
    fake.prepare(0, 1, 2, 3)
    fake.submit("train", 2)
    slurm.answers("squeue", "2|N/A|RUNNING|None|n1|1|(null)\n")
    fake.beat("train", 0, "running", step=1, of=12)
    to_come = "training submits it at the next checkpoint"
    assert notes(ask(fake), "evaluate") == notes(ask(fake), "aggregate") == [to_come]
    fake.train(4, of=12)
    fake.evaluate(4)
    fake.train(8, of=12)
    fake.submit("aggregate", 4)
    fake.submit("evaluate", 5, [1])
    fake.beat("evaluate", 1, "running", step=0, of=9)
    fake.submit("aggregate", 6)
    fake.beat("aggregate", 0, "done", step=1, of=2)
    fake.train(11, of=12)
    fake.beat("evaluate", 2, "waiting", not_submitted="controller down")
    slurm.answers(
        "squeue",
        "2|N/A|RUNNING|None|n1|1|(null)\n4|N/A|PENDING|Dependency||N/A|afterok:3_*\n"
        "5|N/A|RUNNING|None|n1|1|(null)\n6|N/A|COMPLETED|None|n1|1|(null)\n",
    )
    found = ask(fake)
    assert states(found)["evaluate"] == ["done", "running"] and found.state == "running"
    assert found.stages[3].elements[0].job == "4", "one that lives counts before a newer one"
    fake.train(12, of=12)
    slurm.answers("squeue", "6|N/A|COMPLETED|None|n1|1|(null)\n")
    found = ask(fake)
    assert states(found)["evaluate"] == ["done", "failed", "missing"]
    assert notes(found, "evaluate")[2] == "couldn't be submitted (controller down); launch again"
    assert notes(found, "aggregate") == ["it had only 1 of 2 to work on"]


def test_s1_a_queue_that_is_down_leaves_what_the_disk_says(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.beat("train", 0, "running", step=4, of=8)
    slurm.answers("squeue", "", DOWN)
    found = ask(fake)
    assert "Unable to contact slurm controller" in found.queue
    assert states(found)["train"] == ["running"] and states(found)["evaluate"] == ["waiting"] * 2
    slurm.answers("squeue", "2|N/A|RUNNING|None|n1|1|(null)\n")
    assert ask(fake).queue == "", "it recovers"


def test_s2_a_job_that_ended_without_a_word_failed_with_its_last_lines(
    fake: FakeRun, slurm: FakeSlurm
) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.beat("train", 0, "running", step=4, of=8)
    fake.log("train-0-1-0.err", "first\nMemoryError: no more\n")
    fake.log("train-0-1-1.err", "submitit WARNING (now) - Bypassing signal SIGCONT\nBus error\n")
    fake.log("train-0-0-0.err", "an earlier attempt\n")
    found = ask(fake)
    assert states(found)["train"] == ["failed"] and found.state == "failed"
    assert notes(found, "train") == [
        "its job 2 ended without a word\nfirst\nMemoryError: no more\nBus error"
    ]
    assert states(found)["aggregate"] == ["missing"]
    assert notes(found, "aggregate") == ["not run: the stage before it isn't done"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2|TIMEOUT|n1|0:0", "ran into its time limit"),
        ("2|OUT_OF_MEMORY|n1|0:125", "raise mem_gb"),
        ("2|NODE_FAIL|n1|1:0", "its node was lost"),
        ("2|FAILED|n1|9:0", "ended without a word"),
    ],
)
def test_accounting_tells_how_a_job_ended(
    fake: FakeRun, slurm: FakeSlurm, line: str, said: str
) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.beat("train", 0, "running", step=4, of=8)
    slurm.answers("sacct", line + "\n")
    (note,) = notes(ask(fake), "train")
    assert said in note


def test_without_accounting_slurms_words_in_the_log_tell(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.beat("train", 0, "running", step=4, of=8)
    text = CANCELLED.replace("56 ***", "56 DUE TO TIME LIMIT ***")
    fake.log("submitit/2_0_log.err", text)
    assert "it ran into its time limit before it could save" in notes(ask(fake), "train")[0]
    fake.log("submitit/2_0_log.err", CANCELLED)
    found = ask(fake)
    assert states(found)["train"] == ["missing"] and notes(found, "train") == ["it was cancelled"]


def test_s4_a_stage_behind_a_failed_one_was_not_run(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.beat("train", 0, "failed", error="CUDA error\nno kernel image")
    slurm.answers("squeue", "3|0-1|CANCELLED|DependencyNeverSatisfied||N/A|(null)\n")
    found = ask(fake)
    assert notes(found, "train") == ["CUDA error\nno kernel image"]
    assert states(found)["evaluate"] == ["missing", "missing"]
    assert set(notes(found, "evaluate")) == {"not run: the stage before it isn't done"}


def test_a_dependency_that_can_never_be_met_is_said_while_it_waits(
    fake: FakeRun, slurm: FakeSlurm
) -> None:
    submit_all(fake)
    slurm.answers("squeue", "3|0-1|PENDING|DependencyNeverSatisfied||N/A|(null)\n")
    assert notes(ask(fake), "evaluate")[0].startswith("a stage before it failed")


def test_a_requeued_job_waits_whatever_its_last_attempt_said(
    fake: FakeRun, slurm: FakeSlurm
) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.train(4, of=8)
    slurm.answers("squeue", f"2|N/A|PENDING|BeginTime||{int(time.time()) + 100}|(null)\n")
    found = ask(fake)
    assert states(found)["train"] == ["waiting"]
    assert notes(found, "train")[0].startswith("queued again, starts in ")
    slurm.answers("squeue", "2|N/A|RUNNING|None|n1|1|(null)\n")
    fake.beat("train", 0, "waiting", step=4, of=8)
    assert notes(ask(fake), "train") == ["starting"]


def test_a_job_failed_only_if_it_ever_began(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    found = ask(fake)
    assert states(found)["prepare"] == ["missing"] * 4 + ["done"]
    assert notes(found, "prepare")[0] == "its job 1_0 never started"
    fake.log("submitit/1_0_0_log.err", "srun: error: python: not found\n")
    found = ask(fake)
    assert states(found)["prepare"][:2] == ["failed", "missing"]
    words = "its job 1_0 ended without a word\nsrun: error: python: not found"
    assert notes(found, "prepare")[0] == words


def test_of_many_that_were_killed_as_they_began_each_failed(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    """The logs of a few are read only; that there is one tells enough of the others."""
    fake = fabricate(tmp_path, num_shards=20)
    submit_all(fake, 20)
    for index in range(19):
        fake.log(f"submitit/1_{index}_0_log.err", "Killed\n")
    found = ask(fake)
    assert states(found)["prepare"] == ["failed"] * 19 + ["missing", "done"]
    assert notes(found, "prepare")[18] == "its job 1_18 ended without a word"


def test_a_cancelled_run_remembers(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    facts = json.loads(fake.run.run_json.read_text())
    write_json(fake.run.run_json, {**facts, "cancelled": [2, 3, 4]})
    found = ask(fake)
    assert notes(found, "train") == ["it was cancelled"] and found.state == "stopped"
    fake.submit("train", 9)
    assert notes(ask(fake), "train") == ["its job 9 never started"], "another job"


def test_what_was_stopped_in_order_says_by_what(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2, 3)
    fake.beat("train", 0, "stopped", step=4, of=8, stopped_by="preempted")
    assert notes(ask(fake), "train") == ["stopped in order (preempted)"]


def test_a_marker_that_is_gone_is_missing(fake: FakeRun, slurm: FakeSlurm) -> None:
    submit_all(fake)
    fake.prepare(0, 1, 2)
    for element in range(4):
        fake.beat("prepare", element, "done", step=60, of=60)
    found = ask(fake)
    assert states(found)["prepare"] == ["done", "done", "done", "missing", "done"]
    assert notes(found, "prepare")[3] == "what it made is gone"


# ---- on this machine


def test_a_local_run_needs_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    fake = fabricate(tmp_path, where="local")
    fake.prepare(0)
    own = {"pid": os.getpid(), "host": socket.gethostname(), "updated_at": time.time()}
    fake.beat("train", 0, "running", step=4, of=8, **own)
    found = ask(fake)
    assert states(found)["train"] == ["running"] and found.where == "local"
    assert states(found)["evaluate"] == ["missing"] and notes(found, "evaluate") == ["not begun"]
    assert found.updated_at == own["updated_at"] and found.queue == ""


def test_a_local_heartbeat_whose_process_is_gone_failed(tmp_path: Path) -> None:
    fake = fabricate(tmp_path, where="local")
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = {"host": socket.gethostname(), "updated_at": time.time()}
    fake.beat("train", 0, "running", step=4, of=8, pid=ended.pid, **here)
    fake.log("train-0-2-0.err", "Killed\n")
    found = ask(fake)
    assert states(found)["train"] == ["failed"]
    assert notes(found, "train") == ["its process ended without a word\nKilled"]
    own = {**here, "updated_at": time.time() - 40 * 24 * 3600}
    fake.beat("train", 0, "running", step=4, of=8, pid=os.getpid(), **own)
    assert states(ask(fake))["train"] == ["failed"], "a process that began later has its number"


def test_a_process_of_another_machine_is_believed(tmp_path: Path) -> None:
    fake = fabricate(tmp_path, where="local")
    fake.beat("train", 0, "running", pid=1, host="elsewhere", updated_at=time.time() - 70)
    assert notes(ask(fake), "train") == ["on elsewhere, last sign 70 s ago"]


def test_elements_wait_while_the_launch_lives(tmp_path: Path) -> None:
    fake = fabricate(tmp_path, num_shards=2, where="local")
    fake.beat("prepare", 0, "running", step=1, of=2)
    fake.beat("prepare", 1, "waiting")
    lock = fake.run.root / "launch.lock"
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()} since 2026-01-01 00:00:00")
    assert states(ask(fake))["prepare"] == ["failed", "missing", "done"], "not its holder any more"
    with lock.open():
        found = ask(fake)
    assert states(found)["prepare"] == ["running", "waiting", "done"]
    assert found.holder and found.holder.pid == os.getpid()


# ---- many


def test_one_question_for_all_runs(tmp_path: Path, slurm: FakeSlurm) -> None:
    runs = []
    for number in range(3):
        fake = fabricate(tmp_path, name=f"run{number}")
        fake.submit("train", 10 + number)
        runs.append(fake.run)
    slurm.answers("squeue", "11|N/A|RUNNING|None|n1|1|(null)\n")
    found = collect(runs)
    assert [run.stages[1].state for run in found] == ["missing", "running", "missing"]
    asked = [call for call in slurm.calls if call.startswith("squeue")]
    assert len(asked) == 1 and asked[0].endswith("-j 10,11,12")


def test_a_thousand_elements_are_told_within_a_second(fake: FakeRun, slurm: FakeSlurm) -> None:
    facts = json.loads(fake.run.run_json.read_text())
    facts["prepared"]["num_shards"]["train"] = 1000
    write_json(fake.run.run_json, facts)
    submit_all(fake, 1000)
    fake.prepare(*range(600))
    for element in range(600, 1000):
        state = "failed" if element < 660 else "running"
        fake.beat("prepare", element, state, step=1, of=9, seconds=2.0, error="x" * 500)
        fake.log(f"prepare-{element}-1-0.err", "some words\n" * 100)
    slurm.answers("squeue", "".join(f"1|{i}|RUNNING|None|n1|1|(null)\n" for i in range(700, 1000)))
    code = (
        "import sys; sys.path.insert(0, '.'); sys.argv = ['status.py', *sys.argv[1:]]\n"
        "import runpy\n"
        "try: runpy.run_path('jobs/status.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 1, end.code\n"
        "heavy = {'torch', 'numpy', 'transformers', 'submitit', 'omegaconf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, str(fake.run.root), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["stages"][0]["elements"] == {
        "done": 601, "running": 300, "waiting": 0, "failed": 100, "missing": 0,
    }  # fmt: skip
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 1.0, f"{seconds:.2f} s"
