"""How runs are, for a person."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from qa_dist.cluster.heartbeats import Holder
from qa_dist.cluster.show_status import duration, show_run, show_runs
from qa_dist.cluster.status import Element, RunStatus, StageStatus


def shown(what: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(what, highlight=False)
    return stream.getvalue()


def make_run(*stages: StageStatus, queue: str = "", holder: Holder | None = None) -> RunStatus:
    return RunStatus(
        run="/runs/tiny/one", recipe="tiny", name="one", created="", attempt=3, where="slurm",
        queue=queue, stages=list(stages), holder=holder, loss=1.25, validation_loss=2.0,
        score={"step": 40, "em": 61.25, "f1": 70.52}, updated_at=1000.0,
    )  # fmt: skip


TRAIN = StageStatus(
    "train", [Element(0, "running", "", "12", "n[1-2]")], 40, 100, "steps", 2.0, 30.0, 3
)
DONE = StageStatus("aggregate", [Element(0, "done")])


def test_a_run_is_told_with_all_that_is_known() -> None:
    text = shown(show_run(make_run(TRAIN), now=1042.0))
    assert "tiny/one: running, attempt 3, last sign 42 s ago\n/runs/tiny/one\n" in text
    (line,) = [x for x in text.splitlines() if "│ train" in x]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [
        "train", "running", "1 running", "40 of 100 steps", "2 steps/s", "30 s", "12", "n[1-2]"
    ]  # fmt: skip
    assert "loss 1.2500, validation 2.0000\nstep 40: EM 61.2, F1 70.5\n" in text


def test_reasons_are_told_once_and_failures_by_element() -> None:
    waiting = [
        Element(i, "waiting", "no nodes are free yet (Resources)", "9_1") for i in range(900)
    ]
    failed = [Element(900 + i, "failed", f"[bold]broken {i}\nline\n" * 5, "9_2") for i in range(5)]
    text = shown(show_run(make_run(StageStatus("evaluate", [*waiting, *failed]))))
    assert "900 waiting, 5 failed" in text
    assert text.count("no nodes are free") == 1 and "evaluate waiting (900 elements)" in text
    assert "evaluate 900 failed: [bold]broken 0\n" in text, "not taken for markup"
    assert "... and 2 more elements of evaluate failed" in text
    assert text.count("broken 0") <= 4, "long ones are cut in the middle"
    assert "│ 9 " in text, "the array, once"


def test_a_silent_queue_is_told_first() -> None:
    text = shown(show_run(make_run(TRAIN, queue="squeue: connect failure")))
    assert "the queue doesn't answer (squeue: connect failure): this is what the disk says" in text
    assert "the queue doesn't answer" in shown(show_runs([make_run(TRAIN, queue="squeue: no")]))


def test_a_local_run_names_its_process() -> None:
    assert "process 7 on here" in shown(show_run(make_run(TRAIN, holder=Holder(7, "here"))))


def test_a_line_for_each_run() -> None:
    stopped = StageStatus("evaluate", [Element(0, "done"), Element(1, "missing")])
    lines = shown(show_runs([make_run(DONE, TRAIN), make_run(stopped), make_run(DONE)], 1042.0))
    first, second, third = [line for line in lines.splitlines() if "tiny/one" in line]
    assert "running" in first and "train" in first and "40 of 100 steps" in first
    assert "stopped" in second and "1 of 2 elements" in second
    assert "done" in third and "aggregate" not in third and "42 s ago" in third


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
