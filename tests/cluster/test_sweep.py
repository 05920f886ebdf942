"""A sweep from the command to the table: here, one run after the other; on a stand-in for SLURM,
all runs at once. tests/slurm/test_sweep.py is the same on a real cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, fake_slurm
from runs import artefacts, fault_environ, fired
from zygote import Zygote, wait_until

from qa_dist.cluster.launch import LAUNCH_KEYS, launch
from qa_dist.cluster.submitted import read_submitted
from qa_dist.cluster.tensorboard import free_port, serving
from qa_dist.evaluation.aggregate import aggregate
from qa_dist.files import read_json
from qa_dist.lock import locked
from qa_dist.recipe_loading import load_saved_recipe, split_arguments
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir, SweepDir

__all__ = ["fake_slurm"]
PROFILE = "where: slurm\npartition: low\nnodes: 2\ngpus_per_node: 0\ncpus_per_task: 1\n"


def start(words: Sequence[str], *more: str) -> int:
    """Launch in this process."""
    given = {word.partition("=")[0]: word for word in (*words, *more)}
    return launch(*split_arguments(list(given.values()), LAUNCH_KEYS))


# ---- here


def session_groups(runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """Return the rows of TensorBoard's tab HParams, as its page asks for them."""
    statuses = [f"STATUS_{one}" for one in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    question = {"allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 99}
    port = free_port()
    with serving(runs, port):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/data/plugin/hparams/session_groups",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        groups: list[dict[str, Any]] = []

        def has_all() -> bool:
            with urllib.request.urlopen(request, timeout=60) as answer:
                groups[:] = json.load(answer).get("sessionGroups", [])
            return len(groups) == len(runs)

        wait_until(has_all, "TensorBoard should have read all runs", timeout_s=60)
        return groups


def test_a_sweep_is_stopped_fails_in_part_and_goes_on_to_its_table(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "faults.log"
    words = [*launch_words, f"runs_dir={tmp_path / 'runs'}", "seeds=1,2", "train.max_steps=4"]
    words = list({word.partition("=")[0]: word for word in words}.values())
    folder = SweepDir(tmp_path / "runs" / "tiny_coqa" / "main.sweep")
    runs = [folder.run(f"main-seed_{seed}") for seed in (1, 2)]

    slow = fault_environ("point=train.step;action=sleep:0.3;times=99", log)
    child = zygote.start("launch", *words, env=slow)
    wait_until(lambda: fired(log), "training should begin", timeout_s=120)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 75, child.text
    assert "stopped in order; the same command goes on from here" in child.text
    assert runs[0].run_json.exists() and not runs[1].run_json.exists()
    assert folder.results_md.read_text().count("missing") == 2

    with locked(runs[0].root / "launch.lock", "held by the test"):
        child = zygote.run("launch", *words)
    assert child.status == 1
    assert re.search(r"error: main-seed_1: .* this run is being launched by process", child.text)
    assert "1 of 2 runs failed. The same command goes on" in child.text
    assert folder.results_md.read_text().count("missing") == 1, "the other was run nevertheless"

    child = zygote.run("launch", *words)
    assert child.status == 0, child.text
    assert "run 2 of 2: main-seed_2: nothing to do, it is all there" in child.text
    assert [load_saved_recipe(run.recipe).train.seed for run in runs] == [1, 2]
    figures = []
    for run in runs:
        scores = read_json(run.scores_file(4))
        figures.append(scores["scores"][scores["headline"]]["f1"])
    written = read_json(folder.results_json)
    assert [row["f1"] for row in written["runs"]] == figures
    (setting,) = written["settings"]
    assert (setting["n"], setting["f1"]) == (2, statistics.fmean(figures))
    assert setting["f1_std"] == statistics.stdev(figures)

    before = [artefacts(run) for run in runs], folder.results_json.read_bytes()
    child = zygote.run("launch", *words)
    assert child.status == 0 and child.text.count("nothing to do, it is all there") == 2
    assert "tiny_coqa/main: 2 of 2 runs are done" in child.text and "F1 mean" in child.text
    assert ([artefacts(run) for run in runs], folder.results_json.read_bytes()) == before

    aggregate(runs[0])  # a second time
    groups = {group["hparams"]["train.seed"]: group for group in session_groups(runs)}
    assert sorted(groups) == [1.0, 2.0]
    for seed, f1 in zip((1.0, 2.0), figures, strict=True):
        metrics = {m["name"]["tag"]: m["value"] for m in groups[seed]["metricValues"]}
        assert metrics["final/f1"] == pytest.approx(f1) and len(groups[seed]["sessions"]) == 1
        assert groups[seed]["hparams"]["train.learning_rate"] == 5e-4


# ---- SLURM


@pytest.fixture
def words(launch_words: list[str], tmp_path: Path) -> list[str]:
    """A right command for a cluster; nothing is prepared yet."""
    profile = tmp_path / "here.yaml"
    profile.write_text(PROFILE)
    own = [f"profile={profile}", f"runs_dir={tmp_path / 'runs'}", "seeds=1,2"]
    own += [f"prepared_dir={tmp_path / 'prepared'}", "train.min_micro_batches_per_step=2"]
    given = {word.partition("=")[0]: word for word in (*launch_words, *own)}
    return list(given.values())


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return SweepDir(tmp_path / "runs" / "tiny_coqa" / "main.sweep")


def jobs(run: RunDir) -> list[tuple[str, int, list[int], str]]:
    return [(job.stage, job.job, job.after, job.of) for job in read_submitted(run)]


def test_shared_data_is_prepared_once_and_all_trainings_wait_for_it(
    fake_slurm: FakeSlurm, words: list[str], folder: SweepDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(words) == 0
    assert jobs(folder.run("main-seed_1")) == [
        ("prepare", 101, [], ""),
        ("train", 102, [101], ""),
        ("evaluate", 103, [102], ""),
        ("aggregate", 104, [103], ""),
    ]
    assert jobs(folder.run("main-seed_2")) == [
        ("prepare", 101, [], "main-seed_1"),
        ("train", 105, [101], ""),
        ("evaluate", 106, [105], ""),
        ("aggregate", 107, [106], ""),
    ]
    assert "#SBATCH --dependency=afterok:101\n" in fake_slurm.script(5)
    out = capsys.readouterr().out
    assert re.search(r"main-seed_2 +│ 101 +│ 105 +│ 106", out) and "runs are done" not in out


def test_other_data_is_prepared_by_jobs_of_its_own(
    fake_slurm: FakeSlurm, words: list[str], folder: SweepDir
) -> None:
    assert start(words, "seeds=1", "data.history_turns=1,2") == 0
    of = {f"history_turns_{n}": folder.run(f"main-history_turns_{n}-seed_1") for n in (1, 2)}
    assert [jobs(run)[0][1:] for run in of.values()] == [(101, [], ""), (105, [], "")]


def test_live_runs_are_left_alone_and_what_they_prepare_is_waited_for(
    fake_slurm: FakeSlurm, words: list[str], folder: SweepDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(words) == 0
    lines = [f"{job}|N/A|RUNNING|None|n1|1700000000|(null)" for job in range(101, 108)]
    fake_slurm.says("squeue", "\n".join(lines) + "\n")
    before = jobs(folder.run("main-seed_1"))
    assert start(words, "seeds=3,2,1") == 0
    out = capsys.readouterr().out
    assert "left alone: main-seed_1: its jobs are in the queue: 101 (running), 102" in out
    assert "left alone: main-seed_2: its jobs are in the queue: 105 (running)" in out
    assert jobs(folder.run("main-seed_1")) == before
    assert jobs(folder.run("main-seed_3"))[:2] == [
        ("prepare", 101, [], "main-seed_1"),
        ("train", 108, [101], ""),
    ]
    assert len(read_json(folder.sweep_json)["runs"]) == 3


@pytest.mark.parametrize("number", [1, 6])
def test_one_refusal_leaves_nothing_of_any_run_in_the_queue(
    fake_slurm: FakeSlurm, words: list[str], folder: SweepDir, number: int
) -> None:
    fake_slurm.refuses(number, "sbatch: error: Batch job submission failed: Invalid account\n")
    with pytest.raises(InputError, match="Invalid account; nothing is left in the queue"):
        start(words)
    calls = [call for call in fake_slurm.calls if call.startswith("scancel")]
    cancelled = sorted(int(job) for call in calls for job in call.split()[1:])
    assert cancelled == list(range(101, 100 + number))
    assert [jobs(folder.run(f"main-seed_{seed}")) for seed in (1, 2)] == [[], []]


# ---- checks


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.learning_rate=1e-5,7", "train.learning_rate=7.0: expected a rate"),
        ("train.learning_rate=1e-5,x", "train.learning_rate=x: expected a number"),
        ("model.name=bert-none,none/such", "model.name=none/such is neither"),
        ("name=main.sweep", "folders of sweeps end in .sweep"),
        ("data.max_length_tokens=256,300", "has positions for 256 tokens"),
        ("partition", "nodes=2: low has 1"),
    ],
)
def test_one_wrong_run_of_many_and_nothing_is_written_or_queued(
    fake_slurm: FakeSlurm, words: list[str], tmp_path: Path, word: str, message: str
) -> None:
    if word == "partition":
        word = "name=main"
        fake_slurm.says("scontrol", "PartitionName=low Default=YES State=UP TotalNodes=1\n")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        start(words, word)
    assert str(caught.value).count(message) == 1, "once, not once for each seed"
    assert fake_slurm.num_submitted == 0
    assert not (tmp_path / "runs").exists() and not (tmp_path / "prepared").exists()


def test_runs_that_are_compared_are_alike(
    fake_slurm: FakeSlurm, words: list[str], folder: SweepDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(words) == 0
    before = folder.sweep_json.read_bytes()
    for more, message in (
        (["seeds=3", "train.epochs=1"], "main-seed_1: train.epochs: 4.0 -> 1.0"),
        (["seeds=3", "evaluation.n_best=7"], "main-seed_2: evaluation.n_best: 20 -> 7"),
        (["train.epochs=1,2"], "differ in train.seed, not in train.epochs, train.seed"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            start(words, *more)
    with pytest.raises(InputError, match=r"main-seed_1: this run was made with other settings"):
        start(words, "train.epochs=1")
    assert folder.sweep_json.read_bytes() == before and fake_slurm.num_submitted == 7
    capsys.readouterr()
    assert start(words, "seeds=3", "dry_run=true") == 0
    assert "sweep tiny_coqa/main: 1 runs\n  main-seed_3\n" in capsys.readouterr().out
    assert not folder.run("main-seed_3").root.exists()


def test_fresh_begins_the_sweep_anew(
    fake_slurm: FakeSlurm, words: list[str], folder: SweepDir
) -> None:
    assert start(words) == 0
    assert start(words, "seeds=4", "train.epochs=1", "fresh=true") == 0
    assert [run["name"] for run in read_json(folder.sweep_json)["runs"]] == ["main-seed_4"]
