"""run.json: which attempt may publish, and that writers don't lose each other's facts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qa_dist.attempts import (
    FencedError,
    check_attempt,
    count_timeout,
    new_attempt,
    take_over,
    update_run,
)
from qa_dist.files import read_json, write_json
from qa_dist.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "main")
    write_json(run.run_json, {"id": "a1", "attempt": 3})
    return run


def test_the_attempt_that_took_over_may_publish_and_older_ones_may_not(run: RunDir) -> None:
    check_attempt(run, "a1", 3)
    take_over(run, 4)
    check_attempt(run, "a1", 4)
    with pytest.raises(FencedError, match="attempt 4 has taken over; attempt 3 ends here"):
        check_attempt(run, "a1", 3)
    with pytest.raises(FencedError, match="attempt 4 has taken over"):
        take_over(run, 3)
    assert read_json(run.run_json)["attempt"] == 4
    take_over(run, 4)  # the same attempt, asked again


def test_another_run_of_the_same_name_fences_too(run: RunDir) -> None:
    with pytest.raises(FencedError):
        check_attempt(run, "b2", 3)


def test_a_launch_counts_one_further_than_any_restart(run: RunDir) -> None:
    assert new_attempt(run) == 4
    take_over(run, 6)  # the launch's job, started for the third time
    assert new_attempt(run) == 7


def test_facts_written_at_once_are_all_kept(run: RunDir) -> None:
    writers = [
        threading.Thread(target=update_run, args=(run,), kwargs={f"fact{i}": i}) for i in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    there = read_json(run.run_json)
    assert {there[f"fact{i}"] for i in range(8)} == set(range(8)) and there["attempt"] == 3


def test_nothing_is_written_where_nothing_changes(run: RunDir) -> None:
    before = run.run_json.stat().st_mtime_ns
    update_run(run, attempt=3)
    assert run.run_json.stat().st_mtime_ns == before


def test_timeouts_are_counted_by_element_until_the_next_launch(run: RunDir) -> None:
    assert [count_timeout(run, "train", 0) for _ in range(2)] == [1, 2]
    assert count_timeout(run, "evaluate", 3) == 1
    new_attempt(run)
    assert count_timeout(run, "train", 0) == 1
