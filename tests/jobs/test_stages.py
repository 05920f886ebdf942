"""jobs/prepare.py, train.py, evaluate.py, aggregate.py: each stage by itself, on a run there is."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import fault_environ, final_state, fired, make_run
from zygote import Zygote

from qa_dist.checkpoint import list_steps
from qa_dist.data.prepared import read_prepared
from qa_dist.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("prepare", "train", "evaluate", "aggregate")


@pytest.mark.parametrize("name", JOBS)
def test_help_says_what_it_takes_without_loading_torch(name: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['{name}.py', '--help']\n"
        f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert f"python jobs/{name}.py run=runs/tiny_coqa/main" in done.stdout
    assert "Keys: run=FOLDER, element=N" in done.stdout


def test_stage_by_stage_is_what_a_launch_does(
    zygote: Zygote, launch_words: list[str], tmp_path: Path, finished_run: RunDir
) -> None:
    run = make_run(launch_words, tmp_path)
    for work, name in zip(("prepare", "train_job", "evaluate", "aggregate"), JOBS, strict=True):
        child = zygote.run(work, f"run={run.root}")
        assert child.status == 0, child.text
        last = "nothing to do, it is all there" if name == "prepare" else "done"
        assert child.text.splitlines()[-1] == f"{name}: {last}"
    assert final_state(run) == final_state(finished_run)


def test_prepare_makes_the_shard_that_is_missing(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    run = make_run(launch_words, tmp_path, f"prepared_dir={tmp_path / 'prepared'}")
    (shard,) = read_prepared(run).shards("dev")
    before = (shard / "arrays.bin").read_bytes()
    shutil.rmtree(shard)
    child = zygote.run("prepare", f"run={run.root}")
    assert child.status == 0, child.text
    assert (shard / "arrays.bin").read_bytes() == before


def test_train_stops_in_order_with_status_75_and_goes_on(
    zygote: Zygote, launch_words: list[str], tmp_path: Path
) -> None:
    run, log = make_run(launch_words, tmp_path), tmp_path / "faults.log"
    fault = fault_environ("point=train.step;step=3;action=term", log)
    child = zygote.run("train_job", f"run={run.root}", env=fault)
    assert fired(log) == [("train.step", "term", 3)]
    assert child.status == 75, child.text
    assert child.text.splitlines()[-1] == "train: stopped"
    assert list_steps(run.checkpoints) == [3, 4]
    assert zygote.run("train_job", f"run={run.root}").status == 0


def test_a_killed_aggregate_is_simply_run_again(
    zygote: Zygote, finished_run: RunDir, tmp_path: Path
) -> None:
    run, log = RunDir(tmp_path / "main"), tmp_path / "faults.log"
    shutil.copytree(finished_run.root, run.root)
    run.scores_file(8).unlink()
    fault = fault_environ("point=aggregate.after_json;step=8;action=kill9", log)
    child = zygote.run("aggregate", f"run={run.root}", env=fault)
    assert child.status == -signal.SIGKILL, child.text
    assert len(fired(log)) == 1
    assert zygote.run("aggregate", f"run={run.root}").status == 0
    assert run.scores_file(8).read_bytes() == finished_run.scores_file(8).read_bytes()
