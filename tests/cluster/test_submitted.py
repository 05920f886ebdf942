"""jobs.json: what was submitted, whose jobs are alive, and the one nobody wrote down."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, fake_slurm

from qa_dist.cluster.submitted import (
    Submitted,
    check_not_live,
    find_lost,
    is_cut_short,
    read_planned,
    read_submitted,
    save_submitted,
)
from qa_dist.records import InputError
from qa_dist.run_dir import RunDir

__all__ = ["fake_slurm"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of which job 101 was submitted, and training wasn't when its launcher was killed."""
    run = RunDir(tmp_path / "tiny" / "main")
    run.root.mkdir(parents=True)
    prepare = Submitted("prepare", 101, [0, 1], [], 1, True)
    save_submitted(run, [prepare, Submitted("train", 0, [0], [], 1, False)])
    return run


def test_what_was_not_submitted_does_not_count(run: RunDir, tmp_path: Path) -> None:
    assert [one.job for one in read_submitted(run)] == [101]
    assert [one.stage for one in read_planned(run)] == ["prepare", "train"]
    assert is_cut_short(run) and not is_cut_short(RunDir(tmp_path))


def test_t17_a_run_whose_jobs_are_alive_is_refused_with_their_ids(
    fake_slurm: FakeSlurm, run: RunDir, tmp_path: Path
) -> None:
    check_not_live(RunDir(tmp_path))
    fake_slurm.says("squeue", "101|0-1|RUNNING|None|n1|1700000000|(null)\n")
    with pytest.raises(InputError, match=r"in the queue: 101 \(running\).*scancel 101"):
        check_not_live(run)
    fake_slurm.says("squeue", "101|0-1|FAILED|NonZeroExitCode|n1|1700000000|(null)\n")
    check_not_live(run)
    fake_slurm.fails("squeue", "slurm_load_jobs error: Invalid job id specified\n")
    check_not_live(run)
    fake_slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(InputError, match="can't tell whether its jobs are still running"):
        check_not_live(run)


def test_s06_a_job_that_nobody_wrote_down_is_found_by_its_folder_and_name(
    fake_slurm: FakeSlurm, run: RunDir
) -> None:
    lines = [
        f"101|{run.root}|tiny.main.train",  # known
        f"102|{run.root}|mine",  # another job started from this folder
        f"103|{run.root.parent}/other|tiny.main.train",
        f"104|{run.root}|tiny.main.evaluate",
    ]
    fake_slurm.says("squeue", "\n".join(lines) + "\n")
    find_lost(run)
    assert is_cut_short(run), "none of these is it"
    fake_slurm.says("squeue", "\n".join([*lines, f"105|{run.root}|tiny.main.train"]) + "\n")
    find_lost(run)
    assert [one.job for one in read_planned(run)] == [101, 105]
    asked = len(fake_slurm.calls)
    find_lost(run)
    assert len(fake_slurm.calls) == asked, "nobody is asked when all is known"
