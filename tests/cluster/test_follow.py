"""Logs of one element, printed and followed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from fabricated import FakeRun, fabricate
from fake_slurm import FakeSlurm

from qa_dist.cluster import follow as follow_module
from qa_dist.cluster.follow import choose_element, follow, print_logs
from qa_dist.records import InputError

RUNNING = "2|N/A|RUNNING|None|n1|1|(null)\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    fake.has_no_accounting()
    monkeypatch.setattr(follow_module, "_POLL_S", 0.02)
    monkeypatch.setattr(follow_module, "_ASK_EVERY_S", 0.05)
    return fake


@pytest.fixture
def fake(tmp_path: Path) -> FakeRun:
    fake = fabricate(tmp_path)
    fake.prepare(0)
    fake.submit("train", 2)
    return fake


def test_what_failed_is_chosen_then_what_runs_then_the_last(
    fake: FakeRun, slurm: FakeSlurm
) -> None:
    fake.log("prepare-1-1-0.err", "")
    assert choose_element(fake.run, []) == ("prepare", 1), "the only one with logs"
    slurm.answers("squeue", RUNNING)
    assert choose_element(fake.run, []) == ("train", 0)
    fake.beat("aggregate", 0, "failed", error="x")
    fake.submit("aggregate", 4)
    fake.beat("aggregate", 0, "failed", error="x")
    assert choose_element(fake.run, []) == ("aggregate", 0)
    assert choose_element(fake.run, ["prepare"]) == ("prepare", 1)
    assert choose_element(fake.run, ["prepare", "7"]) == ("prepare", 7)


@pytest.mark.parametrize("words", [["trian"], ["train", "x"], ["train", "-1"]])
def test_other_words_are_refused(fake: FakeRun, words: list[str]) -> None:
    with pytest.raises(InputError, match="expected"):
        choose_element(fake.run, words)


def test_ranks_are_told_apart_where_there_are_several(
    fake: FakeRun, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.log("train-0-1-0.err", "old\n")
    fake.log("train-0-2-0.err", "")
    fake.log("train-0-2-0.out", "hello\nhalf")
    print_logs(fake.run, "train", 0)
    logs = fake.run.logs
    lines = [f"# {logs}/train-0-2-0.err (empty)", f"# {logs}/train-0-2-0.out", "hello", "half"]
    assert capsys.readouterr().out.splitlines() == lines
    fake.log("train-0-2-1.err", "world\n")
    print_logs(fake.run, "train", 0)
    assert {"0: hello", "1: world"} < set(capsys.readouterr().out.splitlines())


def test_no_logs_yet_says_why(fake: FakeRun, slurm: FakeSlurm) -> None:
    slurm.answers("squeue", "2|N/A|PENDING|Resources||N/A|(null)\n")
    with pytest.raises(InputError, match=r"no logs yet; it is waiting .no nodes are free yet"):
        print_logs(fake.run, "train", 0)


def test_what_slurm_wrote_stands_in_for_a_process_that_never_did(
    fake: FakeRun, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.log("submitit/2_0_log.err", "srun: error: no python\n")
    print_logs(fake.run, "train", 0)
    assert "srun: error: no python" in capsys.readouterr().out


def test_following_goes_on_into_the_next_attempt_and_ends_with_the_element(
    fake: FakeRun, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answers("squeue", RUNNING)
    fake.log("train-0-1-0.out", "one\ntw")
    thread = threading.Thread(target=follow, args=(fake.run, "train", 0))
    thread.start()
    time.sleep(0.3)
    first = capsys.readouterr().out
    assert "one\n" in first and "tw" not in first.splitlines(), "a line is printed when it's whole"
    fake.log("train-0-1-0.out", "one\ntwo\n")
    time.sleep(0.3)
    fake.log("train-0-2-0.out", "three\nlast words")
    fake.train(8, of=8)
    thread.join(20)
    assert not thread.is_alive()
    rest = capsys.readouterr().out.splitlines()
    assert [line for line in rest if not line.startswith("#")] == ["two", "three", "last words"]
    assert rest[-1] == "# train 0: done"
