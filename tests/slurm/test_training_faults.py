"""Training that is signalled, killed, frozen, or loses a node of a real cluster, and goes on.

Rows T3, T9-T14, T16, T17 and T19-T21 of the list of faults; T1, T2, T8 and T15 are in
test_launch.py. What several rows can share is one run: it is interrupted in several ways, and each
test looks at one of them. Equal means: the same bytes as a run that nothing interrupted.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from runs import artefacts, curve, fault_environ, final_state, temporary_files, windows_sha256
from slurm_cases import SlurmCase, ranks_of, slowly
from slurm_clusters import ENDED, ROOT, Cluster

from qa_dist import faults
from qa_dist.code_version import code_version
from qa_dist.files import MARKER, read_json
from qa_dist.processes import children_of, is_alive
from qa_dist.run_dir import RunDir, step_name

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

TRAIN = "stages=train"
INTERVAL = 3
"""Steps between two checkpoints of launch_words."""
WAIT_S = 300
"""For what takes 20 s on an idle machine."""


def trained_state(run: RunDir) -> dict[str, Any]:
    """Return what training alone leaves."""
    return {name: part for name, part in final_state(run).items() if name != "scores"}


class Watched:
    """A case's run, as the log of injected faults tells it: each step of each attempt is in it."""

    def __init__(self, case: SlurmCase) -> None:
        self.case, self.cluster, self.run = case, case.cluster, case.run

    def reached(self, attempt: int, point: str = "train.step") -> list[dict[str, Any]]:
        log = faults.read_log(self.case.log)
        return [one for one in log if (one["attempt"], one["point"]) == (attempt, point)]

    def wait_for_ranks(self, attempt: int, point: str = "train.step") -> None:
        def all_there() -> bool:
            return {f["rank"] for f in self.reached(attempt, point)} == set(range(4))

        self.cluster.wait_for(all_there, f"attempt {attempt} at {point}", WAIT_S)

    def usr2(self, job: str) -> None:
        self.cluster.run("scancel", "--signal=USR2", job)

    def started(self, job: str) -> float:
        """When SLURM started it the last time, in seconds since 1970."""
        words = ("scontrol", "--oneliner", "show", "job", job)
        shown = self.cluster.run(*words, env={"SLURM_TIME_FORMAT": "%s"}).stdout
        found = re.search(r"StartTime=(\d+)", shown)
        assert found, shown
        return float(found[1])

    def resumed_at(self, attempt: int) -> int:
        """The step that an attempt went on from, as its log says."""
        text = (self.run.logs / f"train-0-{attempt}-0.out").read_text()
        found = re.search(r"resuming main at step (\d+) of 8", text)
        assert found, text
        return int(found[1])

    def last_step(self, attempt: int) -> int:
        """The number of the last step that an attempt began; the first is 0."""
        return max(f["step"] for f in self.reached(attempt))


# ---- one run, interrupted at its start, while saving, by a kill; its checkout changes meanwhile


@dataclass
class Interrupted(Watched):
    case: SlurmCase
    starts: dict[int, float] = field(default_factory=dict)
    """Attempt -> when SLURM started it."""
    children: dict[int, list[int]] = field(default_factory=dict)
    """Rank -> the processes that it started."""
    restarts: str = ""
    error: str = ""
    said: str = ""
    """By the launch with changed code."""
    code: dict[int, str] = field(default_factory=dict)
    """Step -> which code its checkpoint says it is from."""

    def __post_init__(self) -> None:
        super().__init__(self.case)

    def note_code(self, step: int) -> None:
        marker = read_json(self.run.checkpoints / step_name(step) / MARKER)
        self.code[step] = marker["code"]


KILL_STEP = 5
EVENTS = "|".join(
    [
        "point=job.start;attempt=1;action=sleep:3",
        "point=checkpoint.after_files;attempt=2;action=sleep:2",
        f"point=train.step;attempt=3;rank=3;step={KILL_STEP};action=kill9",
        slowly(),
    ]
)


@pytest.fixture(scope="module")
def interrupted(
    shared_cluster: Cluster,
    undisturbed: RunDir,
    launch_words: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Interrupted:
    shared_cluster.up()
    case = SlurmCase(shared_cluster, launch_words, tmp_path_factory.mktemp("interrupted"))
    case.code = case.folder / "checkout"
    for name in ("jobs", "qa_dist", "configs", "slurm"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, case.code / name, ignore=ignored)
    one = Interrupted(case)
    job = case.submits(TRAIN, fault=EVENTS)["train"]

    # attempt 1: signalled before there is a Python, and again while it imports
    shared_cluster.wait_for_state(job, "RUNNING")
    one.usr2(job)
    one.wait_for_ranks(1, "job.start")
    one.starts[1] = one.started(job)
    loop = case.code / "qa_dist" / "training" / "loop.py"
    good = loop.read_text()
    loop.write_text("raise RuntimeError('half edited')\n")
    one.usr2(job)

    # attempt 2: signalled twice, and once more while it saves
    one.wait_for_ranks(2)
    one.starts[2] = one.started(job)
    one.children = {rank: children_of(pid) for rank, pid in ranks_of(job).items()}
    one.usr2(job)
    time.sleep(0.2)
    one.usr2(job)
    shared_cluster.wait_for(lambda: one.reached(2, "checkpoint.after_files"), "it saves", WAIT_S)
    one.usr2(job)

    # attempt 3: a rank is killed; then a launch with other code
    one.wait_for_ranks(3)
    one.starts[3] = one.started(job)
    ended = shared_cluster.wait_for_end(job, WAIT_S)
    assert ended["JobState"] == "FAILED"
    one.restarts, one.error = ended["Restarts"], case.status()["error"]
    one.note_code(3)
    loop.write_text(good + "# one more line\n")
    done = case.launch(TRAIN)
    assert done.returncode == 0, done.stderr
    one.said = done.stdout
    job = str(read_json(case.run.jobs)[-1]["job"])
    assert shared_cluster.wait_for_end(job, WAIT_S)["JobState"] == "COMPLETED", case.failure()
    one.note_code(8)
    return one


def test_t09_usr2_before_the_handlers_are_there_loses_nothing(interrupted: Interrupted) -> None:
    assert len(interrupted.reached(1, "job.start")) == 4, "it slept where imports begin"
    assert interrupted.last_step(1) == 0, "it stopped at the first step's end"
    assert interrupted.resumed_at(2) == 1


def test_t10_usr2_twice_and_while_saving_is_one_requeue_and_a_whole_checkpoint(
    interrupted: Interrupted,
) -> None:
    assert len(interrupted.reached(2, "checkpoint.after_files")) == 1
    assert interrupted.restarts == "2", "one for T9, one for T10"
    assert interrupted.resumed_at(3) == interrupted.last_step(2) + 1, "no step is lost"
    assert temporary_files(interrupted.run) == []


def test_t11_training_has_no_process_that_a_signal_could_surprise(
    interrupted: Interrupted,
) -> None:
    assert interrupted.children == {rank: [] for rank in range(4)}


def test_t20_several_interruptions_in_one_epoch_end_equal(
    interrupted: Interrupted, undisturbed: RunDir
) -> None:
    assert [f["step"] for f in interrupted.reached(3) if f["action"] == "kill9"] == [KILL_STEP]
    assert KILL_STEP - interrupted.resumed_at(4) <= INTERVAL
    assert re.match(r"rank 3 \(process \d+ on n\d\) ended", interrupted.error), interrupted.error
    assert trained_state(interrupted.run) == trained_state(undisturbed)


def test_t21_each_attempt_runs_the_runs_own_code_and_a_launch_with_other_code_warns(
    interrupted: Interrupted,
) -> None:
    old, new = code_version(), code_version(interrupted.case.code / "qa_dist")
    said = f"warning: the code has changed since this run was last launched ({old} -> {new}: "
    assert f"{said}qa_dist/training/loop.py)" in interrupted.said
    assert interrupted.code == {3: old, 8: new}
    for attempt, code in ((1, old), (2, old), (3, old), (4, new)):
        for rank in range(4):
            log = interrupted.run.logs / f"train-0-{attempt}-{rank}.out"
            head = f"# train 0, attempt {attempt}, rank {rank}, code {code}\n"
            assert log.read_text().startswith(head)
            assert log.read_text().count("# train") == 1, "one attempt's words each"


def test_a_requeued_training_does_its_first_new_step_within_30_s(interrupted: Interrupted) -> None:
    """From SLURM's new start of the job until it begins to save or do what follows that step."""
    took = {}
    for attempt in (2, 3):
        log = [f for f in faults.read_log(interrupted.case.log) if f["attempt"] == attempt]
        first = interrupted.resumed_at(attempt)
        done_at = min(f["time"] for f in log if f["step"] is not None and f["step"] > first)
        took[attempt] = done_at - interrupted.starts[attempt]
    new = min(f["time"] for f in interrupted.reached(1)) - interrupted.starts[1]
    print(
        f"SLURM's start to the first new step, in s: {took}; to a new run's first step: {new:.1f}"
    )
    # A busy machine is slow at the first start as well.
    assert all(seconds <= max(30, 2 * new) for seconds in took.values()), (took, new)


# ---- one run, launched twice at once, killed without grace, on fewer and fewer ranks


@dataclass
class Shrinking:
    case: SlurmCase
    answers: list[tuple[int, str]] = field(default_factory=list)
    """Exit status and words of the two launches."""
    job: str = ""
    resumed_at: dict[int, int] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)
    """Attempt -> the last step that it began."""


@pytest.fixture(scope="module")
def shrinking(
    shared_cluster: Cluster,
    undisturbed: RunDir,
    launch_words: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Shrinking:
    shared_cluster.up()
    case = SlurmCase(shared_cluster, launch_words, tmp_path_factory.mktemp("shrinking"))
    watched, one = Watched(case), Shrinking(case)
    words = [sys.executable, str(ROOT / "jobs" / "launch.py"), *case.words, TRAIN]
    environ = {**shared_cluster.env, **fault_environ(slowly(), case.log)}
    both = [
        subprocess.Popen(
            words, cwd=case.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    for launch in both:
        text, _ = launch.communicate(timeout=WAIT_S)
        one.answers.append((launch.returncode, text.decode()))
    ranks = ["nodes=1", "ranks_per_node=2"], ["nodes=1", "ranks_per_node=1"]
    for attempt, fewer in enumerate(ranks, start=1):
        one.job = str(read_json(case.run.jobs)[-1]["job"])
        shared_cluster.wait_for(
            lambda n=attempt: any(f["step"] >= 2 + 2 * n for f in watched.reached(n)),
            f"attempt {attempt}",
            WAIT_S,
        )
        # The step: of a whole job it would be a cancellation, with a grace time.
        shared_cluster.run("scancel", "--signal=KILL", f"{one.job}.0")
        ended = shared_cluster.wait_for_end(one.job, WAIT_S)
        assert ended["JobState"] == "FAILED", "killed, not cancelled"
        one.reached[attempt] = watched.last_step(attempt)
        one.job = case.submits(TRAIN, *fewer, fault=slowly())["train"]
    assert shared_cluster.wait_for_end(one.job, WAIT_S)["JobState"] == "COMPLETED", case.failure()
    for attempt in (2, 3):
        one.resumed_at[attempt] = watched.resumed_at(attempt)
    return one


def test_t17_of_two_launches_at_once_one_is_refused(shrinking: Shrinking) -> None:
    assert sorted(status for status, _ in shrinking.answers) == [0, 2], shrinking.answers
    (refused,) = [text for status, text in shrinking.answers if status == 2]
    assert "being launched by process" in refused or "in the queue" in refused
    jobs = read_json(shrinking.case.run.jobs)
    assert [job["attempt"] for job in jobs] == [1, 2, 3], "one job per launch that was let in"


def test_t13_killed_without_grace_goes_on_from_the_last_checkpoint(shrinking: Shrinking) -> None:
    for attempt in (1, 2):
        lost = shrinking.reached[attempt] - shrinking.resumed_at[attempt + 1]
        assert 0 <= lost <= INTERVAL, (shrinking.reached, shrinking.resumed_at)
    assert shrinking.resumed_at[3] > 0


def test_t19_four_ranks_then_two_then_one_walk_the_curve_of_four(
    shrinking: Shrinking, undisturbed: RunDir
) -> None:
    run = shrinking.case.run
    for attempt, count in ((1, 4), (2, 2), (3, 1)):
        assert len(list(run.logs.glob(f"train-0-{attempt}-*.out"))) == count
    assert windows_sha256(run) == windows_sha256(undisturbed)
    ours, theirs = curve(run), curve(undisturbed)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


def test_t16_a_completed_job_that_is_requeued_changes_nothing(
    shrinking: Shrinking, cluster: Cluster
) -> None:
    before = artefacts(shrinking.case.run)
    assert len(before) > 5
    cluster.run("scontrol", "requeue", shrinking.job)
    cluster.wait_for(
        lambda: (
            cluster.job(shrinking.job)["Restarts"] == "1"
            and cluster.job(shrinking.job)["JobState"] in ENDED
        ),
        "it ran again",
        WAIT_S,
    )
    assert cluster.job(shrinking.job)["JobState"] == "COMPLETED"
    assert (shrinking.case.run.logs / "train-0-4-0.out").exists(), "it did start"
    assert artefacts(shrinking.case.run) == before


# ---- time limits


def give_short_lead(case: SlurmCase) -> None:
    """Signal 30 s before the end, and give peers up after 20 s."""
    profile = case.folder / "here.yaml"
    text = profile.read_text().replace("signal_lead_s: 90", "signal_lead_s: 30\nmax_timeouts: 1")
    profile.write_text(text)


def test_t12_time_limits_requeue_until_there_were_too_many_then_it_goes_on_by_hand(
    case: SlurmCase, undisturbed: RunDir
) -> None:
    give_short_lead(case)
    watched = Watched(case)
    # SLURM looks every 30 s whose limit is near, so steps must last that long.
    slow = [f"point=train.step;attempt={n};action=sleep:{s};times=99" for n, s in ((1, 8), (2, 12))]
    job = case.submits(TRAIN, fault="|".join(slow))["train"]
    for attempt in (1, 2):
        watched.wait_for_ranks(attempt)
        end = time.strftime("%FT%T", time.localtime(time.time() + 60))
        case.cluster.run("scontrol", "update", f"JobId={job}", f"EndTime={end}")
        case.cluster.wait_for(
            lambda n=attempt: case.status().get("attempt") == n and "stopped_by" in case.status(),
            "it stops",
            WAIT_S,
        )
        assert case.status()["stopped_by"] == "time limit", case.status()
        assert case.status()["saved_step"] == watched.last_step(attempt) + 1, "no step is lost"
    ended = case.cluster.wait_for_end(job)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "1")
    error = case.status()["error"]
    assert error.startswith("ran into its time limit 2 times (max_timeouts=1); all is saved")
    job = case.submits(TRAIN)["train"]
    assert case.cluster.wait_for_end(job, WAIT_S)["JobState"] == "COMPLETED", case.failure()
    assert trained_state(case.run) == trained_state(undisturbed)


# ---- a frozen rank, then a lost node


@dataclass
class Frozen:
    case: SlurmCase
    error: str
    after_s: float
    """From the freeze to the error."""
    pid: int
    batch_host: str
    state: str
    """Of the job in the end."""


@pytest.fixture(scope="module")
def frozen(
    shared_cluster: Cluster,
    undisturbed: RunDir,
    launch_words: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Frozen]:
    shared_cluster.up()
    case = SlurmCase(shared_cluster, launch_words, tmp_path_factory.mktemp("frozen"))
    give_short_lead(case)
    fault = "point=train.step;attempt=1;rank=3;step=4;action=stop"
    job = case.submits(TRAIN, fault=fault)["train"]
    shared_cluster.wait_for(lambda: case.status()["state"] == "failed", "an error", WAIT_S)
    after_s = time.time() - faults.read_log(case.log)[-1]["time"]
    pid, error = faults.read_log(case.log)[-1]["pid"], case.status()["error"]
    assert case.fired() == [("train.step", "stop", 4)]
    ended = shared_cluster.wait_for_end(job, WAIT_S)
    yield Frozen(case, error, after_s, pid, ended["BatchHost"], ended["JobState"])


def test_t03_a_frozen_rank_of_another_node_is_named_and_the_job_ends(frozen: Frozen) -> None:
    found = re.match(r"rank 3 \(process (\d+) on (n\d)\) didn't answer", frozen.error)
    assert found, frozen.error
    assert int(found[1]) == frozen.pid
    assert found[2] != frozen.batch_host
    assert 20 <= math.ceil(frozen.after_s) <= 60, "the time-out for peers is 20 s"
    assert frozen.state == "FAILED"
    assert not is_alive(frozen.pid), "nothing is left of it"


def test_t14_a_run_that_loses_a_node_goes_on_on_others_and_ends_equal(
    frozen: Frozen, cluster: Cluster, undisturbed: RunDir
) -> None:
    case, watched = frozen.case, Watched(frozen.case)
    case.log.unlink()
    job = case.submits(TRAIN, fault=f"{slowly()};attempt=2")["train"]
    watched.wait_for_ranks(2)
    before = cluster.job(job)
    nodes = set(cluster.run("scontrol", "show", "hostnames", before["NodeList"]).stdout.split())
    (lost,) = nodes - {before["BatchHost"]}
    cluster.kill(lost)
    cluster.wait_for(lambda: cluster.job(job)["Restarts"] == "1", "a requeue", WAIT_S)
    ended = cluster.wait_for_end(job, WAIT_S)
    assert ended["JobState"] == "COMPLETED", case.failure()
    assert lost not in cluster.run("scontrol", "show", "hostnames", ended["NodeList"]).stdout
    assert read_json(case.run.run_json)["attempt"] == 3
    assert "timeouts" not in read_json(case.run.run_json)
    assert trained_state(case.run) == trained_state(undisturbed)
