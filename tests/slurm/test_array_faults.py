"""What goes wrong in an array of many elements: rows P1, P2, P3, P7, P8 and S4 of the list of
faults."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from slurm_clusters import Cluster
from small_cases import SmallCase, write_squad

from qa_dist.data.prepared import read_prepared
from qa_dist.files import MARKER, file_sha256, read_json
from qa_dist.run_dir import RunDir
from qa_dist.source_files import STATES

pytestmark = pytest.mark.slurm

RAISING, KILLED, CUT = 3, 5, 8
NUM_SHARDS = 7
"""Of each split: 14 elements, where the cluster's arrays have 8 at most."""


@pytest.fixture
def case(cluster: Cluster, launch_words: list[str], tmp_path: Path) -> SmallCase:
    train = write_squad(tmp_path / "train.json", [1, 1, 1, 2, 1, 1, 1])  # shard 3 has 2 windows
    dev = write_squad(tmp_path / "dev.json", [1] * NUM_SHARDS)
    source = ("sources.0.task=squad", f"sources.0.train={train}", f"sources.0.dev={dev}")
    return SmallCase(cluster, launch_words, tmp_path, *source, f"data.num_shards={NUM_SHARDS}")


def hashes(run: RunDir) -> dict[str, str]:
    """The sha256 of each file of prepared data; not of what each launch notes of its inputs."""
    folder = read_prepared(run).folder
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != STATES]
    return {str(path.relative_to(folder)): file_sha256(path) for path in files}


def test_p07_p01_p02_p03_s04_only_what_is_missing_is_made_again_whatever_it_was(
    case: SmallCase,
) -> None:
    fault = "point=prepare.batch;step=2;attempt=1;action=raise"
    slow = "point=prepare.batch;step=1;attempt=1;action=sleep:4"
    ids = case.submits("stages=prepare,train", fault=f"{fault}|{slow}")
    arrays = [one["elements"] for one in case.submitted() if one["stage"] == "prepare"]
    assert [len(one) for one in arrays] == [8, 6], "at most MaxArraySize in each (P7)"
    (train,) = (one for one in case.submitted() if one["stage"] == "train")
    assert train["after"] == [one["job"] for one in case.submitted() if one is not train][:2]
    case.wait_for("running", KILLED)
    os.kill(case.element(KILLED)["pid"], signal.SIGKILL)
    others = [element for element in range(14) if element not in (RAISING, KILLED)]
    case.wait_for("done", *others)
    assert case.cluster.wait_for_end(ids["train"], 60)["JobState"] == "CANCELLED", "S4"
    assert case.fired().count(("prepare.batch", "raise", 2)) == 1

    stages = case.stages()
    assert stages["prepare"]["elements"] == {
        "done": 12, "running": 0, "waiting": 0, "failed": 2, "missing": 0,
    }  # fmt: skip
    notes = case.notes("prepare")
    assert "RuntimeError: injected fault at prepare.batch" in notes[RAISING]
    assert "ended without a word" in notes[KILLED] and "Killed" in notes[KILLED]
    assert case.notes("train") == {0: "not run: the stage before it isn't done"}
    shown = case.job("status").stdout
    assert "prepare 3 failed: " in shown and "prepare 5 failed: its job " in shown, shown
    folder = read_prepared(case.run).folder
    killed = folder / f"train-{KILLED:05d}-of-{NUM_SHARDS:05d}"
    assert not (killed / MARKER).exists()

    cut = folder / f"dev-{CUT - NUM_SHARDS:05d}-of-{NUM_SHARDS:05d}"
    before = {name: h for name, h in hashes(case.run).items() if not name.startswith(".")}
    longest = max(read_json(cut / MARKER)["files"].items(), key=lambda item: item[1]["bytes"])[0]
    os.truncate(cut / longest, 3)
    retried = case.job("retry")
    assert retried.returncode == 0, retried.stderr
    again = case.submitted()[-2:]
    assert [one["elements"] for one in again] == [[RAISING, KILLED, CUT], [0]]
    case.wait_for("done", 0, stage="train")
    after = hashes(case.run)
    assert {name: after[name] for name in before} == before, "a shard made twice is the same (P2)"
    assert not [name for name in after if name.startswith(".")], (
        "what a killed attempt left is gone"
    )
    assert [case.attempts("prepare", element) for element in range(14)] == [
        ["1", "2"] if element in (RAISING, KILLED, CUT) else ["1"] for element in range(14)
    ]
    assert case.attempts("train") == ["2"]


def test_p08_no_questions_is_said_before_anything_is_queued(
    cluster: Cluster, launch_words: list[str], tmp_path: Path
) -> None:
    """That one shard alone is a job without an array: test_s02."""
    empty = write_squad(tmp_path / "empty.json", [0, 0])
    source = ("sources.0.task=squad", f"sources.0.train={empty}", f"sources.0.dev={empty}")
    case = SmallCase(cluster, launch_words, tmp_path, *source)
    done = case.launch()
    assert done.returncode == 2
    assert f"{empty}: holds no questions in the 2 records" in done.stderr, done.stderr
    assert not case.run.root.exists() and not (tmp_path / "prepared").exists()
    assert not cluster.run("squeue", "--noheader").stdout
