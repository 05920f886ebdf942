"""Evaluation as arrays of a real cluster: of each checkpoint while training goes on, and what may
happen to it (E1 to E5, S9).

One run is trained, with one preemption on the way; the others are copies of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from runs import artefacts, final_state, temporary_files
from slurm_cases import SlurmCase, scores
from slurm_clusters import Cluster
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from zygote import Zygote

from qa_dist import faults
from qa_dist.checkpoint import list_steps
from qa_dist.files import read_json, read_status
from qa_dist.run_dir import RunDir

pytestmark = pytest.mark.slurm

STEPS = [3, 6, 8]
SHARD = "dev-00001-of-00002"
ONE_NODE = ["data.num_shards=2", "nodes=1", "ranks_per_node=1", "train.validation_windows=0"]
EACH = ["evaluation.when=each_checkpoint", "train.keep_checkpoints=1"]


@dataclass
class Watched:
    """A run with evaluation of each checkpoint, and what was seen while it went on."""

    case: SlurmCase
    is_training: bool = False
    """When the first element began to evaluate."""
    checkpoints: list[int] = field(default_factory=list)
    """When training was done, and evaluation of the first one stood still."""
    scored: list[int] = field(default_factory=list)
    printed: str = ""


def two_shards(words: list[str], *more: str) -> list[str]:
    """Return a launch's words with data of their own: prepared in one shard, it stays in one."""
    (prepared,) = (word for word in words if word.startswith("prepared_dir="))
    if not prepared.endswith("-two"):
        prepared += "-two"
    return list({w.partition("=")[0]: w for w in [*words, *ONE_NODE, prepared, *more]}.values())


def let_go(case: SlurmCase, *points: str) -> None:
    """Let the processes go on that injected faults have stopped at these points, or anywhere."""
    for fault in faults.read_log(case.log):
        if fault["action"] == "stop" and fault["point"] in (points or (fault["point"],)):
            with suppress(ProcessLookupError):
                os.kill(fault["pid"], signal.SIGCONT)


@pytest.fixture(scope="module")
def watched(
    shared_cluster: Cluster, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """Launch with wait=true; hold training at step 5 until step 3 is being evaluated, and that
    until training, which is sent USR2, is done. For reading only."""
    case = SlurmCase(shared_cluster, launch_words, tmp_path_factory.mktemp("each"))
    case.words = two_shards(case.words, *EACH)
    seen = Watched(case)
    fault = (
        "point=evaluate.start;step=3;action=stop|point=train.step;step=5;attempt=1;action=stop|"
        "point=train.step;action=sleep:0.5;times=1000"
    )
    with ThreadPoolExecutor(1) as pool:
        launch = pool.submit(case.launch, "wait=true", fault=fault)
        try:
            case.cluster.wait_for(
                lambda: launch.done() or ("evaluate.start", "stop", 3) in case.fired(),
                "step 3 being evaluated",
                240,
            )
            assert not launch.done(), launch.result()
            seen.is_training = case.status()["state"] == "running"
            train = next(job for job in read_json(case.run.jobs) if job["stage"] == "train")
            case.cluster.run("scancel", "--signal=USR2", str(train["job"]))
            let_go(case, "train.step")
            case.cluster.wait_for(
                lambda: launch.done() or case.status().get("state") == "done", "the last step", 240
            )
            seen.checkpoints = list_steps(case.run.checkpoints)
            seen.scored = sorted(int(path.stem[5:]) for path in case.run.scores.glob("*.json"))
            give_up_at = time.monotonic() + 240
            while not launch.done() and time.monotonic() < give_up_at:
                let_go(case)
                time.sleep(0.2)
        finally:
            let_go(case)
            if not launch.done():
                shared_cluster.cancel_all()
        seen.printed = launch.result().stdout + launch.result().stderr
    shared_cluster.wait_for(  # what says that it is done has still to end
        lambda: not shared_cluster.run("squeue", "--noheader").stdout, "an empty queue", 120
    )
    yield seen


@pytest.fixture
def copied(watched: Watched, case: SlurmCase) -> SlurmCase:
    """A copy of that run without the scores and one shard's predictions of the last checkpoint."""
    shutil.copytree(watched.case.run.root, case.run.root)
    for folder in (case.run.root, case.run.root.parent, case.run.root.parent.parent):
        folder.chmod(0o700)
    case.words = two_shards(case.words, *EACH)
    case.run.predictions_file(8, SHARD).unlink()
    case.run.scores_file(8).unlink()
    return case


@pytest.fixture(scope="module")
def at_end(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """All checkpoints of the same run, kept, and evaluated at its end in one process."""
    runs = tmp_path_factory.mktemp("at_end")
    words = [w for w in launch_words if not w.startswith("train.keep_checkpoints=")]
    more = ("train.keep_checkpoints=9", "train.min_micro_batches_per_step=4")
    child = zygote.run("launch", *words, f"runs_dir={runs}", *more)
    assert child.status == 0, child.text
    return RunDir(runs / "tiny_coqa" / "main")


def submitted(case: SlurmCase, since: int = 0) -> list[tuple[str, list[int]]]:
    return [(job["stage"], job["elements"]) for job in read_json(case.run.jobs)[since:]]


def points(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run.tensorboard / "scores"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_s09_each_checkpoint_is_evaluated_while_training_goes_on(watched: Watched) -> None:
    run = watched.case.run
    assert watched.is_training, watched.printed
    assert "evaluate, aggregate: submitted by the training job at each checkpoint" in (
        watched.printed
    )
    assert "tiny_coqa, step 8: 48 questions" in watched.printed, "wait=true follows to the end"
    assert sorted(scores(run)) == [f"step-{step:08d}.json" for step in STEPS]
    assert [step for step, _ in points(run)["dev/f1"]] == STEPS
    assert temporary_files(run) == []


def test_nothing_is_submitted_twice_although_training_was_requeued(watched: Watched) -> None:
    assert read_json(watched.case.run.run_json)["attempt"] == 2, watched.printed
    evaluations = [numbers for stage, numbers in submitted(watched.case) if stage == "evaluate"]
    assert evaluations == [[0, 1], [2, 3], [4, 5]]
    assert [stage for stage, _ in submitted(watched.case)].count("aggregate") == 3


def test_e04_a_checkpoint_is_rotated_away_only_once_it_is_evaluated(watched: Watched) -> None:
    assert ("evaluate.start", "stop", 3) in watched.case.fired()
    assert 3 in watched.checkpoints, "keep_checkpoints=1, and two newer ones were there"
    assert 3 not in watched.scored
    assert list_steps(watched.case.run.checkpoints) == [8]


def test_e05_the_scores_are_those_of_all_checkpoints_evaluated_at_the_end(
    watched: Watched, at_end: RunDir
) -> None:
    assert list_steps(at_end.checkpoints) == STEPS
    assert scores(watched.case.run) == scores(at_end)
    assert scores(at_end)["step-00000003.json"] != scores(at_end)["step-00000008.json"], "control"


def test_e01_one_crashed_element_leaves_no_partial_total_and_is_redone_alone(
    copied: SlurmCase, watched: Watched
) -> None:
    before = len(read_json(copied.run.jobs))
    done = copied.launch(fault="point=evaluate.before_rename;step=8;action=raise")
    assert done.returncode == 0, done.stderr
    assert submitted(copied, before) == [("evaluate", [5]), ("aggregate", [0])]
    evaluate, aggregate = (str(job["job"]) for job in read_json(copied.run.jobs)[before:])
    assert copied.cluster.wait_for_end(evaluate, 120)["JobState"] == "FAILED"
    assert copied.cluster.wait_for_end(aggregate)["JobState"] == "CANCELLED"
    assert copied.fired() == [("evaluate.before_rename", "raise", 8)]
    assert "injected" in read_status(copied.run.status_file("evaluate", 5))["error"]
    kept = {name: sha for name, sha in artefacts(copied.run).items() if "predictions" in name}

    assert copied.launch("stages=aggregate").returncode == 0
    aggregate = str(read_json(copied.run.jobs)[-1]["job"])
    assert copied.cluster.wait_for_end(aggregate, 120)["JobState"] == "FAILED"
    assert (
        f"step-00000008: no total, since 1 of 2 shards of dev have no predictions: {SHARD}"
        in (copied.status("aggregate")["error"])
    )
    assert not copied.run.scores_file(8).exists()

    before = len(read_json(copied.run.jobs))
    copied.goes_on_to_the_end()
    assert submitted(copied, before) == [("evaluate", [5]), ("aggregate", [0])]
    assert artefacts(copied.run).items() >= kept.items()
    assert scores(copied.run) == scores(watched.case.run)


def test_e02_an_element_that_is_requeued_after_writing_counts_once(
    copied: SlurmCase, watched: Watched
) -> None:
    copied.goes_on_to_the_end()
    before = artefacts(copied.run)
    ids = [str(job["job"]) for job in read_json(copied.run.jobs)[-2:]]
    copied.cluster.run("scontrol", "requeue", ",".join(ids))
    for job in ids:
        ended = copied.cluster.wait_for_end(job, 120)
        assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    after = artefacts(copied.run)
    assert {n: s for n, s in after.items() if "tfevents" not in n} == (
        {n: s for n, s in before.items() if "tfevents" not in n}
    )
    assert points(copied.run) == points(watched.case.run)


def test_e03_an_aggregate_that_was_killed_before_tensorboard_is_run_again(
    copied: SlurmCase, watched: Watched
) -> None:
    shutil.copy(watched.case.run.predictions_file(8, SHARD), copied.run.predictions_file(8, SHARD))
    shutil.rmtree(copied.run.tensorboard / "scores")
    before = len(read_json(copied.run.jobs))
    done = copied.launch(fault="point=aggregate.after_json;step=8;action=kill9")
    assert done.returncode == 0, done.stderr
    assert submitted(copied, before) == [("aggregate", [0])]
    aggregate = str(read_json(copied.run.jobs)[-1]["job"])
    assert copied.cluster.wait_for_end(aggregate, 120)["JobState"] == "FAILED"
    assert copied.fired() == [("aggregate.after_json", "kill9", 8)]
    assert copied.run.scores_file(8).exists() and not (copied.run.tensorboard / "scores").exists()
    copied.goes_on_to_the_end()
    assert points(copied.run) == points(watched.case.run)
    assert final_state(copied.run) == final_state(watched.case.run)
