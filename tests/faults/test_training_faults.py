"""Training that is killed, signalled, starved or lied to, and goes on by the same command.

Rows T1-T8, T10, T16-T20, T22, T23, T26, T27 and S18 of the list of faults. Equal means: weights,
optimizer, hash of all windows, scalars and scores are those of a run that nothing interrupted, to
the last bit. The controls show that the comparison fails where a mechanism is switched off. Most
processes are forked from one that has torch imported; a few tests start the real command.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import Case, Gang
from runs import (
    artefacts,
    curve,
    fault_environ,
    final_state,
    fired,
    processes_of,
    temporary_files,
    windows_sha256,
)
from zygote import Zygote, free_port, rank_environ, wait_until

from qa_dist import faults
from qa_dist.checkpoint import list_steps
from qa_dist.files import read_json
from qa_dist.run_dir import RunDir, step_name

ROOT = Path(__file__).resolve().parents[2]
STOPPED = 75
NUM_STEPS = 8
SAVE_POINTS = ("before_files", "mid_file", "after_files", "after_rename", "after_marker")


@pytest.fixture
def case(zygote: Zygote, launch_words: list[str], tmp_path: Path) -> Case:
    return Case(zygote, launch_words, tmp_path)


@pytest.fixture
def equal(finished_run: RunDir) -> Callable[[RunDir], bool]:
    """Whether a run is Equal to the one that nothing interrupted."""
    return lambda run: final_state(run) == final_state(finished_run)


# ---- kill -9, and the same command again


@pytest.mark.parametrize("seed", range(3))
def test_t01_t20_several_kills_at_random_steps_of_an_epoch_end_equal(
    case: Case, equal: Callable[[RunDir], bool], seed: int
) -> None:
    steps = sorted(random.Random(seed).sample(range(NUM_STEPS), 3))
    for step in steps:
        child = case.launch(fault=f"point=train.step;step={step};action=kill9")
        assert child.status == -signal.SIGKILL, child.text
    assert case.fired() == [("train.step", "kill9", step) for step in steps]
    case.goes_on_to_the_end()
    assert equal(case.run)


@pytest.mark.parametrize("point", SAVE_POINTS)
@pytest.mark.parametrize("step", [3, 6])
def test_t04_killed_while_saving_goes_on_from_the_checkpoint_before(
    case: Case, equal: Callable[[RunDir], bool], point: str, step: int
) -> None:
    child = case.launch(fault=f"point=checkpoint.{point};step={step};action=kill9")
    assert child.status == -signal.SIGKILL, child.text
    assert case.fired() == [(f"checkpoint.{point}", "kill9", step)]
    whole = step if point == "after_marker" else step - 3
    assert list_steps(case.run.checkpoints) == [s for s in (3, 6) if s <= whole]
    child = case.launch()
    assert child.status == 0, child.text
    assert ("resuming main at step" in child.text) == bool(whole), child.text
    assert f"at step {whole} of 8" in child.text or not whole
    assert temporary_files(case.run) == []
    assert equal(case.run)


@pytest.mark.parametrize("point", ["after_unmark", "mid_rmtree"])
def test_t05_killed_while_deleting_an_old_checkpoint_ends_equal(
    case: Case, finished_run: RunDir, point: str
) -> None:
    keep_one = "train.keep_checkpoints=1"
    child = case.launch(keep_one, fault=f"point=rotate.{point};action=kill9")
    assert child.status == -signal.SIGKILL, child.text
    assert [name for name, _, _ in case.fired()] == [f"rotate.{point}"]
    assert list_steps(case.run.checkpoints), "one valid checkpoint is always there"
    case.goes_on_to_the_end(keep_one)
    ours, theirs = final_state(case.run), final_state(finished_run)
    for what in ("weights", "optimizer", "state", "scalars"):
        assert ours[what] == theirs[what], what
    assert len(ours["checkpoints"]) < len(theirs["checkpoints"])


# ---- negative controls: the comparison sees what it has to see

STILL_SAME = {
    # name: what still equals the uninterrupted run
    "order": set(),
    "window": set(),
    "dropout": {"windows"},
    "learning_rate": {"windows"},
    "moments": {"windows"},
}


@pytest.mark.parametrize("name", STILL_SAME)
def test_control_a_resume_without_this_mechanism_is_not_equal(
    case: Case, finished_run: RunDir, name: str
) -> None:
    child = case.launch(fault="point=train.saved;step=3;action=kill9")
    assert child.status == -signal.SIGKILL, child.text
    child = case.launch(break_it=name)
    assert child.status == 0, child.text
    ours, theirs = final_state(case.run), final_state(finished_run)
    for what in ("weights", "optimizer", "scalars"):
        assert ours[what] != theirs[what], what
    same_windows = windows_sha256(case.run) == windows_sha256(finished_run)
    assert same_windows == ("windows" in STILL_SAME[name])


def test_control_the_same_resume_with_all_mechanisms_is_equal(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    case.launch(fault="point=train.saved;step=3;action=kill9")
    child = case.launch(break_it="nothing")
    assert child.status == 0, child.text
    assert equal(case.run)


# ---- signals to the training process


@pytest.mark.parametrize("stop", ["usr2", "term"])
# Saved at 5 and 7 only for the stop, at 6 anyway; 7 is among the newest two until the last.
@pytest.mark.parametrize("step", [4, 5, 6])
def test_t08_a_stop_signal_saves_at_the_next_step_and_ends_equal(
    case: Case, equal: Callable[[RunDir], bool], step: int, stop: str
) -> None:
    child = case.launch(fault=f"point=train.step;step={step};action={stop}")
    assert child.status == STOPPED, child.text
    assert case.fired() == [("train.step", stop, step)]
    assert "stopped in order; the same command goes on" in child.text
    assert list_steps(case.run.checkpoints)[-1] == step + 1
    assert read_json(case.run.status_file("train", 0))["state"] == "stopped"
    child = case.launch()
    assert f"resuming main at step {step + 1} of 8" in child.text
    assert child.status == 0
    assert equal(case.run)


def test_t10_two_signals_while_saving_make_one_whole_checkpoint(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    child = case.start(
        fault="point=train.step;step=1;action=usr2|point=checkpoint.after_files;action=sleep:1"
    )
    wait_until(lambda: len(case.fired()) == 2, "it saves")
    for _ in range(2):
        os.kill(child.pid, signal.SIGUSR2)
        time.sleep(0.2)
    assert child.wait() == STOPPED, child.text
    assert list_steps(case.run.checkpoints) == [2]
    case.goes_on_to_the_end()
    assert equal(case.run)


def test_a_stop_signal_in_the_last_step_ends_the_stage_as_done(case: Case) -> None:
    child = case.launch("stages=prepare,train", fault="point=train.step;step=7;action=term")
    assert case.fired() == [("train.step", "term", 7)]
    assert child.status == 0, child.text
    assert read_json(case.run.status_file("train", 0))["state"] == "done"


# ---- damaged, missing and foreign checkpoints


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "delete"])
def test_t06_a_broken_newest_checkpoint_is_skipped_with_a_warning_and_ends_equal(
    case: Case, equal: Callable[[RunDir], bool], damage: str
) -> None:
    case.launch(fault="point=train.saved;step=6;action=kill9")
    assert list_steps(case.run.checkpoints) == [3, 6]
    newest = case.run.checkpoints / step_name(6)
    path = newest / ("train_state.json" if damage == "delete" else "optimizer.safetensors")
    raw = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    child = case.launch()
    assert child.status == 0, child.text
    assert f"warning: skipping a checkpoint: {path}" in child.text
    assert "resuming main at step 3 of 8" in child.text
    assert equal(case.run)


def test_t07_a_checkpoint_of_another_run_is_refused_with_both_ids(
    case: Case, finished_run: RunDir
) -> None:
    case.launch("stages=prepare")
    shutil.copytree(finished_run.checkpoints, case.run.checkpoints)
    child = case.launch()
    assert child.status == 2, child.text
    assert "belongs to another run" in child.text
    for run in (case.run, finished_run):
        assert read_json(run.run_json)["id"] in child.text
    assert "Traceback" not in child.text


def test_s18_checkpoints_gone_although_the_run_had_some_is_refused(
    case: Case, launch_words: list[str], finished_run: RunDir
) -> None:
    finished = Case(case.zygote, launch_words, case.folder / "finished")
    shutil.copytree(finished_run.root, finished.run.root)
    case.launch(fault="point=train.saved;step=3;action=kill9")
    for one in (case, finished):
        shutil.rmtree(one.run.checkpoints)
    children = [one.start() for one in (case, finished)]  # each waits for the file system a while
    for one, child in zip((case, finished), children, strict=True):
        assert child.wait() == 2, child.text
        assert "although this run had one" in child.text and "fresh=true" in child.text
        assert "Traceback" not in child.text
        assert not one.run.checkpoints.exists(), "nothing was trained"
    case.goes_on_to_the_end("fresh=true")


def test_s18_no_checkpoint_before_the_first_was_due_is_fine(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    case.launch(fault="point=train.step;step=1;action=kill9")
    case.goes_on_to_the_end()
    assert equal(case.run)


# ---- launching again, twice, or otherwise


def test_t16_a_finished_run_launched_again_changes_no_artefact(
    case: Case, finished_run: RunDir
) -> None:
    shutil.copytree(finished_run.root, case.run.root)
    before = artefacts(case.run)
    assert len(before) > 10
    child = case.launch()
    assert child.status == 0, child.text
    for stage in ("prepare", "train", "evaluate", "aggregate"):
        assert f"{stage}: nothing to do, it is all there" in child.text
    assert artefacts(case.run) == before


def test_t16_a_finished_training_started_again_changes_no_artefact(
    case: Case, finished_run: RunDir
) -> None:
    shutil.copytree(finished_run.root, case.run.root)
    before = artefacts(case.run)
    child = case.zygote.run("train", str(case.run.root))
    assert child.status == 0, child.text
    assert artefacts(case.run) == before


def test_t17_a_second_launch_is_refused_and_a_dead_holders_lock_is_taken_over(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    first = case.start(fault="point=train.step;step=4;action=sleep:300")
    wait_until(case.fired, "the first launch trains")
    second = case.launch()
    assert second.status == 2, second.text
    assert f"this run is being launched by process {first.pid} on" in second.text
    assert first.status is None, "the first goes on untouched"
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    case.goes_on_to_the_end()
    assert equal(case.run)


def test_t18_a_changed_setting_is_refused_with_the_difference(
    case: Case, finished_run: RunDir
) -> None:
    shutil.copytree(finished_run.root, case.run.root)
    before = artefacts(case.run)
    child = case.launch("train.learning_rate=1e-3", "train.seed=7")
    assert child.status == 2, child.text
    assert "train.learning_rate: 0.0005 -> 0.001" in child.text
    assert "train.seed: 42 -> 7" in child.text
    assert "name=" in child.text and "fresh=true" in child.text
    assert artefacts(case.run) == before


def test_t18_what_may_change_is_let_in(case: Case, finished_run: RunDir) -> None:
    words = [word for word in case.words if not word.startswith("train.log_every_steps=")]
    case.launch(fault="point=train.step;step=4;action=usr2")
    case.words = words
    case.goes_on_to_the_end("train.log_every_steps=3", "train.keep_checkpoints=1")
    ours, theirs = final_state(case.run), final_state(finished_run)
    assert ours["weights"] == theirs["weights"]
    losses = {line["step"]: line.get("train/loss") for line in curve(case.run)}
    assert {2, 4, 6, 8} <= set(losses), "2 and 4 of the first attempt, 6 and 8 of the second"


def test_fresh_begins_anew_under_another_id(case: Case, finished_run: RunDir) -> None:
    shutil.copytree(finished_run.root, case.run.root)
    old_id = read_json(case.run.run_json)["id"]
    foreign = case.run.root / "notes.txt"
    foreign.write_text("mine")
    case.goes_on_to_the_end("fresh=true", "stages=train", "train.max_steps=2")
    assert read_json(case.run.run_json)["id"] != old_id
    assert list_steps(case.run.checkpoints) == [2]
    assert not case.run.scores.exists() and not case.run.predictions.exists()
    assert foreign.read_text() == "mine"


def test_fresh_killed_half_way_goes_on_with_fresh_or_a_new_name(
    case: Case, finished_run: RunDir
) -> None:
    shutil.copytree(finished_run.root, case.run.root)
    case.run.run_json.unlink()
    child = case.launch()
    assert child.status == 2, child.text
    assert "has checkpoints but no run.json; give fresh=true" in child.text
    case.goes_on_to_the_end("fresh=true")


def test_a_launch_killed_before_its_run_json_goes_on_by_the_same_command(
    case: Case, finished_run: RunDir, equal: Callable[[RunDir], bool]
) -> None:
    case.run.root.mkdir(parents=True)
    shutil.copy(finished_run.recipe, case.run.recipe)
    for folder in (case.run.root, *case.run.root.parents[:2]):
        folder.chmod(0o700)
    case.goes_on_to_the_end()
    assert equal(case.run)


# ---- not finite, no room


def test_t22_a_gradient_that_is_not_finite_stops_before_the_update(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    child = case.launch(fault="point=train.gradient;step=4;action=nan")
    assert child.status == 1, child.text
    assert case.fired() == [("train.gradient", "nan", 4)]
    error = read_json(case.run.status_file("train", 0))["error"]
    assert error.startswith("step 4: loss or gradient isn't finite")
    assert "train.learning_rate" in error and "Traceback" not in error
    assert list_steps(case.run.checkpoints) == [3], "nothing of that step was saved"
    assert all(line["step"] <= 4 for line in curve(case.run))
    case.goes_on_to_the_end()
    assert equal(case.run), "weights and moments were untouched"


def test_t23_no_room_for_a_checkpoint_is_said_and_earlier_ones_stay(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    child = case.launch(fault="point=checkpoint.mid_file;step=6;action=enospc")
    assert case.fired() == [("checkpoint.mid_file", "enospc", 6)]
    assert child.status == 1
    error = read_json(case.run.status_file("train", 0))["error"]
    assert "checkpoint not written" in error and "bytes are free" in error
    assert "Traceback" not in error
    assert list_steps(case.run.checkpoints) == [3]
    assert temporary_files(case.run) == []
    case.goes_on_to_the_end()
    assert equal(case.run)


# ---- written while training goes on


def test_a_stop_signal_while_a_checkpoint_is_being_written_waits_for_it_and_ends_equal(
    case: Case, equal: Callable[[RunDir], bool]
) -> None:
    child = case.launch(
        fault="point=checkpoint.after_files;step=3;action=sleep:1|"
        "point=train.step;step=4;action=usr2"
    )
    assert child.status == STOPPED, child.text
    fired_at = {one["step"]: one["time"] for one in faults.read_log(case.log)}
    assert set(fired_at) == {3, 4}
    assert fired_at[4] < fired_at[3] + 1, "it trained on before step 3 was written"
    assert list_steps(case.run.checkpoints) == [3, 5]
    state = read_json(case.run.status_file("train", 0))
    assert (state["state"], state["step"], state["saved_step"]) == ("stopped", 5, 5)
    case.goes_on_to_the_end()
    assert equal(case.run)


# ---- two ranks


@pytest.fixture(scope="module")
def one_rank(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """One rank, two micro-batches per step."""
    case = Case(zygote, launch_words, tmp_path_factory.mktemp("one_rank"))
    assert Gang(case).train(1) == [0]
    return case.run


@pytest.fixture(scope="module")
def two_ranks(
    zygote: Zygote, launch_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    case = Case(zygote, launch_words, tmp_path_factory.mktemp("two_ranks"))
    assert Gang(case).train(2) == [0, 0]
    return case.run


def assert_same_curve(run: RunDir, other: RunDir) -> None:
    """Same windows; losses within 1e-4 relative: sums in another order, in fp32."""
    assert windows_sha256(run) == windows_sha256(other)
    ours, theirs = curve(run), curve(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        assert line == pytest.approx(expected, rel=1e-4)


def test_t19_two_ranks_walk_the_curve_of_one(one_rank: RunDir, two_ranks: RunDir) -> None:
    assert_same_curve(two_ranks, one_rank)


def test_t19_two_ranks_then_one_then_two_walk_the_curve_of_one(
    case: Case, one_rank: RunDir
) -> None:
    gang = Gang(case)
    stop = "point=train.step;step={};action=usr2;rank=0"
    assert gang.train(2, stop.format(1)) == [STOPPED, STOPPED]
    assert gang.train(1, stop.format(4)) == [STOPPED]
    assert gang.train(2) == [0, 0]
    assert [step for _, _, step in case.fired()] == [1, 4]
    assert_same_curve(case.run, one_rank)


def test_t08_a_signal_to_one_rank_stops_all_at_one_step_and_ends_equal(
    case: Case, two_ranks: RunDir
) -> None:
    gang = Gang(case)
    assert gang.train(2, "point=train.step;step=3;action=usr2;rank=1") == [STOPPED, STOPPED]
    assert case.fired() == [("train.step", "usr2", 3)]
    assert list_steps(case.run.checkpoints) == [3, 4]
    assert gang.train(2) == [0, 0]
    assert final_state(case.run) == final_state(two_ranks)


def test_four_ranks_stopped_on_the_way_end_with_the_same_bytes(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    # With more than two ranks, the order in which gradients are summed must be the same after a
    # resume, too: DDP lays its buckets out anew after the first backward of a process.
    runs = []
    for name, stops in (("whole", []), ("stopped", [2, 5])):
        case = Case(zygote, launch_words, tmp_path / name)
        gang = Gang(case, most_ranks=4)
        for step in stops:
            fault = f"point=train.step;step={step};action=usr2;rank=3"
            assert gang.train(4, fault) == [STOPPED] * 4
        assert gang.train(4) == [0] * 4
        runs.append(final_state(case.run))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_t01_t02_a_killed_rank_is_named_by_the_other_and_the_run_ends_equal(
    case: Case, two_ranks: RunDir, victim: int
) -> None:
    gang = Gang(case)
    started = time.monotonic()
    children = gang.start(2, f"point=train.step;step=4;action=kill9;rank={victim}")
    assert children[victim].wait() == -signal.SIGKILL
    assert children[1 - victim].wait(30) == 1, "it ended by itself"
    assert time.monotonic() - started < 30
    assert case.fired() == [("train.step", "kill9", 4)]
    error = read_json(case.run.status_file("train", 0))["error"]
    assert error.startswith(f"rank {victim} (process {children[victim].pid}) ended")
    assert "Traceback" not in error
    assert gang.train(2) == [0, 0]
    assert final_state(case.run) == final_state(two_ranks)


def test_a_save_may_take_longer_than_ranks_wait_for_each_other(
    case: Case, two_ranks: RunDir
) -> None:
    gang = Gang(case)
    slow = "point=checkpoint.after_files;step=3;action=sleep:9"
    assert gang.train(2, slow, QA_DIST_TIMEOUT_S="4") == [0, 0]
    assert case.fired() == [("checkpoint.after_files", "sleep:9", 3)]
    assert final_state(case.run) == final_state(two_ranks)


def test_t03_a_rank_0_that_is_frozen_while_it_saves_is_not_waited_for_for_ever(case: Case) -> None:
    gang = Gang(case)
    frozen = "point=checkpoint.after_files;step=3;action=stop"
    first, second = gang.start(2, frozen, QA_DIST_TIMEOUT_S="4")
    assert second.wait(40) == 1
    assert "rank 0" in second.text and "didn't answer" in second.text
    os.kill(first.pid, signal.SIGKILL)
    first.wait()


def test_t23_no_room_on_rank_0_ends_all_ranks(case: Case, two_ranks: RunDir) -> None:
    gang = Gang(case)
    assert gang.train(2, "point=checkpoint.mid_file;step=3;action=enospc;rank=0") == [1, 1]
    assert case.fired() == [("checkpoint.mid_file", "enospc", 3)]
    error = read_json(case.run.status_file("train", 0))["error"]
    assert "checkpoint not written" in error and "bytes are free" in error
    assert gang.train(2) == [0, 0]
    assert final_state(case.run) == final_state(two_ranks)


def test_the_rank_that_failed_first_has_the_word(case: Case) -> None:
    gang = Gang(case)
    assert gang.train(2, "point=train.step;step=2;action=raise;rank=1") == [1, 1]
    assert case.fired() == [("train.step", "raise", 2)]
    error = read_json(case.run.status_file("train", 0))["error"]
    assert "injected fault at train.step" in error


def test_bad_input_seen_by_rank_0_alone_is_what_is_reported(
    case: Case, finished_run: RunDir
) -> None:
    gang = Gang(case)
    shutil.copytree(finished_run.checkpoints, case.run.checkpoints)
    assert gang.train(2) == [1, 1]
    error = read_json(case.run.status_file("train", 0))["error"]
    assert "belongs to another run" in error


def test_more_ranks_than_micro_batches_are_refused(case: Case) -> None:
    case.launch("stages=prepare", "train.min_micro_batches_per_step=1")
    children = [
        case.zygote.start("train", str(case.run.root), env=rank_environ(rank, 2, port))
        for port in [free_port()]
        for rank in range(2)
    ]
    assert [child.wait() for child in children] == [1, 1]
    error = read_json(case.run.status_file("train", 0))["error"]
    assert error.startswith("train.min_micro_batches_per_step=1: 2 ranks")


# ---- the real command


class RealLaunch:
    """jobs/launch.py as a user starts it, in a session of its own, as a terminal would."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "launch.py"), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
            start_new_session=True,
        )

    def wait(self, timeout_s: float = 240) -> tuple[int, str]:
        text, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, text


@pytest.fixture
def local_words(launch_words: list[str], tmp_path: Path) -> list[str]:
    words = [word for word in launch_words if not word.startswith("profile=")]
    return [*words, "profile=local", f"runs_dir={tmp_path / 'runs'}", "stages=prepare,train"]


def test_t26_the_launcher_says_that_a_process_was_killed_and_goes_on(
    local_words: list[str], tmp_path: Path, finished_run: RunDir
) -> None:
    run, log = RunDir(tmp_path / "runs" / "tiny_coqa" / "main"), tmp_path / "faults.log"
    fault = fault_environ("point=train.step;step=4;action=kill9", log)
    status, text = RealLaunch(local_words, tmp_path, fault).wait()
    assert status == 1, text
    assert fired(log) == [("train.step", "kill9", 4)]
    assert "train, element 0: its process ended without a word (killed? out of memory?)" in text
    assert str(run.logs / "train-0-1-0.err") in text and "Traceback" not in text
    assert "The same command goes on from what is finished" in text
    assert processes_of(run) == []
    status, text = RealLaunch(local_words, tmp_path, {}).wait()
    assert status == 0, text
    assert windows_sha256(run) == windows_sha256(finished_run)
    assert [line["step"] for line in curve(run)] == [line["step"] for line in curve(finished_run)]
    for line, expected in zip(curve(run), curve(finished_run), strict=True):
        # As many threads as the machine has cores, where the other run had one.
        assert line == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_t08_t27_signals_and_a_killed_launcher_leave_nothing_behind_and_end_equal(
    local_words: list[str], tmp_path: Path, one_rank: RunDir
) -> None:
    run, log = RunDir(tmp_path / "runs" / "tiny_coqa" / "main"), tmp_path / "faults.log"
    words = [*local_words, "ranks_per_node=2", "train.min_micro_batches_per_step=2"]
    slow = fault_environ("point=train.step;action=sleep:0.7;times=100", log)
    for attempt, stop in enumerate(
        [signal.SIGUSR2, signal.SIGINT, signal.SIGKILL],
        start=1,  # SIGTERM: test_submit.py
    ):
        launch = RealLaunch(words, tmp_path, slow)

        def ranks_at_work(attempt: int = attempt) -> bool:
            seen = {f["rank"] for f in faults.read_log(log) if f["attempt"] == attempt}
            return seen == {0, 1}

        wait_until(ranks_at_work, f"attempt {attempt} trains", 180)
        if stop == signal.SIGINT:  # a terminal sends it to the whole foreground group
            os.killpg(launch.process.pid, stop)
        else:
            launch.process.send_signal(stop)
        status, text = launch.wait(60)
        if stop == signal.SIGKILL:
            assert status == -signal.SIGKILL
            wait_until(lambda: not processes_of(run), "its children end by themselves", 30)
        else:
            assert status == STOPPED, text
            assert "stopped in order; the same command goes on from here" in text
            assert processes_of(run) == []
        state = read_json(run.status_file("train", 0))
        assert (state["state"], state["attempt"]) == ("stopped", attempt)
        assert list_steps(run.checkpoints)[-1] == state["step"] == state["saved_step"]
        assert temporary_files(run) == []
    assert 3 <= state["step"] < NUM_STEPS, "each attempt went on from the one before"
    status, text = RealLaunch(words, tmp_path, {}).wait()
    assert status == 0, text
    assert processes_of(run) == []
    assert_same_curve(run, one_rank)
